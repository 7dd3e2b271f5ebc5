//! What must hold in a node-local file beyond its grammar: relations between values, and the files that it names.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Guarded, NodeConfig, Reader};

/// A step on the way to a value in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// Into a table.
    Key(&'static str),
    /// Into an array.
    Index(usize),
}

impl From<&'static str> for At {
    fn from(key: &'static str) -> Self {
        Self::Key(key)
    }
}
impl From<usize> for At {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

macro_rules! at {
    ($($step:expr),+) => { vec![$(At::from($step)),+] };
}
pub(super) use at;

mod redis;

mod aws;

/// Something wrong with the value at a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) at: Vec<At>,
    pub(super) what: String,
    pub(super) next: String,
}

pub(super) fn finding(at: Vec<At>, what: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { at, what: what.into(), next: next.into() }
}

/// Checks the relations between values.
pub(super) fn values(config: &NodeConfig) -> Vec<Finding> {
    let mut found = Vec::new();
    voters(config, &mut found);
    agent(config, &mut found);
    for (path, at) in paths(config) {
        if !path.is_absolute() {
            found.push(finding(
                at,
                format!("{} is not an absolute path", path.display()),
                "write the whole path, beginning with /",
            ));
        }
    }
    listeners(config, &mut found);
    instances(config, &mut found);
    zones(config, &mut found);
    pgbouncers(config, &mut found);
    super::errands::values(config, &mut found);
    super::keep::values(config, &mut found);
    aws::values(config, &mut found);
    found
}

fn voters(config: &NodeConfig, found: &mut Vec<Finding>) {
    let voters = &config.mesh.voters;
    if !matches!(voters.len(), 1 | 3 | 5 | 7) {
        found.push(finding(
            at!["mesh", "voter"],
            format!("{} voters: an even number bears no more losses than one less, and above 7 each write waits for too many", voters.len()),
            "name 3, 5 or 7 voters (1 only to try things out)",
        ));
    }
    for (index, voter) in voters.iter().enumerate() {
        let here = |field| at!["mesh", "voter", index, field];
        for earlier in &voters[..index] {
            if earlier.id == voter.id {
                found.push(finding(
                    here("id"),
                    format!("voters {} and {} both have id {}", earlier.agent, voter.agent, voter.id),
                    "give each voter a number of its own, the same in every agent's file",
                ));
            }
            if earlier.agent == voter.agent {
                found.push(finding(
                    here("agent"),
                    format!("agent {} is named twice", voter.agent),
                    "name each voter once",
                ));
            }
            if earlier.address == voter.address {
                found.push(finding(
                    here("address"),
                    format!("voters {} and {} have the same address", earlier.agent, voter.agent),
                    "give the address at which this very agent listens",
                ));
            }
        }
    }
}

fn agent(config: &NodeConfig, found: &mut Vec<Finding>) {
    let agent = &config.agent;
    match config.mesh.voters.iter().find(|voter| voter.agent == agent.name) {
        Some(voter) => {
            if voter.site != agent.site {
                found.push(finding(
                    at!["agent", "site"],
                    format!(
                        "agent {} stands at {}, but [[mesh.voter]] says {}",
                        agent.name, agent.site, voter.site
                    ),
                    "make both the same",
                ));
            }
            // Who was left behind by a recovery of the mesh joins again under another number than it was founded with.
            let founded = config.mesh.recovery == 0;
            if founded && agent.id.is_some_and(|id| id != voter.id) {
                found.push(finding(
                    at!["agent", "id"],
                    format!("agent {} has another id in [[mesh.voter]]: {}", agent.name, voter.id),
                    "make both the same, or leave it out here",
                ));
            }
            if voter.address.port() != agent.listen.port() {
                found.push(finding(
                    at!["agent", "listen"],
                    format!(
                        "listens on port {}, but [[mesh.voter]] tells the others {}",
                        agent.listen.port(),
                        voter.address
                    ),
                    "make both ports the same",
                ));
            }
        }
        None => match agent.id {
            None => found.push(finding(
                at!["agent"],
                format!("agent {} is no founding voter and has no id", agent.name),
                "add `id = N` with a number that no other agent ever had",
            )),
            Some(id) => {
                if let Some(voter) = config.mesh.voters.iter().find(|voter| voter.id == id) {
                    found.push(finding(
                        at!["agent", "id"],
                        format!("id {id} belongs to voter {}", voter.agent),
                        "choose a number that no other agent ever had",
                    ));
                }
            }
        },
    }
    // sun_path has 108 bytes, the last of them a NUL (unix(7)).
    if agent.socket.as_os_str().len() > 107 {
        found.push(finding(
            at!["agent", "socket"],
            "the path is longer than the 107 bytes a Unix socket may have",
            "choose a shorter path",
        ));
    }
}

