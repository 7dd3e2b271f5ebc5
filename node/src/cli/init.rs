//! `mesh agent template`: writes a first configuration, with a comment at everything that must be finished by hand. It never
//! overwrites a file.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use super::args::AgentTemplateArgs;
use super::exit::{Exit, Failure};

/// Writes the file.
///
/// # Errors
/// A [`Failure`]; an existing file is left as it is.
pub fn run(args: &AgentTemplateArgs) -> Result<String, Failure> {
    let path = args.config.display();
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(&args.config)
        .and_then(|mut file| file.write_all(template(args).as_bytes()).and_then(|()| file.sync_all()));
    match written {
        Ok(()) => Ok(format!(
            "{path} is written\n\
             next: 1. name the other voters and this host's instances in it\n      \
                   2. make this agent's key: mesh ca issue --dir DIR --agent {} --out /etc/mesh\n      \
                   3. create its store, once: mesh agent init\n      \
                   4. start it: systemctl start mesh-agent\n",
            args.name
        )),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::new(
            Exit::Conflict,
            format!("{path} exists already, and is left as it is"),
            "move it away first, or name another file with --config",
        )),
        Err(error) => Err(Failure::new(
            Exit::Error,
            format!("cannot write {path}: {error}"),
            "make its directory, and run this as a user that may write there",
        )),
    }
}

/// What a file may say about AWS, where this mesh was built with it.
const AWS: &str = r#"
# The same in Route 53.
# [[route53]]
# zone = "aws.example.com."
# hosted_zone = "Z0123456789ABC"
# credentials_file = "/etc/mesh/aws"   # as `aws configure` writes it; left out: environment, or the role of this host

# A target group of an AWS load balancer that leads clients to the primary.
# [[elbv2]]
# target_group = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/orders/0123456789abcdef"
# credentials_file = "/etc/mesh/aws"
"#;

