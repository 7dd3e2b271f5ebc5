//! Leads a database to one address, and verifies where it leads.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::console::{Console, ConsoleAt, ConsoleError, Row};
use super::entry::{self, InForce, NoColumn};
use super::error::{Lost, PgbouncerError};
use crate::owned::{self, Content, Mark};

/// How long server connections to the old primary may take to close before they are called stragglers. After PAUSE or
/// KILL there are none left.
const GRACE: Duration = Duration::from_millis(500);

/// How long the disk may take for a PgBouncer that is not there.
const DISK: Duration = Duration::from_millis(250);
/// `server_login_retry` that is still no matter, in seconds.
const RETRY_MAX: f64 = 1.0;

/// What ends a PAUSE that does not return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStuck {
    /// KILL: every client and server connection of the database is dropped. They hang on a primary that lost its epoch.
    Kill,
    /// PAUSE is taken back, and the order refused.
    Refuse,
}

/// One database of one PgBouncer.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The console.
    pub console: ConsoleAt,
    /// A user in `admin_users`.
    pub user: String,
    /// Its password file, in `.pgpass` form; none where the console trusts.
    pub passfile: Option<PathBuf>,
    /// The include file of this database, which mesh owns.
    pub file: PathBuf,
    /// What the entry says besides host and port: `dbname=`, `pool_size=` …
    pub entry: String,
    /// How long transactions may take to end.
    pub pause: Duration,
    /// What happens when they do not.
    pub on_stuck: OnStuck,
}

/// Where a database shall lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The database, as PgBouncer's clients name it.
    pub database: String,
    /// The new primary.
    pub address: SocketAddr,
    /// Written into the file.
    pub mark: Mark,
}

/// A database leads where it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Led {
    /// Server connections to elsewhere that were ended.
    pub ended: u32,
    /// Those that go on all the same.
    pub stragglers: u32,
    /// Whether the database was paused for it.
    pub changed: bool,
    /// Whether KILL had to end the PAUSE, and clients were dropped.
    pub killed: bool,
}

/// One PgBouncer, and the database of it that is led.
#[derive(Debug, Clone)]
pub struct PgBouncer {
    settings: Settings,
}

/// What the console shows.
struct Sight {
    entry: Option<InForce>,
    elsewhere: u32,
}

impl PgBouncer {
    /// The PgBouncer behind a console. Nothing is opened yet.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// Leads the database to the wanted address; then reads it back. Doing it again, after whatever came of it the first
    /// time, comes out the same, and doing it once more changes nothing.
    ///
    /// # Errors
    /// [`PgbouncerError`]; after [`PgbouncerError::Unknown`] call [`PgBouncer::verify`] before anything else.
    pub async fn lead(&self, wanted: &Wanted, deadline: Instant) -> Result<Led, PgbouncerError> {
        let text = self.file_for(wanted)?;
        let path = &self.settings.file;
        let found = owned::read(path, deadline).await.map_err(PgbouncerError::File)?;
        let ours = |line: &str| entry::is_ours(&wanted.database, line);
        owned::may_replace(path, &found, &wanted.mark, ours).map_err(PgbouncerError::File)?;
        let console = match self.open(deadline).await {
            Ok(console) => console,
            Err(source) => {
                if !source.is_a_no() && found.text != text {
                    // When it comes back, it shall not lead to the old primary until it is told. The way to it may have
                    // used up the time; the disk has its own.
                    let deadline = deadline.max(Instant::now() + DISK);
                    owned::replace(path, text, deadline).await.map_err(PgbouncerError::File)?;
                }
                return Err(self.no_console(source));
            }
        };
        let before = self.look(&console, wanted, deadline).await.map_err(|lost| self.not_seen(lost))?;
        let mut change = Change { bouncer: self, console, wanted, deadline, sent: None, said: Vec::new() };
        if before.settled(wanted) {
            change.keep(&found, &text).await?;
            return change.seen(before.elsewhere, false, false).await;
        }
        if before.entry.is_none() {
            // Nothing to hold: no client can be in it.
            change.repoint(text).await?;
            return change.seen(before.elsewhere, true, false).await;
        }
        let killed = match change.pause().await {
            Ok(killed) => killed,
            Err(error) if change.sent.is_none() || matches!(error, PgbouncerError::Stuck { .. }) => {
                return Err(error);
            }
            Err(error) => return Err(self.left_paused(wanted, error)),
        };
        let let_in = async {
            change.repoint(text).await?;
            change.warn_of_retry().await?;
            change.let_in().await
        };
        let_in.await.map_err(|error| self.left_paused(wanted, error))?;
        change.seen(before.elsewhere, true, killed).await
    }

