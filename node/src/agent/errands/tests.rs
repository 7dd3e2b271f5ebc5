use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mesh_adapters::process::ProcessHandle;
use mesh_proto::effect::Finding;
use mesh_proto::lease::LeaseTerm;
use mesh_proto::spec::{Point, Work as Kind};
use mesh_proto::{Epoch, GroupName, LeaseNo, Millis, RunId};

use super::*;
use crate::config::NodeConfig;

const FILE: &str = r#"
[mesh]
id = "shop"
[[mesh.voter]]
id = 1
agent = "dr-1"
site = "dr"
address = "10.0.0.2:7400"
[agent]
name = "dr-1"
site = "dr"
data_dir = "/var/lib/mesh"
listen = "10.0.0.2:7400"
socket = "/run/mesh/mesh.sock"
[tls]
ca = "/etc/mesh/ca.crt"
cert = "/etc/mesh/agent.crt"
key = "/etc/mesh/agent.key"
"#;

const SPEC: &str = r#"{"group":"orders","instance":[
    {"name":"pg-dr","site":"dr","agent":"dr-1","address":"10.0.0.2:5432","guard":"10.0.0.2:7401"}],
    "service":[{"name":"api","site":"dr","agent":"dr-1"},{"name":"foreign","site":"dr","agent":"dr-1"},
        {"name":"fed","site":"dr","agent":"dr-1","needs":["cache"]}],
    "hook":[{"name":"page","agents":["dr-1"]},{"name":"told","agents":["dr-1"],"needs":["cache"]}],
    "fencer":[{"name":"bmc","fences":["pg-dr"],"agents":["dr-1"]}]}"#;

struct Applied(Ending);

impl Specs for Applied {
    fn spec(&self, _: &GroupName) -> Option<GroupSpec> {
        serde_json::from_str(SPEC).ok()
    }
}

impl Groups for Applied {
    fn standing(&self, _: &GroupName) -> Standing {
        Standing::Unknown
    }

    fn ending(&self, _: &GroupName, _: &InstanceName, _: LeaseTerm) -> Ending {
        self.0.clone()
    }
}

/// An agent on a directory: a service that is a file, and a hook that counts how often it ran.
fn keeper(dir: &Path, hook: &str) -> ErrandKeeper {
    keeper_at(dir, hook, Ending::Open)
}

/// The same, whose log says this of a takeover.
fn keeper_at(dir: &Path, hook: &str, ending: Ending) -> ErrandKeeper {
    let script = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\ncd {}\n{text}\n", dir.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let (start, stop) = (script("start", "echo x >>started; touch up"), script("stop", "rm -f up"));
    let (check, hook) = (script("check", "test -e up"), script("hook", &format!("echo x >>ran; {hook}")));
    // Off or on is a file; it takes a second try to turn it off.
    let fencer = script(
        "fencer",
        "cat >asked; if grep -q '\"status\"' asked; then test -e off && echo is off; exit; fi\n\
         echo x >>tried; test $(wc -l <tried) -ge 2 || exit 75; touch off; echo power is off",
    );
    let text = format!(
        "{FILE}[[service]]\nname = \"api\"\nstart = [\"{start}\"]\nstop = [\"{stop}\"]\ncheck = [\"{check}\"]\n\
         [[service]]\nname = \"fed\"\nstart = [\"{start}\"]\nstop = [\"{stop}\"]\ncheck = [\"{check}\"]\n\
         [[hook]]\nname = \"page\"\nprogram = \"{hook}\"\n[[hook]]\nname = \"told\"\nprogram = \"{hook}\"\n\
         [[fencer]]\nname = \"bmc\"\nprogram = \"{fencer}\"\n"
    );
    let config = NodeConfig::parse(Path::new("mesh.toml"), &text).unwrap();
    let journal = Journal::open(dir).unwrap();
    ErrandKeeper::new(
        "dr-1".parse().unwrap(),
        Allowed::of(&config),
        Logins::default(),
        journal,
        Arc::new(Applied(ending.clone())),
        Arc::new(Applied(ending)),
    )
}

