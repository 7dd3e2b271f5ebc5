//! What a spec may say about services and hooks. It never looks at what an agent's file allows: only that agent knows.

use std::collections::BTreeSet;

use mesh_proto::command::MemberRecord;
use mesh_proto::spec::{CheckSpec, Engine, GroupSpec, HookSpec, OnFailure, Point, ServiceSpec};
use mesh_proto::{AgentName, ErrandName, GroupName, SiteName};

use super::contradiction;
use crate::policy::Finding;

/// Longest deadline of one service or hook: a run that waits for longer is a job of its own.
const DEADLINE_MAX: u64 = 3_600;
/// Longest query of a check, in bytes.
const QUERY_MAX: usize = 2_000;
/// Longest key of a check, in bytes.
const KEY_MAX: usize = 500;

/// Checks the services and hooks of a spec against itself and the members of the mesh.
#[must_use]
pub fn check(spec: &GroupSpec, members: &[MemberRecord]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut names: BTreeSet<&ErrandName> = BTreeSet::new();
    let all = spec
        .services
        .iter()
        .map(|s| ("service", &s.name))
        .chain(spec.hooks.iter().map(|h| ("hook", &h.name)));
    for (kind, name) in all {
        if !names.insert(name) {
            findings.push(Finding::new(
                format!("{kind}[{name}].name"),
                "the name stands twice",
                "give each service and hook of the group a name of its own",
            ));
        }
    }
    for service in &spec.services {
        findings.extend(check_service(spec.engine, service, &names, members));
    }
    for hook in &spec.hooks {
        findings.extend(check_hook(spec, hook, &names, members));
    }
    if findings.is_empty()
        && let Some((name, why)) = contradiction(spec)
    {
        let kind = if spec.hooks.iter().any(|hook| hook.name == name) { "hook" } else { "service" };
        findings.push(Finding::new(
            format!("{kind}[{name}].after"),
            format!("the order cannot be kept: {why}"),
            "take one of the names out of `after`",
        ));
    }
    findings
}

/// Checks against another group: a service that two groups moved would be started by one and stopped by the other.
#[must_use]
pub fn beside(spec: &GroupSpec, other: &GroupSpec) -> Vec<Finding> {
    let shared = |ours: &&ServiceSpec| {
        other.services.iter().any(|theirs| theirs.name == ours.name && theirs.agent == ours.agent)
    };
    let found = spec.services.iter().filter(shared).map(|service| {
        Finding::new(
            format!("service[{}].name", service.name),
            format!("service {} of {} belongs to group {} already", service.name, service.agent, other.group),
            "a service moves with one group: name another one, or leave it out",
        )
    });
    found.collect()
}

/// Checks that the groups that services and hooks need are there. `groups` are the others.
#[must_use]
pub fn needed<'a>(spec: &GroupSpec, groups: impl Iterator<Item = &'a GroupSpec>) -> Vec<Finding> {
    let there: BTreeSet<&GroupName> = groups.map(|group| &group.group).collect();
    let services = spec.services.iter().map(|s| ("service", &s.name, &s.needs));
    let hooks = spec.hooks.iter().map(|h| ("hook", &h.name, &h.needs));
    let mut findings = Vec::new();
    for (kind, name, needs) in services.chain(hooks) {
        for group in needs.iter().filter(|group| !there.contains(group)) {
            let key = format!("{kind}[{name}].needs");
            findings.push(if *group == spec.group {
                Finding::new(key, "its own group always comes first", "leave it out, or name another group")
            } else {
                let next = "correct it, or apply the spec of that group first";
                Finding::new(key, format!("there is no group {group}"), next)
            });
        }
    }
    findings
}