fn paths(config: &NodeConfig) -> Vec<(&Path, Vec<At>)> {
    let mut paths: Vec<(&Path, Vec<At>)> = vec![
        (&config.agent.data_dir, at!["agent", "data_dir"]),
        (&config.agent.socket, at!["agent", "socket"]),
        (&config.tls.ca, at!["tls", "ca"]),
        (&config.tls.cert, at!["tls", "cert"]),
        (&config.tls.key, at!["tls", "key"]),
    ];
    paths.extend(config.tls.crl.as_deref().map(|path| (path, at!["tls", "crl"])));
    if let Some(file) = config.probe.as_ref().and_then(|probe| probe.password_file.as_deref()) {
        paths.push((file, at!["probe", "password_file"]));
    }
    for (index, zone) in config.zones.iter().enumerate() {
        paths.push((&zone.secret_file, at!["dns", index, "secret_file"]));
    }
    for (index, zone) in config.hosted_zones.iter().enumerate() {
        let here = || at!["route53", index, "credentials_file"];
        paths.extend(zone.credentials_file.as_deref().map(|file| (file, here())));
    }
    for (index, group) in config.target_groups.iter().enumerate() {
        let here = || at!["elbv2", index, "credentials_file"];
        paths.extend(group.credentials_file.as_deref().map(|file| (file, here())));
    }
    for (index, haproxy) in config.haproxies.iter().enumerate() {
        paths.extend(haproxy.state_file.as_deref().map(|file| (file, at!["haproxy", index, "state_file"])));
    }
    for (index, pgbouncer) in config.pgbouncers.iter().enumerate() {
        let here = |field| at!["pgbouncer", index, field];
        paths.push((pgbouncer.file.as_path(), here("file")));
        paths.extend(pgbouncer.password_file.as_deref().map(|file| (file, here("password_file"))));
    }
    for (index, instance) in config.instances.iter().enumerate() {
        let here = |field| at!["instance", index, field];
        paths.extend([
            (instance.data_dir.as_path(), here("data_dir")),
            (instance.bin_dir.as_path(), here("bin_dir")),
            (instance.socket_dir.as_path(), here("socket_dir")),
            (instance.state_dir.as_path(), here("state_dir")),
            (instance.log_file.as_path(), here("log_file")),
            (instance.cert.as_path(), here("cert")),
            (instance.key.as_path(), here("key")),
        ]);
        let optional = [
            ("replication_passfile", &instance.replication_passfile),
            ("config_file", &instance.config_file),
            ("hba_file", &instance.hba_file),
            ("keep_dir", &instance.keep_dir),
            ("cgroup", &instance.cgroup),
            ("watchdog", &instance.watchdog),
        ];
        paths.extend(optional.into_iter().filter_map(|(field, path)| Some((path.as_deref()?, here(field)))));
    }
    redis::paths(config, &mut paths);
    paths
}

/// Two of our own listeners on one address would make the second process fail at its start.
fn listeners(config: &NodeConfig, found: &mut Vec<Finding>) {
    let mut listeners = vec![(config.agent.listen, at!["agent", "listen"])];
    listeners.extend(config.agent.http.map(|http| (http, at!["agent", "http"])));
    for (table, index, instance) in numbered(config) {
        listeners.push((instance.guard_listen(), at![table, index, "guard_listen"]));
    }
    for (index, (address, at)) in listeners.iter().enumerate() {
        if let Some((other, _)) = listeners[..index].iter().find(|(other, _)| overlap(*other, *address)) {
            found.push(finding(
                at.clone(),
                format!("{address} is already used by {other} in this file"),
                "choose another port",
            ));
        }
        if let Some(instance) = config.guarded().find(|instance| instance.port() == address.port()) {
            found.push(finding(
                at.clone(),
                format!("port {} belongs to instance {}", address.port(), instance.name()),
                "choose another port",
            ));
        }
    }
}

