mod revoked;

use std::path::Path;
use std::time::Duration;

use mesh_proto::rpc::Envelope;
use mesh_proto::rpc::agent_server::{Agent, AgentServer};
use mesh_proto::{AgentName, InstanceName, MeshId};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use super::material::{Files, MaterialError};
use super::{Dialer, Identity, Incoming, LocalIncoming, Material};
use crate::rpc::{AgentClient, CallError, authorise, envelope};

fn mesh(name: &str) -> MeshId {
    MeshId::new(name).unwrap()
}
fn agent(name: &str) -> Identity {
    Identity::Agent(AgentName::new(name).unwrap())
}
fn guard(name: &str) -> Identity {
    Identity::Guard(InstanceName::new(name).unwrap())
}
fn load(dir: &Path, mesh: &MeshId, identity: &Identity) -> Material {
    let pair = crate::ca::issue(dir, identity, &[], &dir.join(identity.dns_name())).unwrap();
    let files = Files { ca: &dir.join("ca.crt"), cert: &pair.cert, key: &pair.key, crl: None };
    Material::load(files, mesh, identity).unwrap()
}

/// Answers every report with who sent it, as an error text.
struct Mirror;

#[tonic::async_trait]
impl Agent for Mirror {
    async fn report(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        let caller = authorise::caller(&request)?;
        if let Ok(name) = authorise::agent(&caller) {
            assert_eq!(name.as_str(), "east-1");
            let answer = envelope::seal(&mesh("shop"), &())?;
            return Ok(Response::new(answer));
        }
        Err(Status::permission_denied(caller.to_string()))
    }
    async fn execute(&self, _: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        std::future::pending().await
    }
    async fn ask(&self, request: Request<Envelope>) -> Result<Response<Envelope>, Status> {
        Err(Status::permission_denied(authorise::caller(&request)?.to_string()))
    }
}

fn report() -> mesh_proto::evidence::Report {
    mesh_proto::evidence::Report {
        agent: AgentName::new("east-1").unwrap(),
        boot: 1,
        generation: 1,
        sightings: Vec::new(),
        reaches: Vec::new(),
        starved: None,
        routes: Vec::new(),
        electorate: 0,
        edition: 0,
    }
}

fn order() -> mesh_proto::effect::Order {
    mesh_proto::effect::Order {
        group: mesh_proto::GroupName::new("g").unwrap(),
        step: mesh_proto::effect::StepRef { run: mesh_proto::RunId(1), step: 1, attempt: 1 },
        epoch: mesh_proto::Epoch(1),
        raft_term: 1,
        index: 0,
        effect: mesh_proto::effect::Effect::Checkpoint { instance: InstanceName::new("i").unwrap() },
        verify_only: false,
        budget: mesh_proto::Millis(1),
    }
}

