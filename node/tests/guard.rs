//! The guard as a real process beside real PostgreSQL: what it keeps up, what it ends, and how soon.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use mesh_proto::effect::{Effect, Finding, Outcome, Rejoined};
use mesh_proto::evidence::{ProcessState, WriteProbe};
use mesh_proto::lease::{FenceCause, Receipt, ReceiptLevel};
use mesh_proto::{Epoch, Generation};
use support::{Instance, SOON, World};

const ROLES: &str = "CREATE ROLE mesh_repl LOGIN REPLICATION PASSWORD 'secret'; CREATE ROLE mesh_probe LOGIN; \
    GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), \
    pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO mesh_repl; \
    GRANT pg_read_all_settings TO mesh_repl; CREATE TABLE t (n int)";

/// A running primary, observed, adopted, and open under lease 1 of epoch 1.
async fn primary(world: &World) -> Instance {
    let a = world.instance("pg-a", None);
    a.start_by_hand();
    a.psql(ROLES).unwrap();
    let postmaster = a.postmaster();
    a.start_guard();
    let seen =
        world.until(&a, "first sight of a running primary", |s| s.process == ProcessState::Primary).await;
    assert!(seen.lease.is_none() && seen.position.is_some() && seen.system_id.is_some(), "{seen:#?}");
    assert_eq!(seen.write_probe, WriteProbe::NotApplicable, "it only observes");
    let term = world.grant(&a, 1, 1);
    world.until(&a, "grant committed -> lease held", |s| s.lease.is_some_and(|held| held.term == term)).await;
    world.until(&a, "lease held -> open", |s| matches!(s.write_probe, WriteProbe::Ok { .. })).await;
    assert_eq!(a.postmaster(), postmaster, "a running primary is not restarted");
    assert_eq!(a.psql("SELECT epoch || ' ' || lease_no FROM mesh.epoch").unwrap(), "1 1");
    a
}

