use std::fs::File;

use tempfile::TempDir;

use super::note::{FilesNote, LogNote};
use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// A directory with what was kept, as rejoins leave it.
struct Room {
    dir: TempDir,
    now: SystemTime,
}

impl Room {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), now: SystemTime::now() }
    }

    fn at(&self) -> &Path {
        self.dir.path()
    }

    fn log(&self, instance: &str, from: u64, days: u32) -> String {
        let segments: Vec<String> =
            vec!["000000010000000000000003".into(), "000000010000000000000004".into()];
        let (from, to) = (mesh_proto::Lsn(from), mesh_proto::Lsn(from + 100));
        let name = LogNote::directory(7, 1, from, to);
        let at = self.at().join(&name);
        fs::create_dir_all(&at).unwrap();
        for segment in &segments {
            fs::write(at.join(segment), [0; 1000]).unwrap();
        }
        let note = LogNote {
            instance: instance.into(),
            system_identifier: 7,
            timeline: 1,
            from,
            to,
            bytes: 100,
            transactions: Some(1),
            segments,
            missing: Vec::new(),
            read_with: "pg_waldump".into(),
        };
        note::write(&at, &note).unwrap();
        self.age(&name, days);
        name
    }

    fn redis(&self, days: u32) -> String {
        let name = FilesNote::directory("redis-east", "ab", 12);
        let at = self.at().join(&name);
        fs::create_dir_all(at.join("appendonlydir")).unwrap();
        let files = vec!["appendonlydir/a.aof".to_owned(), "dump.rdb".to_owned()];
        for file in &files {
            fs::write(at.join(file), [0; 10]).unwrap();
        }
        let note = FilesNote {
            instance: "redis-east".into(),
            replid: "ab".into(),
            offset: 12,
            epoch: Some(1),
            diverged_bytes: None,
            keys: 1,
            files,
            read_with: "redis-server".into(),
        };
        note::write(&at, &note).unwrap();
        self.age(&name, days);
        name
    }

    fn age(&self, name: &str, days: u32) {
        let note = File::open(self.at().join(name).join(NOTE)).unwrap();
        note.set_modified(self.now - DAY * days).unwrap();
    }

    fn list(&self, instance: &str) -> Listing {
        list(self.at(), instance, self.now).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn what_mesh_kept_is_listed_with_age_and_size_and_removed_whole() {
    let room = Room::new();
    let (old, new) = (room.log("pg-east", 100, 40), room.log("pg-east", 900, 2));
    let other = room.log("pg-other", 500, 90);
    let listing = room.list("pg-east");
    let mut whole = listing.whole;
    whole.sort_by_key(|found| found.age);
    assert_eq!(whole.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), [&new, &old]);
    assert_eq!(whole[1].age, DAY * 40);
    assert!(whole[1].bytes > 2000 && whole[1].bytes < 4000, "{whole:?}");
    assert!(listing.left_alone.is_empty() && listing.begun.is_empty());
    remove(room.at(), "pg-east", &whole[1], room.now).unwrap();
    assert_eq!(room.names(), {
        let mut left = [new, other];
        left.sort();
        left
    });
}

#[test]
fn files_of_redis_go_with_their_folders() {
    let room = Room::new();
    room.redis(3);
    let listing = room.list("redis-east");
    remove(room.at(), "redis-east", &listing.whole[0], room.now).unwrap();
    assert_eq!(room.names(), Vec::<String>::new());
}