fn order(name: &str, work: Kind, epoch: u64, attempt: u32) -> Order {
    Order {
        group: "orders".parse().unwrap(),
        step: StepRef { run: RunId(10 * epoch), step: 3, attempt },
        epoch: Epoch(epoch),
        raft_term: 1,
        effect: Effect::Errand {
            errand: name.parse().unwrap(),
            agent: "dr-1".parse().unwrap(),
            work,
            at: Point::BesideRoutes,
            instance: "pg-dr".parse().unwrap(),
        },
        verify_only: false,
        index: 1,
        budget: Millis(5_000),
    }
}

fn verifying(mut order: Order) -> Order {
    order.verify_only = true;
    order
}

/// With less time.
fn hurried(mut order: Order) -> Order {
    order.budget = Millis(300);
    order
}

fn times(dir: &Path, what: &str) -> usize {
    std::fs::read_to_string(dir.join(what)).map_or(0, |text| text.lines().count())
}

fn code(outcome: &Outcome) -> Option<Refusal> {
    match outcome {
        Outcome::Refused { code, .. } => Some(*code),
        Outcome::Done(_) | Outcome::Unknown { .. } => None,
    }
}

fn done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done(Finding::Ran { .. }))
}

#[tokio::test]
async fn twice_does_it_once_and_what_is_so_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), "exit 0");
    let (start, page) = (order("api", Kind::Start, 2, 1), order("page", Kind::Hook, 2, 1));
    assert_eq!(code(&keeper.execute(&verifying(start.clone())).await), Some(Refusal::NotSo));
    assert_eq!(code(&keeper.execute(&verifying(page.clone())).await), Some(Refusal::NotSo));
    let (one, other) = tokio::join!(keeper.execute(&page), keeper.execute(&page));
    assert!(done(&one) && done(&other), "{one:?} {other:?}");
    assert!(done(&keeper.execute(&verifying(page.clone())).await));
    assert_eq!(times(dir.path(), "ran"), 1, "one attempt is one execution");
    assert!(done(&keeper.execute(&start).await) && done(&keeper.execute(&start).await));
    // Another run finds it up already.
    assert!(done(&keeper.execute(&order("api", Kind::Start, 3, 1)).await));
    assert_eq!(times(dir.path(), "started"), 1);
    assert!(done(&keeper.execute(&order("api", Kind::Stop, 4, 1)).await));
    assert!(!dir.path().join("up").exists());
}

#[tokio::test]
async fn what_the_file_does_not_name_and_what_is_old_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), "exit 3");
    let foreign = keeper.execute(&order("foreign", Kind::Start, 2, 1)).await;
    assert_eq!(code(&foreign), Some(Refusal::NotConfigured), "{foreign:?}");
    let unknown = keeper.execute(&order("nobody", Kind::Hook, 2, 1)).await;
    assert_eq!(code(&unknown), Some(Refusal::NotDelivered), "the spec may be on its way: {unknown:?}");
    assert_eq!(code(&keeper.execute(&order("page", Kind::Hook, 3, 1)).await), Some(Refusal::Failed));
    for old in [order("page", Kind::Hook, 2, 1), verifying(order("page", Kind::Hook, 2, 1))] {
        assert_eq!(code(&keeper.execute(&old).await), Some(Refusal::StaleEpoch));
    }
    assert_eq!(times(dir.path(), "ran"), 1);
}

#[tokio::test]
async fn a_hook_that_nobody_saw_end_failed_as_far_as_anybody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let page = order("page", Kind::Hook, 2, 1);
    // The agent wrote that it began, and died.
    Journal::open(dir.path()).unwrap().begin("orders/page", &page).unwrap();
    let keeper = keeper(dir.path(), "exit 0");
    for again in [verifying(page.clone()), page.clone()] {
        let said = keeper.execute(&again).await;
        assert_eq!(code(&said), Some(Refusal::Failed), "{said:?}");
    }
    assert_eq!(times(dir.path(), "ran"), 0);
    assert!(done(&keeper.execute(&order("page", Kind::Hook, 2, 2)).await), "asked for anew, it runs");
    // A service is looked at instead.
    let start = order("api", Kind::Start, 2, 1);
    Journal::open(dir.path()).unwrap().begin("orders/api", &start).unwrap();
    assert_eq!(code(&keeper.execute(&verifying(start.clone())).await), Some(Refusal::NotSo));
    assert!(done(&keeper.execute(&start).await));
}

