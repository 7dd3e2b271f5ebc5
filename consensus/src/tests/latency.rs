//! How long things take. Prints figures; asserts only what would be a mistake, not a slow machine.

use std::time::{Duration, Instant};

use super::{World, soon};
use crate::Timings;

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    println!("{what}: n={} p50 {:?} p99 {:?} max {:?}", times.len(), at(50), at(99), at(100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serial_commits() {
    let mut world = World::formed_directly(3, Timings::LAN).await;
    let leader = world.leader().await;
    let lead = world.nodes[&leader].up().clone();
    let (mut commits, mut everywhere, mut permissions) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..400 {
        // Apart, so that each is a commit of its own as a step of a run is; half of them back to back.
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        let began = Instant::now();
        let proposed = lead.propose(vec![7; 200], soon(5000)).await.unwrap();
        commits.push(began.elapsed());
        for node in world.running() {
            node.up().wait_applied(proposed.id.index, soon(5000)).await.unwrap();
        }
        everywhere.push(began.elapsed());
        let began = Instant::now();
        if lead.acting(Duration::from_millis(10)).await.is_ok() {
            permissions.push(began.elapsed());
        }
    }
    show("serial propose", commits);
    show("until all three have applied it", everywhere);
    show("permission to act", permissions);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serial_commits_back_to_back() {
    let mut world = World::formed_directly(3, Timings::LAN).await;
    let leader = world.leader().await;
    let lead = world.nodes[&leader].up().clone();
    let mut commits = Vec::new();
    let began = Instant::now();
    for _ in 0..500 {
        let began = Instant::now();
        lead.propose(vec![7; 200], soon(5000)).await.unwrap();
        commits.push(began.elapsed());
    }
    println!("back to back: {:.0} commits/s", 500.0 / began.elapsed().as_secs_f64());
    show("back-to-back propose", commits);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_of_the_leader_to_a_new_one() {
    let mut times = Vec::new();
    let mut writes = Vec::new();
    let mut world = World::formed(3, Timings::LAN).await;
    for round in 0..6 {
        let old = world.leader().await;
        let began = Instant::now();
        // Cut off first: the time of an orderly shutdown does not count.
        world.isolate(old, true).await;
        let new = world.leader_but(old).await;
        times.push(began.elapsed());
        let next = world.nodes[&new].up();
        next.propose(format!("round {round}").into_bytes(), soon(5000)).await.unwrap();
        writes.push(began.elapsed());
        println!("round {round}: leader after {:?}, commit after {:?}", times[round], writes[round]);
        world.isolate(old, false).await;
        let at = next.standing().last.unwrap();
        world.nodes[&old].up().wait_applied(at, soon(20_000)).await.unwrap();
    }
    show("leader cut off to confirmed new leader", times);
    show("leader cut off to next commit", writes);
    world.stop_all().await;
}

/// Processor time of this process, user and system, in clock ticks of 10 ms.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_voters() {
    let mut world = World::formed_directly(3, Timings::LAN).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = ticks();
    tokio::time::sleep(Duration::from_secs(4)).await;
    // Meaningful only when this test runs alone.
    let used = (ticks() - before) as f64 / 100.0 / 4.0 / 3.0;
    println!("an idle voter uses {:.2} % of a core", used * 100.0);
    world.stop_all().await;
}
