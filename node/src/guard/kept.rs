//! Evidence that rejoins kept is bounded: at quiet times, what the policy of the node file says may go is removed, and said in
//! the log with its age and size. It never removes what mesh did not write itself, and never while a rejoin is unfinished.
//!
//! A thread of its own: the disk may be slow, and neither a lease nor a fence waits for it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_adapters::kept::{self, KeptError, Listing};
use mesh_failover::kept::{KeepPolicy, Kept, to_prune};

use super::server::Server;

/// Days and gigabytes change within hours at most.
const EVERY: Duration = Duration::from_secs(60 * 60);
/// After a start there is more urgent work.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// When it was not quiet.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What is pruned.
pub(super) struct Pruner {
    pub(super) dir: PathBuf,
    pub(super) instance: String,
    pub(super) policy: KeepPolicy,
    /// What was left alone the last time, in words: said when it changes.
    pub(super) said: BTreeSet<String>,
}

/// Starts the thread. It lives as long as the process.
pub(super) fn start(server: Arc<Server>, mut pruner: Pruner) -> std::io::Result<()> {
    std::thread::Builder::new().name("kept".to_owned()).spawn(move || {
        let mut wait = FIRST_AFTER;
        loop {
            std::thread::sleep(wait);
            wait = if server.quiet() {
                pruner.turn(SystemTime::now());
                EVERY
            } else {
                AGAIN_AFTER
            };
        }
    })?;
    Ok(())
}

impl Pruner {
    /// Looks once, and removes what may go. Returns the names of what went.
    pub(super) fn turn(&mut self, now: SystemTime) -> Vec<String> {
        let listing = match kept::list(&self.dir, &self.instance, now) {
            Ok(listing) => listing,
            Err(error) => {
                tracing::warn!(error = mesh_adapters::words(&error), "what rejoins kept is not pruned");
                return Vec::new();
            }
        };
        self.say_left_alone(&listing);
        for name in &listing.begun {
            refused(kept::finish(&self.dir, name));
        }
        let all: Vec<Kept> = listing
            .whole
            .iter()
            .map(|found| Kept { name: found.name.clone(), age: found.age.into(), bytes: found.bytes })
            .collect();
        let mut went = Vec::new();
        for (one, because) in to_prune(&all, self.policy) {
            let Some(found) = listing.whole.iter().find(|found| found.name == one.name) else { continue };
            if refused(kept::remove(&self.dir, &self.instance, found, now)) {
                let days = found.age.as_secs() / (24 * 60 * 60);
                let path = self.dir.join(&found.name);
                tracing::warn!(path = %path.display(), days, bytes = found.bytes, %because, "kept evidence was pruned");
                went.push(found.name.clone());
            }
        }
        went
    }

    fn say_left_alone(&mut self, listing: &Listing) {
        let words = |left: &kept::LeftAlone| format!("{}: {}", left.name, mesh_adapters::words(&left.why));
        let left: BTreeSet<String> = listing.left_alone.iter().map(words).collect();
        for what in left.difference(&self.said) {
            tracing::warn!(
                dir = %self.dir.display(),
                what,
                "left alone and not counted among the kept evidence; remove it by hand if nobody needs it"
            );
        }
        self.said = left;
    }
}

fn refused(result: Result<(), KeptError>) -> bool {
    if let Err(error) = &result {
        tracing::warn!(error = mesh_adapters::words(error), "kept evidence was not pruned");
    }
    result.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kept log as a rejoin leaves it.
    fn keep(dir: &std::path::Path, from: u64, age: Duration, now: SystemTime) -> String {
        let name = format!("7-1-{from:016X}-{:016X}", from + 1);
        let at = dir.join(&name);
        std::fs::create_dir_all(&at).unwrap();
        std::fs::write(at.join("000000010000000000000001"), [0; 4096]).unwrap();
        let note = format!(
            r#"{{"instance":"pg-east","system_identifier":7,"timeline":1,"from":"0/{from:X}","to":"0/{:X}","bytes":1,
            "segments":["000000010000000000000001"],"missing":[],"read_with":"x"}}"#,
            from + 1
        );
        std::fs::write(at.join("note.json"), note).unwrap();
        std::fs::File::open(at.join("note.json")).unwrap().set_modified(now - age).unwrap();
        name
    }

    #[test]
    fn old_evidence_goes_the_newest_and_what_is_not_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 60 * 60);
        let policy = KeepPolicy { days: 30, max_bytes: 10_000 };
        let mut pruner =
            Pruner { dir: dir.path().into(), instance: "pg-east".into(), policy, said: BTreeSet::new() };
        let newest = keep(dir.path(), 0x500, day * 31, now);
        assert_eq!(pruner.turn(now), Vec::<String>::new(), "the newest stays, however old");
        let old = keep(dir.path(), 0x100, day * 33, now);
        let torn = keep(dir.path(), 0x200, day * 400, now);
        std::fs::write(dir.path().join(&torn).join("note.json"), "{").unwrap();
        assert_eq!(pruner.turn(now), [old]);
        assert_eq!(pruner.said.len(), 1, "{:?}", pruner.said);
        // Three of 4 KiB and a note are more than 10 kB: the oldest goes.
        let later = now + day;
        let (first, second) = (keep(dir.path(), 0x600, day * 2, later), keep(dir.path(), 0x700, day, later));
        std::fs::File::open(dir.path().join(&newest).join("note.json"))
            .unwrap()
            .set_modified(later - day * 3)
            .unwrap();
        assert_eq!(pruner.turn(later), [newest]);
        assert_eq!(pruner.turn(later), Vec::<String>::new());
        assert!(dir.path().join(first).exists() && dir.path().join(second).exists());
        assert!(dir.path().join(torn).exists());
    }
}
