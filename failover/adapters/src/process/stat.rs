//! Reading `/proc/PID`: the facts that identify a process. Never opens anything outside `/proc`.

use std::io;
use std::path::PathBuf;

/// What the scheduler says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It runs, sleeps or waits, interruptibly or not: it may still do things.
    Alive,
    /// Stopped by a signal or a tracer; it goes on when continued.
    Stopped,
    /// Dead; at most its exit status is left for its parent to collect.
    Dead,
}

/// The fields of `/proc/PID/stat` that mesh uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// Process number.
    pub pid: i32,
    /// Short name of the executable, at most 15 bytes.
    pub comm: String,
    /// Whether it can still act.
    pub state: RunState,
    /// Number of the parent.
    pub ppid: i32,
    /// Controlling terminal; 0 for none.
    pub tty: i64,
    /// Start time in clock ticks since boot: with the number, an identity that reuse cannot forge.
    pub start_ticks: u64,
}

impl ProcStat {
    /// Reads one process; `None` when there is no such process.
    ///
    /// # Errors
    /// When `/proc` cannot be read or does not have the form that Linux gives it.
    pub fn read(pid: i32) -> io::Result<Option<ProcStat>> {
        match std::fs::read(format!("/proc/{pid}/stat")) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                parse(&text).map(Some).ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("/proc/{pid}/stat has an unknown form"),
                    )
                })
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The directory a process runs in, as the kernel names it; `None` when it is gone, a zombie, or another user's.
/// A directory that was removed keeps its old name here.
#[must_use]
pub fn working_directory(pid: i32) -> Option<PathBuf> {
    link(pid, "cwd")
}

/// The file a process executes, also when that file was replaced by an upgrade meanwhile.
#[must_use]
pub fn executable(pid: i32) -> Option<PathBuf> {
    link(pid, "exe")
}

fn link(pid: i32, name: &str) -> Option<PathBuf> {
    let target = std::fs::read_link(format!("/proc/{pid}/{name}")).ok()?;
    match target.to_str().and_then(|t| t.strip_suffix(" (deleted)")) {
        Some(stripped) => Some(PathBuf::from(stripped)),
        None => Some(target),
    }
}

/// ESRCH comes when the process dies between open and read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// The name may hold spaces and parentheses, so the fields are counted from the last one.
fn parse(text: &str) -> Option<ProcStat> {
    let (head, tail) = text.rsplit_once(')')?;
    let (pid, comm) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let state = match *fields.first()? {
        "Z" | "X" | "x" => RunState::Dead,
        "T" | "t" => RunState::Stopped,
        _ => RunState::Alive,
    };
    Some(ProcStat {
        pid: pid.trim().parse().ok()?,
        comm: comm.to_owned(),
        state,
        ppid: fields.get(1)?.parse().ok()?,
        tty: fields.get(4)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_itself() {
        let me = i32::try_from(std::process::id()).unwrap();
        let stat = ProcStat::read(me).unwrap().unwrap();
        assert_eq!(stat.pid, me);
        assert_eq!(stat.state, RunState::Alive);
        assert_eq!(working_directory(me).unwrap(), std::env::current_dir().unwrap());
        assert_eq!(executable(me).unwrap(), std::env::current_exe().unwrap());
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "77 (a) (b) Z 5 77 77 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let stat = parse(line).unwrap();
        assert_eq!((stat.pid, stat.comm.as_str(), stat.ppid), (77, "a) (b", 5));
        assert_eq!((stat.state, stat.start_ticks), (RunState::Dead, 4242));
    }

    #[test]
    fn nobody_is_none_and_nonsense_is_not() {
        assert_eq!(ProcStat::read(i32::MAX).unwrap(), None);
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn fuzz_stat() {
        mesh_fuzz::fuzz!("stat", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let _ = mesh_fuzz::bounded(bytes.len(), || parse(&text));
            // A process names itself as it likes: what follows the name is read all the same.
            let name: String = text.chars().take(15).collect();
            let line = format!("7 ({name}) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n");
            let found = parse(&line).unwrap();
            assert_eq!((found.pid, found.ppid, found.start_ticks), (7, 1, 4711));
            assert_eq!((found.comm, found.state), (name, RunState::Alive));
        });
    }
}
