//! pg_rewind, and what it takes with it: it copies the source's configuration over ours, so ours is saved before and put
//! back afterwards.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Signal;

use super::{RejoinError, RejoinRequest};
use crate::postgres::durable::off_thread;
use crate::postgres::instance::Instance;
use crate::postgres::tool::{ToolError, tail};
use crate::process::{Exit, RunAs, SpawnError, SpawnSpec, Spawner};

/// Files of a data directory that are this instance's own.
const OWN_FILES: [&str; 4] = ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"];

fn saved(instance: &Instance) -> PathBuf {
    instance.settings().state_dir.join("saved-config")
}

/// Saves the instance's own configuration. Files that are not in the data directory are not touched by a rewind.
pub(super) async fn save_config(instance: &Instance, deadline: Instant) -> Result<(), RejoinError> {
    let (from, target) = (instance.data_dir().to_path_buf(), saved(instance));
    let (to, run_as) = (target.clone(), instance.settings().run_as);
    let save = off_thread(&target, "save the configuration in", deadline, move || {
        fs::create_dir_all(&to)?;
        copy_own(&from, &to, run_as)
    });
    Ok(save.await?)
}

/// Puts the saved configuration back.
pub(super) async fn restore_config(
    instance: &Instance,
    data_dir: &Path,
    deadline: Instant,
) -> Result<(), RejoinError> {
    let (from, to) = (saved(instance), data_dir.to_path_buf());
    let run_as = instance.settings().run_as;
    let restore =
        off_thread(data_dir, "restore the configuration in", deadline, move || copy_own(&from, &to, run_as));
    Ok(restore.await?)
}

fn copy_own(from: &Path, to: &Path, owner: Option<RunAs>) -> io::Result<()> {
    for name in OWN_FILES {
        match fs::copy(from.join(name), to.join(name)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        let file = File::open(to.join(name))?;
        if let Some(user) = owner {
            std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
        }
        file.sync_all()?;
    }
    File::open(to)?.sync_all()
}

/// Asks pg_rewind whether it would work: connection, common history and the log that it needs. Changes nothing.
pub(super) async fn rehearse(
    instance: &Instance,
    major: u32,
    request: &RejoinRequest,
    deadline: Instant,
) -> Result<(), ToolError> {
    let mut args = arguments(instance, major, request);
    args.push("--dry-run".into());
    run_long(instance, "pg_rewind", args, instance.data_dir(), deadline).await
}

/// Runs pg_rewind on a directory that was stopped cleanly. True when it rewound; it says "no rewind required" by exit
/// code 0 too, and then leaves no `backup_label`.
pub(super) async fn rewind(
    instance: &Instance,
    major: u32,
    request: &RejoinRequest,
    deadline: Instant,
) -> Result<bool, ToolError> {
    let args = arguments(instance, major, request);
    run_long(instance, "pg_rewind", args, instance.data_dir(), deadline).await?;
    Ok(instance.data_dir().join("backup_label").exists())
}

fn arguments(instance: &Instance, major: u32, request: &RejoinRequest) -> Vec<OsString> {
    let settings = instance.settings();
    let mut args: Vec<OsString> = vec!["--target-pgdata".into(), instance.data_dir().into()];
    args.extend(["--source-server".into(), request.source.source_conninfo(settings).into()]);
    args.push("--no-ensure-shutdown".into());
    if request.restore_target_wal {
        args.push("--restore-target-wal".into());
    }
    match &settings.config_file {
        Some(config) if major >= 15 => args.extend(["--config-file".into(), config.into()]),
        Some(_) | None => {}
    }
    args
}

/// Runs a program that works on a directory for long: in that directory, so that a scan of it finds the program, and
/// bound to our life.
pub(super) async fn run_long(
    instance: &Instance,
    name: &str,
    args: Vec<OsString>,
    cwd: &Path,
    deadline: Instant,
) -> Result<(), ToolError> {
    let program = instance.program(name);
    let log_path = instance.settings().state_dir.join(format!("{name}.log"));
    let exec = |source| ToolError::Exec { program: program.clone(), source };
    let log = OpenOptions::new().create(true).write(true).truncate(true).open(&log_path).map_err(exec)?;
    let spec = SpawnSpec {
        program: program.clone(),
        args,
        log,
        run_as: instance.settings().run_as,
        cwd: Some(cwd.to_path_buf()),
        death_signal: Signal::KILL,
    };
    let spawned = async { Spawner::global()?.spawn(spec).await }.await;
    let process = spawned.map_err(|error| not_spawned(&program, error))?;
    let exit = match tokio::time::timeout_at(deadline.into(), process.death()).await {
        Ok(exit) => exit.map_err(exec)?,
        Err(_elapsed) => {
            process.signal(Signal::KILL).map_err(exec)?;
            process.death().await.map_err(exec)?;
            return Err(ToolError::Deadline { program });
        }
    };
    if exit == Exit::Code(0) {
        return Ok(());
    }
    let said = fs::read_to_string(&log_path).map_or_else(|error| error.to_string(), |text| tail(&text, 5));
    Err(ToolError::Failed { program, status: exit.to_string(), said })
}

fn not_spawned(program: &Path, error: SpawnError) -> ToolError {
    let program = program.to_path_buf();
    match error {
        SpawnError::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            ToolError::Missing { program }
        }
        SpawnError::Exec { source, .. } | SpawnError::Thread(source) => ToolError::Exec { program, source },
        SpawnError::Vanished { .. } | SpawnError::ThreadGone => {
            ToolError::Exec { program, source: io::Error::other(error) }
        }
    }
}
