//! A client that a user would recognise: one insert at a time through the route, reconnecting when it must, and
//! remembering every row that was acknowledged and when. Another one holds each of its transactions open for seconds.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

use super::name::Followed;
use super::wait::{Look, until};

/// Pause between two inserts.
const PERIOD: Duration = Duration::from_millis(5);
/// Pause before a reconnect.
const RECONNECT: Duration = Duration::from_millis(20);
/// A client gives up a connection attempt, or a statement, after this long.
const PATIENCE: Duration = Duration::from_secs(1);
/// A gap shorter than this is no outage: a checkpoint on a slow disk can cause it.
const NOTEWORTHY: Duration = Duration::from_millis(100);

/// How long transactions stay open, in turn: some end before a fault, some begin after it, and many span it.
const HELD: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(7), Duration::from_secs(12)];

/// How one writes.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// What its rows carry.
    name: &'static str,
    /// Its rows are numbered from here on.
    first: i64,
    /// Its pause before a reconnect.
    reconnect: Duration,
    /// How long its transactions stay open after their insert, in turn; no time at all when empty.
    held: &'static [Duration],
}

/// One acknowledged insert.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    /// The row.
    pub id: i64,
    /// When the client heard of it.
    pub at: Instant,
}

/// An interruption as the client saw it.
#[derive(Debug, Clone, Copy)]
pub struct Outage {
    /// From the fault to the first acknowledgement after the longest gap.
    pub from_fault: Duration,
    /// The longest gap between two acknowledgements.
    pub gap: Duration,
}

#[derive(Debug, Default)]
struct Seen {
    acks: Vec<Ack>,
    error: Option<(Instant, String)>,
}

/// A writer at work.
#[derive(Debug)]
pub struct Writer {
    seen: Arc<Mutex<Seen>>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts writing where `config` leads; rows are numbered from `first`, and carry `name`.
    #[must_use]
    pub fn start(config: Config, name: &'static str, first: i64) -> Self {
        Self::start_at(config, None, Manner { name, first, reconnect: RECONNECT, held: &[] })
    }

    /// The same for a client that is refused most of the time: it waits longer before it tries again.
    #[must_use]
    pub fn start_patient(config: Config, name: &'static str, first: i64) -> Self {
        Self::start_at(config, None, Manner { name, first, reconnect: RECONNECT * 10, held: &[] })
    }

    /// The same for a client that holds each transaction open for seconds, whatever happens meanwhile, and then commits it.
    #[must_use]
    pub fn start_holding(config: Config, name: &'static str, first: i64) -> Self {
        Self::start_at(config, None, Manner { name, first, reconnect: RECONNECT * 10, held: &HELD })
    }

    /// The same by a name that is asked for before each connection; `config` has no host.
    #[must_use]
    pub fn follow(config: Config, followed: Followed, name: &'static str, first: i64) -> Self {
        Self::start_at(config, Some(followed), Manner { name, first, reconnect: RECONNECT, held: &[] })
    }

    fn start_at(mut config: Config, followed: Option<Followed>, how: Manner) -> Self {
        impatient(&mut config);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(write((config, followed), how, Arc::clone(&seen), stopped));
        Self { seen, stop, task: Some(task) }
    }