fn verify(key: &str, receipt: &Receipt) {
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, bytes(key));
    key.verify(&receipt.signed_bytes(), &bytes(&receipt.signature)).expect("the receipt must verify");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_lease_fences_and_healing_changes_nothing() {
    let mut world = World::new().await;
    let a = primary(&world).await;
    a.psql("INSERT INTO t VALUES (1)").unwrap();
    world.cut().await;
    let cut = Instant::now();
    let mut last = None;
    while !a.processes().is_empty() {
        assert!(cut.elapsed() < Duration::from_secs(5), "{}", a.log());
        if a.psql("SET statement_timeout = 200; INSERT INTO t VALUES (2)").is_ok() {
            last = Some(cut.elapsed());
        }
    }
    println!("FIGURE cut off -> dead: {:?}; last write acknowledged at {last:?}", cut.elapsed());
    assert!(cut.elapsed() < Duration::from_millis(3600), "L + F is 3.5 s: {:?}", cut.elapsed());
    assert!(a.marked_standby());
    world.connect().await;
    // The first receipt, of what is killed, may be seen for the moment until what is gone is proved.
    let quiet = |status: &mesh_proto::evidence::GuardStatus| {
        status.receipt.as_ref().is_some_and(|r| r.level == ReceiptLevel::Quiet)
    };
    let status = world.until(&a, "healed -> quiet receipt", quiet).await;
    let receipt = status.receipt.unwrap();
    assert_eq!(receipt.cause, FenceCause::LeaseOver);
    verify(&status.public_key, &receipt);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(a.processes().is_empty(), "a lease that lapsed is never asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_postmaster_is_known_at_once_and_its_backends_are_ended() {
    let world = World::new().await;
    let a = primary(&world).await;
    let killed = Instant::now();
    assert!(Command::new("kill").args(["-KILL", &a.postmaster()]).status().unwrap().success());
    let status = world.until(&a, "postmaster killed -> receipt at a voter", |s| s.receipt.is_some()).await;
    println!("FIGURE postmaster killed -> receipt (with kill): {:?}", killed.elapsed());
    let receipt = status.receipt.unwrap();
    assert_eq!(receipt.cause, FenceCause::Died);
    verify(&status.public_key, &receipt);
    a.dead_within(Duration::from_secs(1));
    assert!(a.marked_standby());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_guard_takes_the_server_along_and_the_next_one_brings_a_standby() {
    let world = World::new().await;
    let a = primary(&world).await;
    let before = world.status(&a).unwrap();
    a.signal_guard("-KILL");
    println!("FIGURE guard killed -> server dead: {:?}", a.dead_within(Duration::from_millis(800)));
    assert!(a.marked_standby());
    a.wait_guard();
    a.start_guard();
    let status = world
        .until(&a, "next guard -> standby", |s| s.process == ProcessState::Standby && s.seq > before.seq)
        .await;
    assert_eq!(status.guard, before.guard, "the same life, because its state is there");
    let receipt = status.receipt.expect("the receipt of the lease that the killed guard held");
    assert_eq!((receipt.cause, receipt.level), (FenceCause::Found, ReceiptLevel::Quiet));
    // A new lease number opens it again, with a new timeline, in the same epoch.
    world.grant(&a, 1, 2);
    let open =
        world.until(&a, "new lease -> open again", |s| matches!(s.write_probe, WriteProbe::Ok { .. })).await;
    assert!(open.receipt.is_none() && open.position.unwrap().timeline == 2, "{open:#?}");
    a.psql("INSERT INTO t VALUES (3)").unwrap();
    a.signal_guard("-TERM");
    assert_eq!(a.wait_guard(), Some(0), "{}", a.log());
    assert!(a.processes().is_empty(), "a guard that is told to stop fences first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_guard_cannot_keep_its_server_beyond_the_lease() {
    let world = World::new().await;
    let a = primary(&world).await;
    a.signal_guard("-STOP");
    let took = a.dead_within(Duration::from_millis(3500));
    println!("FIGURE guard stopped -> server dead: {took:?}");
    assert!(took > Duration::from_millis(2000), "not before the lease is over: {took:?}");
    assert!(a.marked_standby());
    a.signal_guard("-CONT");
    let status = world.until(&a, "thawed -> receipt", |s| s.receipt.is_some()).await;
    verify(&status.public_key, status.receipt.as_ref().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leash_is_replaced_at_once() {
    let world = World::new().await;
    let a = primary(&world).await;
    let pid = a.guard.lock().unwrap().as_ref().unwrap().id();
    let leash = || {
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let all = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let all = all
            .map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
        let is_leash = |pid: &&str| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|b| *b == 0).nth(1) == Some(b"leash"))
        };
        all.chain([children])
            .flat_map(|list| list.split_whitespace().filter(is_leash).map(str::to_owned).collect::<Vec<_>>())
            .next()
    };
    let first = leash().expect("a leash");
    assert!(Command::new("kill").args(["-KILL", &first]).status().unwrap().success());
    let began = Instant::now();
    while leash().is_none_or(|pid| pid == first) {
        assert!(began.elapsed() < Duration::from_secs(2), "no new leash: {}", a.log());
        std::thread::sleep(Duration::from_millis(2));
    }
    println!("FIGURE leash killed -> another one: {:?}", began.elapsed());
    tokio::time::sleep(Duration::from_millis(300)).await;
    a.psql("INSERT INTO t VALUES (1)").expect("the server does not notice");
    a.signal_guard("-KILL");
    a.dead_within(Duration::from_millis(800));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_frozen_promoted_and_followed() {
    let world = World::new().await;
    let a = primary(&world).await;
    let b = world.instance("pg-b", Some(&a));
    b.start_by_hand();
    b.start_guard();
    let streams = |s: &mesh_proto::evidence::GuardStatus| s.receiving.as_ref().is_some_and(|r| r.streaming);
    world.until(&b, "standby streams", streams).await;
    a.psql("INSERT INTO t VALUES (1)").unwrap();
    let old = world.status(&a).unwrap().lease.unwrap().term;

    // Planned: clean stop, confirmed on the candidate.
    let Outcome::Done(Finding::Fenced(receipt)) =
        world.order(&a, Effect::HandOver { instance: a.name.clone(), term: old }).await
    else {
        panic!("must hand over: {}", a.log())
    };
    let at = receipt.shutdown_at.expect("a clean stop says where");
    let confirmed = world.order(&b, Effect::Confirm { instance: b.name.clone(), at }).await;
    assert!(matches!(confirmed, Outcome::Done(_)), "{confirmed:?}\n{}", b.log());
    let frozen =
        world.order(&b, Effect::Freeze { instance: b.name.clone(), generation: Generation(1) }).await;
    let Outcome::Done(Finding::Frozen { data, .. }) = frozen else {
        panic!("must freeze: {frozen:?}\n{}", b.log())
    };
    let (term, index) = {
        let term = world.grant(&b, 2, 1);
        (term, world.log.state.lock().unwrap().applied)
    };
    let _ = index;
    let promoted = world.order(&b, Effect::Promote { instance: b.name.clone(), term, data }).await;
    assert!(
        matches!(promoted, Outcome::Done(Finding::Promoted { timeline: 2, .. })),
        "{promoted:?}\n{}",
        b.log()
    );
    assert_eq!(b.psql("INSERT INTO t VALUES (2); SELECT count(*) FROM t").unwrap(), "2");
    assert_eq!(b.psql("SELECT max(epoch) FROM mesh.epoch").unwrap(), "2");

    // The old primary was stopped cleanly: it follows as it is.
    let follow = Effect::Follow {
        instance: a.name.clone(),
        primary: b.name.clone(),
        address: format!("127.0.0.1:{}", b.port).parse().unwrap(),
        epoch: Epoch(2),
        generation: Generation(2),
    };
    let followed = world.order(&a, follow).await;
    assert!(
        matches!(followed, Outcome::Done(Finding::Follows { how: Rejoined::Followed })),
        "{followed:?}\n{}",
        a.log()
    );
    world.until(&a, "old primary streams", streams).await;

    // Unplanned: the new primary dies with a write that the other never got, and comes back by a rewind.
    let paused = a.psql("SELECT pg_wal_replay_resume()");
    assert!(paused.is_ok());
    let frozen =
        world.order(&a, Effect::Freeze { instance: a.name.clone(), generation: Generation(3) }).await;
    let Outcome::Done(Finding::Frozen { data, .. }) = frozen else {
        panic!("must freeze: {frozen:?}\n{}", a.log())
    };
    b.psql("INSERT INTO t SELECT generate_series(1, 1000)").unwrap();
    let fenced = world.order(&b, Effect::Fence { instance: b.name.clone(), term }).await;
    assert!(matches!(fenced, Outcome::Done(Finding::Fenced(_))), "{fenced:?}\n{}", b.log());
    let again = world.grant(&a, 3, 2);
    let promoted = world.order(&a, Effect::Promote { instance: a.name.clone(), term: again, data }).await;
    assert!(
        matches!(promoted, Outcome::Done(Finding::Promoted { timeline: 3, .. })),
        "{promoted:?}\n{}",
        a.log()
    );
    let follow = Effect::Follow {
        instance: b.name.clone(),
        primary: a.name.clone(),
        address: format!("127.0.0.1:{}", a.port).parse().unwrap(),
        epoch: Epoch(3),
        generation: Generation(4),
    };
    let before = world.status(&b).unwrap().data;
    let followed = world.order(&b, follow).await;
    assert!(
        matches!(&followed, Outcome::Done(Finding::Follows { how: Rejoined::Rewound { diverged_bytes, .. } }) if *diverged_bytes > 0),
        "{followed:?}\n{}",
        b.log()
    );
    let status = world.until(&b, "rewound standby streams", streams).await;
    assert_ne!(status.data, before, "a rewind is a new life of the data");
    assert_eq!(b.psql("SELECT count(*) FROM t").unwrap(), "2");
    let _ = SOON;
}

/// Processor time of a process so far, and the memory that it has for itself, in KiB.
fn cost(pid: u32) -> (Duration, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    (Duration::from_millis(ticks * 10), pss.split_whitespace().next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_guard_costs_little() {
    let world = World::new().await;
    let a = primary(&world).await;
    let pid = a.guard.lock().unwrap().as_ref().unwrap().id();
    let (before, _) = cost(pid);
    let span = Duration::from_secs(4);
    tokio::time::sleep(span).await;
    let (after, pss) = cost(pid);
    let share = (after - before).as_secs_f64() / span.as_secs_f64() * 100.0;
    println!("FIGURE idle guard of a primary: {share:.1} % of a core, {pss} KiB PSS");
    // Unoptimised builds share the machine with others: only what would be a fault is refused.
    assert!(share < 15.0 && pss < 60_000, "{share} % {pss} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_is_seen_to_hang_and_the_fence_does_not_need_its_answer() {
    let world = World::new().await;
    let a = primary(&world).await;
    let lease = world.status(&a).unwrap().lease.unwrap().term;
    a.freeze();
    world
        .until(&a, "every process stopped -> unresponsive", |s| s.process == ProcessState::Unresponsive)
        .await;
    let late = |s: &mesh_proto::evidence::GuardStatus| matches!(s.write_probe, WriteProbe::Late { waiting } if waiting.0 >= 500);
    world.until(&a, "every process stopped -> write probe 500 ms late", late).await;
    let fenced = world.order(&a, Effect::Fence { instance: a.name.clone(), term: lease }).await;
    assert!(matches!(fenced, Outcome::Done(Finding::Fenced(_))), "{fenced:?}");
    a.dead_within(Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_and_nothing_is_changed() {
    let world = World::new().await;
    let a = world.instance("pg-a", None);
    let said = |change: &dyn Fn(&str) -> String| {
        let file = a.home.join("mesh.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let other = a.home.join("other.toml");
        std::fs::write(&other, change(&text)).unwrap();
        let mut command = Command::new(support::MESH);
        command.args(["guard", "--config"]).arg(&other).args(["--instance", "pg-a"]);
        let output = support::as_database_user(&mut command).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let bin = support::bin_dir().display().to_string();
    let text = said(&|text| text.replace(&bin, "/usr/bin"));
    assert!(text.contains("there is no postgres in /usr/bin") && text.contains("other.toml:"), "{text}");
    let text = said(&|text| text.replace("/guard-pg-a.crt", "/ca.crt"));
    assert!(text.contains("mesh ca issue"), "{text}");
    let text = said(&|text| {
        text.replace(&format!("\ndata_dir = \"{}", a.data().display()), "\ndata_dir = \"/nowhere/data")
    });
    assert!(text.contains("/nowhere/data") && text.contains("check `data_dir`"), "{text}");
    a.start_by_hand();
    a.start_guard();
    world.until(&a, "observes", |s| s.process == ProcessState::Primary).await;
    let text = said(&|text| text.to_owned());
    assert!(text.contains("cannot listen") || text.contains("another guard"), "{text}");
    let moved = |text: &str| {
        text.replace(
            &format!("guard_listen = \"127.0.0.1:{}\"", a.guard_port),
            &format!("guard_listen = \"127.0.0.1:{}\"", support::port()),
        )
    };
    let text = said(&moved);
    assert!(text.contains("another guard (process "), "{text}");
    let text = said(&|text| {
        moved(text)
            .replace(&format!("{}/guard\"", a.home.display()), &format!("{}/guard2\"", a.home.display()))
    });
    assert!(text.contains("another guard already guards"), "{text}");
    // An observing guard that ends takes nothing along.
    a.signal_guard("-TERM");
    assert_eq!(a.wait_guard(), Some(0), "{}", a.log());
    a.psql("SELECT 1").expect("it was only observed");
    let data = a.data().display().to_string();
    support::run(&support::bin_dir().join("pg_ctl"), &["-D", &data, "-m", "fast", "-w", "stop"]);
}
