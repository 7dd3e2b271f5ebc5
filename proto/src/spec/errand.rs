//! What a run does for an operator beside moving the primary: services that are stopped at the old site and started at the
//! new one, and hooks. A spec names them and says when, in which order, and what a failure means.
//!
//! It never says which program is executed: the file of the agent that does it maps the name to a unit or to commands, so
//! whoever may apply specs can order only what that host's owner allowed.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{AgentName, ErrandName, GroupName, Millis, SiteName};

/// A service that moves with the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Its name, as in the `[[service]]` section of the agent's file. One at each site: `api-east`, `api-dr`.
    pub name: ErrandName,
    /// The site it stands at. It is touched only by a run that leaves this site or arrives there.
    pub site: SiteName,
    /// The agent that starts and stops it.
    pub agent: AgentName,
    /// What a run may do to it.
    #[serde(default)]
    pub moves: Moves,
    /// When in the run.
    #[serde(default)]
    pub at: Point,
    /// Services and hooks that come first. A stop goes the other way round: what came first ends last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<ErrandName>,
    /// Other groups whose primaries accept writes before it is started: an API that needs the cache too. A run of such a
    /// group that is still moving its primary is waited for, within the deadline. A stop does not wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<GroupName>,
    /// How it is known to be well after its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckSpec>,
    /// How long a start, with its check, or a stop may take.
    #[serde(default = "a_minute")]
    pub deadline_seconds: u64,
    /// What a failure means for the run.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// A program of the operator's that a run executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookSpec {
    /// Its name, as in the `[[hook]]` section of the agents' files.
    pub name: ErrandName,
    /// The agents that execute it, each once.
    pub agents: Vec<AgentName>,
    /// When in the run.
    #[serde(default)]
    pub at: Point,
    /// Only in runs to this site; in all of them when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_to: Option<SiteName>,
    /// Services and hooks that come first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<ErrandName>,
    /// Other groups whose primaries accept writes before it is run, as for a service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<GroupName>,
    /// How long it may take; then its whole process group is killed.
    #[serde(default = "half_a_minute")]
    pub deadline_seconds: u64,
    /// What a failure means for the run.
    #[serde(default)]
    pub on_failure: OnFailure,
}

const fn a_minute() -> u64 {
    60
}
const fn half_a_minute() -> u64 {
    30
}

/// What a run may do to a service.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moves {
    /// Start it when the primary arrives at its site.
    Start,
    /// Stop it when the primary leaves its site.
    Stop,
    /// Either.
    #[default]
    Both,
}

/// Where in a run. No point lies between the loss of a primary and the promotion of the next: no program can delay or veto
/// an automatic failover.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// Planned switchovers only: while everything still runs as before. The run waits.
    Prepare,
    /// When the new primary accepts writes. Routes wait, at most for the stated deadlines; whatever comes of it, they are led.
    BeforeRoutes,
    /// When the new primary accepts writes. Routes do not wait.
    #[default]
    BesideRoutes,
    /// When writes came through every route.
    AfterRoutes,
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Prepare => "prepare",
            Self::BeforeRoutes => "before-routes",
            Self::BesideRoutes => "beside-routes",
            Self::AfterRoutes => "after-routes",
        })
    }
}

/// What a failure means for the run. The new primary serves and its routes are led in any case.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// It is noted, and the run goes on as if it had been done.
    #[default]
    Warn,
    /// No further service or hook is begun; the run is stuck.
    Stop,
    /// What comes after it waits, everything else goes on; then the run is stuck until an operator skips it or retries.
    Ask,
}

impl std::fmt::Display for OnFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Warn => "warn",
            Self::Stop => "stop",
            Self::Ask => "ask",
        })
    }
}