#[tokio::test]
async fn a_newer_order_ends_an_older_job_and_a_lost_caller_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = Arc::new(keeper(dir.path(), "echo $$ >pid; test -e fast || sleep 60"));
    let slow = order("page", Kind::Hook, 2, 1);
    let caller = tokio::spawn({
        let (keeper, slow) = (Arc::clone(&keeper), slow.clone());
        async move { keeper.execute(&slow).await }
    });
    let pid = loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let text = std::fs::read_to_string(dir.path().join("pid")).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            break pid;
        }
    };
    let process = ProcessHandle::open(pid).unwrap().unwrap();
    // The leader that asked is gone; the next one asks how it stands.
    caller.abort();
    let mut verify = verifying(slow.clone());
    verify.budget = Millis(100);
    assert!(matches!(keeper.execute(&verify).await, Outcome::Unknown { .. }));
    std::fs::write(dir.path().join("fast"), "").unwrap();
    assert!(done(&keeper.execute(&order("page", Kind::Hook, 3, 1)).await));
    let dead = tokio::time::timeout(Duration::from_secs(10), process.dead()).await;
    assert!(matches!(dead, Ok(Ok(()))), "the older job still runs: {dead:?}");
    assert_eq!(code(&keeper.execute(&slow).await), Some(Refusal::StaleEpoch));
}

fn turn_off(attempt: u32) -> Order {
    let mut order = order("bmc", Kind::Hook, 2, attempt);
    order.effect = Effect::TurnOff {
        fencer: "bmc".parse().unwrap(),
        agent: "dr-1".parse().unwrap(),
        instance: "pg-dr".parse().unwrap(),
        term: LeaseTerm { epoch: Epoch(2), lease_no: LeaseNo(5) },
        takeover: 1,
    };
    order
}

#[tokio::test]
async fn a_host_is_turned_off_only_while_its_lease_is_being_ended() {
    let dir = tempfile::tempdir().unwrap();
    for (ending, code_is) in [(Ending::NotYet, Refusal::NotDelivered), (Ending::Over, Refusal::StaleEpoch)] {
        let keeper = keeper_at(dir.path(), "exit 0", ending);
        assert_eq!(code(&keeper.execute(&turn_off(1)).await), Some(code_is));
        assert_eq!(times(dir.path(), "tried"), 0);
    }
    let keeper = keeper(dir.path(), "exit 0");
    assert_eq!(code(&keeper.execute(&verifying(turn_off(1))).await), Some(Refusal::NotSo));
    let off = keeper.execute(&turn_off(1)).await;
    assert!(matches!(&off, Outcome::Done(Finding::Off { said, .. }) if said == "power is off"), "{off:?}");
    assert_eq!(times(dir.path(), "tried"), 2, "it asked to be tried again");
    let told: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("asked")).unwrap()).unwrap();
    assert_eq!((told["action"].as_str(), told["instance"].as_str()), (Some("off"), Some("pg-dr")));
    assert_eq!((told["address"].as_str(), told["lease_no"].as_u64()), (Some("10.0.0.2"), Some(5)));
    // Whoever asks how it stands gets the same, from the journal; one who does not know of it, from the fencer itself.
    assert_eq!(keeper.execute(&verifying(turn_off(1))).await, off);
    let other = keeper.execute(&verifying(turn_off(2))).await;
    assert!(matches!(&other, Outcome::Done(Finding::Off { said, .. }) if said == "is off"), "{other:?}");
    assert_eq!(times(dir.path(), "tried"), 2);
}

#[tokio::test]
async fn nothing_begins_before_the_group_that_it_needs_serves() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = keeper(dir.path(), "exit 0");
    // To the log here, no group is there that they could need.
    for (name, work) in [("fed", Kind::Start), ("told", Kind::Hook)] {
        let outcome = keeper.execute(&hurried(order(name, work, 2, 1))).await;
        assert_eq!(code(&outcome), Some(Refusal::Failed), "{outcome:?}");
        let said = format!("{outcome:?}");
        assert!(said.contains("group cache comes first"), "{said}");
    }
    assert_eq!((times(dir.path(), "started"), times(dir.path(), "ran")), (0, 0));
    // A service that is to stop, and one that needs nobody, waits for nobody.
    assert!(done(&keeper.execute(&order("api", Kind::Start, 2, 1)).await));
    assert!(done(&keeper.execute(&hurried(order("fed", Kind::Stop, 3, 1))).await));
    assert!(done(&keeper.execute(&hurried(order("page", Kind::Hook, 3, 1))).await));
}
