//! The rejoin ladder: an old primary or a strayed standby becomes a standby of the new primary.
//!
//! follow -> rewind -> rebuild, the first that the facts allow. Nothing of the old log is destroyed before it is kept;
//! nothing is changed before the journal says so; another cluster's data is never touched. The instance must be stopped
//! and fenced (receipt `quiet`), which is asked again here.

mod decide;
mod journal;
mod keep;
mod own;
mod rebuild;
mod repoint;
mod rewind;
mod source;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mesh_proto::Lsn;
use serde::{Deserialize, Serialize};

pub use decide::{How, NoRewind};
pub use journal::{Journal, JournalError, Stage, unfinished};
pub use repoint::{Repointed, repoint};

use super::conninfo::Upstream;
use super::durable::DurableError;
use super::fence::write_standby_signal;
use super::handover::{StopError, stop_fast};
use super::hba::Clients;
use super::inspect::InspectError;
use super::instance::Instance;
use super::passfile::PassfileError;
use super::postmaster::{Control, Postmaster};
use super::sql::{Durability, Session, SqlError};
use super::standby::{Position, StandbyError, wait_streaming};
use super::start::{StandbyUpstream, StartAs, StartError, StartRequest, start_checked};
use super::timeline::HistoryError;
use super::tool::ToolError;
use super::wal::WalError;
use decide::{Decision, Range, decide};
use own::Own;
use source::Source;

/// A rejoin.
#[derive(Clone, Debug)]
pub struct RejoinRequest {
    /// The new primary, and the name to stream under.
    pub source: Upstream,
    /// The group's system identifier: a source of another cluster is refused.
    pub system_identifier: Option<u64>,
    /// Behind the boot gate or open.
    pub clients: Clients,
    /// The lowest rung to try: `Follow`, unless a person wants more.
    pub from: How,
    /// Whether pg_rewind may be used.
    pub may_rewind: bool,
    /// Whether a rebuild may be made.
    pub may_rebuild: bool,
    /// Whether pg_rewind is to fetch missing segments by the instance's own `restore_command`.
    pub restore_target_wal: bool,
}

/// Where a rejoin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejoinProgress {
    /// The new primary is asked, its checkpoint awaited.
    AskingSource,
    /// It is decided how.
    Decided(How),
    /// The diverged log is being kept.
    Keeping,
    /// pg_rewind runs.
    Rewinding,
    /// pg_basebackup runs.
    Copying,
    /// It starts and is to stream.
    Starting,
}

/// The part of the old log that was undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diverged {
    /// How much.
    pub bytes: u64,
    /// How many transactions; `None` when they could not be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactions: Option<u64>,
    /// From the fork.
    pub from: Lsn,
    /// To the end.
    pub to: Lsn,
    /// The directory with the segments and a note.
    pub kept_at: PathBuf,
}

/// An instance that streams from the new primary.
#[derive(Clone, Debug)]
pub struct Rejoined {
    /// Which rung.
    pub how: How,
    /// What was undone.
    pub diverged: Option<Diverged>,
    /// Whether its data is another than before: a rewind and a rebuild make a new data incarnation.
    pub data_incarnation_changed: bool,
    /// Its postmaster.
    pub postmaster: Postmaster,
    /// Where it stands.
    pub position: Position,
}

