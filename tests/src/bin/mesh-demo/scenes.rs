//! The acts of the demonstration, and the promises checked in each.

use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_proto::run::{Phase, Run};
use mesh_tests::lab::bind::NAME;
use mesh_tests::lab::cluster::{Also, Cluster, DR, EAST, SITES, WITNESS, Wanted};
use mesh_tests::lab::direct::Direct;
use mesh_tests::lab::ground::Leave;
use mesh_tests::lab::haproxy::Follows;
use mesh_tests::lab::host::Terrain;
use mesh_tests::lab::mesh::{CACHE, GROUP};
use mesh_tests::lab::timeline::stretches;
use mesh_tests::lab::writer::{Outage, Writer};

use crate::args::Scenario;
use crate::cache::Cache;
use crate::view::View;
use crate::voice::{Tone, Voice};

/// Longest client outage that an unplanned change may cause.
const OUTAGE_UNPLANNED: Duration = Duration::from_secs(5);
/// The same where only the server process dies.
const OUTAGE_CRASH: Duration = Duration::from_millis(800);
/// The same for a planned one.
const OUTAGE_PLANNED: Duration = Duration::from_millis(600);
/// The client writes for this long before each change.
const CALM: Duration = Duration::from_secs(3);
/// After this long without an end of a run something is wrong.
const PATIENCE: Duration = Duration::from_secs(30);
/// A rejoin may rewind or rebuild.
const REJOIN: Duration = Duration::from_secs(40);

struct Play {
    voice: Voice,
    cluster: Cluster,
    writer: Writer,
    direct: Direct,
    cache: Cache,
    /// When the old primary was lost, or given up.
    lost: Instant,
    /// Rows that the unplanned failover lost: a later change is not to blame for them.
    gone: Vec<i64>,
    kept: bool,
}

/// Plays it; whether every promise was kept.
///
/// # Errors
/// When something could not even be tried; with status and logs.
pub async fn play(voice: Voice, scenario: Scenario, keep: bool) -> Result<bool> {
    let began = Instant::now();
    let cluster = set_up(voice).await?;
    let writer = cluster.writer();
    let direct = Direct::start(&cluster.servers[EAST]);
    let cache = Cache::begin(&cluster).await;
    let cache = cluster.explained(cache).await?;
    let mut play = Play { voice, cluster, writer, direct, cache, lost: began, gone: Vec::new(), kept: true };
    play.change(scenario).await?;
    play.rejoin(scenario).await?;
    play.back(scenario).await?;
    play.audit().await?;
    play.end(began, keep).await
}

async fn set_up(voice: Voice) -> Result<Cluster> {
    voice.act(1, "Three sites on this host, each with an address of its own");
    voice.say(
        "Two PostgreSQL servers, two of Redis, HAProxy and BIND are set up as they would be without mesh; some seconds.",
    );
    let wanted = Wanted {
        name: "demo",
        terrain: Terrain::Loopback,
        follows: Follows::RuntimeApi,
        // What it is to show is a failover, so a crash is one whatever the standby had received.
        spec: "crash_policy = \"failover-first\"".to_owned(),
        also: vec![Also::Bind, Also::Redis],
    };
    let mut cluster = Cluster::raise(wanted).await?;
    let site = |node: usize, what: &str| {
        let node = &cluster.nodes[node];
        voice.line(&format!("{:<8} {:<11} {what}", node.name, node.host.ip()));
    };
    site(EAST, "PostgreSQL pg-east and Redis redis-east, the primaries; a guard beside each; an agent");
    site(DR, "PostgreSQL pg-dr and Redis redis-dr, which stream from them; a guard beside each; an agent");
    site(WITNESS, "no database; an agent; the routes that clients take: HAProxy, and a name in BIND");
    cluster.form().await?;
    voice.say(
        "The mesh is formed, the groups `orders` and `cache` applied, and their primaries adopted. What an operator \
         sees:",
    );
    let status = cluster.must(WITNESS, &["status"]).await?;
    voice.quote("mesh status", &status.out);
    Ok(cluster)
}

