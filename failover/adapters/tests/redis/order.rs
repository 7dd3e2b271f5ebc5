//! The suite that every adapter passes, for the order to follow a primary.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_adapters::redis::{Credentials, Instance, outcome, verify_follows};
use mesh_proto::DataIncarnation;
use mesh_proto::effect::Outcome;

use crate::contract::way::{Cut, way};
use crate::contract::{Bench, Day, Side, passes};
use crate::lab::{Node, SYSTEM, Ways, free_port, soon};

/// A replica, and two primaries to follow.
struct Pair {
    replica: Node,
    east: Node,
    dr: Node,
}

impl Pair {
    fn primary(&self, side: Side) -> &Node {
        match side {
            Side::East => &self.east,
            Side::Dr => &self.dr,
        }
    }

    /// The same replica, reached in another way.
    fn by(&self, address: Option<SocketAddr>, credentials: Option<Credentials>) -> Instance {
        let mut settings = self.replica.instance.settings().clone();
        settings.port = address.map_or(settings.port, |address| address.port());
        settings.credentials = credentials.or(settings.credentials);
        Instance::open(settings).unwrap()
    }
}

impl Bench for Pair {
    async fn lead(&self, to: Side, epoch: u64, day: Day, deadline: Instant) -> Outcome {
        let there = self.replica.address();
        let instance = match day {
            Day::Good => self.by(None, None),
            Day::AnswerLost => self.by(Some(way(there, Cut::After("REPLICAOF")).await), None),
            Day::Down => self.by(Some(SocketAddr::new(there.ip(), free_port())), None),
            Day::Slow => self.by(Some(way(there, Cut::Hold).await), None),
            Day::WrongCredentials => {
                let file = self.replica.instance.settings().state_dir.join("wrong");
                std::fs::write(&file, "wrong").unwrap();
                self.by(None, Some(Credentials { user: "mesh".into(), password_file: Some(file) }))
            }
        };
        // The primary writes the epoch that the order is of, if it has not one that is newer.
        let primary = self.primary(to);
        let known = primary.cli(&["HGET", "mesh:epoch", "epoch"]).await.parse().unwrap_or(0);
        if epoch > known {
            primary.lead(epoch).await;
        }
        let address = primary.address();
        let done = mesh_adapters::redis::follow(&instance, address, epoch, Some(SYSTEM), deadline).await;
        outcome(done, DataIncarnation("d-new".into()))
    }

    async fn verify(&self, to: Side, _epoch: u64, deadline: Instant) -> Outcome {
        let address = self.primary(to).address();
        outcome(verify_follows(&self.replica.instance, address, deadline).await, DataIncarnation("d".into()))
    }

    async fn really(&self) -> Option<Side> {
        let end = Instant::now() + Duration::from_secs(3);
        // A link that was just told needs a moment.
        while Instant::now() < end {
            let text = self.replica.cli(&["INFO", "replication"]).await;
            let has = |line: String| text.lines().any(|l| l.trim_end() == line);
            let port = |node: &Node| has(format!("master_port:{}", node.address().port()));
            if has("master_link_status:up".into()) {
                return match (port(&self.east), port(&self.dr)) {
                    (true, _) => Some(Side::East),
                    (_, true) => Some(Side::Dr),
                    (false, false) => None,
                };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let ways =
        Ways { options: vec![("user".into(), "mesh on >right ~* &* +@all".into())], ..Ways::default() };
    let (replica, east, dr) = tokio::join!(
        Node::start(dir.path(), "replica", &ways),
        Node::start(dir.path(), "east", &ways),
        Node::start(dir.path(), "dr", &ways)
    );
    east.lead(1).await;
    dr.lead(1).await;
    let _ = soon();
    replica.follow(&east, 1).await;
    passes(&Pair { replica, east, dr }).await;
}
