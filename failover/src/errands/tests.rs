use mesh_proto::spec::GroupSpec;

use super::*;

/// Two sites with a whole stack each, in the order that runbooks state: API, scheduler, workers.
fn spec(more: &str) -> GroupSpec {
    let service = |name: &str, site: &str, after: &str| {
        format!(r#"{{"name":"{name}-{site}","site":"{site}","agent":"{site}-1","after":[{after}]}}"#)
    };
    let mut services = Vec::new();
    for (site, other) in [("east", "dr"), ("dr", "east")] {
        services.push(service("api", site, ""));
        // One scheduler in all: the other site's is stopped first.
        services.push(service("scheduler", site, &format!(r#""api-{site}","scheduler-{other}""#)));
        services.push(service("worker", site, &format!(r#""scheduler-{site}""#)));
    }
    let instance = |name: &str, site: &str, port: u16| {
        format!(
            r#"{{"name":"{name}","site":"{site}","agent":"{site}-1","address":"10.0.0.1:{port}","guard":"10.0.0.2:{port}"}}"#
        )
    };
    let text = format!(
        r#"{{"group":"orders","instance":[{},{},{}],"service":[{}]{more}}}"#,
        instance("pg-east", "east", 1),
        instance("pg-dr", "dr", 2),
        instance("pg-dr-2", "dr", 3),
        services.join(",")
    );
    serde_json::from_str(&text).unwrap()
}

fn name(text: &str) -> InstanceName {
    text.parse().unwrap()
}

fn order(errands: &[&Errand]) -> Vec<(String, Vec<String>)> {
    let told = |at: usize| format!("{:?} {}", errands[at].work, errands[at].name);
    (0..errands.len()).map(|at| (told(at), waits_for(errands, at).into_iter().map(told).collect())).collect()
}

#[test]
fn a_stack_is_stopped_backwards_and_started_forwards() {
    let spec = spec("");
    let all = planned(&spec, RunKind::Failover, &name("pg-east"), &[name("pg-dr")]);
    let errands: Vec<&Errand> = all.iter().collect();
    let waits = |what: &str| order(&errands).into_iter().find(|(told, _)| told == what).unwrap().1;
    assert_eq!(waits("Stop worker-east"), Vec::<String>::new());
    assert_eq!(waits("Stop scheduler-east"), ["Stop worker-east"]);
    assert_eq!(waits("Stop api-east"), ["Stop scheduler-east"]);
    assert_eq!(waits("Start api-dr"), Vec::<String>::new());
    assert_eq!(waits("Start scheduler-dr"), ["Stop scheduler-east", "Start api-dr"]);
    assert_eq!(waits("Start worker-dr"), ["Start scheduler-dr"]);
    assert_eq!(contradiction(&spec), None, "either scheduler after the other is no circle in any run");
    let (chain, time) = longest(&errands);
    let chain: Vec<_> = chain.iter().map(|errand| errand.name.as_str()).collect();
    assert_eq!(chain, ["worker-east", "scheduler-east", "scheduler-dr", "worker-dr"]);
    assert_eq!(time, Millis(240_000));
}

#[test]
fn services_move_with_the_site_and_not_within_it() {
    let spec = spec("");
    assert_eq!(planned(&spec, RunKind::Failover, &name("pg-dr"), &[name("pg-dr-2")]), []);
    let either = planned(&spec, RunKind::Failover, &name("pg-dr"), &[name("pg-dr-2"), name("pg-east")]);
    let run_to = |goal: &str| {
        let site = site_of(&spec, &name(goal)).unwrap();
        either.iter().filter(|errand| errand.when.holds(site)).count()
    };
    assert_eq!((either.len(), run_to("pg-dr-2"), run_to("pg-east")), (6, 0, 6));
}

#[test]
fn hooks_run_at_each_of_their_agents_and_prepare_only_what_is_planned() {
    let hooks = r#","hook":[{"name":"page","agents":["east-1","dr-1"]},
        {"name":"drain","agents":["dr-1"],"at":"prepare"},{"name":"dns","agents":["dr-1"],"only_to":"dr"}]"#;
    let spec = spec(hooks);
    let names = |kind, from: &str, to: &str| -> Vec<String> {
        let all = planned(&spec, kind, &name(from), &[name(to)]);
        let hooks = all.iter().filter(|errand| errand.work == Work::Hook);
        hooks.map(|errand| format!("{} {}", errand.name, errand.agent)).collect()
    };
    let to_dr = ["page east-1", "page dr-1", "drain dr-1", "dns dr-1"];
    assert_eq!(names(RunKind::Switchover, "pg-east", "pg-dr"), to_dr);
    assert_eq!(names(RunKind::Failover, "pg-dr", "pg-east"), ["page east-1", "page dr-1"]);
}

#[test]
fn an_order_that_cannot_be_kept_is_found() {
    let circle = r#","hook":[{"name":"a","agents":["dr-1"],"after":["b"]},{"name":"b","agents":["dr-1"],"after":["a"]}]"#;
    let (name, why) = contradiction(&spec(circle)).unwrap();
    assert_eq!((name.as_str(), why.contains("before itself")), ("a", true));
    let late = r#","hook":[{"name":"early","agents":["dr-1"],"at":"before-routes","after":["late"]},
        {"name":"late","agents":["dr-1"],"at":"after-routes"}]"#;
    let (name, why) = contradiction(&spec(late)).unwrap();
    assert_eq!((name.as_str(), why.contains("later point")), ("early", true));
}

fn board(plan: &[Errand], standing: &[Standing]) -> (bool, Vec<usize>) {
    let board = Board { errands: plan.iter().collect(), standing: standing.to_vec(), ordered: true };
    (board.holds_routes(), board.ready(Point::BeforeRoutes, Point::AfterRoutes))
}

#[test]
fn a_failure_means_what_its_policy_says() {
    let hook = |name: &str, at: Point, after: &[&str], on_failure| Errand {
        name: name.parse().unwrap(),
        agent: "dr-1".parse().unwrap(),
        work: Work::Hook,
        at,
        when: When::Always,
        after: after.iter().map(|name| name.parse().unwrap()).collect(),
        needs: Vec::new(),
        deadline: Millis(1_000),
        on_failure,
    };
    use Standing::{Done, Failed, Open, Running};
    for (policy, ready) in [(OnFailure::Warn, &[1, 2][..]), (OnFailure::Stop, &[]), (OnFailure::Ask, &[2])] {
        let plan = [
            hook("first", Point::BeforeRoutes, &[], policy),
            hook("second", Point::BesideRoutes, &["first"], OnFailure::Warn),
            hook("apart", Point::AfterRoutes, &[], OnFailure::Warn),
        ];
        assert_eq!(board(&plan, &[Open, Open, Done]), (true, vec![0]), "{policy}");
        assert_eq!(board(&plan, &[Running, Open, Done]), (true, vec![]), "{policy}");
        // Whatever came of it, routes do not wait any more.
        assert_eq!(board(&plan, &[Failed, Open, Open]), (false, ready.to_vec()), "{policy}");
    }
}
