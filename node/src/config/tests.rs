mod aws;
use super::*;

const GOOD: &str = r#"
[mesh]
id = "shop"
[[mesh.voter]]
id = 1
agent = "east-1"
site = "east"
address = "10.0.0.1:7400"
[[mesh.voter]]
id = 2
agent = "dr-1"
site = "dr"
address = "10.0.0.2:7400"
[[mesh.voter]]
id = 3
agent = "witness-1"
site = "witness"
address = "10.0.0.3:7400"
[agent]
name = "east-1"
site = "east"
data_dir = "/var/lib/mesh"
listen = "0.0.0.0:7400"
http = "10.0.0.1:7480"
socket = "/run/mesh/mesh.sock"
[tls]
ca = "/etc/mesh/ca.crt"
cert = "/etc/mesh/agent.crt"
key = "/etc/mesh/agent.key"
[probe]
user = "mesh_probe"
[[instance]]
name = "pg-east"
group = "orders"
data_dir = "/srv/pg/data"
bin_dir = "/usr/lib/postgresql/15/bin"
port = 5432
socket_dir = "/var/run/postgresql"
replication_user = "mesh_repl"
guard_listen = "10.0.0.1:7401"
state_dir = "/var/lib/mesh-guard/pg-east"
log_file = "/var/log/postgresql/pg-east.log"
cert = "/etc/mesh/guard-pg-east.crt"
key = "/etc/mesh/guard-pg-east.key"
[[haproxy]]
backend = "pg"
socket = "tcp:127.0.0.1:9999"
state_file = "/var/lib/haproxy/mesh/pg.state"
[[pgbouncer]]
database = "app"
console = "/run/pgbouncer/.s.PGSQL.6432"
user = "mesh"
file = "/etc/pgbouncer/mesh/app.ini"
entry = "dbname=orders"
[[dns]]
zone = "example.com."
server = "10.0.0.53:53"
key_name = "mesh."
secret_file = "/etc/mesh/tsig.key"
"#;

fn problems(text: &str) -> Vec<Problem> {
    match NodeConfig::parse(Path::new("/etc/mesh/mesh.toml"), text) {
        Err(ConfigError::Invalid { problems, .. }) => problems,
        other => panic!("must be refused: {other:?}"),
    }
}

#[test]
fn a_whole_file_is_accepted() {
    let config = NodeConfig::parse(Path::new("x"), GOOD).unwrap();
    assert_eq!(config.node_id(), Some(NodeId(1)));
    assert_eq!(config.instance(&InstanceName::new("pg-east").unwrap()).unwrap().table(), "instance");
    let instance = &config.instances[0];
    assert_eq!((instance.superuser.as_str(), instance.database.as_str()), ("postgres", "postgres"));
    assert_eq!(config.haproxies[0].socket, HaproxySocket::Tcp("127.0.0.1:9999".parse().unwrap()));
    let pgbouncer = &config.pgbouncers[0];
    assert_eq!(pgbouncer.console, PgbouncerConsole::Unix { dir: "/run/pgbouncer".into(), port: 6432 });
    assert_eq!((pgbouncer.pause_ms, pgbouncer.on_stuck), (1000, OnStuck::Kill));
}

#[test]
fn the_examples_of_the_package_are_valid() {
    let config = NodeConfig::parse(Path::new("mesh.toml"), include_str!("../../../deploy/config/mesh.toml"));
    let config = config.unwrap_or_else(|e| panic!("{e}"));
    let spec: mesh_proto::spec::GroupSpec =
        toml::from_str(include_str!("../../../deploy/config/orders.toml")).unwrap_or_else(|e| panic!("{e}"));
    let members: Vec<_> = config
        .mesh
        .voters
        .iter()
        .map(|voter| mesh_proto::command::MemberRecord {
            id: voter.id,
            agent: voter.agent.clone(),
            site: voter.site.clone(),
            address: voter.address.to_string(),
            voter: true,
        })
        .collect();
    assert_eq!(mesh_failover::policy::check(&spec, &members), []);
    // The two files speak of the same hosts.
    let own = &config.instances[0];
    let named = spec.instances.iter().find(|instance| instance.name == own.name).unwrap();
    assert_eq!((&named.agent, named.guard), (&config.agent.name, own.guard_listen));
    assert_eq!((named.address.port(), &spec.group), (own.port, &own.group));
    // What stands there as a comment is right as well, and the two files use the same names.
    let config = NodeConfig::parse(
        Path::new("mesh.toml"),
        &with_comments(include_str!("../../../deploy/config/mesh.toml")),
    );
    let config = config.unwrap_or_else(|e| panic!("{e}"));
    let text = with_comments(include_str!("../../../deploy/config/orders.toml"));
    let mut full: mesh_proto::spec::GroupSpec = toml::from_str(&text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.services.len(), config.hooks.len()), (2, 1));
    assert!(full.hooks.iter().any(|hook| hook.name == config.hooks[0].name));
    assert!(full.fencers.iter().any(|fencer| fencer.name == config.fencers[0].name));
    // The example shows the half of one site; the other one's stands in that site's part.
    full.services[1].after.retain(|name| name.as_str() != "scheduler-east");
    assert_eq!(mesh_failover::policy::check(&full, &members), []);
    let mesh_proto::spec::RouteTarget::Haproxy(haproxy) = &spec.routes[0].target else {
        panic!("the first route of the example is no HAProxy backend")
    };
    assert_eq!(haproxy.backend, config.haproxies[0].backend);
}