    /// Only looks whether the database leads to the wanted address, and would after a restart.
    ///
    /// # Errors
    /// [`PgbouncerError::NotSo`] when it does not; others when that cannot be found out. Never [`PgbouncerError::Unknown`].
    pub async fn verify(&self, wanted: &Wanted, deadline: Instant) -> Result<Led, PgbouncerError> {
        let text = self.file_for(wanted)?;
        let found = owned::read(&self.settings.file, deadline).await.map_err(PgbouncerError::File)?;
        let console = self.open(deadline).await.map_err(|source| self.no_console(source))?;
        let sight = self.look(&console, wanted, deadline).await.map_err(|lost| self.not_seen(lost))?;
        let mut findings = sight.findings(wanted);
        if entry::body(&found.text) != entry::body(&text) {
            let path = self.settings.file.display();
            findings.push(format!("{path} says otherwise, so a reload would lead elsewhere"));
        }
        if findings.is_empty() {
            return Ok(Led { ended: 0, stragglers: sight.elsewhere, changed: false, killed: false });
        }
        let (database, wanted) = (wanted.database.clone(), wanted.address.to_string());
        Err(PgbouncerError::NotSo { database, wanted, findings })
    }

    fn file_for(&self, wanted: &Wanted) -> Result<String, PgbouncerError> {
        let name = &wanted.database;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name == "pgbouncer" || !name.chars().all(good) {
            return Err(PgbouncerError::BadName { name: name.clone() });
        }
        if self.settings.entry.contains(['\n', '\r']) {
            return Err(PgbouncerError::BadName { name: self.settings.entry.clone() });
        }
        Ok(entry::render(name, wanted.address, &self.settings.entry, &wanted.mark))
    }

    async fn open(&self, deadline: Instant) -> Result<Console, ConsoleError> {
        let Settings { console, user, passfile, .. } = &self.settings;
        Console::open(console, user, passfile.as_deref(), deadline).await
    }

    async fn look(&self, console: &Console, wanted: &Wanted, deadline: Instant) -> Result<Sight, Lost> {
        let databases = console.run("SHOW DATABASES", deadline).await.map_err(Lost::Console)?;
        let servers = console.run("SHOW SERVERS", deadline).await.map_err(Lost::Console)?;
        Sight::read(&databases, &servers, wanted).map_err(Lost::Table)
    }

    fn no_console(&self, source: ConsoleError) -> PgbouncerError {
        let Settings { console, user, .. } = &self.settings;
        let (at, user) = (console.clone(), user.clone());
        if source.is_a_no() {
            return PgbouncerError::Denied { at, user, source };
        }
        PgbouncerError::NotReached { at, source }
    }

    /// Looking failed before anything was sent.
    fn not_seen(&self, lost: Lost) -> PgbouncerError {
        match lost {
            Lost::Console(source) => self.no_console(source),
            Lost::Table(source) => PgbouncerError::Unreadable { at: self.settings.console.clone(), source },
        }
    }

    fn left_paused(&self, wanted: &Wanted, source: PgbouncerError) -> PgbouncerError {
        PgbouncerError::LeftPaused { database: wanted.database.clone(), source: Box::new(source) }
    }
}