fn check_service(
    engine: Engine,
    service: &ServiceSpec,
    names: &BTreeSet<&ErrandName>,
    members: &[MemberRecord],
) -> Vec<Finding> {
    let key = |field: &str| format!("service[{}].{field}", service.name);
    let mut findings = common(&key, &service.name, &service.after, service.deadline_seconds, names);
    match members.iter().find(|member| member.agent == service.agent) {
        None => findings.push(unknown_agent(key("agent"), &service.agent)),
        Some(member) if member.site != service.site => findings.push(Finding::new(
            key("site"),
            format!("agent {} stands at site {}, not {}", member.agent, member.site, service.site),
            "correct the site or the agent",
        )),
        Some(_) => {}
    }
    if service.at == Point::Prepare {
        findings.push(Finding::new(
            key("at"),
            "a service moves when the new primary serves, not before",
            "use before-routes, beside-routes or after-routes",
        ));
    }
    findings.extend(service.check.as_ref().and_then(|check| check_check(engine, &key("check"), check)));
    findings
}

fn check_hook(
    spec: &GroupSpec,
    hook: &HookSpec,
    names: &BTreeSet<&ErrandName>,
    members: &[MemberRecord],
) -> Vec<Finding> {
    let key = |field: &str| format!("hook[{}].{field}", hook.name);
    let mut findings = common(&key, &hook.name, &hook.after, hook.deadline_seconds, names);
    if hook.agents.is_empty() {
        findings.push(Finding::new(key("agents"), "nobody executes it", "name at least one agent"));
    }
    for (at, agent) in hook.agents.iter().enumerate() {
        if !members.iter().any(|member| member.agent == *agent) {
            findings.push(unknown_agent(key("agents"), agent));
        }
        if hook.agents[..at].contains(agent) {
            findings.push(Finding::new(key("agents"), format!("{agent} stands twice"), "name it once"));
        }
    }
    if let Some(site) = &hook.only_to
        && !spec.instances.iter().any(|instance| instance.site == *site)
    {
        findings.push(no_instance_at(key("only_to"), site));
    }
    if hook.at == Point::Prepare && !hook.needs.is_empty() {
        findings.push(Finding::new(
            key("needs"),
            "before a switchover everything is still where it was, so there is nothing to wait for",
            "leave it out, or use a later point",
        ));
    }
    if hook.at == Point::Prepare && hook.on_failure == OnFailure::Ask {
        findings.push(Finding::new(
            key("on_failure"),
            "before a switchover nothing has been changed, and a run that waited for an answer would stand in the way of a failover",
            "use \"stop\", which ends the run with the reason, or \"warn\"",
        ));
    }
    findings
}

/// What services and hooks have in common.
fn common(
    key: &impl Fn(&str) -> String,
    name: &ErrandName,
    after: &[ErrandName],
    deadline: u64,
    names: &BTreeSet<&ErrandName>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !(1..=DEADLINE_MAX).contains(&deadline) {
        let what = format!("a deadline of {deadline} s is none, or longer than a run should take");
        findings.push(Finding::new(key("deadline_seconds"), what, format!("use 1 to {DEADLINE_MAX}")));
    }
    for first in after {
        if first == name {
            findings.push(Finding::new(key("after"), format!("{name} comes after itself"), "leave it out"));
        } else if !names.contains(first) {
            let what = format!("there is no service or hook {first}");
            findings.push(Finding::new(
                key("after"),
                what,
                "correct or remove it; a database always comes first",
            ));
        }
    }
    findings
}