    /// How many rows were acknowledged so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.with(|seen| seen.acks.len())
    }
    /// When the newest acknowledgement came.
    #[must_use]
    pub fn newest(&self) -> Option<Instant> {
        self.with(|seen| seen.acks.last().map(|ack| ack.at))
    }
    /// What the client was told last when it failed.
    #[must_use]
    pub fn last_error(&self) -> Option<(Instant, String)> {
        self.with(|seen| seen.error.clone())
    }
    /// The acknowledgements after a moment.
    #[must_use]
    pub fn after(&self, moment: Instant) -> Vec<Ack> {
        self.with(|seen| seen.acks.iter().filter(|ack| ack.at > moment).copied().collect())
    }

    /// The acknowledgements from the `n`-th on.
    #[must_use]
    pub fn from(&self, n: usize) -> Vec<Ack> {
        self.with(|seen| seen.acks.get(n..).unwrap_or_default().to_vec())
    }

    /// Waits until so many more are acknowledged.
    ///
    /// # Errors
    /// When they are not in time; with what the client was told last.
    pub async fn flows(&self, more: usize, limit: Duration) -> Result<()> {
        let wanted = self.count() + more;
        until("writes flow", limit, || async {
            let told = || Look::NotYet(format!("the client was told: {:?}", self.last_error()));
            Ok(if self.count() >= wanted { Look::There(()) } else { told() })
        })
        .await
    }

    /// Waits until writes flow again after a fault at `fault`, and says how long they did not. A fault that nobody
    /// notices has an outage of zero after `quiet`.
    ///
    /// # Errors
    /// When no write flows within `limit` of the fault.
    pub async fn outage(&self, fault: Instant, quiet: Duration, limit: Duration) -> Result<Outage> {
        let settle = Duration::from_secs(1);
        loop {
            let now = Instant::now();
            if let Some((outage, since)) = self.longest_gap(fault) {
                let flows = self.newest().is_some_and(|at| now - at < Duration::from_millis(200));
                let noticed = outage.gap > NOTEWORTHY && now - since > settle;
                if flows && (noticed || now - fault > quiet) {
                    return Ok(outage);
                }
            }
            let told = self.last_error().map_or_else(|| "nothing".to_owned(), |(_, text)| text);
            if now - fault > limit {
                anyhow::bail!(
                    "no write flows {:.1} s after the fault; the client was told: {told}",
                    limit.as_secs_f64()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The longest time without an acknowledgement since `fault`, up to the newest one.
    #[must_use]
    pub fn gap(&self, fault: Instant) -> Duration {
        self.longest_gap(fault).map_or(Duration::ZERO, |(outage, _)| outage.gap)
    }

    /// The longest gap after `fault`, and when it ended.
    fn longest_gap(&self, fault: Instant) -> Option<(Outage, Instant)> {
        self.with(|seen| {
            // The acknowledgement just before the fault begins the gap: the client's own view knows no fault.
            let first = seen.acks.partition_point(|ack| ack.at <= fault);
            let mut before = first.checked_sub(1).map_or(fault, |at| seen.acks[at].at);
            let mut longest: Option<(Outage, Instant)> = None;
            for ack in &seen.acks[first..] {
                let gap = ack.at - before;
                if longest.is_none_or(|(outage, _)| gap > outage.gap) {
                    longest = Some((Outage { from_fault: ack.at - fault, gap }, ack.at));
                }
                before = ack.at;
            }
            longest
        })
    }

    /// Stops writing.
    ///
    /// # Errors
    /// When the writing task panicked.
    pub async fn stop(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        match self.task.take() {
            Some(task) => task.await.context("the writer panicked"),
            None => Ok(()),
        }
    }

    /// How many rows were acknowledged up to now, and which of them the server at `config` lacks.
    ///
    /// # Errors
    /// When that server does not answer within 10 s.
    pub async fn lost(&self, config: &Config) -> Result<(usize, Vec<i64>)> {
        // First what was acknowledged: rows that come while we ask are no loss.
        let acked: Vec<i64> = self.with(|seen| seen.acks.iter().map(|ack| ack.id).collect());
        let rows = tokio::time::timeout(Duration::from_secs(10), rows(config));
        let rows = rows.await.context("the surviving primary does not answer within 10 s")??;
        Ok((acked.len(), acked.into_iter().filter(|id| !rows.contains(id)).collect()))
    }

    fn with<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn rows(config: &Config) -> Result<HashSet<i64>> {
    let session = Session::open(config).await?;
    let rows = session.client.query("SELECT id FROM lab", &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// A client that gives up before the server does.
pub(super) fn impatient(config: &mut Config) {
    config
        .connect_timeout(PATIENCE)
        .tcp_user_timeout(PATIENCE)
        .keepalives_idle(PATIENCE)
        // Longer than our own patience: a wait for standbys that the server cancels looks acknowledged.
        .options("-c statement_timeout=5000")
        .application_name("lab_writer");
}

async fn write(
    (config, followed): (Config, Option<Followed>),
    how: Manner,
    seen: Arc<Mutex<Seen>>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut id = how.first;
    let mut session: Option<Session> = None;
    while !*stopped.borrow() {
        let pause = match step((&config, followed), how, &mut session, &mut id).await {
            Ok(()) => {
                let ack = Ack { id, at: Instant::now() };
                seen.lock().unwrap_or_else(PoisonError::into_inner).acks.push(ack);
                PERIOD
            }
            Err(error) => {
                session = None;
                let told = (Instant::now(), format!("{error:#}"));
                seen.lock().unwrap_or_else(PoisonError::into_inner).error = Some(told);
                how.reconnect
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.changed() => {}
        }
    }
}

async fn step(
    (config, followed): (&Config, Option<Followed>),
    how: Manner,
    session: &mut Option<Session>,
    id: &mut i64,
) -> Result<()> {
    let open = match (&mut *session, followed) {
        (Some(open), _) => open,
        (None, None) => session.insert(Session::open(config).await?),
        (None, Some(followed)) => {
            let mut there = config.clone();
            there.host(followed.address().await?.to_string());
            session.insert(Session::open(&there).await?)
        }
    };
    // Never the same number twice: a row whose insert failed may yet be there.
    *id += 1;
    let turn = usize::try_from(*id - how.first)? % how.held.len().max(1);
    match how.held.get(turn) {
        None => insert(&open.client, *id, how.name).await,
        Some(length) => {
            open.run("BEGIN").await?;
            insert(&open.client, *id, how.name).await?;
            tokio::time::sleep(*length).await;
            open.run("COMMIT").await
        }
    }
}

async fn insert(client: &Client, id: i64, name: &str) -> Result<()> {
    let row: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&id, &name];
    let insert = client.execute("INSERT INTO lab (id, writer) VALUES ($1, $2)", &row);
    tokio::time::timeout(PATIENCE, insert).await.context("no answer to an insert within 1 s")??;
    Ok(())
}

/// A connection and the task that drives it.
pub(super) struct Session {
    pub(super) client: Client,
    driver: JoinHandle<()>,
}

impl Session {
    pub(super) async fn open(config: &Config) -> Result<Self> {
        let connect = tokio::time::timeout(PATIENCE, config.connect(NoTls));
        let (client, connection) = connect.await.context("no connection within 1 s")??;
        // An error of the connection shows in the query that waits for it.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { client, driver })
    }

    /// Statements without parameters.
    pub(super) async fn run(&self, sql: &str) -> Result<()> {
        let done = tokio::time::timeout(PATIENCE, self.client.batch_execute(sql));
        Ok(done.await.with_context(|| format!("no answer to {sql} within 1 s"))??)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
