//! Two persons for a forced run: the first proposes it at one agent, the second begins it at another one.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use mesh_proto::operator::GroupStatus;
use mesh_tests::lab::cluster::{Cluster, DR, EAST, WITNESS};
use mesh_tests::lab::haproxy::Follows;

use crate::support::{flowing, formed_as, has, newest_run, turn};

const LIMIT: Duration = Duration::from_secs(30);

/// Another person than who runs the tests, at the agent of this host. Only root can play another one.
fn another(cluster: &Cluster, node: usize, words: &[&str]) -> Output {
    let socket = &cluster.nodes[node].socket;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    for dir in socket.ancestors().skip(1).filter(|dir| dir.starts_with(cluster.dir())) {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("no user postgres");
    let number = |field: usize| line.split(':').nth(field).unwrap().parse().unwrap();
    let mut command = Command::new(&cluster.mesh);
    command.arg("--socket").arg(socket).args(words).uid(number(2)).gid(number(3)).current_dir("/");
    command.output().unwrap()
}

async fn group(cluster: &Cluster) -> GroupStatus {
    cluster.group().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_run_out_of_its_site_waits_for_a_second_person() {
    assert!(rustix::process::geteuid().is_root(), "this plays two users: run it as root");
    let _turn = turn().await;
    let cluster = formed_as(Follows::RuntimeApi, "two_person = [\"forced-cross-site\"]").await;
    let mut writer = cluster.writer();
    flowing(&writer).await;
    let before = newest_run(&cluster).await;
    let forced = ["failover", "--site", "dr", "--force", "--reason", "east is dark", "--yes"];
    let said = cluster.nodes[EAST].ask(&cluster.mesh, &forced).await.unwrap();
    println!("{}", said.out);
    assert_eq!(said.code, 11, "{} {}", said.out, said.err);
    let open = group(&cluster).await.proposal.unwrap();
    let id = open.id.to_string();
    has(&said.out, &["PROPOSED", &format!("mesh approve {id}"), "asked for by root", "east is dark"]);

    // Going to another agent changes nothing, and neither does asking again.
    let said = cluster.nodes[DR].ask(&cluster.mesh, &forced).await.unwrap();
    assert_eq!(said.code, 4, "{} {}", said.out, said.err);
    has(&said.err, &["of root waits already", "mesh approve --list"]);
    for node in [EAST, DR, WITNESS] {
        let said = cluster.nodes[node].ask(&cluster.mesh, &["approve", &id, "--yes"]).await.unwrap();
        assert_eq!(said.code, 10, "{} {}", said.out, said.err);
        has(&said.err, &["another person approves it"]);
    }
    assert_eq!(newest_run(&cluster).await, before, "nothing was begun");
    let listed = another(&cluster, WITNESS, &["approve"]);
    let text = String::from_utf8(listed.stdout).unwrap();
    println!("{text}");
    has(&text, &["PROPOSED", &id, "would"]);
    let status = cluster.must(WITNESS, &["status"]).await.unwrap().out;
    println!("{status}");
    has(&status, &["proposed", &format!("mesh approve {id}")]);

    // A leader change loses no proposal.
    let leader = cluster.leader().await.unwrap();
    let mut cluster = cluster;
    cluster.nodes[leader].agent.take().unwrap().stop(Duration::from_secs(10)).await.unwrap();
    cluster.start_agent(leader).unwrap();
    let healthy = cluster.until_healthy("pg-east", LIMIT).await;
    cluster.explained(healthy).await.unwrap();

    let approved = another(&cluster, WITNESS, &["approve", &id, "--yes"]);
    let text =
        format!("{}{}", String::from_utf8_lossy(&approved.stdout), String::from_utf8_lossy(&approved.stderr));
    assert_eq!(approved.status.code(), Some(0), "{text}");
    cluster.until_run_done(before, LIMIT).await.unwrap();
    cluster.until_healthy("pg-dr", Duration::from_secs(60)).await.unwrap();
    let again = another(&cluster, EAST, &["approve", &id, "--yes"]);
    assert_eq!(again.status.code(), Some(7), "{}", String::from_utf8_lossy(&again.stderr));

    let records = cluster.audit(1).await.unwrap();
    let by = |what: &str| {
        let found = records.iter().find(|record| record.summary.contains(what) && record.refused.is_none());
        found.map(|record| record.actor.to_string())
    };
    assert_eq!(by("is proposed").as_deref(), Some("root"));
    assert_eq!(by("of root approved").as_deref(), Some("postgres"));
    writer.stop().await.unwrap();
    let (acknowledged, lost) = writer.lost(&cluster.servers[DR].local_client()).await.unwrap();
    assert!(acknowledged > 50);
    assert_eq!(lost, Vec::<i64>::new());
}
