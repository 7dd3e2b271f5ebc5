//! A client of two-phase commits: it always has some transactions prepared, commits most of them later and rolls the others
//! back, and remembers what it was told of each. It never asks for one decision after it asked for the other.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;
use tokio_postgres::Config;
use tokio_postgres::error::SqlState;

use super::writer::{Session, impatient};

/// So many stay prepared while the next ones come.
const KEPT: usize = 6;
/// Pause between two statements, and before a reconnect.
const PAUSE: Duration = Duration::from_millis(25);

/// What the client knows of one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It was to be prepared, and no answer came.
    Asked,
    /// It is prepared: so it was answered.
    Prepared,
    /// It was to be committed, and no answer came.
    Committing,
    /// It is committed: so it was answered.
    Committed,
    /// The server did not know it any more when it was told to commit it again. That is no acknowledgement: an old primary may
    /// have forgotten it alone.
    CommittedUnheard,
    /// It was to be rolled back, and no answer came.
    RollingBack,
    /// It is rolled back: so it was answered.
    RolledBack,
    /// The server did not know it when it was told to roll back what it may never have prepared, or had to roll back before.
    RolledBackUnheard,
    /// It was acknowledged as prepared, and at the first decision about it the server did not know it.
    Gone,
}

/// The client at work.
#[derive(Debug)]
pub struct Preparer {
    ledger: Ledger,
    task: JoinHandle<()>,
}

/// The name of the transaction that inserts this row.
#[must_use]
pub fn name(id: i64) -> String {
    format!("lab-{id}")
}

impl Preparer {
    /// Starts it where `config` leads; its rows are numbered from `first`.
    #[must_use]
    pub fn start(mut config: Config, first: i64) -> Self {
        impatient(&mut config);
        let ledger = Ledger::default();
        let task = tokio::spawn(work(config, first, Arc::clone(&ledger)));
        Self { ledger, task }
    }

    /// Everything that it knows.
    #[must_use]
    pub fn ledger(&self) -> BTreeMap<i64, Known> {
        with(&self.ledger, |book| book.known.clone())
    }

    /// How many transactions were acknowledged as prepared so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        with(&self.ledger, |book| book.prepared)
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct Book {
    known: BTreeMap<i64, Known>,
    /// How many were ever acknowledged as prepared.
    prepared: usize,
}

type Ledger = Arc<Mutex<Book>>;

fn with<T>(ledger: &Ledger, look: impl FnOnce(&mut Book) -> T) -> T {
    look(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn work(config: Config, first: i64, ledger: Ledger) {
    let mut session: Option<Session> = None;
    let mut next = first;
    loop {
        let done = match &session {
            None => open(&config, &ledger).await.map(|there| session = Some(there)),
            Some(there) => step(there, &mut next, &ledger).await,
        };
        if done.is_err() {
            session = None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Connects, and takes up what another server may have forgotten and this one has not.
async fn open(config: &Config, ledger: &Ledger) -> Result<Session> {
    let there = Session::open(config).await?;
    let asked = there.client.query("SELECT gid FROM pg_prepared_xacts", &[]);
    let rows = tokio::time::timeout(Duration::from_secs(1), asked).await??;
    let names: HashSet<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    with(ledger, |book| {
        let there = book.known.iter_mut().filter(|(id, _)| names.contains(&name(**id)));
        for (_, known) in there {
            if *known == Known::CommittedUnheard {
                *known = Known::Committing;
            } else if *known == Known::RolledBackUnheard {
                *known = Known::RollingBack;
            }
        }
    });
    Ok(there)
}

async fn step(there: &Session, next: &mut i64, ledger: &Ledger) -> Result<()> {
    let open: Vec<(i64, Known)> = with(ledger, |book| {
        book.known.iter().filter(|(_, known)| undecided(**known)).map(|(id, known)| (*id, *known)).collect()
    });
    match open.first() {
        Some((id, known)) if open.len() > KEPT => decide(there, *id, *known, ledger).await,
        Some(_) | None => {
            *next += 1;
            prepare(there, *next, ledger).await
        }
    }
}

const fn undecided(known: Known) -> bool {
    match known {
        Known::Asked | Known::Prepared | Known::Committing | Known::RollingBack => true,
        Known::Committed
        | Known::CommittedUnheard
        | Known::RolledBack
        | Known::RolledBackUnheard
        | Known::Gone => false,
    }
}

async fn prepare(there: &Session, id: i64, ledger: &Ledger) -> Result<()> {
    with(ledger, |book| book.known.insert(id, Known::Asked));
    let row = format!("INSERT INTO lab (id, writer) VALUES ({id}, 'prepared')");
    there.run(&format!("BEGIN; {row}; PREPARE TRANSACTION '{}'", name(id))).await?;
    with(ledger, |book| {
        book.prepared += 1;
        book.known.insert(id, Known::Prepared)
    });
    Ok(())
}

/// Commits two of three; what was never acknowledged as prepared is rolled back.
async fn decide(there: &Session, id: i64, known: Known, ledger: &Ledger) -> Result<()> {
    let commits = match known {
        Known::Prepared => id % 3 != 0,
        Known::Committing => true,
        Known::Asked | Known::RollingBack => false,
        Known::Committed
        | Known::CommittedUnheard
        | Known::RolledBack
        | Known::RolledBackUnheard
        | Known::Gone => return Ok(()),
    };
    let (word, asked, told, unheard) = if commits {
        ("COMMIT", Known::Committing, Known::Committed, Known::CommittedUnheard)
    } else {
        ("ROLLBACK", Known::RollingBack, Known::RolledBack, Known::RolledBackUnheard)
    };
    with(ledger, |book| book.known.insert(id, asked));
    let over = match there.run(&format!("{word} PREPARED '{}'", name(id))).await {
        Ok(()) => told,
        // Without an earlier asking it should be there.
        Err(error) if unknown(&error) && known == Known::Prepared => Known::Gone,
        Err(error) if unknown(&error) => unheard,
        Err(error) => return Err(error),
    };
    with(ledger, |book| book.known.insert(id, over));
    Ok(())
}

fn unknown(error: &anyhow::Error) -> bool {
    let of_server = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
    of_server == Some(&SqlState::UNDEFINED_OBJECT)
}
