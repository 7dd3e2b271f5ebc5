//! The wall clock of one host: a library that is loaded before the host's programs adds to the machine's clock what a shared
//! page says, so that an hour forwards or backwards is seen by agent, guard and server of that host at the same instant, and by
//! nobody else. It never touches the machine's own clock, nor any that a step does not move.

use std::ffi::OsString;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::ground::Ground;
use super::process::{command, must};

const SOURCE: &str = include_str!("clock.c");
const SOON: Duration = Duration::from_secs(20);

/// Which way a clock is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// It is right.
    Not,
    /// So far ahead.
    Ahead(Duration),
    /// So far behind.
    Behind(Duration),
    /// Whoever looks sees a second less than whoever looked before.
    Backwards,
}

/// A host's wall clock.
#[derive(Debug, Clone)]
pub struct Clock {
    library: PathBuf,
    page: PathBuf,
}

/// Builds the library of a lab, once for all its hosts.
///
/// # Errors
/// When there is no C compiler, or it refuses.
pub async fn library(ground: &Ground) -> Result<PathBuf> {
    let source = ground.file("clock.c", SOURCE)?;
    let built = ground.dir().join("clock.so");
    let words =
        ["-shared", "-fPIC", "-O2", "-o", &built.display().to_string(), &source.display().to_string()];
    must(command("cc", words), SOON).await.context("the library of the hosts' clocks does not build")?;
    ground.give(&built)?;
    Ok(built)
}

impl Clock {
    /// A clock that is right, for the host of this name.
    ///
    /// # Errors
    /// When its page cannot be written.
    pub fn of(ground: &Ground, library: &Path, host: &str) -> Result<Self> {
        let page = ground.file(&format!("clock-{host}"), "")?;
        let clock = Self { library: library.to_owned(), page };
        clock.set(Beside::Not)?;
        Ok(clock)
    }

    /// Steps it. It goes on at the machine's pace from there.
    ///
    /// # Errors
    /// When its page cannot be written.
    pub fn set(&self, beside: Beside) -> Result<()> {
        let nanos = |length: Duration| i64::try_from(length.as_nanos()).context("no clock is that wrong");
        let second = nanos(Duration::from_secs(1))?;
        let (value, at_every_look) = match beside {
            Beside::Not => (0, 0),
            Beside::Ahead(length) => (nanos(length)?, 0),
            Beside::Behind(length) => (-nanos(length)?, 0),
            Beside::Backwards => (0, -second),
        };
        let page = std::fs::OpenOptions::new().write(true).open(&self.page);
        let page = page.with_context(|| format!("cannot open {}", self.page.display()))?;
        // Each word in one write: whoever reads it sees the old or the new one. The step first, or it would be added to.
        page.write_all_at(&i64::to_ne_bytes(at_every_look), 8).context("a clock cannot be set")?;
        page.write_all_at(&i64::to_ne_bytes(value), 0).context("a clock cannot be set")
    }

    /// The words before a program that make it run by this clock.
    #[must_use]
    pub fn words(&self) -> [OsString; 3] {
        let named = |name: &str, path: &Path| {
            let mut word = OsString::from(name);
            word.push(path);
            word
        };
        ["env".into(), named("LD_PRELOAD=", &self.library), named("MESH_LAB_CLOCK=", &self.page)]
    }
}
