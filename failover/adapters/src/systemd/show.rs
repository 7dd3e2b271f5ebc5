//! Reads what `systemctl show` prints.

/// `ActiveState`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Active {
    /// Started, for a service: its main process runs, or it is `oneshot` and remains.
    Active,
    /// Reloads its configuration; it runs.
    Reloading,
    /// Not started, or stopped.
    Inactive,
    /// Stopped with an error, or given up.
    Failed,
    /// On its way up.
    Activating,
    /// On its way down.
    Deactivating,
    /// Under maintenance of its own.
    Maintenance,
}

/// The state of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Whether a unit of this name is there.
    pub loaded: bool,
    /// Where it stands.
    pub active: Active,
    /// Its main process, if it has one now.
    pub main_pid: Option<i32>,
}

/// What was printed is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("systemctl show printed {found:?} as {property}")]
pub struct ShowError {
    /// Which.
    pub property: &'static str,
    /// What it said.
    pub found: String,
}

/// The properties that are asked for.
pub(super) const PROPERTIES: &str = "--property=LoadState,ActiveState,MainPID";

/// Reads `KEY=value` lines.
pub(super) fn state(text: &str) -> Result<State, ShowError> {
    let value = |property: &'static str| {
        let line = text.lines().find_map(|line| line.strip_prefix(property)?.strip_prefix('='));
        line.map(str::trim).ok_or(ShowError { property, found: String::new() })
    };
    let (load, active) = (value("LoadState")?, value("ActiveState")?);
    let active = match active {
        "active" => Active::Active,
        "reloading" | "refreshing" => Active::Reloading,
        "inactive" => Active::Inactive,
        "failed" => Active::Failed,
        "activating" => Active::Activating,
        "deactivating" => Active::Deactivating,
        "maintenance" => Active::Maintenance,
        found => return Err(ShowError { property: "ActiveState", found: found.to_owned() }),
    };
    // Units other than services have no main process, and no such line.
    let pid = value("MainPID").unwrap_or("0");
    let main_pid: i32 = pid.parse().map_err(|_| ShowError { property: "MainPID", found: pid.to_owned() })?;
    Ok(State { loaded: load == "loaded", active, main_pid: (main_pid > 0).then_some(main_pid) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_and_what_is_not_known_is_an_error() {
        let running = "LoadState=loaded\nActiveState=active\nMainPID=42\n";
        let expected = State { loaded: true, active: Active::Active, main_pid: Some(42) };
        assert_eq!(state(running), Ok(expected));
        let gone = state("MainPID=0\nLoadState=not-found\nActiveState=inactive\n").unwrap();
        assert_eq!(gone, State { loaded: false, active: Active::Inactive, main_pid: None });
        let socket = state("LoadState=loaded\nActiveState=active\n").unwrap();
        assert_eq!(socket.main_pid, None);
        for text in
            ["", "ActiveState=active", &running.replace("active", "dancing"), &running.replace("42", "x")]
        {
            assert!(state(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fuzz_show() {
        mesh_fuzz::fuzz!("show", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Ok(found) = mesh_fuzz::bounded(bytes.len(), || state(&text)) else { return };
            assert!(found.main_pid.is_none_or(|pid| pid > 0));
            assert!(text.contains("LoadState=") && text.contains("ActiveState="), "{found:?} of {text:?}");
        });
    }
}
