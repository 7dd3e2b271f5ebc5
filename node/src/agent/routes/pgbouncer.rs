//! Routes through PgBouncer: a database whose console and include file this agent's file names.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_adapters::pgbouncer::{self, ConsoleAt, PgBouncer, Settings, Wanted};
use mesh_proto::effect::{Outcome, Refusal};
use mesh_proto::spec::PgbouncerTarget;

use super::{Asked, Kind, No, mark, no};
use crate::config::{OnStuck, PgbouncerConsole, PgbouncerSection};

/// A console, and the include file of one database.
#[derive(Debug)]
pub(super) struct Held {
    database: String,
    settings: Settings,
}

impl Held {
    pub(super) fn of(section: &PgbouncerSection) -> Self {
        let console = match &section.console {
            PgbouncerConsole::Tcp(address) => ConsoleAt::Tcp(*address),
            PgbouncerConsole::Unix { dir, port } => ConsoleAt::Unix { dir: dir.clone(), port: *port },
        };
        let on_stuck = match section.on_stuck {
            OnStuck::Kill => pgbouncer::OnStuck::Kill,
            OnStuck::Refuse => pgbouncer::OnStuck::Refuse,
        };
        let settings = Settings {
            console,
            user: section.user.clone(),
            passfile: section.password_file.clone(),
            file: section.file.clone(),
            entry: section.entry.clone(),
            pause: Duration::from_millis(section.pause_ms),
            on_stuck,
        };
        Self { database: section.database.clone(), settings }
    }
}

/// A database, and the PgBouncer that has it.
pub(super) struct Route<'a> {
    target: &'a PgbouncerTarget,
    bouncer: PgBouncer,
}

impl<'a> Route<'a> {
    pub(super) fn new(held: &[Held], target: &'a PgbouncerTarget) -> Result<Self, No> {
        let Some(held) = held.iter().find(|held| held.database == target.database) else {
            let what =
                format!("this agent's file has no [[pgbouncer]] section for database {}", target.database);
            return Err(no(Refusal::NotConfigured, what));
        };
        Ok(Self { target, bouncer: PgBouncer::new(held.settings.clone()) })
    }

    fn wanted(&self, asked: &Asked<'_>) -> Wanted {
        let (database, address) = (self.target.database.clone(), asked.instance.address);
        Wanted { database, address, mark: mark(asked) }
    }
}

impl Kind for Route<'_> {
    async fn lead(&self, asked: &Asked<'_>) -> Outcome {
        pgbouncer::outcome(self.bouncer.lead(&self.wanted(asked), asked.deadline).await)
    }

    async fn verify(&self, asked: &Asked<'_>) -> Outcome {
        pgbouncer::outcome(self.bouncer.verify(&self.wanted(asked), asked.deadline).await)
    }

    fn counts_sessions(&self) -> bool {
        true
    }

    async fn entrance(&self, _: &Asked<'_>) -> Result<SocketAddr, No> {
        Ok(self.target.listen)
    }

    fn pooled(&self) -> Option<&str> {
        Some(&self.target.database)
    }
}
