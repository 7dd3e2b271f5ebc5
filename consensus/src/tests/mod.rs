//! Voters over real loopback connections, real files, and links that can be cut.

mod cluster;
mod disk;
mod kill;
mod latency;
mod leaders;
mod messages;
mod salvage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::{Channel, Endpoint, Server};

use crate::{
    Consensus, DialError, EntryId, Machine, MachineError, Member, NodeId, Options, PeerCheck, Role, Timings,
    create_store, tune,
};

pub(crate) const MESH: &str = "test-mesh";
/// What becomes of it when its majority is gone.
pub(crate) const RECOVERED: &str = "test-mesh-r1";
/// Calm enough for a machine that is busy with other things.
pub(crate) const CALM: Timings = Timings {
    heartbeat: Duration::from_millis(100),
    election_min: Duration::from_millis(300),
    election_max: Duration::from_millis(600),
    ..Timings::LAN
};

/// A machine that remembers every command.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) lines: Vec<(EntryId, Vec<u8>)>,
}

impl Ledger {
    pub(crate) fn has(&self, command: &[u8]) -> bool {
        self.lines.iter().any(|(_, line)| line == command)
    }
}

impl Machine for Ledger {
    fn apply(&mut self, at: EntryId, command: &[u8]) -> Result<Vec<u8>, MachineError> {
        if command == b"poison" {
            return Err(MachineError("a poisonous command".to_owned()));
        }
        self.lines.push((at, command.to_vec()));
        Ok(format!("line {}", self.lines.len()).into_bytes())
    }

    fn snapshot(&self) -> Result<Vec<u8>, MachineError> {
        let lines: Vec<(u64, u64, &[u8])> =
            self.lines.iter().map(|(at, line)| (at.term, at.index, line.as_slice())).collect();
        serde_json::to_vec(&lines).map_err(|error| MachineError(error.to_string()))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        let lines: Vec<(u64, u64, Vec<u8>)> =
            serde_json::from_slice(bytes).map_err(|error| MachineError(error.to_string()))?;
        self.lines = lines.into_iter().map(|(term, index, line)| (EntryId { term, index }, line)).collect();
        Ok(())
    }
}

pub(crate) fn soon(millis: u64) -> Instant {
    Instant::now() + Duration::from_millis(millis)
}

/// Waits until something is so; a test that waits in vain says what for.
pub(crate) async fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let deadline = soon(20_000);
    while !test() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn listen() -> (TcpListener, u16) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run side by side start at different places.
    let base = (std::process::id() % 16) as u16 * 60;
    loop {
        let port = 21_000 + (base + NEXT.fetch_add(1, Ordering::Relaxed)) % 1000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return (listener, port);
        }
    }
}

/// A one-way road between two nodes that can be cut: connections then hang, as behind a dropped link.
struct Road {
    port: u16,
    cut: watch::Sender<bool>,
    carried: Arc<std::sync::Mutex<JoinSet<()>>>,
    task: JoinHandle<()>,
}

impl Road {
    async fn new(target: u16) -> Self {
        let (listener, port) = listen().await;
        let (cut, state) = watch::channel(false);
        let carried = Arc::new(std::sync::Mutex::new(JoinSet::new()));
        let connections = Arc::clone(&carried);
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                connections.lock().unwrap().spawn(carry(near, target, state.clone()));
            }
        });
        Self { port, cut, carried, task }
    }

    /// Closes what is on the road, as the death of the process at its end does.
    fn close(&self) {
        self.carried.lock().unwrap().abort_all();
    }
}

