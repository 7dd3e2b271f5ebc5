//! Orders for routes through AWS, from the agent's file to an API (`moto`), through gate and spec.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mesh_proto::effect::StepRef;
use mesh_proto::{Epoch, RunId};

use super::*;
use crate::agent::sightings::Logins;

struct One(GroupSpec);

impl Specs for One {
    fn spec(&self, group: &GroupName) -> Option<GroupSpec> {
        (self.0.group == *group).then(|| self.0.clone())
    }
}

struct Moto {
    at: SocketAddr,
    process: Child,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Moto {
    fn start() -> Self {
        let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &at.port().to_string()]);
        let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process =
            silent.spawn().expect("moto_server does not start: pip install 'moto[server]' (tests/deps.sh)");
        let until = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(at).is_err() {
            assert!(Instant::now() < until, "moto_server does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { at, process }
    }

    /// An administrator's request, and what stands in the first element of this name.
    fn ask(&self, service: &str, path: &str, kind: &str, body: &str, element: &str) -> String {
        let mut stream = TcpStream::connect(self.at).unwrap();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {service}.us-east-1.amazonaws.com\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=AKIDADMIN/20260101/us-east-1/{service}/aws4_request, \
             SignedHeaders=host, Signature=0\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let inside = answer.split(&format!("<{element}>")).nth(1);
        let inside = inside.and_then(|rest| rest.split(&format!("</{element}>")).next());
        inside.unwrap_or_else(|| panic!("no {element} in {answer}")).to_owned()
    }
}

fn config(dir: &Path, moto: &Moto, zone: &str, arn: &str) -> NodeConfig {
    let keys = dir.join("aws");
    std::fs::write(&keys, "[default]\naws_access_key_id = AKID\naws_secret_access_key = hush\n").unwrap();
    let text = format!(
        r#"
        [mesh]
        id = "shop"
        [[mesh.voter]]
        id = 1
        agent = "east-1"
        site = "east"
        address = "10.0.0.1:7400"
        [agent]
        name = "east-1"
        site = "east"
        data_dir = "/var/lib/mesh"
        listen = "0.0.0.0:7400"
        socket = "/run/mesh/mesh.sock"
        [tls]
        ca = "/etc/mesh/ca.crt"
        cert = "/etc/mesh/agent.crt"
        key = "/etc/mesh/agent.key"
        [[route53]]
        zone = "ha.test."
        hosted_zone = "{zone}"
        endpoint = "http://{at}"
        credentials_file = "{keys}"
        [[elbv2]]
        target_group = "{arn}"
        endpoint = "http://{at}"
        credentials_file = "{keys}"
        "#,
        at = moto.at,
        keys = keys.display()
    );
    NodeConfig::parse(Path::new("mesh.toml"), &text).unwrap()
}

fn spec(arn: &str) -> GroupSpec {
    let text = format!(
        r#"{{"group": "orders", "instance": [
            {{"name": "pg-east", "site": "east", "agent": "east-1", "address": "10.0.0.1:5432", "guard": "10.0.0.1:7401"}},
            {{"name": "pg-dr", "site": "dr", "agent": "dr-1", "address": "10.1.0.1:5432", "guard": "10.1.0.1:7401"}}],
            "route": [
            {{"name": "name", "kind": "dns", "agent": "east-1", "record": [{{"name": "db.ha.test.", "zone": "ha.test."}}]}},
            {{"name": "nlb", "kind": "elbv2", "agent": "east-1", "listen": "127.0.0.1:1", "target_group": "{arn}",
              "targets": {{"pg-dr": "10.1.0.1:5432@all"}}}},
            {{"name": "other", "kind": "elbv2", "agent": "east-1", "listen": "127.0.0.1:1", "target_group": "{arn}0"}},
            {{"name": "far", "kind": "dns", "agent": "east-1",
              "record": [{{"name": "db.example.com.", "zone": "example.com."}}]}}]}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn order(route: &str, instance: &str, epoch: u64, verify_only: bool) -> Order {
    Order {
        group: "orders".parse().unwrap(),
        step: StepRef { run: RunId(7), step: 3, attempt: 1 },
        epoch: Epoch(epoch),
        raft_term: 1,
        effect: Effect::Route { route: route.parse().unwrap(), instance: instance.parse().unwrap() },
        verify_only,
        index: 0,
        budget: Millis(20_000),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_for_names_and_target_groups_go_from_the_file_to_the_api() {
    let moto = Moto::start();
    let zone = "<CreateHostedZoneRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Name>ha.test.</Name>\
                <CallerReference>1</CallerReference></CreateHostedZoneRequest>";
    let zone = moto.ask("route53", "/2013-04-01/hostedzone", "text/xml", zone, "Id");
    let form = "application/x-www-form-urlencoded";
    let vpc = "Action=CreateVpc&Version=2016-11-15&CidrBlock=10.0.0.0/16";
    let vpc = moto.ask("ec2", "/", form, vpc, "vpcId");
    let group = format!(
        "Action=CreateTargetGroup&Version=2015-12-01&Name=orders&Protocol=TCP&Port=5432&TargetType=ip&VpcId={vpc}"
    );
    let arn = moto.ask("elasticloadbalancing", "/", form, &group, "TargetGroupArn");

    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), &moto, zone.trim_start_matches("/hostedzone/"), &arn);
    let gates = Gates::open(dir.path()).unwrap();
    let keeper = RouteKeeper::new(Holdings::of(&config), Logins::default(), gates, Arc::new(One(spec(&arn))));

    for route in ["name", "nlb"] {
        let not_so = keeper.execute(&order(route, "pg-dr", 2, true)).await;
        assert!(matches!(&not_so, Outcome::Refused { code: Refusal::NotSo, .. }), "{route}: {not_so:?}");
        for verify in [false, false, true] {
            let done = keeper.execute(&order(route, "pg-dr", 2, verify)).await;
            assert!(matches!(&done, Outcome::Done(_)), "{route}: {done:?}");
        }
        let stale = keeper.execute(&order(route, "pg-east", 1, false)).await;
        assert!(matches!(&stale, Outcome::Refused { code: Refusal::StaleEpoch, .. }), "{route}: {stale:?}");
        assert_eq!(
            keeper.pace(&keeper.specs.spec(&"orders".parse().unwrap()).unwrap().routes[0].target),
            Pace::METERED
        );
    }
    for (route, what) in [
        ("other", "no [[elbv2]] section"),
        ("far", "no [[dns]] or [[route53]] section for zone example.com."),
    ] {
        let refused = keeper.execute(&order(route, "pg-dr", 2, false)).await;
        let Outcome::Refused { code: Refusal::NotConfigured, detail } = refused else {
            panic!("{refused:?}")
        };
        assert!(detail.contains(what), "{detail}");
    }
}