/// The text with its commented tables of services, hooks and Redis uncommented.
fn with_comments(text: &str) -> String {
    let mut inside = false;
    let lines = text.lines().map(|line| {
        inside = match line {
            "# [[service]]" | "# [[hook]]" | "# [[fencer]]" | "# [[redis]]" | "# [redis_probe]"
            | "# [timing]" => true,
            line if line.starts_with("# ") => inside,
            _ => false,
        };
        if inside { line.strip_prefix("# ").unwrap_or(line) } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn services_and_hooks_are_checked_like_the_rest() {
    let with = |more: &str| format!("{GOOD}{more}\n");
    let unit = "[[service]]\nname = \"api\"\nunit = \"api.service\"";
    let commands = "[[service]]\nname = \"worker\"\nstart = [\"/bin/true\", \"-x\"]\nstop = [\"/bin/true\"]";
    let hook = "[[hook]]\nname = \"page\"\nprogram = \"/bin/true\"";
    let config = NodeConfig::parse(Path::new("x"), &with(&[unit, commands, hook].join("\n"))).unwrap();
    assert_eq!((config.services.len(), config.hooks.len()), (2, 1));
    for (text, what_has) in [
        (unit.replace("api.service", "--now"), "is no name of a systemd unit"),
        (format!("{unit}\nstart = [\"/bin/true\"]"), "not both"),
        ("[[service]]\nname = \"api\"".to_owned(), "neither a unit nor commands"),
        (commands.replace("\"/bin/true\", ", "\"true\", "), "not an absolute path"),
        (commands.replace("[\"/bin/true\"]", "[]"), "no program"),
        (hook.replace("/bin/true", "true"), "not an absolute path"),
        (format!("{unit}\n{}", hook.replace("page", "api")), "stands twice"),
        (format!("{hook}\nshell = true"), "unknown field `shell`"),
    ] {
        let found = problems(&with(&text));
        assert!(found.iter().any(|p| p.what.contains(what_has)), "{text}: {found:#?}");
    }
}

#[test]
fn each_mistake_names_its_line() {
    for (from, to, line_has, what_has) in [
        ("[probe]\nuser", "[probe]\nuzer", "uzer", "unknown field `uzer`"),
        ("\"/var/lib/mesh\"", "\"var/lib/mesh\"", "var/lib/mesh", "not an absolute path"),
        ("id = 2", "id = 1", "id = 1", "both have id 1"),
        ("agent = \"dr-1\"", "agent = \"east-1\"", "east-1", "named twice"),
        ("10.0.0.2:7400", "10.0.0.1:7400", "10.0.0.1:7400", "same address"),
        ("10.0.0.2:7400", "dr.example:7400", "dr.example", "socket address"),
        ("site = \"east\"\ndata_dir", "site = \"dr\"\ndata_dir", "site = \"dr\"", "[[mesh.voter]] says"),
        ("10.0.0.1:7401", "10.0.0.1:7400", "guard_listen", "already used"),
        ("10.0.0.1:7480", "10.0.0.1:5432", "http", "belongs to instance"),
        ("/var/lib/mesh-guard/pg-east", "/srv/pg/data/guard", "state_dir", "inside the data directory"),
        ("name = \"pg-east\"", "name = \"PG\"", "PG", "lower-case"),
        ("tcp:127.0.0.1:9999", "tcp:localhost", "socket", "no admin socket"),
        ("port = 5432", "port = 70000", "70000", "invalid value"),
        ("[tls]", "[tls", "[tls", ""),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let found = problems(&GOOD.replacen(from, to, 1));
        let hit = found.iter().find(|p| p.text.contains(line_has) && p.what.contains(what_has));
        assert!(hit.is_some_and(|p| p.line > 1 && !p.next.is_empty()), "{from} -> {to}: {found:#?}");
    }
}

#[test]
fn all_problems_are_shown_at_once_in_the_order_of_the_file() {
    let text = GOOD.replace("\"/run/mesh/mesh.sock\"", "\"mesh.sock\"").replace("id = 3", "id = 2");
    let error = NodeConfig::parse(Path::new("/etc/mesh/mesh.toml"), &text).unwrap_err().to_string();
    let (voter, socket) = (error.find("both have id 2").unwrap(), error.find("mesh.sock is not").unwrap());
    assert!(voter < socket, "{error}");
    assert!(error.contains("/etc/mesh/mesh.toml:15:6: voters dr-1 and witness-1"), "{error}");
    assert!(error.contains("  15 | id = 2\n            ^\n  -> "), "{error}");
}

#[test]
fn kept_evidence_has_a_policy_and_one_that_keeps_nothing_is_refused() {
    let config = NodeConfig::parse(Path::new("x"), GOOD).unwrap();
    assert_eq!((config.keep.days, config.keep.max_bytes), (30, 20 << 30));
    let parse = |text: &str| NodeConfig::parse(Path::new("x"), &format!("{GOOD}[keep]\n{text}\n"));
    let keep = parse("days = 90").unwrap().keep;
    assert_eq!((keep.days, keep.max_bytes), (90, 20 << 30));
    for (text, says) in [
        ("days = 0", "0 days: a rejoin's evidence would be gone"),
        ("days = 40000", "40000 days"),
        ("max_bytes = 0", "0 bytes: of two rejoins"),
        ("max_bytes = -1", "invalid value"),
        ("hours = 3", "unknown field"),
    ] {
        let found = problems(&format!("{GOOD}[keep]\n{text}\n"));
        assert!(found.iter().any(|p| p.what.contains(says) && !p.next.is_empty()), "{text}: {found:?}");
    }
}

#[test]
fn an_agent_that_is_no_voter_needs_a_number_of_its_own() {
    let text = GOOD.replace("name = \"east-1\"", "name = \"east-2\"");
    assert!(problems(&text)[0].what.contains("has no id"));
    let text = text.replace("[agent]\n", "[agent]\nid = 3\n");
    assert!(problems(&text)[0].what.contains("belongs to voter witness-1"));
}

#[test]
fn secrets_that_everybody_may_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, "x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let text = GOOD
        .replace("/etc/mesh/ca.crt", &put("ca.crt", 0o644))
        .replace("/etc/mesh/agent.crt", &put("agent.crt", 0o644))
        .replace("/etc/mesh/agent.key", &put("agent.key", 0o644))
        .replace("/etc/mesh/tsig.key", &put("tsig.key", 0o644));
    let file = dir.path().join("mesh.toml");
    std::fs::write(&file, &text).unwrap();
    let error = NodeConfig::load(&file, Reader::Agent).unwrap_err().to_string();
    assert!(error.contains("chmod o= ") && error.contains("key = "), "{error}");
    assert!(error.contains("secret_file = "), "{error}");
    put("agent.key", 0o600);
    let tsig = put("tsig.key", 0o640);
    let error = NodeConfig::load(&file, Reader::Agent).unwrap_err().to_string();
    assert!(error.contains("tsig.key holds no base64 secret"), "{error}");
    std::fs::write(&tsig, "c2VjcmV0LXNlY3JldA==\n").unwrap();
    NodeConfig::load(&file, Reader::Agent).unwrap();
    NodeConfig::load(&file, Reader::CommandLine).unwrap();
    // A program that others may change would make them the agent.
    let hook = put("hook", 0o775);
    std::fs::write(&file, format!("{text}[[hook]]\nname = \"page\"\nprogram = \"{hook}\"\n")).unwrap();
    let error = NodeConfig::load(&file, Reader::Agent).unwrap_err().to_string();
    assert!(error.contains("may be changed by others"), "{error}");
    put("hook", 0o644);
    let error = NodeConfig::load(&file, Reader::Agent).unwrap_err().to_string();
    assert!(error.contains("cannot be executed"), "{error}");
    put("hook", 0o755);
    NodeConfig::load(&file, Reader::Agent).unwrap();
    std::fs::write(&file, &text).unwrap();
    let instance = InstanceName::new("pg-east").unwrap();
    let error = NodeConfig::load(&file, Reader::Guard(&instance)).unwrap_err().to_string();
    assert!(error.contains("cannot read /etc/mesh/guard-pg-east.crt"), "{error}");
}

#[test]
fn roles_are_given_to_users_and_groups() {
    let text = format!("{GOOD}[access]\nview = [\"group:ops\"]\nforce = [\"user:ada\", \"group:dba\"]\n");
    let access = NodeConfig::parse(Path::new("mesh.toml"), &text).unwrap().access.unwrap();
    assert_eq!(access.view, [Principal::Group("ops".into())]);
    assert_eq!(access.force, [Principal::User("ada".into()), Principal::Group("dba".into())]);
    assert_eq!((access.operate.len(), access.admin.len()), (0, 0));
    for (bad, said) in [
        ("view = [\"ops\"]", "write user:NAME or group:NAME"),
        ("view = [\"group:\"]", "write user:NAME or group:NAME"),
        ("root = [\"user:ada\"]", "unknown field `root`"),
    ] {
        let found = problems(&format!("{GOOD}[access]\n{bad}\n"));
        assert!(found[0].what.contains(said) || found[0].next.contains(said), "{found:?}");
    }
}

#[test]
fn a_list_of_revoked_certificates_that_is_named_must_be_there() {
    let text = GOOD.replace("[tls]\n", "[tls]\ncrl = \"crl.pem\"\n");
    assert!(problems(&text)[0].what.contains("crl.pem is not an absolute path"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mesh.toml");
    std::fs::write(&file, GOOD.replace("[tls]\n", "[tls]\ncrl = \"/nowhere/crl.pem\"\n")).unwrap();
    for reader in [Reader::Agent, Reader::Guard(&InstanceName::new("pg-east").unwrap())] {
        let error = NodeConfig::load(&file, reader).unwrap_err().to_string();
        assert!(error.contains("cannot read /nowhere/crl.pem") && error.contains("mesh ca crl"), "{error}");
    }
}

const REDIS: &str = r#"
[redis_probe]
user = "mesh-observer"
password_file = "/etc/mesh/redis-observer"
[[redis]]
name = "redis-east"
group = "cache"
data_dir = "/var/lib/redis"
port = 6379
password_file = "/etc/mesh/redis"
guard_listen = "10.0.0.1:7402"
state_dir = "/var/lib/mesh-guard/redis-east"
log_file = "/var/log/mesh/redis-east.log"
cert = "/etc/mesh/guard-redis-east.crt"
key = "/etc/mesh/guard-redis-east.key"
"#;

#[test]
fn the_example_of_a_group_of_redis_is_one() {
    let text = with_comments(include_str!("../../../deploy/config/cache.toml"));
    let spec: mesh_proto::spec::GroupSpec = toml::from_str(&text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spec.engine, mesh_proto::spec::Engine::Redis);
    let config = with_comments(include_str!("../../../deploy/config/mesh.toml"));
    let config = NodeConfig::parse(Path::new("mesh.toml"), &config).unwrap_or_else(|e| panic!("{e}"));
    let voter = |voter: &VoterSection| mesh_proto::command::MemberRecord {
        id: voter.id,
        agent: voter.agent.clone(),
        site: voter.site.clone(),
        address: voter.address.to_string(),
        voter: true,
    };
    let members: Vec<_> = config.mesh.voters.iter().map(voter).collect();
    assert_eq!(mesh_failover::policy::check(&spec, &members), []);
    // The two files speak of the same hosts.
    let own = &config.redis[0];
    let named = spec.instances.iter().find(|instance| instance.name == own.name).unwrap();
    assert_eq!((named.guard, named.address.port()), (own.guard_listen, own.port));
    assert!(config.redis_probe.is_some() && own.tls.is_some());
}

#[test]
fn a_redis_stands_beside_postgres_and_shares_nothing_with_it() {
    let config = NodeConfig::parse(Path::new("x"), &format!("{GOOD}{REDIS}")).unwrap();
    let redis = config.instance(&InstanceName::new("redis-east").unwrap()).unwrap();
    assert_eq!((redis.table(), redis.listen().to_string()), ("redis", "10.0.0.1".to_owned()));
    assert_eq!(config.redis[0].user, "mesh");
    assert_eq!(config.guarded().count(), 2);
    let same = REDIS.replace("\"redis-east\"\ngroup", "\"pg-east\"\ngroup").replace("6379", "0");
    let found = problems(&format!("{GOOD}{same}"));
    assert!(found.iter().any(|p| p.what.contains("name pg-east already belongs")), "{found:?}");
    assert!(found.iter().any(|p| p.what.contains("port 0")), "{found:?}");
    let relative = REDIS.replace("/var/lib/redis", "redis");
    assert!(problems(&format!("{GOOD}{relative}"))[0].what.contains("not an absolute path"));
}
