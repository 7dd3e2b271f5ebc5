//! Hosts that are turned off from outside, by a real program: what nobody on such a host can say any more, the fencer says.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use mesh_proto::lease::Proof;
use mesh_proto::run::{Phase, Run, StuckCause};
use mesh_tests::lab::cluster::{Cluster, EAST, WITNESS};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::process::lives;
use mesh_tests::lab::wait::{Look, until};
use rustix::process::Signal;

use crate::support::{ask, flowing, has, newest_run, turn, wanted};

const LIMIT: Duration = Duration::from_secs(60);

/// The management controller of a host that is processes: it kills them all, and says whether any is left. It does nothing
/// while the file `broken` is there.
const FENCER: &str = r#"#!/bin/sh
dir=$1
cat >"$dir/asked"
test -e "$dir/broken" && { echo "no route to the controller"; exit 3; }
# What nobody has waited for yet is dead all the same.
alive() {
    for pid in $(cat "$dir/host"); do
        grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$pid/status" 2>/dev/null && return 0
    done
    return 1
}
if grep -q '"action":"off"' "$dir/asked"; then
    for pid in $(cat "$dir/host"); do kill -KILL "$pid" 2>/dev/null; done
    alive && exit 75
    echo "chassis power is off"
    exit 0
fi
alive && { echo "chassis power is on"; exit 1; }
echo "chassis power is off"
"#;

/// A cluster whose witness can turn east off.
async fn fenced(lines: &str) -> (Cluster, std::path::PathBuf) {
    let mut cluster = Cluster::raise(wanted(Follows::RuntimeApi, "")).await.unwrap();
    cluster.prepare().await.unwrap();
    let dir = cluster.ground().folder("fencer").unwrap();
    let program = cluster.ground().file("fencer/fence", FENCER).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = &cluster.nodes[WITNESS].config;
    let text = std::fs::read_to_string(path).unwrap();
    let section = format!(
        "[[fencer]]\nname = \"bmc\"\nprogram = \"{}\"\nargs = [\"{}\"]\n",
        program.display(),
        dir.display()
    );
    std::fs::write(path, format!("{text}{section}")).unwrap();
    cluster.specify(&format!(
        "[[fencer]]\nname = \"bmc\"\nfences = [\"pg-east\"]\nagents = [\"witness\"]\ndeadline_seconds = 2\n{lines}\n"
    ));
    cluster.form_prepared().await.unwrap();
    (cluster, dir)
}

/// Everything on east stands still, as in a virtual machine that is suspended: nothing of it says anything, nothing is gone.
fn suspend(cluster: &mut Cluster, dir: &std::path::Path) -> Vec<u32> {
    let node = &mut cluster.nodes[EAST];
    let mut host = Vec::new();
    for process in [&mut node.guard, &mut node.agent].into_iter().flatten() {
        process.signal(Signal::STOP).unwrap();
        host.push(process.pid());
    }
    host.extend(cluster.servers[EAST].signal_all(Signal::STOP).unwrap());
    let lines: Vec<String> = host.iter().map(ToString::to_string).collect();
    std::fs::write(dir.join("host"), lines.join("\n")).unwrap();
    host
}

async fn stuck(cluster: &Cluster) -> Run {
    let run = until("the run says that it cannot go on", LIMIT, || async {
        let run = cluster.group().await?.run;
        Ok(match run {
            Some(run) if run.phase == Phase::Stuck => Look::There(run),
            Some(run) => Look::NotYet(format!("{} is {}", run.id, run.phase)),
            None => Look::NotYet("no run".to_owned()),
        })
    })
    .await;
    cluster.explained(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_host_is_turned_off_and_its_proof_is_in_the_log() {
    let _turn = turn().await;
    let (mut cluster, dir) = fenced("required = true").await;
    let writer = cluster.writer();
    flowing(&writer).await;
    let before = newest_run(&cluster).await;
    let host = suspend(&mut cluster, &dir);
    let run = cluster.until_run_done(before, LIMIT).await;
    let run = cluster.explained(run).await.unwrap();
    let proof = &run.promotion.as_ref().unwrap().proof;
    assert!(
        matches!(proof, Proof::External(off) if off.agent.as_str() == "witness" && off.said == "chassis power is off"),
        "{proof:?}"
    );
    assert!(host.iter().all(|pid| !lives(*pid)), "something of the host lives");
    has(&ask(&cluster, &["run"]).await.out, &["turned off by witness (bmc): chassis power is off"]);
    assert_eq!(cluster.must(WITNESS, &["audit", "verify"]).await.unwrap().code, 0);
    // Power is back: it rejoins as a standby.
    cluster.boot(EAST).unwrap();
    let healthy = cluster.until_healthy("pg-dr", LIMIT).await;
    cluster.explained(healthy).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_fencer_is_required_and_fails_nobody_is_promoted_until_a_person_says_so() {
    let _turn = turn().await;
    let (mut cluster, dir) = fenced("required = true").await;
    flowing(&cluster.writer()).await;
    std::fs::write(dir.join("broken"), "").unwrap();
    let host = suspend(&mut cluster, &dir);
    let run = stuck(&cluster).await;
    let (cause, detail) = run.stuck.clone().unwrap();
    assert_eq!(cause, StuckCause::FencerFailed, "{detail}");
    has(&detail, &["the host of pg-east is not known to be off", "no route to the controller"]);
    assert!(run.promotion.is_none());
    assert!(!cluster.servers[1].is_primary().await.unwrap(), "promoted by the end of the lease alone");
    let said = ask(&cluster, &["status"]).await.out;
    has(&said, &["STUCK", "mend its fencer", "mesh failover --force", "fencer-failed"]);
    // To accept a loss is not to do without the fencer.
    let said = ask(&cluster, &["failover", "--accept-loss", "--yes", "--reason", "urgent"]).await;
    assert_ne!(said.code, 0, "{}", said.text());
    has(&said.text(), &["without fencer bmc", "--accept-loss --force"]);
    // A person says that it is off, and lets the end of the lease do.
    let said = ask(&cluster, &["failover", "--force", "--yes", "--reason", "unplugged it"]).await;
    assert_eq!(said.code, 0, "{}", said.text());
    let run = cluster.group().await.unwrap().run.unwrap();
    assert!(matches!(run.promotion.unwrap().proof, Proof::Expired(_)));
    has(&ask(&cluster, &["audit", "show", "-n", "30"]).await.out, &["unplugged it"]);
    std::fs::remove_file(dir.join("broken")).unwrap();
    for pid in host {
        drop(mesh_tests::lab::process::send(pid, Signal::KILL));
    }
}
