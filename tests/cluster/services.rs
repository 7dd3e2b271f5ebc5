//! Services and hooks of a run, as real programs: moved in order, and on their bad days, for each policy.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use mesh_proto::effect::{Effect, Finding, Outcome};
use mesh_proto::run::{Phase, Run, Step, StuckCause};
use mesh_proto::spec::Work;
use mesh_tests::lab::cluster::{Also, Cluster, DR, EAST, WITNESS, Wanted};
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::mesh::CACHE;
use mesh_tests::lab::process::{command, lives, must};
use mesh_tests::lab::wait::{Look, until};

use crate::support::{ask, flowing, has, turn, wanted};

const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
/// Where the service of each site listens.
const PORT: u16 = 25800;

/// A service that answers any GET. It writes its process number once it listens.
const SERVE: &str = r#"#!/usr/bin/perl
use strict; use IO::Socket::INET;
my ($dir, $address) = @ARGV;
my $listener = IO::Socket::INET->new(LocalAddr => $address, Listen => 5, ReuseAddr => 1) or die "$address: $!";
open(my $file, '>', "$dir/pid") or die; print $file $$; close $file;
while (my $client = $listener->accept) {
    while (my $line = <$client>) { last if $line =~ /^\r?\n$/ }
    print $client "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    close $client;
}
"#;

/// A hook: keeps what it was told, then does what the file of its name says.
const HOOK: &str = r#"#!/bin/sh
cat >"$1/$2.told"
echo $$ >"$1/$2.group"
how=$(cat "$1/$2.how")
case $how in
    hang) sleep 600 & echo $! >"$1/$2.child"; sleep 600 ;;
    loud) head -c 1000000 /dev/zero | tr '\0' x; exit 0 ;;
    *) echo "$2 says $how"; exit "$how" ;;
esac
"#;

fn script(cluster: &mut Cluster, name: &str, text: &str) -> String {
    let path = cluster.ground().file(name, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn append(cluster: &Cluster, node: usize, lines: &str) {
    let path = &cluster.nodes[node].config;
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, format!("{text}{lines}")).unwrap();
}

/// The service of a site: its programs, and what file and spec say of it.
fn service(cluster: &mut Cluster, node: usize, more: &str) {
    let (site, ip) = (cluster.nodes[node].name.clone(), cluster.nodes[node].host.ip());
    let dir = cluster.ground().folder(&format!("api-{site}")).unwrap().display().to_string();
    let lab = cluster.dir().display().to_string();
    let serve = script(cluster, &format!("api-{site}/serve"), SERVE);
    // A start returns; what it leaves has a process group of its own. The mark is for whoever tidies the laboratory up.
    let start = format!(
        "#!/bin/sh\nMESH_LAB={lab} exec setsid -f {serve} {dir} {ip}:{PORT} >/dev/null 2>&1 </dev/null\n"
    );
    let start = script(cluster, &format!("api-{site}/start"), &start);
    let stop =
        script(cluster, &format!("api-{site}/stop"), &format!("#!/bin/sh\nkill \"$(cat {dir}/pid)\"\n"));
    let check = format!("#!/bin/sh\nkill -0 \"$(cat {dir}/pid)\" 2>/dev/null\n");
    let check = script(cluster, &format!("api-{site}/check"), &check);
    append(
        cluster,
        node,
        &format!(
            "[[service]]\nname = \"api-{site}\"\nstart = [\"{start}\"]\nstop = [\"{stop}\"]\ncheck = [\"{check}\"]\n"
        ),
    );
    cluster.specify(&format!(
        "[[service]]\nname = \"api-{site}\"\nsite = \"{site}\"\nagent = \"{site}\"\ndeadline_seconds = 20\n\
         on_failure = \"stop\"\ncheck = {{ kind = \"http\", address = \"{ip}:{PORT}\", path = \"/health\" }}\n{more}\n"
    ));
}

/// A hook at the witness.
fn hook(cluster: &mut Cluster, name: &str, how: &str, lines: &str) {
    let dir = cluster.ground().folder("hooks").unwrap().display().to_string();
    let program = script(cluster, "hooks/hook", HOOK);
    set(cluster, name, how);
    append(
        cluster,
        WITNESS,
        &format!("[[hook]]\nname = \"{name}\"\nprogram = \"{program}\"\nargs = [\"{dir}\", \"{name}\"]\n"),
    );
    cluster.specify(&format!("[[hook]]\nname = \"{name}\"\nagents = [\"witness\"]\n{lines}\n"));
}

/// What a hook does from now on.
fn set(cluster: &mut Cluster, name: &str, how: &str) {
    cluster.ground().file(&format!("hooks/{name}.how"), how).unwrap();
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn pid(path: &Path) -> u32 {
    read(path).trim().parse().unwrap()
}

async fn prepared() -> Cluster {
    let mut cluster = Cluster::raise(wanted(Follows::RuntimeApi, "")).await.unwrap();
    cluster.prepare().await.unwrap();
    cluster
}

async fn run_of(cluster: &Cluster) -> Run {
    cluster.group().await.unwrap().run.unwrap()
}

fn step<'a>(run: &'a Run, name: &str) -> Option<&'a Step> {
    run.steps
        .values()
        .find(|step| matches!(&step.effect, Effect::Errand { errand, .. } if errand.as_str() == name))
}