async fn carry(near: TcpStream, target: u16, mut cut: watch::Receiver<bool>) {
    let _ = cut.wait_for(|cut| !cut).await;
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::select! {
        () = copy(near_in, far_out, cut.clone()) => {}
        () = copy(far_in, near_out, cut) => {}
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut buffer).await {
        if cut.wait_for(|cut| !cut).await.is_err() || length == 0 {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// One voter: a store, a port, and a running agreement unless it is stopped.
pub(crate) struct Node {
    pub(crate) mesh: &'static str,
    pub(crate) id: NodeId,
    pub(crate) path: PathBuf,
    pub(crate) port: u16,
    pub(crate) member: Member,
    listener: Option<TcpListener>,
    pub(crate) consensus: Option<Consensus<Ledger>>,
    server: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn up(&self) -> &Consensus<Ledger> {
        self.consensus.as_ref().expect("the node is up")
    }
}

/// Several voters and the roads between them.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    roads: Arc<tokio::sync::Mutex<BTreeMap<(NodeId, NodeId), Road>>>,
    timings: Timings,
    /// Which mesh new nodes are of.
    pub(crate) mesh: &'static str,
    /// Without roads, for measurements.
    direct: bool,
    pub(crate) tweak: fn(&mut Options),
}

pub(crate) fn anyone() -> PeerCheck {
    Arc::new(|_, _| Ok(()))
}

impl World {
    pub(crate) fn new(timings: Timings) -> Self {
        // RUST_LOG=openraft=info shows what the core does when a test fails.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let dir = tempfile::Builder::new().prefix("mesh-consensus-").tempdir().unwrap();
        Self {
            dir,
            nodes: BTreeMap::new(),
            roads: Arc::default(),
            timings,
            mesh: MESH,
            direct: false,
            tweak: |_| {},
        }
    }

    /// Voters 1 to `count`, formed and led.
    pub(crate) async fn formed(count: u64, timings: Timings) -> Self {
        Self::formed_with(count, timings, |_| {}).await
    }

    pub(crate) async fn formed_with(count: u64, timings: Timings, tweak: fn(&mut Options)) -> Self {
        let mut world = Self::new(timings);
        world.tweak = tweak;
        world.form(count).await;
        world
    }

    /// As [`World::formed`], without anything between the nodes.
    pub(crate) async fn formed_directly(count: u64, timings: Timings) -> Self {
        let mut world = Self::new(timings);
        world.direct = true;
        world.form(count).await;
        world
    }

    async fn form(&mut self, count: u64) {
        let world = self;
        for id in 1..=count {
            world.add(id).await;
        }
        let members: BTreeMap<NodeId, Member> =
            world.nodes.values().map(|node| (node.id, node.member.clone())).collect();
        world.nodes[&1].up().form(members).await.unwrap();
        world.leader().await;
    }

    /// A new node with a new store, running, no member yet.
    pub(crate) async fn add(&mut self, id: NodeId) {
        let (listener, port) = listen().await;
        let path = self.dir.path().join(format!("{id}.store"));
        let identity = create_store(&path, id, self.mesh).unwrap();
        let member = Member {
            address: format!("127.0.0.1:{port}"),
            name: format!("node-{id}"),
            incarnation: identity.incarnation,
        };
        let node = Node {
            id,
            mesh: self.mesh,
            path,
            port,
            member,
            listener: Some(listener),
            consensus: None,
            server: None,
        };
        {
            let mut roads = self.roads.lock().await;
            for other in self.nodes.values().filter(|_| !self.direct) {
                roads.insert((id, other.id), Road::new(other.port).await);
                roads.insert((other.id, id), Road::new(port).await);
            }
        }
        self.nodes.insert(id, node);
        self.start(id).await;
    }

    pub(crate) fn options(&self, id: NodeId) -> Options {
        let mut options = Options::new(&self.nodes[&id].path, id, self.nodes[&id].mesh, anyone());
        options.build = crate::Build { messages: 7, edition: u32::try_from(id).unwrap() };
        options.timings = self.timings;
        (self.tweak)(&mut options);
        options
    }

    /// Channels of a node lead over its roads.
    pub(crate) async fn dialer(
        &self,
        from: NodeId,
    ) -> impl Fn(NodeId, &Member) -> Result<Channel, DialError> + Send + Sync + 'static + use<> {
        let roads = Arc::clone(&self.roads);
        let timings = self.timings;
        move |to, member: &Member| {
            let port = match roads.try_lock() {
                Ok(roads) => roads.get(&(from, to)).map(|road| road.port),
                Err(_busy) => return Err(DialError("the roads are being changed".to_owned())),
            };
            let address = match port {
                Some(port) => format!("127.0.0.1:{port}"),
                None => member.address.clone(),
            };
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            Ok(tune(endpoint.map_err(|error| DialError(error.to_string()))?, &timings).connect_lazy())
        }
    }

    pub(crate) async fn try_start(&mut self, id: NodeId) -> Result<(), crate::OpenError> {
        let dialer = self.dialer(id).await;
        let options = self.options(id);
        let consensus = Consensus::open(options, Ledger::default(), dialer).await?;
        let node = self.nodes.get_mut(&id).unwrap();
        let listener = match node.listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(("127.0.0.1", node.port)).await.unwrap(),
        };
        let service = consensus.service();
        node.server = Some(tokio::spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let incoming = incoming.inspect(|stream| {
                let _ = stream.as_ref().map(|stream| stream.set_nodelay(true));
            });
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        }));
        node.consensus = Some(consensus);
        Ok(())
    }

    pub(crate) async fn start(&mut self, id: NodeId) {
        self.try_start(id).await.unwrap();
    }

    pub(crate) async fn stop(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        if let Some(server) = node.server.take() {
            server.abort();
            let _ = server.await;
        }
        if let Some(consensus) = node.consensus.take() {
            consensus.shutdown().await;
        }
        for ((_, to), road) in self.roads.lock().await.iter() {
            if *to == id {
                road.close();
            }
        }
    }

    pub(crate) async fn stop_all(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.stop(id).await;
        }
        for road in self.roads.lock().await.values() {
            road.task.abort();
        }
    }

    /// Cuts or mends the roads between a node and all others, both ways.
    pub(crate) async fn isolate(&self, id: NodeId, cut: bool) {
        for ((from, to), road) in self.roads.lock().await.iter() {
            if *from == id || *to == id {
                road.cut.send_replace(cut);
            }
        }
    }

    /// Cuts or mends the roads between two nodes, both ways.
    pub(crate) async fn cut(&self, one: NodeId, other: NodeId, cut: bool) {
        let roads = self.roads.lock().await;
        roads[&(one, other)].cut.send_replace(cut);
        roads[&(other, one)].cut.send_replace(cut);
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.consensus.is_some())
    }

    /// The node that a quorum confirms as the leader.
    pub(crate) async fn leader(&self) -> NodeId {
        self.leader_but(0).await
    }

    /// As [`World::leader`], and not `but`.
    pub(crate) async fn leader_but(&self, but: NodeId) -> NodeId {
        let deadline = soon(20_000);
        loop {
            for node in self.running().filter(|node| node.id != but) {
                let consensus = node.up();
                if consensus.standing().role == Role::Leader
                    && consensus.acting(Duration::from_millis(1)).await.is_ok()
                {
                    return node.id;
                }
            }
            assert!(Instant::now() < deadline, "no leader in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Proposes through whoever leads, as often as it takes.
    pub(crate) async fn commit(&self, command: &str) -> EntryId {
        let deadline = soon(20_000);
        loop {
            assert!(Instant::now() < deadline, "{command:?} was not committed in time");
            let leader = self.leader().await;
            let proposed = self.nodes[&leader].up().propose(command.into(), soon(2000)).await;
            if let Ok(proposed) = proposed {
                return proposed.id;
            }
        }
    }

    /// Waits until every running node has applied an entry.
    pub(crate) async fn everywhere(&self, at: EntryId) {
        for node in self.running() {
            node.up().wait_applied(at.index, soon(20_000)).await.unwrap();
        }
    }
}