/// Every instance, with where it stands in the file.
fn numbered(config: &NodeConfig) -> impl Iterator<Item = (&'static str, usize, Guarded<'_>)> {
    let postgres = config.instances.iter().enumerate();
    let redis = config.redis.iter().enumerate();
    postgres
        .map(|(index, section)| ("instance", index, Guarded::Postgres(section)))
        .chain(redis.map(|(index, section)| ("redis", index, Guarded::Redis(section))))
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn instances(config: &NodeConfig, found: &mut Vec<Finding>) {
    let mut seen: BTreeMap<(&str, String), &mesh_proto::InstanceName> = BTreeMap::new();
    for (table, index, instance) in numbered(config) {
        let unique = [
            ("name", instance.name().to_string()),
            ("port", instance.port().to_string()),
            ("data_dir", instance.data_dir().display().to_string()),
            ("state_dir", instance.state_dir().display().to_string()),
            ("log_file", instance.log_file().display().to_string()),
        ];
        for (field, value) in unique {
            if let Some(other) = seen.insert((field, value.clone()), instance.name()) {
                found.push(finding(
                    at![table, index, field],
                    format!("{field} {value} already belongs to instance {other}"),
                    format!("give each instance a {field} of its own"),
                ));
            }
        }
        if instance.listen().is_unspecified() {
            found.push(finding(
                at![table, index, "guard_listen"],
                "the instance's own address is not known: neither `listen` nor guard_listen names one",
                "add `listen = \"IP\"` with the literal address under which standbys reach the instance",
            ));
        }
        if instance.port() == 0 {
            found.push(finding(at![table, index, "port"], "port 0 is no port", "name the TCP port"));
        }
        for (field, path) in [("state_dir", instance.state_dir()), ("log_file", instance.log_file())] {
            if path.starts_with(instance.data_dir()) {
                found.push(finding(
                    at![table, index, field],
                    format!("{} lies inside the data directory", path.display()),
                    "put it elsewhere, best on another disk: a rebuild replaces the data directory, and fencing must not wait for its disk",
                ));
            }
        }
    }
    for (index, haproxy) in config.haproxies.iter().enumerate() {
        let earlier = &config.haproxies[..index];
        if earlier.iter().any(|other| other.backend == haproxy.backend && other.socket == haproxy.socket) {
            found.push(finding(
                at!["haproxy", index, "backend"],
                format!("backend {} is named twice with the same socket", haproxy.backend),
                "name each once",
            ));
        }
    }
}

fn zones(config: &NodeConfig, found: &mut Vec<Finding>) {
    for (index, zone) in config.zones.iter().enumerate() {
        if config.zones[..index].iter().any(|other| other.zone == zone.zone) {
            let what = format!("zone {} has two sections", zone.zone);
            found.push(finding(at!["dns", index, "zone"], what, "name each zone once"));
        }
        if zone.server.port() == 0 || zone.server.ip().is_unspecified() {
            let what = format!("{} is no server", zone.server);
            found.push(finding(
                at!["dns", index, "server"],
                what,
                "name its IP and port, such as 10.0.0.53:53",
            ));
        }
    }
}

fn pgbouncers(config: &NodeConfig, found: &mut Vec<Finding>) {
    for (index, pgbouncer) in config.pgbouncers.iter().enumerate() {
        let here = |field| at!["pgbouncer", index, field];
        let earlier = &config.pgbouncers[..index];
        for (field, twice) in [
            ("database", earlier.iter().any(|other| other.database == pgbouncer.database)),
            ("file", earlier.iter().any(|other| other.file == pgbouncer.file)),
        ] {
            if twice {
                found.push(finding(
                    here(field),
                    format!("two [[pgbouncer]] sections have the same {field}"),
                    format!("give each a {field} of its own"),
                ));
            }
        }
        let key = |word: &str| word.split('=').next().map(|key| key.trim().to_ascii_lowercase());
        let words: Vec<_> = pgbouncer.entry.split_whitespace().filter_map(key).collect();
        if words.iter().any(|word| word == "host" || word == "port") || pgbouncer.entry.contains(['\n', '\r'])
        {
            found.push(finding(
                here("entry"),
                "host and port are what mesh changes, and the entry is one line",
                "leave them out; write the rest, such as `dbname=orders pool_size=20`",
            ));
        }
    }
}

/// Checks the files that the reading process will open.
pub(super) fn files(config: &NodeConfig, reader: Reader<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    match reader {
        Reader::CommandLine => {}
        Reader::Agent => {
            public(&config.tls.ca, at!["tls", "ca"], &mut found);
            revoked(config, &mut found);
            public(&config.tls.cert, at!["tls", "cert"], &mut found);
            secret(&config.tls.key, 0o007, at!["tls", "key"], &mut found);
            if let Some(file) = config.probe.as_ref().and_then(|probe| probe.password_file.as_ref()) {
                secret(file, 0o077, at!["probe", "password_file"], &mut found);
            }
            if let Some(probe) = &config.redis_probe {
                if let Some(file) = &probe.password_file {
                    secret(file, 0o077, at!["redis_probe", "password_file"], &mut found);
                }
                redis::tls(probe.tls.as_ref(), at!["redis_probe", "tls"], &mut found);
            }
            for (index, zone) in config.zones.iter().enumerate() {
                dns_key(zone, at!["dns", index, "secret_file"], &mut found);
            }
            for (index, pgbouncer) in config.pgbouncers.iter().enumerate() {
                if let Some(file) = &pgbouncer.password_file {
                    secret(file, 0o077, at!["pgbouncer", index, "password_file"], &mut found);
                }
            }
            super::errands::files(config, &mut found);
            aws::files(config, &mut found);
        }
        Reader::Guard(name) => {
            public(&config.tls.ca, at!["tls", "ca"], &mut found);
            revoked(config, &mut found);
            guard_files(config, name, &mut found);
        }
    }
    found
}

fn guard_files(config: &NodeConfig, name: &mesh_proto::InstanceName, found: &mut Vec<Finding>) {
    let Some((table, index, instance)) = numbered(config).find(|(_, _, instance)| instance.name() == name)
    else {
        found.push(finding(
            at!["instance"],
            format!("there is no [[instance]] and no [[redis]] named {name}"),
            "name an instance of this file, or add it",
        ));
        return;
    };
    public(instance.cert(), at![table, index, "cert"], found);
    secret(instance.key(), 0o007, at![table, index, "key"], found);
    match instance {
        Guarded::Postgres(section) => postgres_files(section, index, found),
        Guarded::Redis(section) => redis::files(section, index, found),
    }
}

fn postgres_files(instance: &super::InstanceSection, index: usize, found: &mut Vec<Finding>) {
    if let Some(file) = &instance.replication_passfile {
        secret(file, 0o077, at!["instance", index, "replication_passfile"], found);
    }
    for program in ["postgres", "pg_ctl", "pg_controldata", "pg_rewind", "pg_basebackup"] {
        if !instance.bin_dir.join(program).is_file() {
            found.push(finding(
                at!["instance", index, "bin_dir"],
                format!("there is no {program} in {}", instance.bin_dir.display()),
                "name the directory of the server programs, such as /usr/lib/postgresql/15/bin, and install the server package",
            ));
            break;
        }
    }
}

/// The secret is read again whenever it is used; here only so that a wrong one is noticed before it is needed.
fn dns_key(zone: &super::DnsSection, at: Vec<At>, found: &mut Vec<Finding>) {
    let before = found.len();
    secret(&zone.secret_file, 0o007, at.clone(), found);
    if found.len() > before {
        return;
    }
    if let Err(error) = crate::agent::routes::dns_key(zone) {
        found.push(finding(
            at,
            error.to_string(),
            "write what `tsig-keygen` prints into it, and name the key so",
        ));
    }
}

fn public(path: &Path, at: Vec<At>, found: &mut Vec<Finding>) {
    if let Err(error) = std::fs::File::open(path) {
        found.push(finding(
            at,
            format!("cannot read {}: {error}", path.display()),
            "create it (`mesh ca init`, `mesh ca issue`), or correct the path or its permissions",
        ));
    }
}

fn revoked(config: &NodeConfig, found: &mut Vec<Finding>) {
    let Some(path) = &config.tls.crl else { return };
    if let Err(error) = std::fs::File::open(path) {
        found.push(finding(
            at!["tls", "crl"],
            format!("cannot read {}: {error}", path.display()),
            "make it with `mesh ca crl` and copy it there; leaving `crl` out accepts revoked certificates again",
        ));
    }
}

/// `others`: the permissions that nobody else may have. libpq refuses a `.pgpass` file that even a group may read; a key may
/// be shared with a group.
fn secret(path: &Path, others: u32, at: Vec<At>, found: &mut Vec<Finding>) {
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Err(error) => found.push(finding(
            at,
            format!("cannot read {}: {error}", path.display()),
            "create it, or correct the path or its permissions",
        )),
        Ok(metadata) if metadata.permissions().mode() & others != 0 => {
            let (who, whom) = if others == 0o077 { ("others", "go") } else { ("everybody", "o") };
            found.push(finding(
                at,
                format!("{} holds a secret and {who} on this host may use it", path.display()),
                format!("run: chmod {whom}= {}", path.display()),
            ));
        }
        Ok(_) => {}
    }
}
