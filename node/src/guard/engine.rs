//! The instance that a guard guards, of whichever engine. The rules of leases, fences and orders are the same for all; what each
//! of them means to a server is asked for by a match on this.

use std::path::Path;

use mesh_adapters::{postgres, redis};

/// An instance.
#[derive(Debug)]
pub(super) enum Engine {
    /// PostgreSQL.
    Postgres(postgres::Instance),
    /// Redis or Valkey.
    Redis(redis::Instance),
}

impl Engine {
    /// Its data directory, canonical.
    pub(super) fn data_dir(&self) -> &Path {
        match self {
            Self::Postgres(instance) => instance.data_dir(),
            Self::Redis(instance) => instance.data_dir(),
        }
    }

    /// Where its rejoins keep evidence.
    pub(super) fn keep_dir(&self) -> &Path {
        match self {
            Self::Postgres(instance) => &instance.settings().keep_dir,
            Self::Redis(instance) => &instance.settings().keep_dir,
        }
    }

    /// Its own cgroup.
    pub(super) fn cgroup(&self) -> Option<&Path> {
        match self {
            Self::Postgres(instance) => instance.settings().cgroup.as_deref(),
            Self::Redis(instance) => instance.settings().cgroup.as_deref(),
        }
    }
}