/// How a started service is known to be well. Addresses are literal: a check speaks of the service, not of a name server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum CheckSpec {
    /// Somebody accepts connections.
    Tcp {
        /// Where.
        address: SocketAddr,
    },
    /// A GET is answered with a good status.
    Http {
        /// Where.
        address: SocketAddr,
        /// The path, with its query.
        path: String,
        /// The `Host` header; the address when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// First and last good status.
        #[serde(default = "good_status")]
        status: [u16; 2],
    },
    /// A query on the new primary, in a read-only transaction of the agent's `[probe]` role, gives one value: true.
    Sql {
        /// Such as `SELECT count(*) > 0 FROM worker_heartbeat WHERE last_seen > now() - interval '1 minute'`.
        query: String,
        /// The database; the group's when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        database: Option<String>,
    },
    /// A Redis server answers the agent's `[redis_probe]` user.
    Redis {
        /// Where; the new primary of the group, which then is one of Redis, when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<SocketAddr>,
        /// A key that must be there, such as a worker's heartbeat with an expiry; that user needs `+exists` and the key in its
        /// ACL. Without one it is enough that the server answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

const fn good_status() -> [u16; 2] {
    [200, 299]
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// A service is started, and checked.
    Start,
    /// A service is stopped.
    Stop,
    /// A hook is run.
    Hook,
}

/// In which runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// In every one.
    Always,
    /// When the new primary stands at this site.
    To(SiteName),
    /// When the new primary stands anywhere but at this site.
    AwayFrom(SiteName),
}

impl When {
    /// Whether a run to this site is one of them.
    #[must_use]
    pub fn holds(&self, to: &SiteName) -> bool {
        match self {
            Self::Always => true,
            Self::To(site) => site == to,
            Self::AwayFrom(site) => site != to,
        }
    }
}

/// One service or hook in the plan of a run. Immutable: a spec that changes later does not change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// Which service or hook.
    pub name: ErrandName,
    /// Who does it.
    pub agent: AgentName,
    /// What is done.
    pub work: Work,
    /// When in the run.
    pub at: Point,
    /// In which runs; where the new primary will stand is decided after the plan.
    pub when: When,
    /// What comes first, as the spec says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<ErrandName>,
    /// Groups whose primaries it waits for; none for a stop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<GroupName>,
    /// How long it may take.
    pub deadline: Millis,
    /// What a failure means.
    pub on_failure: OnFailure,
}

impl std::fmt::Display for Errand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        words(f, self.work, &self.name, &self.agent)
    }
}

/// What an errand does, in words.
pub(crate) fn words(
    f: &mut std::fmt::Formatter<'_>,
    work: Work,
    name: &ErrandName,
    agent: &AgentName,
) -> std::fmt::Result {
    match work {
        Work::Start => write!(f, "start service {name} by {agent}"),
        Work::Stop => write!(f, "stop service {name} by {agent}"),
        Work::Hook => write!(f, "run hook {name} by {agent}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_hooks_are_read_and_written() {
        let service = r#"{"name":"api-dr","site":"dr","agent":"dr-1","moves":"start","at":"after-routes","after":["db-ready"],"check":{"kind":"http","address":"10.2.0.1:8080","path":"/health","status":[200,204]},"deadline_seconds":20,"on_failure":"ask"}"#;
        let read: ServiceSpec = serde_json::from_str(service).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), service);
        let short = r#"{"name":"api-dr","site":"dr","agent":"dr-1"}"#;
        let read: ServiceSpec = serde_json::from_str(short).unwrap();
        assert_eq!(
            (read.moves, read.at, read.on_failure),
            (Moves::Both, Point::BesideRoutes, OnFailure::Warn)
        );
        let hook: HookSpec = serde_json::from_str(r#"{"name":"page","agents":["dr-1","east-1"]}"#).unwrap();
        assert_eq!((hook.deadline_seconds, hook.agents.len()), (30, 2));
    }

    #[test]
    fn a_command_in_a_spec_is_refused() {
        let with = |more: &str| format!(r#"{{"name":"api-dr","site":"dr","agent":"dr-1",{more}}}"#);
        for bad in [r#""start":["/bin/sh"]"#, r#""unit":"api.service""#, r#""moves":"restart""#] {
            assert!(serde_json::from_str::<ServiceSpec>(&with(bad)).is_err(), "{bad}");
        }
        let hook = r#"{"name":"page","agents":["dr-1"],"program":"/bin/sh"}"#;
        assert!(serde_json::from_str::<HookSpec>(hook).unwrap_err().to_string().contains("program"));
        let check = r#"{"kind":"tcp","address":"10.2.0.1:80","path":"/x"}"#;
        assert!(serde_json::from_str::<CheckSpec>(check).is_err(), "a key of another kind");
    }
}
