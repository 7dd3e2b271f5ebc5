//! Sends this agent's report to every member, so that whoever leads next is not blind: at each interval, and at once
//! when something changed. Who answers is who this agent reaches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_proto::command::MemberRecord;
use mesh_proto::evidence::Report;
use mesh_proto::{AgentName, Millis};
use tokio::task::JoinSet;

use super::driver::Driver;
use super::routes::RouteWatch;
use super::sightings::Sightings;
use crate::voter::VoterService;

/// Interval of reports before any group states a probe interval.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// How long a report may take to arrive.
const REPORT_DEADLINE: Duration = Duration::from_millis(500);

/// Reports until `stop` completes.
pub async fn run(
    driver: Arc<Driver>,
    (sightings, watch, voter): (Arc<Sightings>, Arc<RouteWatch>, VoterService),
    boot: u64,
    stop: impl Future<Output = ()>,
) {
    let reached: Arc<Mutex<BTreeMap<AgentName, Instant>>> = Arc::default();
    let mut applied = driver.consensus.applied();
    let mut tasks: JoinSet<()> = JoinSet::new();
    let mut generation = 0;
    let mut late: Option<Instant> = None;
    tokio::pin!(stop);
    loop {
        let (members, every, electorate) = driver.consensus.read(|machine| {
            let state = machine.state();
            sightings.follow(state);
            let every = state.groups.values().map(|group| group.timing.probe.duration()).min();
            (state.member_list(), every.unwrap_or(IDLE_INTERVAL), state.electorate.clone())
        });
        // While all is well half the pace is fresh enough; every change is told at once.
        let pace = if sightings.any_lost() { every } else { every * 2 };
        let due = Instant::now() + pace;
        tokio::select! {
            () = &mut stop => break,
            () = sightings.changed.notified() => {}
            _ = applied.changed() => continue,
            () = tokio::time::sleep_until(due.into()) => {
                // A loop that runs late by more than an interval was starved: what it saw may be its own doing.
                if Instant::now() > due + every {
                    late = Some(Instant::now());
                }
            }
        }
        while tasks.try_join_next().is_some() {}
        generation += 1;
        let recent = every * 5;
        let reaches = {
            let mut reached = reached.lock().unwrap_or_else(PoisonError::into_inner);
            reached.retain(|_, at| at.elapsed() <= recent);
            reached.keys().cloned().collect()
        };
        let report = Arc::new(Report {
            agent: driver.me.clone(),
            boot,
            generation,
            sightings: sightings.now(),
            reaches,
            starved: late.map(|at| Millis::from(at.elapsed())),
            routes: watch.now(),
            electorate: voter.note_electorate(&electorate).await,
            edition: super::edition::stated(),
        });
        driver.heard_report(Report::clone(&report));
        for member in members.into_iter().filter(|member| member.agent != driver.me) {
            // A member that does not answer must not pile up reports.
            if tasks.len() > 64 {
                break;
            }
            tasks.spawn(send(Arc::clone(&driver), member, Arc::clone(&report), Arc::clone(&reached)));
        }
    }
    tasks.shutdown().await;
}

async fn send(
    driver: Arc<Driver>,
    member: MemberRecord,
    report: Arc<Report>,
    reached: Arc<Mutex<BTreeMap<AgentName, Instant>>>,
) {
    let client = match driver.peers.agent(&member.agent, &member.address) {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(agent = %member.agent, error = crate::cli::with_causes(&error), "cannot report");
            return;
        }
    };
    match client.report(&report, REPORT_DEADLINE).await {
        Ok(()) => {
            reached.lock().unwrap_or_else(PoisonError::into_inner).insert(member.agent, Instant::now());
        }
        Err(error) => tracing::debug!(agent = %member.agent, %error, "a report did not arrive"),
    }
}