fn check_check(engine: Engine, key: &str, check: &CheckSpec) -> Option<Finding> {
    let finding = |what: &str, next: &str| Some(Finding::new(key, what, next));
    let literal = |address: &std::net::SocketAddr| address.port() != 0 && !address.ip().is_unspecified();
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    match check {
        CheckSpec::Tcp { address }
        | CheckSpec::Http { address, .. }
        | CheckSpec::Redis { address: Some(address), .. }
            if !literal(address) =>
        {
            finding(
                "nobody can be asked at this address",
                "name the IP and port at which the service listens",
            )
        }
        CheckSpec::Tcp { .. } => None,
        CheckSpec::Http { path, .. } if !path.starts_with('/') || !plain(path) => {
            finding("not a path of a request", "write it without blanks, beginning with /")
        }
        CheckSpec::Http { host: Some(host), .. } if !plain(host) => {
            finding("not a host of a request", "write a name without blanks, or leave it out")
        }
        CheckSpec::Http { status: [first, last], .. } if first > last || *first < 100 || *last > 599 => {
            finding("these are no HTTP statuses", "write the first and the last good one, such as [200, 299]")
        }
        CheckSpec::Http { .. } => None,
        CheckSpec::Sql { query, .. } if query.trim().is_empty() || query.len() > QUERY_MAX => finding(
            "no query, or one that is too long",
            "write one SELECT that gives true when the service works",
        ),
        CheckSpec::Sql { .. } if engine != Engine::Postgres => finding(
            "the group's primary speaks no SQL",
            "use kind = \"redis\", or ask the service itself with \"http\" or \"tcp\"",
        ),
        CheckSpec::Sql { .. } => None,
        CheckSpec::Redis { address: None, .. } if engine != Engine::Redis => {
            finding("the group's primary is no Redis", "name the `address` of the Redis that is to be asked")
        }
        CheckSpec::Redis { key: Some(key), .. } if key.is_empty() || key.len() > KEY_MAX => finding(
            "no key, or one that is too long",
            "name a key, or leave it out to ask for an answer only",
        ),
        CheckSpec::Redis { .. } => None,
    }
}

fn unknown_agent(key: String, name: &AgentName) -> Finding {
    Finding::new(key, format!("there is no agent {name}"), "name a member, or add it with `mesh node add`")
}

fn no_instance_at(key: String, site: &SiteName) -> Finding {
    Finding::new(
        key,
        format!("no instance stands at site {site}"),
        "name a site that the primary can move to",
    )
}

#[cfg(test)]
mod tests {
    use mesh_proto::NodeId;

    use super::*;

    fn members() -> Vec<MemberRecord> {
        [("east-1", "east"), ("dr-1", "dr")]
            .into_iter()
            .zip(1..)
            .map(|((agent, site), id)| MemberRecord {
                id: NodeId(id),
                agent: agent.parse().unwrap(),
                site: site.parse().unwrap(),
                address: format!("10.0.0.{id}:1"),
                voter: true,
            })
            .collect()
    }