impl Play {
    async fn change(&mut self, scenario: Scenario) -> Result<()> {
        let Self { voice, cluster, writer, lost, .. } = self;
        let voice = *voice;
        let (title, plain) = told(scenario);
        voice.act(2, title);
        voice.say(plain);
        let mut view = View::begin(voice, writer, cluster).await?;
        view.watch(cluster, CALM).await;
        let before = newest_run(cluster).await;
        let fault = Instant::now();
        *lost = fault;
        let zero = view.zero();
        let mut command = None;
        match scenario {
            Scenario::ProcessCrash | Scenario::LeaderLoss => cluster.servers[EAST].kill_postmaster()?,
            Scenario::SiteLoss => cluster.lose(EAST).await?,
            Scenario::Switchover => {
                let (node, mesh) = (&cluster.nodes[WITNESS], cluster.mesh.clone());
                let asked = node.ask(
                    &mesh,
                    &["switchover", "--group", GROUP, "--site", "dr", "--yes", "--reason", "demonstration"],
                );
                command = Some(asked.await?);
            }
        }
        if scenario == Scenario::LeaderLoss {
            lose_leader(voice, cluster, before).await?;
        }
        let done = {
            let cluster = &*cluster;
            view.until(cluster, PATIENCE, |_| async move {
                run_since(cluster, before).await.is_some_and(|run| run.phase.is_final())
            })
            .await
        };
        view.watch(cluster, Duration::from_secs(1)).await;
        if let Some(said) = command {
            voice.quote("mesh switchover --site dr", &said.text());
        }
        let outage = writer.outage(fault, Duration::from_secs(3), PATIENCE).await;
        let outage = cluster.explained(outage).await?;
        let run = run_since(cluster, before).await;
        if !done {
            let failed = Err(anyhow::anyhow!("no run came to its end within {} s", PATIENCE.as_secs()));
            return cluster.explained(failed).await;
        }
        let limit = match scenario {
            Scenario::ProcessCrash => OUTAGE_CRASH,
            Scenario::Switchover => OUTAGE_PLANNED,
            Scenario::SiteLoss | Scenario::LeaderLoss => OUTAGE_UNPLANNED,
        };
        voice.act(3, "What it took");
        let run = run.filter(|run| run.phase == Phase::Done);
        if let Some(run) = &run {
            table(voice, run, zero);
        }
        self.promise(run.is_some(), "the run came to its end, and its record says so");
        self.outage(outage, limit);
        self.one_writer(fault, outage);
        self.named(DR).await?;
        self.cached(fault, scenario == Scenario::SiteLoss, DR).await?;
        self.losses(scenario == Scenario::Switchover, DR).await
    }

    async fn rejoin(&mut self, scenario: Scenario) -> Result<()> {
        self.voice.act(4, "The old primary comes back, as a standby");
        let mut since = (self.lost, "it was lost");
        match scenario {
            Scenario::SiteLoss => {
                self.voice.say(
                    "The site has power again: its agent and its guard start, as a boot would start them.",
                );
                self.cluster.boot(EAST)?;
                since = (Instant::now(), "power was back");
            }
            Scenario::LeaderLoss => {
                self.voice.say("The killed agent is started again; nobody has to tell it anything.");
                for node in 0..self.cluster.nodes.len() {
                    if self.cluster.nodes[node].agent.is_none() {
                        self.cluster.start_agent(node)?;
                    }
                }
            }
            Scenario::Switchover => since.1 = "the switchover began",
            Scenario::ProcessCrash => {}
        }
        let group = self.cluster.until_healthy("pg-dr", REJOIN).await?;
        if scenario == Scenario::SiteLoss {
            self.cluster.until_group_healthy(CACHE, "redis-dr", REJOIN).await?;
            self.promise(true, "redis-east follows redis-dr, by itself");
        }
        let (took, what) = (since.0.elapsed().as_secs_f64(), since.1);
        self.promise(true, &format!("pg-east follows pg-dr, by itself, seen {took:.1} s after {what}"));
        for instance in &group.instances {
            if let Some(repair) = instance.repair.as_ref().filter(|_| instance.name.as_str() == "pg-east") {
                self.voice.line(&format!("how: {repair}"));
            }
        }
        Ok(())
    }