fn detail(run: &Run, name: &str) -> String {
    match step(run, name).unwrap_or_else(|| panic!("{name} was not begun")).outcome.as_ref() {
        Some(Outcome::Refused { detail, .. } | Outcome::Unknown { detail }) => detail.clone(),
        other => format!("{other:?}"),
    }
}

fn done(run: &Run, name: &str) -> bool {
    step(run, name).is_some_and(|step| matches!(step.outcome, Some(Outcome::Done(Finding::Ran { .. }))))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_moves_with_the_primary_in_the_stated_order() {
    let _turn = turn().await;
    let mut cluster = prepared().await;
    service(&mut cluster, EAST, "after = [\"api-dr\"]");
    service(&mut cluster, DR, "after = [\"api-east\"]");
    hook(&mut cluster, "drain", "0", "at = \"prepare\"\non_failure = \"stop\"");
    hook(&mut cluster, "report", "0", "at = \"after-routes\"\nafter = [\"api-dr\", \"api-east\"]");
    cluster.form_prepared().await.unwrap();
    let dir = cluster.dir().to_owned();
    must(cluster.nodes[EAST].host.command(dir.join("api-east/start"), [""; 0]), SOON).await.unwrap();
    until("the service of east runs", SOON, || async {
        Ok(if dir.join("api-east/pid").exists() { Look::There(()) } else { Look::NotYet(String::new()) })
    })
    .await
    .unwrap();
    let east = pid(&dir.join("api-east/pid"));

    let plan = ask(&cluster, &["plan", "--site", "dr"]).await;
    has(
        &plan.out,
        &["run hook drain by witness", "stop service api-east by east", "start service api-dr by dr"],
    );
    has(
        &plan.out,
        &["longest", "stop service api-east by east > start service api-dr by dr > run hook report"],
    );

    let said = cluster.must(WITNESS, &["switchover", "--site", "dr", "--yes", "--reason", "test"]).await;
    let said = cluster.explained(said).await.unwrap();
    has(&said.text(), &["critical path", "start service api-dr by dr"]);
    let run = run_of(&cluster).await;
    assert_eq!(run.phase, Phase::Done);
    for name in ["drain", "api-east", "api-dr", "report"] {
        assert!(done(&run, name), "{name}: {}", detail(&run, name));
    }
    assert!(!lives(east), "the service of east still runs");
    assert!(lives(pid(&dir.join("api-dr/pid"))), "the service of dr does not run");
    // The order that was stated, by the journal.
    let (stopped, started) = (step(&run, "api-east").unwrap(), step(&run, "api-dr").unwrap());
    assert!(matches!(stopped.effect, Effect::Errand { work: Work::Stop, .. }));
    assert!(stopped.ended.unwrap() <= started.began);
    assert!(started.ended.unwrap() <= step(&run, "report").unwrap().began);
    // What the hook was told.
    let told: serde_json::Value = serde_json::from_str(&read(&dir.join("hooks/report.told"))).unwrap();
    assert_eq!(told["group"], "orders");
    assert_eq!((told["epoch"].as_u64(), told["attempt"].as_u64()), (Some(2), Some(1)));
    assert_eq!((told["phase"].as_str(), told["instance"].as_str()), (Some("after-routes"), Some("pg-dr")));

    // And back, the other way round; what prepares it says no first, and nothing is changed.
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    set(&mut cluster, "drain", "7");
    let said = ask(&cluster, &["switchover", "--site", "east", "--yes", "--reason", "test"]).await;
    assert_ne!(said.code, 0, "{}", said.text());
    has(&said.text(), &["ABORTED", "exit code 7", "drain says 7"]);
    assert!(cluster.servers[DR].is_primary().await.unwrap());
    set(&mut cluster, "drain", "0");
    cluster.must(WITNESS, &["switchover", "--site", "east", "--yes", "--reason", "test"]).await.unwrap();
    let run = run_of(&cluster).await;
    assert!(done(&run, "api-east") && done(&run, "api-dr"), "{run:#?}");
    assert!(lives(pid(&dir.join("api-east/pid"))) && !lives(pid(&dir.join("api-dr/pid"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_hangs_shouts_or_fails_means_what_its_policy_says() {
    let _turn = turn().await;
    let mut cluster = prepared().await;
    hook(&mut cluster, "hangs", "hang", "deadline_seconds = 1\nat = \"before-routes\"");
    hook(&mut cluster, "shouts", "loud", "on_failure = \"stop\"");
    hook(&mut cluster, "asks", "3", "on_failure = \"ask\"");
    hook(&mut cluster, "stops", "0", "on_failure = \"stop\"");
    hook(&mut cluster, "last", "0", "at = \"after-routes\"");
    hook(&mut cluster, "after-asks", "0", "after = [\"asks\"]");
    cluster.form_prepared().await.unwrap();
    let (dir, writer) = (cluster.dir().to_owned(), cluster.writer());
    flowing(&writer).await;
    let counted = writer.count();

    // A hook that failed and asks: the routes are led all the same, everything apart from it goes on, then the run waits.
    let said = ask(&cluster, &["switchover", "--site", "dr", "--yes", "--reason", "test"]).await;
    has(
        &said.text(),
        &["STUCK", "run hook asks by witness", "exit code 3", "asks says 3", "mesh skip", "errand-failed"],
    );
    let run = run_of(&cluster).await;
    assert_eq!(run.stuck.as_ref().map(|(cause, _)| *cause), Some(StuckCause::ErrandFailed), "{run:#?}");
    has(&detail(&run, "hangs"), &["did not end in time and was killed"]);
    assert!(!lives(pid(&dir.join("hooks/hangs.child"))), "what the hook left behind lives");
    assert!(done(&run, "shouts") && done(&run, "stops") && done(&run, "last"), "{run:#?}");
    assert!(step(&run, "after-asks").is_none(), "it comes after one that failed");
    until("writes flow through the route to the new primary", SOON, || async {
        Ok(if writer.count() > counted + 100 { Look::There(()) } else { Look::NotYet(String::new()) })
    })
    .await
    .unwrap();
    assert!(cluster.servers[DR].is_primary().await.unwrap());
    has(&ask(&cluster, &["status"]).await.out, &["STUCK", "! hangs:", "! asks:", "mesh retry"]);

    // Tried again, it fails again; mended and tried again, the run ends.
    let id = run.id.to_string();
    let said = ask(&cluster, &["retry", &id, "--reason", "again"]).await;
    assert_ne!(said.code, 0, "{}", said.text());
    assert_eq!(step(&run_of(&cluster).await, "asks").unwrap().attempts, 2);
    set(&mut cluster, "asks", "0");
    cluster.must(WITNESS, &["retry", &id, "--reason", "mended"]).await.unwrap();
    let run = run_of(&cluster).await;
    assert_eq!(run.phase, Phase::Done);
    assert!(done(&run, "asks") && done(&run, "after-asks"));
    assert_eq!(step(&run, "hangs").unwrap().attempts, 1, "a mere warning is not tried again");
    // The run is over, and what was only worth a warning still stands in the status.
    has(&ask(&cluster, &["status"]).await.out, &["! hangs:"]);

    // A hook that stops: nothing further is begun, until an operator goes on without it.
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
    set(&mut cluster, "stops", "3");
    set(&mut cluster, "hangs", "0");
    let said = ask(&cluster, &["switchover", "--site", "east", "--yes", "--reason", "test"]).await;
    has(&said.text(), &["STUCK", "run hook stops by witness"]);
    let run = run_of(&cluster).await;
    assert!(step(&run, "last").is_none(), "{run:#?}");
    let id = run.id.to_string();
    let said = ask(&cluster, &["skip", &id, "shouts", "--reason", "wrong one"]).await;
    assert_ne!(said.code, 0, "{}", said.text());
    has(&said.text(), &["shouts has not failed"]);
    cluster.must(WITNESS, &["skip", &id, "stops", "--reason", "not needed today"]).await.unwrap();
    let run = run_of(&cluster).await;
    assert_eq!(run.phase, Phase::Done);
    assert!(done(&run, "last"));
    has(&ask(&cluster, &["audit", "show", "-n", "12"]).await.out, &["skipped: stops: not needed today"]);
    assert_eq!(cluster.must(WITNESS, &["audit", "verify"]).await.unwrap().code, 0);
    cluster.until_healthy("pg-east", LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_whose_agent_died_under_it_is_not_repeated_unasked() {
    let _turn = turn().await;
    let mut cluster = prepared().await;
    hook(&mut cluster, "slow", "hang", "deadline_seconds = 120\non_failure = \"ask\"");
    cluster.form_prepared().await.unwrap();
    let dir = cluster.dir().to_owned();
    let args = ["switchover", "--site", "dr", "--yes", "--detach", "--reason", "test"];
    cluster.must(EAST, &args).await.unwrap();
    until("the hook runs", LIMIT, || async {
        let there = dir.join("hooks/slow.child").exists();
        Ok(if there { Look::There(()) } else { Look::NotYet("not begun".to_owned()) })
    })
    .await
    .unwrap();
    cluster.nodes[WITNESS].agent.take().unwrap().kill().await.unwrap();
    // Under systemd the hook dies with its unit; the laboratory has no unit around the agent.
    let group = format!("-{}", pid(&dir.join("hooks/slow.group")));
    must(command("kill", ["-KILL", "--", &group]), SOON).await.unwrap();
    std::fs::remove_file(dir.join("hooks/slow.told")).unwrap();
    cluster.start_agent(WITNESS).unwrap();
    let run = until("the run asks", LIMIT, || async {
        let run = cluster.group().await?.run;
        Ok(match run {
            Some(run) if run.phase == Phase::Stuck => Look::There(run),
            Some(run) => Look::NotYet(format!("{} is {}", run.id, run.phase)),
            None => Look::NotYet("no run".to_owned()),
        })
    })
    .await;
    let run = cluster.explained(run).await.unwrap();
    has(&detail(&run, "slow"), &["the agent was restarted while the hook ran"]);
    assert_eq!(step(&run, "slow").unwrap().attempts, 1);
    assert!(!dir.join("hooks/slow.told").exists(), "it was run again without being asked for");
    set(&mut cluster, "slow", "0");
    let retried = cluster.must(EAST, &["retry", &run.id.to_string(), "--reason", "looked at it"]).await;
    cluster.explained(retried).await.unwrap();
    let told: serde_json::Value = serde_json::from_str(&read(&dir.join("hooks/slow.told"))).unwrap();
    assert_eq!(told["attempt"].as_u64(), Some(2));
    cluster.until_healthy("pg-dr", LIMIT).await.unwrap();
}

/// The order that spans two engines: PostgreSQL moves while Redis is down, and the service that needs both waits for the
/// run of the other group; neither the promotion nor the route waits with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_the_primary_of_another_group_that_it_needs() {
    let _turn = turn().await;
    let wanted = Wanted { also: vec![Also::Redis], ..wanted(Follows::RuntimeApi, "") };
    let mut cluster = Cluster::raise(wanted).await.unwrap();
    cluster.prepare().await.unwrap();
    service(&mut cluster, DR, "needs = [\"cache\"]");
    hook(&mut cluster, "report", "0", "after = [\"api-dr\"]\nneeds = [\"cache\"]");
    cluster.form_prepared().await.unwrap();
    let (dir, writer) = (cluster.dir().to_owned(), cluster.writer());
    flowing(&writer).await;
    let plan = ask(&cluster, &["plan", "--site", "dr", "--group", "orders"]).await;
    has(&plan.out, &["start service api-dr by dr, once the primary of cache accepts writes"]);

    let args = ["pause", "--group", CACHE, "--for", "10m", "--reason", "held back"];
    cluster.must(WITNESS, &args).await.unwrap();
    cluster.redis[EAST].kill().unwrap();
    let counted = writer.count();
    let args = ["switchover", "--group", "orders", "--site", "dr", "--yes", "--detach", "--reason", "test"];
    cluster.must(WITNESS, &args).await.unwrap();
    let begun = until("the service waits beside routes that are led", LIMIT, || async {
        let run = cluster.group().await?.run;
        let waits = run.as_ref().and_then(|run| step(run, "api-dr")).is_some_and(|s| s.outcome.is_none());
        let finishing = run.is_some_and(|run| run.phase == Phase::Finishing);
        let flows = writer.count() > counted + 100;
        Ok(if waits && finishing && flows {
            Look::There(())
        } else {
            Look::NotYet(format!("waits {waits}, finishing {finishing}, flows {flows}"))
        })
    });
    let begun = begun.await;
    cluster.explained(begun).await.unwrap();
    assert!(cluster.servers[DR].is_primary().await.unwrap());
    assert!(!dir.join("api-dr/pid").exists(), "it was started without the cache");

    cluster.must(WITNESS, &["resume", "--group", CACHE]).await.unwrap();
    let run = cluster.until_run_done(None, LIMIT).await;
    let run = cluster.explained(run).await.unwrap();
    assert!(done(&run, "api-dr") && done(&run, "report"), "{run:#?}");
    let cache = cluster.group_named(CACHE).await.unwrap();
    assert_eq!(cache.primary.unwrap().as_str(), "redis-dr");
    let promoted = promoted_at(&cache.run.unwrap());
    let listening = std::fs::metadata(dir.join("api-dr/pid")).unwrap().modified().unwrap();
    let listening = listening.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(
        listening > u128::from(promoted),
        "the service listened at {listening}, Redis served at {promoted}"
    );
}

/// When the new primary of a run had taken over, in ms of the wall clock that all agents of the laboratory share.
fn promoted_at(run: &Run) -> u64 {
    let promote = run.steps.values().find(|step| matches!(step.effect, Effect::Promote { .. }));
    promote.and_then(|step| step.ended).unwrap().0
}
