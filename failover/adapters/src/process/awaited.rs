//! Children whose end is awaited here: their status is nobody else's to collect. A guard adopts orphans and must collect
//! the dead ones among them; a program that it runs itself may carry the same name.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

static AWAITED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

fn awaited() -> MutexGuard<'static, BTreeSet<u32>> {
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As long as it lives, the child's status is left to whoever waits for it.
#[derive(Debug)]
pub(crate) struct Awaited(Option<u32>);

impl Awaited {
    /// Starts a program whose end the caller waits for.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub(crate) fn spawn(command: &mut tokio::process::Command) -> io::Result<(tokio::process::Child, Self)> {
        // Held while it starts: it may be over before its number is noted.
        let mut noted = awaited();
        let child = command.spawn()?;
        let pid = child.id();
        noted.extend(pid);
        Ok((child, Self(pid)))
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            awaited().remove(&pid);
        }
    }
}

/// Collects the dead among the given children, but for those that somebody waits for.
pub(super) fn collect_others(dead: impl FnOnce() -> Vec<i32>, collect: impl Fn(i32)) {
    let noted = awaited();
    for pid in dead() {
        if !u32::try_from(pid).is_ok_and(|pid| noted.contains(&pid)) {
            collect(pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::stat::{ProcStat, RunState};
    use super::super::tree::reap_adopted;
    use super::Awaited;

    #[tokio::test]
    async fn the_status_of_an_awaited_program_is_left_to_who_awaits_it() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("postgres");
        std::fs::copy("/bin/true", &program).unwrap();
        let mut command = tokio::process::Command::new(&program);
        let (mut child, _awaited) = Awaited::spawn(&mut command).unwrap();
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while ProcStat::read(pid).unwrap().is_some_and(|stat| stat.state != RunState::Dead) {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(1));
        }
        reap_adopted();
        assert!(child.wait().await.unwrap().success());
    }
}