    fn spec(services: &str, hooks: &str) -> GroupSpec {
        let text = format!(
            r#"{{"group":"orders","instance":[
            {{"name":"pg-east","site":"east","agent":"east-1","address":"10.0.0.1:5","guard":"10.0.0.1:7"}},
            {{"name":"pg-dr","site":"dr","agent":"dr-1","address":"10.0.0.2:5","guard":"10.0.0.2:7"}}],
            "service":[{services}],"hook":[{hooks}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    /// One wrong thing at a time, and the key that is named.
    #[test]
    fn each_mistake_is_named_with_its_key() {
        let service =
            |more: &str| (format!(r#"{{"name":"api","site":"dr","agent":"dr-1"{more}}}"#), String::new());
        let hook = |more: &str| (String::new(), format!(r#"{{"name":"page"{more}}}"#));
        let cases = [
            (service(r#","at":"prepare""#), "service[api].at"),
            (service(r#","after":["nobody"]"#), "service[api].after"),
            (service(r#","after":["api"]"#), "service[api].after"),
            (service(r#","deadline_seconds":0"#), "service[api].deadline_seconds"),
            (service(r#","deadline_seconds":4000"#), "service[api].deadline_seconds"),
            (service(r#","check":{"kind":"http","address":"10.0.0.2:80","path":"x"}"#), "service[api].check"),
            (service(r#","check":{"kind":"tcp","address":"0.0.0.0:80"}"#), "service[api].check"),
            (service(r#","check":{"kind":"sql","query":" "}"#), "service[api].check"),
            (service(r#","check":{"kind":"redis"}"#), "service[api].check"),
            (service(r#","check":{"kind":"redis","address":"0.0.0.0:1"}"#), "service[api].check"),
            (service(r#","check":{"kind":"redis","address":"10.0.0.2:1","key":""}"#), "service[api].check"),
            (
                service(r#","check":{"kind":"http","address":"10.0.0.2:80","path":"/","status":[299,200]}"#),
                "service[api].check",
            ),
            (hook(r#","agents":[]"#), "hook[page].agents"),
            (hook(r#","agents":["mars-1"]"#), "hook[page].agents"),
            (hook(r#","agents":["dr-1","dr-1"]"#), "hook[page].agents"),
            (hook(r#","agents":["dr-1"],"only_to":"mars""#), "hook[page].only_to"),
            (hook(r#","agents":["dr-1"],"at":"prepare","on_failure":"ask""#), "hook[page].on_failure"),
            (hook(r#","agents":["dr-1"],"at":"prepare","needs":["cache"]"#), "hook[page].needs"),
        ];
        for ((services, hooks), key) in cases {
            let found = check(&spec(&services, &hooks), &members());
            assert_eq!(found.iter().map(|f| f.key.as_str()).collect::<Vec<_>>(), [key], "{services}{hooks}");
        }
        let at_another_site = r#"{"name":"api","site":"east","agent":"dr-1"}"#;
        assert_eq!(check(&spec(at_another_site, ""), &members())[0].key, "service[api].site");
        let twice = r#"{"name":"api","agents":["dr-1"]}"#;
        let (api, _) = service("");
        assert_eq!(check(&spec(&api, twice), &members())[0].key, "hook[api].name");
        assert_eq!(check(&spec(&api, ""), &members()), []);
    }

    #[test]
    fn a_check_asks_the_primary_in_its_own_language() {
        let with = |engine: &str, kind: &str| {
            let service = format!(r#"{{"name":"api","site":"dr","agent":"dr-1","check":{kind}}}"#);
            let mut spec = spec(&service, "");
            spec.engine = serde_json::from_value(engine.into()).unwrap();
            check(&spec, &members()).len()
        };
        let (sql, redis) = (r#"{"kind":"sql","query":"SELECT true"}"#, r#"{"kind":"redis","key":"beat"}"#);
        assert_eq!((with("postgres", sql), with("redis", redis)), (0, 0));
        assert_eq!((with("redis", sql), with("postgres", redis)), (1, 1));
    }

    #[test]
    fn what_is_needed_is_another_group_that_is_there() {
        let with = |group: &str| {
            let api = format!(r#"{{"name":"api","site":"dr","agent":"dr-1","needs":["{group}"]}}"#);
            let page = format!(r#"{{"name":"page","agents":["dr-1"],"needs":["{group}"]}}"#);
            spec(&api, &page)
        };
        let mut cache = spec("", "");
        cache.group = "cache".parse().unwrap();
        let keys = |group: &str| {
            let found = needed(&with(group), [&cache].into_iter());
            found.into_iter().map(|finding| finding.key).collect::<Vec<_>>()
        };
        assert_eq!(keys("cache"), [""; 0]);
        assert_eq!(keys("orders"), ["service[api].needs", "hook[page].needs"]);
        assert_eq!(keys("cahce"), ["service[api].needs", "hook[page].needs"]);
        assert_eq!(check(&with("cache"), &members()), []);
    }

    #[test]
    fn a_service_moves_with_one_group() {
        let api = r#"{"name":"api","site":"dr","agent":"dr-1"}"#;
        let (ours, mut theirs) = (spec(api, ""), spec(api, ""));
        theirs.group = "billing".parse().unwrap();
        assert_eq!(beside(&ours, &theirs)[0].key, "service[api].name");
        theirs.services[0].agent = "dr-2".parse().unwrap();
        assert_eq!(beside(&ours, &theirs), []);
    }
}