    async fn back(&mut self, scenario: Scenario) -> Result<()> {
        self.voice.act(5, "Back to east, by hand");
        self.direct.stop().await?;
        self.direct = Direct::start(&self.cluster.servers[DR]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let fault = Instant::now();
        let all = scenario == Scenario::SiteLoss;
        let which = if all { &["--all"][..] } else { &["--group", GROUP] };
        let args =
            [&["failover", "--site", "east"], which, &["--yes", "--reason", "demonstration: back home"]]
                .concat();
        let said = self.cluster.must(DR, &args).await?;
        self.voice.quote(&format!("mesh failover --site east {}", which.join(" ")), &said.text());
        let outage = self.writer.outage(fault, Duration::from_secs(3), PATIENCE).await;
        let outage = self.cluster.explained(outage).await?;
        self.cluster.until_healthy("pg-east", REJOIN).await?;
        self.outage(outage, OUTAGE_PLANNED);
        self.one_writer(fault, outage);
        self.named(EAST).await?;
        self.cached(fault, all, EAST).await?;
        self.losses(true, EAST).await
    }

    async fn audit(&mut self) -> Result<()> {
        self.voice.act(6, "The record of it all");
        let said = self.cluster.nodes[WITNESS].ask(&self.cluster.mesh, &["audit", "verify"]).await?;
        self.voice.quote("mesh audit verify", &said.text());
        self.promise(said.code == 0, "the audit is whole, and the same at every agent");
        Ok(())
    }

    async fn end(mut self, began: Instant, keep: bool) -> Result<bool> {
        self.writer.stop().await?;
        self.direct.stop().await?;
        let (count, lost) = self.cache.end(&self.cluster, EAST).await?;
        self.voice.line(&format!(
            "Redis: {lost} of {count} acknowledged writes lost in all; it replicates asynchronously"
        ));
        let seconds = began.elapsed().as_secs_f64();
        if self.kept {
            println!("\n   Every promise was kept. {seconds:.0} s in all.");
        } else {
            println!(
                "\n   {} {seconds:.0} s in all.",
                self.voice.paint(Tone::Bad, "A promise was broken; see above.")
            );
        }
        if keep {
            stay(&mut self.cluster);
        } else if !self.kept {
            self.cluster.ground().leave(Leave::Logs);
        }
        Ok(self.kept)
    }

    fn promise(&mut self, kept: bool, what: &str) {
        self.kept &= kept;
        self.voice.promise(kept, what);
    }

    fn outage(&mut self, outage: Outage, limit: Duration) {
        let what = format!(
            "the client waited {} ms between two acknowledged rows (at most {} ms)",
            outage.gap.as_millis(),
            limit.as_millis()
        );
        self.promise(outage.gap <= limit, &what);
    }

    fn one_writer(&mut self, fault: Instant, outage: Outage) {
        // The new primary's first acknowledgement through the route ends the outage.
        let late = self.direct.after(fault + outage.from_fault).len();
        let what = "the old primary acknowledged nothing, not even to a session on its own host, once the new one served";
        self.promise(
            late == 0,
            &if late == 0 { what.to_owned() } else { format!("{what}: it acknowledged {late} rows") },
        );
    }

    /// What it meant for the client of Redis: its primary moved to a node, or was well at east and was left alone.
    async fn cached(&mut self, fault: Instant, moves: bool, node: usize) -> Result<()> {
        let primary = format!("redis-{}", SITES[if moves { node } else { EAST }]);
        let seen = self.cache.after(&self.cluster, fault, &primary, PATIENCE).await?;
        let ms = seen.gap.as_millis();
        if !moves {
            let what =
                format!("Redis was well, and was left alone at east; its client waited {ms} ms at most");
            self.promise(!seen.moved, &what);
            return Ok(());
        }
        let limit = if node == EAST { OUTAGE_PLANNED } else { OUTAGE_UNPLANNED };
        let what = format!(
            "Redis moved to {}: its client waited {ms} ms between two writes (at most {} ms)",
            seen.primary,
            limit.as_millis()
        );
        self.promise(seen.moved && seen.gap <= limit, &what);
        Ok(())
    }

    /// What a client that follows the name is told, and the marker beside it.
    async fn named(&mut self, node: usize) -> Result<()> {
        let Some(bind) = &self.cluster.bind else { return Ok(()) };
        let (ip, name) = (self.cluster.nodes[node].host.ip().to_string(), &self.cluster.nodes[node].name);
        let at = bind.at(NAME, "A").await?;
        let marker = bind.at(&format!("_mesh-epoch.{NAME}"), "TXT").await?.join(" ");
        let what = format!("the name {NAME} leads to {name} ({})", at.join(", "));
        let kept = at == [ip] && marker.contains(&format!("site={name}"));
        self.promise(kept, &what);
        self.voice.line(&format!("its marker: {}", marker.replace('"', "")));
        Ok(())
    }

    async fn losses(&mut self, planned: bool, primary: usize) -> Result<()> {
        let (count, mut lost) = self.writer.lost(&self.cluster.servers[primary].local_client()).await?;
        lost.retain(|row| !self.gone.contains(row));
        let what = format!("{} of {count} acknowledged rows lost", lost.len());
        let none = lost.is_empty();
        self.gone.append(&mut lost);
        if planned {
            self.promise(none, &format!("{what}: a planned change loses none"));
        } else {
            self.voice.line(&format!(
                "{what}; the standby is asynchronous, so a few may be: the spec bounds it (max_lag_bytes)"
            ));
        }
        Ok(())
    }
}

/// Leaves everything running, and says how to play with it.
fn stay(cluster: &mut Cluster) {
    let (dir, mesh) = (cluster.dir().to_owned(), cluster.mesh.clone());
    let socket = cluster.nodes[WITNESS].socket.clone();
    let server = &cluster.servers[EAST];
    println!("\n   It stays up. To play with it:");
    println!("     export MESH_SOCKET={}", socket.display());
    println!("     alias mesh={}", mesh.display());
    println!("     mesh status --watch");
    println!(
        "     kill -9 $(head -1 {})    # the primary's postmaster",
        server.data.join("postmaster.pid").display()
    );
    println!("   To end it:");
    println!("     {} --stop {}", std::env::args().next().unwrap_or_default(), dir.display());
    cluster.ground().leave(Leave::Everything);
}

fn told(scenario: Scenario) -> (&'static str, &'static str) {
    match scenario {
        Scenario::ProcessCrash => (
            "A client writes through HAProxy, and the primary is killed",
            "One row at a time, each committed before the next. After three seconds the primary's postmaster \
             gets SIGKILL, and times are counted from there.",
        ),
        Scenario::SiteLoss => (
            "A client writes through HAProxy, and the site east is lost",
            "One row at a time, each committed before the next. After three seconds everything at east dies at \
             once: database, guard and agent. Nobody is left there to say what happened.",
        ),
        Scenario::Switchover => (
            "A client writes through HAProxy, and the primary moves by plan",
            "One row at a time, each committed before the next. After three seconds an operator asks for a \
             switchover to dr.",
        ),
        Scenario::LeaderLoss => (
            "A client writes through HAProxy, the primary is killed, and so is the agent that leads the repair",
            "One row at a time, each committed before the next. After three seconds the primary's postmaster \
             gets SIGKILL, and as soon as the mesh has begun to act, the leading agent gets it too.",
        ),
    }
}

fn table(voice: Voice, run: &Run, zero: u64) {
    let means = |name: &str| match name {
        "detect" => "from the fault, or the request, to a committed plan",
        "prepare" => "checkpoint, while everything still runs",
        "agree" => "a majority of voters pledge to renew the old lease no more",
        "fence" => "standbys frozen; proof that the old primary can acknowledge nothing",
        "promote" => "the best standby becomes the primary, and writes the new epoch",
        "route" => "HAProxy and the name lead to it; sessions to the old one are ended",
        "verify" => "a write through the route arrives in the new epoch",
        _ => "",
    };
    for stretch in stretches(run, zero) {
        voice.line(&format!("{:<8} {:>6} ms   {}", stretch.name, stretch.ms, means(stretch.name)));
    }
    if let Some(last) = stretches(run, zero).last() {
        voice.line(&format!("{:<8} {:>6} ms", "in all", last.until));
    }
}

async fn newest_run(cluster: &Cluster) -> Option<u64> {
    cluster.group().await.ok()?.run.map(|run| run.id.0)
}

async fn run_since(cluster: &Cluster, before: Option<u64>) -> Option<Run> {
    // Nobody may answer for a moment: the leader was killed on purpose.
    cluster.group().await.ok()?.run.filter(|run| before.is_none_or(|before| run.id.0 > before))
}

/// Kills the leading agent as soon as a run is under way.
async fn lose_leader(voice: Voice, cluster: &mut Cluster, before: Option<u64>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    let leader = cluster.leader().await?;
    while Instant::now() < end {
        if let Some(run) = run_since(cluster, before).await {
            let node = &mut cluster.nodes[leader];
            if let Some(mut agent) = node.agent.take() {
                agent.kill().await?;
            }
            voice.line(&format!(
                "the agent of {}, which leads, gets SIGKILL while run {} is {}",
                node.name, run.id, run.phase
            ));
            return Ok(());
        }
    }
    anyhow::bail!("no run began within {} s", PATIENCE.as_secs())
}
