//! Starts, stops and checks a unit.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mesh_proto::effect::{Finding, Outcome, Refusal};
use tokio::time::{sleep_until, timeout_at};

use super::show::{self, Active, ShowError, State};
use crate::process::ProcessHandle;

/// How often a unit on its way is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The name of a unit, with its suffix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitName(String);

/// Not a name of a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a systemd unit that mesh drives; write it with its suffix, such as \"api.service\""
)]
pub struct UnitNameError(String);

impl UnitName {
    /// Checks a name.
    ///
    /// # Errors
    /// When it could be read as an option, a pattern, or several units.
    pub fn new(name: &str) -> Result<Self, UnitNameError> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@' | '\\');
        let suffix = [".service", ".socket", ".target", ".timer"].iter().any(|suffix| {
            name.strip_suffix(suffix).is_some_and(|stem| !stem.is_empty() && !stem.starts_with('-'))
        });
        if suffix && name.len() < 256 && name.chars().all(good) {
            return Ok(Self(name.to_owned()));
        }
        Err(UnitNameError(name.to_owned()))
    }
}

impl std::fmt::Display for UnitName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a unit is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// systemctl could not be run; nothing was changed.
    #[error("cannot execute {}; check that this host runs systemd", program.display())]
    Exec {
        /// systemctl.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No such unit.
    #[error("there is no unit {unit}; install it, or correct its name in the group's spec")]
    NoUnit {
        /// The unit.
        unit: UnitName,
    },
    /// systemctl refused.
    #[error(
        "systemctl {verb} {unit} failed with {status}: {said}; check the unit's journal, and that the agent's user may {verb} it"
    )]
    Refused {
        /// start, stop or show.
        verb: &'static str,
        /// The unit.
        unit: UnitName,
        /// Its exit status.
        status: String,
        /// What it said.
        said: String,
    },
    /// It was not so by the deadline, and nothing is under way any more.
    #[error("unit {unit} is {active:?}, and should be {wanted}; check its journal")]
    NotSo {
        /// The unit.
        unit: UnitName,
        /// Where it stands.
        active: Active,
        /// What was wanted.
        wanted: &'static str,
    },
    /// What systemctl prints is not understood.
    #[error("the state of unit {unit} cannot be read")]
    Unreadable {
        /// The unit.
        unit: UnitName,
        /// Why.
        #[source]
        source: ShowError,
    },
    /// The deadline came while something was under way.
    #[error("whether unit {unit} could {verb} is not known yet; verify before repeating it")]
    Unknown {
        /// start or stop.
        verb: &'static str,
        /// The unit.
        unit: UnitName,
    },
    /// The unit stopped, and what was its main process cannot be watched.
    #[error("whether the main process {pid} of unit {unit} is gone cannot be seen")]
    Unwatched {
        /// The unit.
        unit: UnitName,
        /// Its main process.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The systemd of this host.
#[derive(Debug, Clone)]
pub struct Systemd {
    systemctl: PathBuf,
}

impl Default for Systemd {
    fn default() -> Self {
        Self { systemctl: PathBuf::from("/usr/bin/systemctl") }
    }
}

impl Systemd {
    /// Another systemctl.
    #[must_use]
    pub const fn new(systemctl: PathBuf) -> Self {
        Self { systemctl }
    }

    /// Looks at a unit.
    ///
    /// # Errors
    /// [`UnitError`]; [`UnitError::Unknown`] is not among them.
    pub async fn state(&self, unit: &UnitName, deadline: Instant) -> Result<State, UnitError> {
        let text = self.run("show", unit, &[show::PROPERTIES], deadline).await?;
        let state =
            show::state(&text).map_err(|source| UnitError::Unreadable { unit: unit.clone(), source })?;
        if !state.loaded {
            return Err(UnitError::NoUnit { unit: unit.clone() });
        }
        Ok(state)
    }

    /// Starts a unit, and waits until it is active. One that is, stays as it is.
    ///
    /// # Errors
    /// [`UnitError`]; after [`UnitError::Unknown`] look before repeating.
    pub async fn start(&self, unit: &UnitName, deadline: Instant) -> Result<State, UnitError> {
        let before = self.state(unit, deadline).await?;
        if before.active == Active::Active {
            return Ok(before);
        }
        self.run("start", unit, &[], deadline).await?;
        let state = self.settled("start", unit, deadline).await?;
        match state.active {
            Active::Active | Active::Reloading => Ok(state),
            active @ (Active::Inactive
            | Active::Failed
            | Active::Activating
            | Active::Deactivating
            | Active::Maintenance) => Err(UnitError::NotSo { unit: unit.clone(), active, wanted: "active" }),
        }
    }

    /// Stops a unit, and waits until it is inactive and its main process is dead.
    ///
    /// # Errors
    /// [`UnitError`]; after [`UnitError::Unknown`] look before repeating.
    pub async fn stop(&self, unit: &UnitName, deadline: Instant) -> Result<State, UnitError> {
        let before = self.state(unit, deadline).await?;
        // Taken hold of before it is stopped: afterwards its number may be another's.
        let unwatched = |pid, source| UnitError::Unwatched { unit: unit.clone(), pid, source };
        let main = match before.main_pid {
            Some(pid) => ProcessHandle::open(pid).map_err(|source| unwatched(pid, source))?,
            None => None,
        };
        self.run("stop", unit, &[], deadline).await?;
        let state = self.settled("stop", unit, deadline).await?;
        let stopped = match state.active {
            Active::Inactive | Active::Failed => state.main_pid.is_none(),
            Active::Active
            | Active::Reloading
            | Active::Activating
            | Active::Deactivating
            | Active::Maintenance => false,
        };
        if !stopped {
            let (unit, active) = (unit.clone(), state.active);
            return Err(UnitError::NotSo { unit, active, wanted: "stopped" });
        }
        if let Some(main) = main {
            let death = timeout_at(deadline.into(), main.dead()).await;
            let watched =
                death.map_err(|_elapsed| UnitError::Unknown { verb: "stop", unit: unit.clone() })?;
            watched.map_err(|source| unwatched(main.pid(), source))?;
        }
        Ok(state)
    }

    /// Looks until the unit is on its way no more.
    async fn settled(
        &self,
        verb: &'static str,
        unit: &UnitName,
        deadline: Instant,
    ) -> Result<State, UnitError> {
        let unknown = || UnitError::Unknown { verb, unit: unit.clone() };
        loop {
            // Reading failed after a change: that it may be done is all that is known.
            let state = self.state(unit, deadline).await.map_err(|_not_seen| unknown())?;
            match state.active {
                Active::Active
                | Active::Reloading
                | Active::Inactive
                | Active::Failed
                | Active::Maintenance => return Ok(state),
                Active::Activating | Active::Deactivating => {}
            }
            let next = Instant::now() + LOOK_EVERY;
            if next >= deadline {
                return Err(unknown());
            }
            sleep_until(next.into()).await;
        }
    }

    async fn run(
        &self,
        verb: &'static str,
        unit: &UnitName,
        args: &[&str],
        deadline: Instant,
    ) -> Result<String, UnitError> {
        let mut command = tokio::process::Command::new(&self.systemctl);
        command
            .args(["--no-pager", "--no-ask-password", verb])
            .args(args)
            .args(["--", &unit.0])
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match timeout_at(deadline.into(), command.output()).await {
            Err(_elapsed) => return Err(UnitError::Unknown { verb, unit: unit.clone() }),
            Ok(Err(source)) => return Err(UnitError::Exec { program: self.systemctl.clone(), source }),
            Ok(Ok(output)) => output,
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
        Err(UnitError::Refused { verb, unit: unit.clone(), status: output.status.to_string(), said })
    }
}

/// What a call means for the step that asked.
#[must_use]
pub fn outcome(result: Result<State, UnitError>) -> Outcome {
    let error = match result {
        Ok(_) => return Outcome::Done(Finding::Nothing),
        Err(error) => error,
    };
    let detail = crate::words(&error);
    let code = match error {
        UnitError::Unknown { verb: "show", .. } => Refusal::NotDelivered,
        UnitError::Unknown { .. } | UnitError::Unwatched { .. } => return Outcome::Unknown { detail },
        UnitError::Exec { .. } | UnitError::NoUnit { .. } => Refusal::NotConfigured,
        UnitError::NotSo { .. } | UnitError::Refused { .. } | UnitError::Unreadable { .. } => Refusal::Failed,
    };
    Outcome::Refused { code, detail }
}