const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn each_side_knows_the_other_and_strangers_are_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (shop, pub_) = (mesh("shop"), mesh("pub"));
    crate::ca::init(dir.path(), &shop).unwrap();
    crate::ca::init(other.path(), &pub_).unwrap();
    let server = load(dir.path(), &shop, &agent("dr-1"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = Incoming::start(listener, &server.into());
    let routes = tonic::service::Routes::new(AgentServer::new(Mirror));
    let serving = tokio::spawn(crate::rpc::server::serve(routes, incoming, std::future::pending()));

    let call = |material: Material, expected: Identity, address: String| async move {
        let mesh = material.mesh().clone();
        let channel = Dialer::new(material).channel(&expected, &address).unwrap();
        AgentClient::new(mesh, channel).report(&report(), SOON).await
    };
    let east = load(dir.path(), &shop, &agent("east-1"));
    call(east.clone(), agent("dr-1"), address.clone()).await.unwrap();

    // A guard is known as a guard, not as an agent.
    let pg = load(dir.path(), &shop, &guard("pg-east"));
    let refused = call(pg, agent("dr-1"), address.clone()).await;
    assert!(
        matches!(&refused, Err(CallError::Refused(text)) if text.contains("guard of pg-east")),
        "{refused:?}"
    );

    // Another agent holds the address now: not reached, so nothing was delivered.
    let wrong = call(east.clone(), agent("witness-1"), address.clone()).await;
    assert!(matches!(&wrong, Err(CallError::NotReached(_))), "{wrong:?}");

    // A certificate of another authority does not even get a connection.
    let stranger = load(other.path(), &pub_, &agent("east-1"));
    let refused = call(stranger, agent("dr-1"), address.clone()).await;
    assert!(matches!(&refused, Err(CallError::NotReached(_))), "{refused:?}");

    // Nobody listens there.
    let nobody = call(east.clone(), agent("dr-1"), "127.0.0.1:9".to_owned()).await;
    assert!(matches!(&nobody, Err(CallError::NotReached(_))), "{nobody:?}");

    // No answer: may have been delivered.
    let channel = Dialer::new(east.clone()).channel(&agent("dr-1"), &address).unwrap();
    let hung = AgentClient::new(shop.clone(), channel).execute(&order(), Duration::from_millis(200)).await;
    assert!(matches!(&hung, Err(CallError::NoAnswer(_))), "{hung:?}");

    // A silent caller does not keep others out.
    let _silent = tokio::net::TcpStream::connect(&address).await.unwrap();
    call(east, agent("dr-1"), address).await.unwrap();
    serving.abort();
}

#[tokio::test]
async fn the_unix_socket_names_the_user_and_is_not_taken_from_a_living_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.sock");
    std::fs::write(&path, "left behind").unwrap();
    let incoming = LocalIncoming::bind(&path).unwrap();
    assert!(LocalIncoming::bind(&path).unwrap_err().to_string().contains("already listens"));
    let routes = tonic::service::Routes::new(AgentServer::new(Mirror));
    let serving = tokio::spawn(crate::rpc::server::serve(routes, incoming, std::future::pending()));
    let channel = super::connect::local(&path).await.unwrap();
    let question = mesh_proto::operator::Question {
        actor: mesh_proto::run::Actor::Mesh,
        ask: mesh_proto::operator::Ask::Status,
    };
    let answer = AgentClient::new(mesh("shop"), channel).ask(&question, SOON).await;
    let me = crate::rpc::LocalUser::new(rustix::process::getuid().as_raw(), 0, None).name;
    assert!(matches!(&answer, Err(CallError::Refused(text)) if text.contains(&me)), "{answer:?}");
    serving.abort();
    let _ = serving.await;
    assert!(!path.exists());
    let none = super::connect::local(&path).await.unwrap_err().to_string();
    assert!(none.contains("mesh agent"), "{none}");
}

#[test]
fn files_that_are_not_ours_are_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let shop = mesh("shop");
    crate::ca::init(dir.path(), &shop).unwrap();
    let (a, b) = (agent("east-1"), agent("dr-1"));
    let (pair, other) = (
        crate::ca::issue(dir.path(), &a, &[], &dir.path().join("a")).unwrap(),
        crate::ca::issue(dir.path(), &b, &[], &dir.path().join("b")).unwrap(),
    );
    let ca = dir.path().join("ca.crt");
    let files = Files { ca: &ca, cert: &pair.cert, key: &other.key, crl: None };
    assert!(matches!(Material::load(files, &shop, &a), Err(MaterialError::Mismatch { .. })));
    let files = Files { ca: &ca, cert: &pair.cert, key: &pair.key, crl: None };
    let error = Material::load(files, &shop, &b).unwrap_err().to_string();
    assert!(error.contains("is the certificate of agent east-1"), "{error}");
    assert!(matches!(Material::load(files, &mesh("pub"), &a), Err(MaterialError::Somebody { .. })));
    let foreign = tempfile::tempdir().unwrap();
    let foreign_ca = crate::ca::init(foreign.path(), &shop).unwrap().cert;
    let files = Files { ca: &foreign_ca, cert: &pair.cert, key: &pair.key, crl: None };
    assert!(matches!(Material::load(files, &shop, &a), Err(MaterialError::Mismatch { .. })));
}