impl Sight {
    fn read(databases: &[Row], servers: &[Row], wanted: &Wanted) -> Result<Self, NoColumn> {
        let entry = entry::in_force(databases, &wanted.database)?;
        let elsewhere = entry::elsewhere(servers, &wanted.database, wanted.address)?;
        Ok(Self { entry, elsewhere })
    }

    /// Leads there, and nothing of the old is left.
    fn settled(&self, wanted: &Wanted) -> bool {
        self.findings(wanted).is_empty() && self.elsewhere == 0
    }

    fn findings(&self, wanted: &Wanted) -> Vec<String> {
        let Some(entry) = &self.entry else {
            return vec![format!(
                "PgBouncer has no database {:?}; does its file include ours?",
                wanted.database
            )];
        };
        let mut findings = Vec::new();
        if !entry.leads_to(wanted.address) {
            findings.push(format!(
                "it leads to {}:{}; PgBouncer cannot read the include file, or another entry of this name comes after it",
                entry.host, entry.port
            ));
        }
        if entry.paused {
            findings.push("it is paused".to_owned());
        }
        if entry.disabled {
            findings.push(format!("it is disabled by hand; say `ENABLE {}`", wanted.database));
        }
        findings
    }
}

/// The part of a call in which things change: from the first command sent on, every lost answer is an unknown outcome.
struct Change<'a> {
    bouncer: &'a PgBouncer,
    console: Console,
    wanted: &'a Wanted,
    deadline: Instant,
    /// The newest command that may have changed something.
    sent: Option<String>,
    /// What PgBouncer refused in words, for people.
    said: Vec<String>,
}