#[test]
fn what_is_not_known_to_be_ours_is_left_alone_with_a_reason() {
    let room = Room::new();
    let ours = room.log("pg-east", 100, 40);
    let read = room.log("pg-east", 300, 40);
    fs::write(room.at().join(&read).join("a-person-looked-here"), "x").unwrap();
    let torn = room.log("pg-east", 500, 40);
    let note = fs::read(room.at().join(&torn).join(NOTE)).unwrap();
    fs::write(room.at().join(&torn).join(NOTE), &note[..note.len() / 2]).unwrap();
    let moved = room.log("pg-east", 700, 40);
    fs::rename(room.at().join(&moved), room.at().join("for-the-report")).unwrap();
    fs::create_dir(room.at().join("no-note")).unwrap();
    fs::write(room.at().join("file"), "x").unwrap();
    std::os::unix::fs::symlink(room.at().join(&ours), room.at().join("link")).unwrap();
    let before = room.names();
    let listing = room.list("pg-east");
    assert_eq!(listing.whole.iter().map(|found| &found.name).collect::<Vec<_>>(), [&ours]);
    let why: Vec<_> =
        listing.left_alone.iter().map(|left| (left.name.as_str(), left.why.to_string())).collect();
    let says = |name: &str, words: &str| {
        assert!(why.iter().any(|(of, why)| *of == name && why.contains(words)), "{name}: {why:?}");
    };
    says(&read, "holds a-person-looked-here");
    says(&torn, "none that mesh understands");
    says("for-the-report", "was moved or copied");
    says("no-note", "has no note");
    says("file", "no directory");
    says("link", "no directory");
    assert_eq!((why.len(), room.names()), (6, before));
}

#[test]
fn a_removal_that_was_interrupted_is_finished_and_never_taken_for_something_whole() {
    let room = Room::new();
    let name = room.log("pg-east", 100, 40);
    let away = format!("{name}{REMOVED}");
    fs::rename(room.at().join(&name), room.at().join(&away)).unwrap();
    fs::remove_file(room.at().join(&away).join("000000010000000000000003")).unwrap();
    let empty = "7-1-x.pruned";
    fs::create_dir(room.at().join(empty)).unwrap();
    let listing = room.list("pg-east");
    assert!(listing.whole.is_empty() && listing.left_alone.is_empty(), "{listing:?}");
    assert_eq!(listing.begun, [away, empty.to_owned()]);
    for begun in &listing.begun {
        finish(room.at(), begun).unwrap();
    }
    assert_eq!(room.names(), Vec::<String>::new());
    // Somebody else's directory of such a name is none of ours, and at most tried: the system removes only an empty one.
    let foreign = room.at().join("mine.pruned");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join(FRESH), "x").unwrap();
    let listing = room.list("pg-east");
    assert_eq!((listing.begun.len(), listing.left_alone.len()), (0, 1), "{listing:?}");
    assert!(matches!(finish(room.at(), "mine.pruned"), Err(KeptError::Remove { .. })));
    assert!(foreign.join(FRESH).exists());
}

#[test]
fn what_a_rejoin_made_new_since_it_was_listed_stays() {
    let room = Room::new();
    let name = room.log("pg-east", 100, 40);
    let listing = room.list("pg-east");
    room.age(&name, 0);
    let refused = remove(room.at(), "pg-east", &listing.whole[0], room.now);
    assert!(matches!(refused, Err(KeptError::Changed { .. })), "{refused:?}");
    let listing = room.list("pg-east");
    fs::write(room.at().join(&name).join("more"), "x").unwrap();
    let refused = remove(room.at(), "pg-east", &listing.whole[0], room.now);
    assert!(matches!(refused, Err(KeptError::Changed { why: Why::NotNamed(_), .. })), "{refused:?}");
    assert_eq!(room.names(), [name]);
}

#[test]
fn a_directory_that_is_not_there_holds_nothing_and_a_file_is_an_error() {
    let room = Room::new();
    let listing = list(&room.at().join("none"), "pg-east", room.now).unwrap();
    assert!(listing.whole.is_empty() && listing.left_alone.is_empty());
    fs::write(room.at().join("file"), "x").unwrap();
    let failed = list(&room.at().join("file"), "pg-east", room.now);
    assert!(matches!(failed, Err(KeptError::List { .. })), "{failed:?}");
}