/// A host's files, and a way to look at them at once.
fn source(dir: &Path, authority: &str, identity: &Identity) -> super::renewal::Source {
    let pair = crate::ca::issue(&dir.join(authority), identity, &[], &dir.join(identity.dns_name())).unwrap();
    let ca = dir.join(identity.dns_name()).join("ca.crt");
    super::renewal::Source {
        ca,
        cert: pair.cert,
        key: pair.key,
        crl: None,
        mesh: mesh("shop"),
        identity: identity.clone(),
    }
}

/// Waits until what is in use is another one.
async fn renewed(credentials: &super::Credentials, renewal: &super::Renewal) {
    let before = credentials.current().server();
    renewal.now();
    let began = std::time::Instant::now();
    while std::sync::Arc::ptr_eq(&before, &credentials.current().server()) {
        assert!(began.elapsed() < SOON, "{:?}", credentials.troubles(0));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_authority_is_replaced_while_both_sides_talk() {
    let dir = tempfile::tempdir().unwrap();
    let at = |place: &str| dir.path().join(place);
    for authority in ["old", "new"] {
        crate::ca::init(&at(authority), &mesh("shop")).unwrap();
    }
    let (server, client) = (agent("dr-1"), agent("east-1"));
    let sides = [source(dir.path(), "old", &server), source(dir.path(), "old", &client)];
    let mut running = Vec::new();
    for side in &sides {
        running.push(super::Renewal::start(side.clone()).unwrap());
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = Incoming::start(listener, &running[0].0);
    let routes = tonic::service::Routes::new(AgentServer::new(Mirror));
    let serving = tokio::spawn(crate::rpc::server::serve(routes, incoming, std::future::pending()));
    let dialer = Dialer::new(running[1].0.clone());
    let new_connection = async || {
        let channel = dialer.channel(&server, &address).unwrap();
        AgentClient::new(mesh("shop"), channel).report(&report(), SOON).await.unwrap();
    };
    let kept = AgentClient::new(mesh("shop"), dialer.channel(&server, &address).unwrap());
    kept.report(&report(), SOON).await.unwrap();
    let authorities = |names: &[&str]| -> String {
        names.iter().map(|name| std::fs::read_to_string(at(name).join("ca.crt")).unwrap()).collect()
    };
    // Each step on one side after the other, and both talk in between.
    for (side, (credentials, renewal)) in sides.iter().zip(&running) {
        std::fs::write(&side.ca, authorities(&["old", "new"])).unwrap();
        renewed(credentials, renewal).await;
        new_connection().await;
    }
    for (side, (credentials, renewal)) in sides.iter().zip(&running) {
        let place = at("again").join(side.identity.dns_name());
        let pair = crate::ca::issue(&at("new"), &side.identity, &[], &place).unwrap();
        std::fs::copy(pair.key, &side.key).unwrap();
        std::fs::copy(pair.cert, &side.cert).unwrap();
        renewed(credentials, renewal).await;
        new_connection().await;
    }
    for (side, (credentials, renewal)) in sides.iter().zip(&running) {
        std::fs::write(&side.ca, authorities(&["new"])).unwrap();
        renewed(credentials, renewal).await;
        new_connection().await;
    }
    kept.report(&report(), SOON).await.unwrap();
    // Whoever still has a certificate of the old one is a stranger now.
    let late = load(&at("old"), &mesh("shop"), &agent("east-1"));
    let channel = Dialer::new(late).channel(&server, &address).unwrap();
    let refused = AgentClient::new(mesh("shop"), channel).report(&report(), SOON).await;
    assert!(matches!(&refused, Err(CallError::NotReached(_))), "{refused:?}");
    serving.abort();
}