impl Change<'_> {
    /// Holds new queries and waits until no transaction is left; returns whether KILL had to see to that.
    async fn pause(&mut self) -> Result<bool, PgbouncerError> {
        let settings = &self.bouncer.settings;
        // A console of its own: a PAUSE that does not end holds it, and is not answered even after KILL.
        let opened = self.bouncer.open(self.deadline).await;
        let pausing = opened.map_err(|source| self.bouncer.no_console(source))?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let patience = Instant::now() + settings.pause.min(left / 2);
        let command = format!("PAUSE {}", self.wanted.database);
        let paused = pausing.run(&command, patience).await;
        if let Err(source @ ConsoleError::Refused { .. }) = paused {
            // The first command that needs more than `stats_users`: nothing was changed.
            return Err(self.bouncer.no_console(source));
        }
        self.sent = Some(command);
        match paused {
            Ok(_) => Ok(false),
            Err(ConsoleError::Late { .. }) => self.end_pause().await,
            Err(source) => Err(self.lost(Lost::Console(source))),
        }
    }

    /// What becomes of a PAUSE that did not return.
    async fn end_pause(&mut self) -> Result<bool, PgbouncerError> {
        let database = &self.wanted.database;
        match self.bouncer.settings.on_stuck {
            OnStuck::Kill => {
                tracing::warn!(%database, "transactions do not end; dropping the connections of this database");
                self.set(&format!("KILL {database}")).await?;
                Ok(true)
            }
            OnStuck::Refuse => {
                let (database, connections) = (database.clone(), self.look().await?.elsewhere);
                self.set(&format!("RESUME {database}")).await?;
                Err(PgbouncerError::Stuck { database, connections })
            }
        }
    }

    /// The file first, then RELOAD; and it must be in force before anybody is let in.
    async fn repoint(&mut self, text: String) -> Result<(), PgbouncerError> {
        let path = &self.bouncer.settings.file;
        owned::replace(path, text, self.deadline).await.map_err(PgbouncerError::File)?;
        self.set("RELOAD").await?;
        let sight = self.look().await?;
        if sight.entry.as_ref().is_some_and(|entry| entry.leads_to(self.wanted.address)) {
            return Ok(());
        }
        Err(self.not_in_force(sight.findings(self.wanted)))
    }

    async fn warn_of_retry(&self) -> Result<(), PgbouncerError> {
        let asked = self.console.run("SHOW CONFIG", self.deadline).await;
        let rows = asked.map_err(|source| self.lost(Lost::Console(source)))?;
        if let Some(seconds) = entry::login_retry(&rows).filter(|seconds| *seconds > RETRY_MAX) {
            let at = &self.bouncer.settings.console;
            tracing::warn!(%at, seconds, "server_login_retry delays the first session at a new primary; set it to 0.2");
        }
        Ok(())
    }

    /// Waits a short while for the old server connections, and lets clients in.
    async fn let_in(&mut self) -> Result<(), PgbouncerError> {
        let sight = self.look().await?;
        if sight.elsewhere > 0 {
            self.wait_close().await?;
        }
        if sight.entry.is_some_and(|entry| entry.paused) {
            self.set(&format!("RESUME {}", self.wanted.database)).await?;
        }
        Ok(())
    }

    async fn wait_close(&self) -> Result<(), PgbouncerError> {
        // A console of its own, as for PAUSE.
        let left = self.deadline.saturating_duration_since(Instant::now());
        let patience = Instant::now() + GRACE.min(left / 2);
        let command = format!("WAIT_CLOSE {}", self.wanted.database);
        let waiting = self.bouncer.open(patience).await.map_err(|source| self.lost(Lost::Console(source)))?;
        match waiting.run(&command, patience).await {
            // What is left is counted, whatever this one said.
            Ok(_) | Err(ConsoleError::Late { .. } | ConsoleError::Refused { .. }) => Ok(()),
            Err(source) => Err(self.lost(Lost::Console(source))),
        }
    }

    /// Nothing but the file may need a word: its mark, or what else the entry says.
    async fn keep(&mut self, found: &Content, text: &str) -> Result<(), PgbouncerError> {
        if found.text == text {
            return Ok(());
        }
        let path = &self.bouncer.settings.file;
        owned::replace(path, text.to_owned(), self.deadline).await.map_err(PgbouncerError::File)?;
        if entry::body(&found.text) == entry::body(text) {
            return Ok(());
        }
        self.set("RELOAD").await
    }

    async fn seen(&self, before: u32, changed: bool, killed: bool) -> Result<Led, PgbouncerError> {
        let after = self.look().await?;
        let findings = after.findings(self.wanted);
        if !findings.is_empty() {
            return Err(self.not_in_force(findings));
        }
        let (ended, stragglers) = (before.saturating_sub(after.elsewhere), after.elsewhere);
        Ok(Led { ended, stragglers, changed, killed })
    }

    async fn set(&mut self, command: &str) -> Result<(), PgbouncerError> {
        self.sent = Some(command.to_owned());
        match self.console.run(command, self.deadline).await {
            Ok(_) => Ok(()),
            // Whether a refusal matters, the read-back says.
            Err(error @ ConsoleError::Refused { .. }) => {
                self.said.push(crate::words(&error));
                Ok(())
            }
            Err(source) => Err(self.lost(Lost::Console(source))),
        }
    }

    async fn look(&self) -> Result<Sight, PgbouncerError> {
        let looked = self.bouncer.look(&self.console, self.wanted, self.deadline).await;
        looked.map_err(|lost| self.lost(lost))
    }

    /// Looking failed after, or before, something was sent.
    fn lost(&self, source: Lost) -> PgbouncerError {
        match &self.sent {
            Some(command) => PgbouncerError::Unknown { command: command.clone(), source },
            None => self.bouncer.not_seen(source),
        }
    }

    fn not_in_force(&self, mut findings: Vec<String>) -> PgbouncerError {
        findings.extend(self.said.iter().cloned());
        let (database, wanted) = (self.wanted.database.clone(), self.wanted.address.to_string());
        PgbouncerError::NotInForce { database, wanted, findings }
    }
}