/// Why an instance did not rejoin.
#[derive(Debug, thiserror::Error)]
pub enum RejoinError {
    /// It still runs.
    #[error("process {pid} of the instance still runs; fence it first")]
    Running {
        /// One of its processes.
        pid: i32,
    },
    /// `/proc`.
    #[error("cannot list the instance's processes")]
    Scan(#[source] std::io::Error),
    /// The new primary cannot be asked.
    #[error(
        "the new primary cannot be asked; check its address, its pg_hba, and the replication role's password and grants"
    )]
    Source(#[source] SqlError),
    /// The password file.
    #[error("the replication role's password file cannot be used")]
    Passfile(#[from] PassfileError),
    /// It is no primary.
    #[error("the server to rejoin is a standby itself")]
    SourceIsStandby,
    /// Its control file does not know its timeline yet.
    #[error(
        "the new primary has made no checkpoint since its promotion; run CHECKPOINT on it, a rewind would silently do nothing before"
    )]
    SourceNotCheckpointed,
    /// A history file.
    #[error("a timeline history is damaged")]
    History(#[from] HistoryError),
    /// Another cluster.
    #[error(
        "this instance belongs to cluster {own}, the new primary to {source_system}; wrong `data_dir` or wrong group; nothing was changed"
    )]
    OtherCluster {
        /// The local one.
        own: u64,
        /// The new primary's.
        source_system: u64,
    },
    /// The local data directory.
    #[error("the local data directory cannot be used")]
    Own(#[from] InspectError),
    /// The local log.
    #[error("the local log cannot be read")]
    Wal(#[from] WalError),
    /// The checkpoint record is missing.
    #[error("there is no log record at {at}, where the local control file has its checkpoint")]
    NoLog {
        /// Where.
        at: Lsn,
    },
    /// The rung that would work is not allowed.
    #[error(
        "it needs a {needed:?} ({because}), which is not allowed here; run `mesh rejoin` with permission for it"
    )]
    NotAllowed {
        /// The rung.
        needed: How,
        /// Why no lower one.
        because: String,
    },
    /// The diverged log could not be kept, so nothing was undone.
    #[error(
        "the diverged log could not be kept, so nothing was undone; make room in `keep_dir`, or move away what cannot be used there"
    )]
    Keep(#[source] DurableError),
    /// No room for a copy.
    #[error("there is no room for a copy of the new primary beside the data directory")]
    Room(#[source] DurableError),
    /// The copy could not be put in place.
    #[error(
        "the copy could not be put in the data directory's place; a data directory that is itself a mount point cannot be exchanged"
    )]
    Swap(#[source] DurableError),
    /// A base backup cannot place them.
    #[error("the new primary has tablespaces; rebuild this instance by hand")]
    Tablespaces,
    /// A file.
    #[error("a file could not be read or written")]
    Disk(#[from] DurableError),
    /// A program.
    #[error("a program of PostgreSQL failed")]
    Tool(#[from] ToolError),
    /// The journal.
    #[error("the rejoin journal cannot be used")]
    Journal(#[from] JournalError),
    /// A crashed server could not be brought to a clean stop.
    #[error("the crashed instance could not be recovered and stopped before the rewind")]
    Stop(#[from] StopError),
    /// It did not start.
    #[error("the rejoined instance did not start")]
    Start(#[from] Box<StartError>),
    /// The running standby could not be asked or repointed. It runs as it was, or tries to stream.
    #[error("the running standby could not be repointed")]
    Standby(#[source] StandbyError),
    /// It does not stream. It runs.
    #[error("the rejoined instance runs but does not stream from the new primary")]
    Stream {
        /// Its postmaster.
        postmaster: Box<Postmaster>,
        /// Why.
        #[source]
        source: StandbyError,
    },
}

/// Rejoins. Safe to repeat after any interruption: the journal says what was under way.
///
/// # Errors
/// Each reason separately; only `Stream` leaves the instance running.
pub async fn rejoin(
    instance: &Instance,
    control: &dyn Control,
    request: &RejoinRequest,
    progress: &(dyn Fn(RejoinProgress) + Send + Sync),
    deadline: Instant,
) -> Result<Rejoined, RejoinError> {
    nothing_runs(instance)?;
    progress(RejoinProgress::AskingSource);
    let source = source::read(instance, &request.source, deadline).await?;
    if let Some(own) = request.system_identifier
        && own != source.system_identifier
    {
        return Err(RejoinError::OtherCluster { own, source_system: source.system_identifier });
    }
    let climb = Climb { instance, control, source: &source, request, progress, deadline };
    let (how, diverged) = match unfinished(instance, deadline).await? {
        // Rewound before, and it did not stream: the source may have changed meanwhile, so it is decided again.
        Some(Journal { stage: Stage::Rewound, diverged }) => match climb.climb().await? {
            (How::Follow, _) => (How::Rewind, diverged),
            again @ (How::Rewind | How::Rebuild, _) => again,
        },
        Some(_) => climb.rebuild(None, NoRewind::Interrupted).await?,
        None => climb.climb().await?,
    };
    progress(RejoinProgress::Starting);
    let (postmaster, position) = come_up(instance, control, request, &source, deadline).await?;
    rebuild::discard_old(instance, deadline).await?;
    journal::clear(instance, deadline).await?;
    Ok(Rejoined { how, diverged, data_incarnation_changed: how != How::Follow, postmaster, position })
}

fn nothing_runs(instance: &Instance) -> Result<(), RejoinError> {
    let members = instance.tree().scan().map_err(RejoinError::Scan)?;
    match members.first() {
        Some(member) => Err(RejoinError::Running { pid: member.process.pid() }),
        None => Ok(()),
    }
}

/// Everything a step needs.
struct Climb<'a> {
    instance: &'a Instance,
    control: &'a dyn Control,
    source: &'a Source,
    request: &'a RejoinRequest,
    progress: &'a (dyn Fn(RejoinProgress) + Send + Sync),
    deadline: Instant,
}

impl Climb<'_> {
    /// Decides and changes the data directory accordingly; nothing runs afterwards either.
    async fn climb(&self) -> Result<(How, Option<Diverged>), RejoinError> {
        let own = match own::read(self.instance, self.deadline).await {
            Ok(own) => own,
            // Without a readable directory only a copy helps, and nothing is there that could be kept.
            Err(error) if self.request.may_rebuild => {
                tracing::warn!(%error, "the local data directory is unusable; it will be rebuilt");
                return self.rebuild(None, NoRewind::Unreadable).await;
            }
            Err(error) => return Err(error),
        };
        match (decide(&own, self.source), self.request.from) {
            (Decision::OtherCluster, _) => Err(RejoinError::OtherCluster {
                own: own.control.system_identifier,
                source_system: self.source.system_identifier,
            }),
            (Decision::Follow, How::Follow) => {
                (self.progress)(RejoinProgress::Decided(How::Follow));
                Ok((How::Follow, None))
            }
            (Decision::Follow, How::Rewind) => self.rewind(&own, None).await,
            (Decision::Follow, How::Rebuild) => self.rebuild(None, NoRewind::NotAllowed).await,
            (Decision::Rewind(range), How::Follow | How::Rewind) if self.request.may_rewind => {
                self.rewind(&own, Some(range)).await
            }
            (Decision::Rewind(range), _) => {
                let diverged = self.keep(&own, Some(range)).await?;
                self.rebuild(diverged, NoRewind::NotAllowed).await
            }
            (Decision::Rebuild(why, range), _) => {
                let diverged = self.keep(&own, range).await?;
                self.rebuild(diverged, why).await
            }
        }
    }

    async fn keep(&self, own: &Own, range: Option<Range>) -> Result<Option<Diverged>, RejoinError> {
        let Some(range) = range else { return Ok(None) };
        (self.progress)(RejoinProgress::Keeping);
        keep::keep(self.instance, own, range, self.deadline).await.map(Some)
    }

    async fn rewind(&self, own: &Own, range: Option<Range>) -> Result<(How, Option<Diverged>), RejoinError> {
        (self.progress)(RejoinProgress::Decided(How::Rewind));
        let diverged = self.keep(own, range).await?;
        (self.progress)(RejoinProgress::Rewinding);
        if !own.stopped_cleanly()
            && let Err(error) = self.recover().await
        {
            let ended =
                matches!(&error, RejoinError::Start(start) if matches!(**start, StartError::Ended { .. }));
            if !ended || !self.request.may_rebuild {
                return Err(error);
            }
            tracing::warn!(%error, "it does not come up to be stopped cleanly; the instance will be rebuilt");
            return self.rebuild(diverged, NoRewind::Failed).await;
        }
        match self.rewind_stopped(own, diverged.as_ref()).await {
            Ok(()) => Ok((How::Rewind, diverged)),
            Err(RejoinError::Tool(error)) if self.request.may_rebuild => {
                tracing::warn!(%error, "not rewound; the instance will be rebuilt");
                self.rebuild(diverged, NoRewind::Failed).await
            }
            Err(error) => Err(error),
        }
    }

    /// A crashed server is brought to a clean stop as a standby without upstream. It replays its own log to the end and
    /// adds nothing; at no moment could it be started as a primary.
    async fn recover(&self) -> Result<(), RejoinError> {
        let request = StartRequest {
            start_as: StartAs::Standby(StandbyUpstream::OwnTimeline),
            clients: Clients::ShutOut,
            sync: None,
            system_identifier: None,
        };
        let started = start_checked(self.instance, self.control, &request, self.deadline).await;
        let postmaster = started.map_err(Box::new)?.postmaster;
        stop_fast(self.instance, &postmaster, Duration::ZERO, self.deadline).await?;
        Ok(())
    }

    async fn rewind_stopped(&self, own: &Own, diverged: Option<&Diverged>) -> Result<(), RejoinError> {
        let (instance, deadline) = (self.instance, self.deadline);
        rewind::rehearse(instance, own.major, self.request, deadline).await?;
        rewind::save_config(instance, deadline).await?;
        journal::enter(instance, Stage::Rewinding, diverged, deadline).await?;
        if !rewind::rewind(instance, own.major, self.request, deadline).await? {
            let program = instance.program("pg_rewind");
            let (status, said) =
                ("success".into(), "it found nothing to rewind, but the log says otherwise".into());
            return Err(ToolError::Failed { program, status, said }.into());
        }
        write_standby_signal(instance, deadline).await?;
        rewind::restore_config(instance, instance.data_dir(), deadline).await?;
        Ok(journal::enter(instance, Stage::Rewound, diverged, deadline).await?)
    }

    /// Rebuilds from the start, or from where an earlier attempt got to.
    async fn rebuild(
        &self,
        diverged: Option<Diverged>,
        why: NoRewind,
    ) -> Result<(How, Option<Diverged>), RejoinError> {
        if !self.request.may_rebuild {
            return Err(RejoinError::NotAllowed { needed: How::Rebuild, because: why.to_string() });
        }
        (self.progress)(RejoinProgress::Decided(How::Rebuild));
        (self.progress)(RejoinProgress::Copying);
        let before = match unfinished(self.instance, self.deadline).await? {
            Some(journal) => Journal { diverged: diverged.or(journal.diverged), ..journal },
            None => {
                rewind::save_config(self.instance, self.deadline).await?;
                journal::enter(self.instance, Stage::Copying, diverged.as_ref(), self.deadline).await?;
                Journal { stage: Stage::Copying, diverged }
            }
        };
        rebuild::rebuild(self.instance, self.source, self.request, &before, self.deadline).await?;
        Ok((How::Rebuild, before.diverged))
    }
}

async fn come_up(
    instance: &Instance,
    control: &dyn Control,
    request: &RejoinRequest,
    source: &Source,
    deadline: Instant,
) -> Result<(Postmaster, Position), RejoinError> {
    let start = StartRequest {
        start_as: StartAs::Standby(StandbyUpstream::Follow(request.source.clone())),
        clients: request.clients,
        // A standby's own value is for the day it is promoted, and is rendered then.
        sync: None,
        system_identifier: Some(source.system_identifier),
    };
    let started = start_checked(instance, control, &start, deadline).await.map_err(Box::new)?;
    let postmaster = started.postmaster;
    let stream = async {
        let session = Session::local(instance, Durability::Local, deadline).await?;
        wait_streaming(instance, &session, &request.source, source.history.timeline, deadline).await
    };
    match stream.await {
        Ok(position) => Ok((postmaster, position)),
        Err(source) => Err(RejoinError::Stream { postmaster: Box::new(postmaster), source }),
    }
}
