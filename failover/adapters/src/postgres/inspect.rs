//! What is there before anything is started: programs, data directory, versions, identity. Each trouble is a separate error
//! that says what to do. Read only.

use std::io;
use std::path::PathBuf;
use std::time::Instant;

use super::control_data::{ControlData, ControlDataError, control_data};
use super::durable::{self, DurableError};
use super::instance::Instance;
use super::tool::{self, ToolError};

/// An installed instance.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Major version of the programs and of the data directory.
    pub major: u32,
    /// Its control file.
    pub control: ControlData,
}

/// Why an instance cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A program is missing or does not run.
    #[error("PostgreSQL's programs are not usable")]
    Programs(#[from] ToolError),
    /// `postgres --version` said something unknown.
    #[error("cannot read a version from {said:?} of {}", program.display())]
    Version {
        /// The program.
        program: PathBuf,
        /// What it printed.
        said: String,
    },
    /// No data directory.
    #[error("{} is not a PostgreSQL data directory (no PG_VERSION in it); check `data_dir`, or rebuild it", dir.display())]
    NotADataDirectory {
        /// The directory.
        dir: PathBuf,
    },
    /// Not readable for us.
    #[error("may not read {}; run the guard as the owner of the data directory", path.display())]
    Permission {
        /// The path.
        path: PathBuf,
    },
    /// Data of another major version.
    #[error("{} is of PostgreSQL {data}, but the programs in `bin_dir` are of {programs}; set `bin_dir` to those of {data}", dir.display())]
    ForeignVersion {
        /// The directory.
        dir: PathBuf,
        /// Version of the data.
        data: u32,
        /// Version of the programs.
        programs: u32,
    },
    /// Data of another cluster.
    #[error("{} belongs to cluster {found}, but this group is cluster {expected}; wrong `data_dir`, or it must be rebuilt", dir.display())]
    ForeignCluster {
        /// The directory.
        dir: PathBuf,
        /// System identifier found.
        found: u64,
        /// System identifier of the group.
        expected: u64,
    },
    /// The disk did not answer, or refused.
    #[error("the data directory cannot be read")]
    Disk(#[from] DurableError),
    /// The control file.
    #[error("the control file cannot be used")]
    Control(#[from] ControlDataError),
}

/// Looks at programs and data directory. `expected_system` is the group's system identifier, where it is known.
///
/// # Errors
/// The first trouble found.
pub async fn inspect(
    instance: &Instance,
    expected_system: Option<u64>,
    deadline: Instant,
) -> Result<Inspection, InspectError> {
    let programs = program_version(instance, deadline).await?;
    for name in ["pg_controldata", "pg_rewind", "pg_basebackup"] {
        let program = instance.program(name);
        if !program.exists() {
            return Err(ToolError::Missing { program }.into());
        }
    }
    let dir = instance.data_dir().to_path_buf();
    let data = data_version(instance, deadline).await?;
    if data != programs {
        return Err(InspectError::ForeignVersion { dir, data, programs });
    }
    let control = control_data(instance, deadline).await?;
    match expected_system {
        Some(expected) if expected != control.system_identifier => {
            Err(InspectError::ForeignCluster { dir, found: control.system_identifier, expected })
        }
        Some(_) | None => Ok(Inspection { major: programs, control }),
    }
}

/// Major version of the programs.
///
/// # Errors
/// When `postgres` is missing or says something unknown.
pub async fn program_version(instance: &Instance, deadline: Instant) -> Result<u32, InspectError> {
    let said = tool::run(instance, "postgres", &["--version"], deadline).await?;
    // "postgres (PostgreSQL) 15.20 (Debian 15.20-1)", "… 19beta1"
    let number = said.split_whitespace().nth(2).unwrap_or_default();
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| InspectError::Version {
        program: instance.program("postgres"),
        said: said.trim().into(),
    })
}

async fn data_version(instance: &Instance, deadline: Instant) -> Result<u32, InspectError> {
    let dir = instance.data_dir().to_path_buf();
    let path = dir.join("PG_VERSION");
    match durable::read(&path, deadline).await {
        Ok(Some(bytes)) => String::from_utf8_lossy(&bytes)
            .trim()
            .parse()
            .map_err(|_| InspectError::NotADataDirectory { dir }),
        Ok(None) => Err(InspectError::NotADataDirectory { dir }),
        Err(DurableError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(InspectError::Permission { path })
        }
        Err(other) => Err(other.into()),
    }
}