fn template(args: &AgentTemplateArgs) -> String {
    let AgentTemplateArgs { config: _, mesh, name, site, listen } = args;
    format!(
        r#"# The agent of this host: who it is, where it stands, which servers it owns. What the whole mesh must agree on
# (groups, their instances and routes) is not here: mesh apply -f GROUP.toml

[mesh]
id = "{mesh}"
# recovery = 1     # after `mesh quorum-recover`, on every host that goes on: which recovery of the mesh it belongs to
network = "lan"    # "wan" when a round trip between two voters may take 10 to 90 ms; the same in every agent's file

# The founding voters, the same in every agent's file: 3, 5 or 7 of them, over three or more sites.
[[mesh.voter]]
id = 1
agent = "{name}"
site = "{site}"
address = "{listen}"

# [[mesh.voter]]
# id = 2
# agent = "dr-1"
# site = "dr"
# address = "10.2.0.10:7400"
#
# [[mesh.voter]]
# id = 3
# agent = "witness-1"
# site = "witness"
# address = "10.3.0.10:7400"

[agent]
name = "{name}"
site = "{site}"
data_dir = "/var/lib/mesh/{name}"
listen = "{listen}"
socket = "{socket}"
# Role endpoints for load balancers: /primary, /replica?lag=10MB, /health
# http = "127.0.0.1:7480"

# Written by: mesh ca issue --dir DIR --agent {name} --out /etc/mesh
[tls]
ca = "/etc/mesh/ca.crt"
cert = "/etc/mesh/agent-{name}.crt"
key = "/etc/mesh/agent-{name}.key"
# Who has a certificate that is revoked is refused. Made by: mesh ca crl, mesh ca revoke
# crl = "/etc/mesh/crl.pem"

# Which users of this host may do what, of those that may open the socket (its group). Each role includes those before it;
# root and the agent's own user may everything. Left out, so may whoever opens it.
# [access]
# view = ["group:mesh"]        # status, why, plan, audit
# operate = ["group:dba"]      # failover, switchover, abort, pause, ack
# force = ["user:ada"]         # --force, --accept-loss
# admin = ["user:ada"]         # apply, adopt, form, node

# How this agent logs in where it observes instances.
# [probe]
# user = "mesh_probe"
# password_file = "/etc/mesh/probe.pgpass"

# A PostgreSQL server on this host, with a guard of its own (mesh guard --instance pg-{site}).
# [[instance]]
# name = "pg-{site}"
# group = "orders"
# data_dir = "/var/lib/postgresql/15/main"
# config_file = "/etc/postgresql/15/main/postgresql.conf"
# hba_file = "/etc/postgresql/15/main/pg_hba.conf"
# bin_dir = "/usr/lib/postgresql/15/bin"
# port = 5432
# socket_dir = "/var/run/postgresql"
# replication_user = "replicator"
# guard_listen = "{ip}:7401"
# state_dir = "/run/mesh-guard/pg-{site}"    # made by its unit, in memory; not on the disk of the data
# log_file = "/var/log/mesh-guard/pg-{site}.log"
# cert = "/etc/mesh/guard-pg-{site}.crt"
# key = "/etc/mesh/guard-pg-{site}.key"

# An HAProxy that leads clients to the primary; its servers carry the names of the instances.
# [[haproxy]]
# backend = "orders"
# socket = "/run/haproxy/admin.sock"
# state_file = "/var/lib/haproxy/mesh/orders.state"   # the backend's server-state-file-name: a reload stays led

# A PgBouncer database that leads clients to the primary. `file` is one that pgbouncer.ini includes, and mesh owns it.
# [[pgbouncer]]
# database = "orders"
# console = "tcp:127.0.0.1:6432"
# user = "mesh"                                       # in admin_users
# password_file = "/etc/mesh/pgbouncer.pass"          # in .pgpass form, mode 0600
# file = "/etc/pgbouncer/mesh/orders.ini"
# entry = "dbname=orders pool_size=20"                # what the entry says besides host and port
# pause_ms = 1000                                     # how long transactions may take to end …
# on_stuck = "kill"                                   # … and whether they are dropped then, or the run stops: "refuse"

# A zone whose names lead clients to the primary, and the TSIG key that may change them: tsig-keygen mesh > mesh.key
# [[dns]]
# zone = "example.com."
# server = "{ip}:53"                   # its primary server, as IP:port
# key_name = "mesh"
# secret_file = "/etc/mesh/mesh.key"
{aws}"#,
        socket = super::args::DEFAULT_SOCKET,
        ip = listen.ip(),
        aws = if cfg!(feature = "aws") { AWS } else { "" },
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{AgentCommand, Cli, Command};
    use crate::config::NodeConfig;

    fn args(config: &Path) -> AgentTemplateArgs {
        let line =
            "mesh agent template --mesh shop --name east-1 --site east --listen 10.1.0.10:7400 --config";
        let words = line.split(' ').map(Into::into).chain([config.as_os_str().to_owned()]);
        let Command::Agent(agent) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        let Some(AgentCommand::Template(template)) = agent.command else { panic!() };
        template
    }

    #[test]
    fn what_is_written_is_accepted_with_and_without_its_comments() {
        let path = Path::new("/etc/mesh/mesh.toml");
        let text = template(&args(path));
        let config = NodeConfig::parse(path, &text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.agent.name.as_str(), "east-1");
        // Every commented example is valid too, when the mark is taken away.
        let examples = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(code) if code.starts_with('[') || code.split(' ').nth(1) == Some("=") => code,
            Some(_) | None => line,
        });
        let text: String = examples.map(|line| format!("{line}\n")).collect();
        let config = NodeConfig::parse(path, &text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((config.mesh.voters.len(), config.instances.len(), config.haproxies.len()), (3, 1, 1));
        assert!(config.probe.is_some() && config.agent.http.is_some());
    }

    #[test]
    fn a_file_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.toml");
        assert!(run(&args(&path)).unwrap().contains("mesh ca issue"));
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(run(&args(&path)).unwrap_err().exit, Exit::Conflict);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(run(&args(&dir.path().join("no/such"))).unwrap_err().exit, Exit::Error);
    }
}
