//! Rebuilding: a base backup into a fresh directory beside, then an atomic exchange of the two. The old directory is kept
//! until the new one streams.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::journal::{self, Journal, Stage};
use super::keep::enough_room;
use super::rewind::{restore_config, run_long};
use super::source::Source;
use super::{RejoinError, RejoinRequest};
use crate::postgres::durable::{off_thread, sync_parent};
use crate::postgres::instance::Instance;

/// A file that only the copy has, so that after a crash in the exchange it is plain which directory is which.
const MARK: &str = "mesh.rebuilt";

/// The directory beside: the copy before the exchange, the old data after it.
fn beside(instance: &Instance) -> PathBuf {
    let mut name = instance.data_dir().as_os_str().to_owned();
    name.push(".mesh-rebuild");
    PathBuf::from(name)
}

/// Copies the source and puts the copy in place. `before` is the journal of an interrupted rejoin.
pub(super) async fn rebuild(
    instance: &Instance,
    source: &Source,
    request: &RejoinRequest,
    before: &Journal,
    deadline: Instant,
) -> Result<(), RejoinError> {
    let diverged = before.diverged.as_ref();
    match before.stage {
        Stage::Rewinding | Stage::Rewound | Stage::Copying => {
            if source.has_tablespaces {
                return Err(RejoinError::Tablespaces);
            }
            // A mark that a former rebuild left would make the exchange believe that it is done.
            crate::postgres::durable::remove(&instance.data_dir().join(MARK), deadline).await?;
            copy(instance, source, request, deadline).await?;
            restore_config(instance, &beside(instance), deadline).await?;
            mark(instance, deadline).await?;
            journal::enter(instance, Stage::Swapping, diverged, deadline).await?;
            exchange(instance, deadline).await?;
        }
        Stage::Swapping => exchange(instance, deadline).await?,
        Stage::Swapped => {}
    }
    Ok(journal::enter(instance, Stage::Swapped, diverged, deadline).await?)
}

async fn copy(
    instance: &Instance,
    source: &Source,
    request: &RejoinRequest,
    deadline: Instant,
) -> Result<(), RejoinError> {
    let target = beside(instance);
    let (dir, size, owner) = (target.clone(), source.size, instance.settings().run_as);
    let prepare = off_thread(&target, "prepare", deadline, move || {
        remove_tree(&dir)?;
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
        if let Some(user) = owner {
            chown(&dir, Some(user.uid), Some(user.gid))?;
        }
        // A tenth more for the log written meanwhile, and some.
        enough_room(&dir, size + size / 10 + (64 << 20))
    });
    prepare.await.map_err(RejoinError::Room)?;
    let conninfo = request.source.source_conninfo(instance.settings());
    let mut args: Vec<OsString> = vec!["--pgdata".into(), target.clone().into(), "--dbname".into()];
    args.push(conninfo.into());
    args.extend(
        ["--wal-method=stream", "--checkpoint=fast", "--no-password", "--progress"].map(OsString::from),
    );
    Ok(run_long(instance, "pg_basebackup", args, &target, deadline).await?)
}

async fn mark(instance: &Instance, deadline: Instant) -> Result<(), RejoinError> {
    let copy = beside(instance);
    let mark = copy.join(MARK);
    let owner = instance.settings().run_as;
    crate::postgres::durable::touch(&copy.join("standby.signal"), owner, deadline).await?;
    Ok(crate::postgres::durable::touch(&mark, owner, deadline).await?)
}

/// One rename that exchanges both names, or a plain one where there is no old directory. Done before is done.
async fn exchange(instance: &Instance, deadline: Instant) -> Result<(), RejoinError> {
    let (data, copy) = (instance.data_dir().to_path_buf(), beside(instance));
    let swap = off_thread(instance.data_dir(), "put the copy in the place of", deadline, move || {
        if data.join(MARK).exists() {
            return Ok(());
        }
        let flags = if data.exists() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
        renameat_with(CWD, &copy, CWD, &data, flags)?;
        sync_parent(&data)
    });
    swap.await.map_err(RejoinError::Swap)
}

/// The new directory streams: the old one may go.
pub(super) async fn discard_old(instance: &Instance, deadline: Instant) -> Result<(), RejoinError> {
    let (beside, mark) = (beside(instance), instance.data_dir().join(MARK));
    let old = beside.clone();
    let discard = off_thread(&beside, "remove", deadline, move || {
        // Never the copy: only a data directory that has the mark proves that the other one is the old.
        if mark.exists() {
            remove_tree(&old)?;
            fs::remove_file(&mark)?;
        }
        Ok(())
    });
    Ok(discard.await?)
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
