//! Real processes, killed at any moment: what one of them printed as committed is there at the end, once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::{Endpoint, Server};

use super::{Ledger, MESH, World, anyone, soon};
use crate::store::tests::sim::Dice;
use crate::{Consensus, Member, NodeId, Options, Role, Timings, tune};

const NODE: &str = "MESH_CONSENSUS_TEST_NODE";
const STORE: &str = "MESH_CONSENSUS_TEST_STORE";
const PORT: &str = "MESH_CONSENSUS_TEST_PORT";
const ME: &str = "tests::kill::a_voter_in_a_process_of_its_own";

fn eager(options: &mut Options) {
    options.snapshot_every = 60;
    options.keep_entries = 10;
}

/// The process that is killed; as a test of its own it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_in_a_process_of_its_own() {
    let Ok(node) = std::env::var(NODE) else { return };
    let node: NodeId = node.parse().unwrap();
    let port: u16 = std::env::var(PORT).unwrap().parse().unwrap();
    let mut options = Options::new(std::env::var(STORE).unwrap(), node, MESH, anyone());
    eager(&mut options);
    let dial = |_: NodeId, member: &Member| {
        let endpoint = Endpoint::from_shared(format!("http://{}", member.address)).unwrap();
        Ok(tune(endpoint, &Timings::LAN).connect_lazy())
    };
    let voter = Consensus::open(options, Ledger::default(), dial).await.unwrap();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let serving = Server::builder().add_service(voter.service()).serve_with_incoming(incoming);
    let working = async {
        for round in 0.. {
            if voter.standing().role != Role::Leader {
                tokio::time::sleep(Duration::from_millis(2)).await;
                continue;
            }
            let command = format!("{node}/{}/{round}", std::process::id());
            if voter.propose(command.clone().into_bytes(), soon(1000)).await.is_ok() {
                println!("\ncommitted {command}");
            }
        }
    };
    tokio::select! {
        served = serving => served.unwrap(),
        () = working => {}
    }
}

fn spawn(world: &World, id: NodeId, said: &Arc<Mutex<Vec<String>>>) -> Child {
    let node = &world.nodes[&id];
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([ME, "--exact", "--nocapture", "--test-threads", "1"])
        .env(NODE, id.to_string())
        .env(STORE, &node.path)
        .env(PORT, node.port.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if let Some(command) = line.strip_prefix("committed ") {
                said.lock().unwrap().push(command.to_owned());
            }
        }
    });
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_said_to_be_committed_is_lost_when_voters_are_killed_at_any_moment() {
    let mut world = World::formed_directly(3, Timings::LAN).await;
    for id in 1..=3 {
        world.stop(id).await;
    }
    let said = Arc::new(Mutex::new(Vec::new()));
    let mut children: BTreeMap<NodeId, Child> = (1..=3).map(|id| (id, spawn(&world, id, &said))).collect();
    let mut dice = Dice::new(42);
    for _ in 0..14 {
        tokio::time::sleep(Duration::from_millis(300 + dice.below(900))).await;
        let first = 1 + dice.below(3);
        let mut victims = vec![first];
        if dice.below(3) == 0 {
            victims.push(first % 3 + 1);
        }
        for id in &victims {
            let child = children.get_mut(id).unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
        }
        for id in victims {
            children.insert(id, spawn(&world, id, &said));
        }
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for child in children.values_mut() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    world.tweak = eager;
    for id in 1..=3 {
        world.start(id).await;
    }
    let at = world.commit("the end").await;
    world.everywhere(at).await;
    let said = said.lock().unwrap().clone();
    println!("{} commands were said to be committed over 14 kills", said.len());
    assert!(said.len() > 50, "only {} commands were committed", said.len());
    for node in world.running() {
        node.up().read(|ledger| {
            let lines: Vec<&[u8]> = ledger.lines.iter().map(|(_, line)| line.as_slice()).collect();
            let unique: std::collections::BTreeSet<&[u8]> = lines.iter().copied().collect();
            assert_eq!(unique.len(), lines.len(), "a command was applied twice");
            for command in &said {
                assert!(unique.contains(command.as_bytes()), "{command} is lost on node {}", node.id);
            }
        });
    }
    world.stop_all().await;
}
