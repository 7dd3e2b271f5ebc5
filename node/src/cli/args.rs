//! The words of the command line and what they mean. Only shapes: nothing here talks to an agent or prints.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mesh_proto::access::Role;
use mesh_proto::{
    AgentName, ErrandName, GroupName, InstanceName, MeshId, Millis, NodeId, OperatorName, ProposalId, RunId,
    SiteName,
};

use super::exit;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/mesh/mesh.sock";
/// Where the agent's own file lies unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/mesh/mesh.toml";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "mesh",
    version = super::version::line(),
    about = "Fails PostgreSQL over between sites, and says why",
    after_help = "At 3 a.m.:  mesh status            what is going on, and what to do next\n            \
                  mesh why               why it was done, or why it was not\n            \
                  mesh plan --site dr    what a failover would do; changes nothing\n            \
                  mesh failover --site dr\n\n\
                  Exit codes: mesh help exit-codes",
    disable_help_subcommand = false,
    subcommand_required = true,
    max_term_width = 100,
    propagate_version = false
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub common: Common,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Unix socket of the agent on this host
    #[arg(long, global = true, help_heading = "Everywhere", env = "MESH_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH", hide_env_values = true)]
    pub socket: PathBuf,
    /// Print JSON on standard output; progress and errors stay on standard error
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Ask this agent instead, over the network, with the certificate in --identity
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        env = "MESH_AT",
        value_name = "NAME@HOST:PORT",
        hide_env_values = true
    )]
    pub at: Option<super::remote::At>,
    /// Your own certificate, as `mesh ca operator` wrote it, for --at
    #[arg(
        long,
        global = true,
        help_heading = "Everywhere",
        env = "MESH_IDENTITY",
        value_name = "DIR",
        hide_env_values = true
    )]
    pub identity: Option<PathBuf>,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What an operator asks of the agent on this host.
    #[command(flatten)]
    Ask(Operation),
    /// Run the agent of this host (a systemd unit does), or create its store
    Agent(AgentArgs),
    /// Run the guard of one instance (a systemd unit does)
    Guard(GuardArgs),
    /// Started by the guard around a server process.
    #[command(hide = true)]
    Leash(LeashArgs),
    /// Started by the guard for each disk.
    #[command(hide = true)]
    DiskProbe(DiskProbeArgs),
    /// What of this host would make a failover fail, or a promise weaker; needs no mesh, changes nothing
    Doctor(super::doctor::DoctorArgs),
    /// Before somebody else starts a guarded server (a drop-in of its unit): it comes up as a standby
    Gate(super::gate::GateArgs),
    /// Begin the mesh anew on a survivor, after a majority of voters is gone for good; the agent must be stopped
    #[command(name = "quorum-recover")]
    QuorumRecover(RecoverArgs),
    /// Make the keys that agents, guards and people know each other by
    #[command(subcommand)]
    Ca(CaCommand),
    /// Get this host's certificate from the authority, with a token
    Join(JoinArgs),
    /// Write manual pages and completions, for packages
    #[command(hide = true)]
    Papers(PapersArgs),
    /// What the exit codes mean
    #[command(name = "exit-codes", hide = true, long_about = exit::HELP, help_template = "{about}\n")]
    ExitCodes,
}

/// What an operator asks of the agent on this host.
#[derive(Debug, Subcommand)]
#[command(next_display_order = 0)]
pub enum Operation {
    /// How everything is, and what to do next
    Status(StatusArgs),
    /// Why the mesh did something, or did not
    Why(WhyArgs),
    /// What a failover would do; changes nothing
    Plan(TargetArgs),
    /// Change the primary: cleanly when it answers, by fencing it when it does not
    Failover(FailoverArgs),
    /// Change the primary cleanly; refused when it does not answer
    Switchover(SwitchoverArgs),
    /// Show a run, or follow it to its end
    Run(RunArgs),
    /// Begin a forced run that another person proposed, or show those that wait
    Approve(ApproveArgs),
    /// Take back a forced run that was proposed
    Withdraw(WithdrawArgs),
    /// Stop a run before its promotion is committed, or leave a stuck one
    Abort(RunReason),
    /// Try a stuck run again
    Retry(RunReason),
    /// Let a run go on without a service or hook that failed
    Skip(SkipArgs),
    /// Let an instance follow the primary now
    Rejoin(InstanceArgs),
    /// Freeze a group for maintenance: nothing is failed over, until it ends
    Pause(PauseArgs),
    /// End a pause
    Resume(GroupArgs),
    /// Acknowledge an automatic failover: ends its hold-down
    Ack(GroupArgs),
    /// Let commits of a zero-loss group go on without standbys, or have them wait again
    Degrade(DegradeArgs),
    /// Make an instance the first primary of its group
    Adopt(AdoptArgs),
    /// Create or change a group from its file
    Apply(ApplyArgs),
    /// Begin the mesh, once, from the voters named in the agent's file
    Form,
    /// Show and change the members of the mesh
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show, verify and export the record of everything
    #[command(subcommand)]
    Audit(AuditCommand),
}

/// `mesh quorum-recover`
///
/// Without --lost it only shows what this survivor knows.
#[derive(Debug, Clone, Args)]
pub struct RecoverArgs {
    /// The agent's own file; it must say which recovery this is, such as `recovery = 1` under [mesh]
    #[arg(long, short, env = "MESH_CONFIG", value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// A voter that is gone and will never run again as it was; once for each of the others
    #[arg(long, value_name = "AGENT")]
    pub lost: Vec<AgentName>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT", required_if_eq("yes", "true"))]
    pub reason: Option<String>,
    /// Do not ask before beginning
    #[arg(long, short, requires = "lost")]
    pub yes: bool,
    /// Do not wait for leases of the old mesh: only if every old primary is known to be off
    #[arg(long, requires = "lost")]
    pub unsafe_now: bool,
}

/// `mesh adopt`
#[derive(Debug, Clone, Args)]
pub struct AdoptArgs {
    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
    /// After a recovery of the mesh: go on although acknowledged writes may be lost; needs --reason
    #[arg(long, requires = "reason")]
    pub accept_loss: bool,
    /// Why this one, for the audit; after a recovery of the mesh
    #[arg(long, value_name = "TEXT", requires = "accept_loss")]
    pub reason: Option<String>,
}

/// `mesh papers`
#[derive(Debug, Clone, Args)]
pub struct PapersArgs {
    /// Such as /usr/share
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// `mesh status`
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Show it again and again until interrupted
    #[arg(long, short)]
    pub watch: bool,
    /// How often, with --watch
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = millis)]
    pub every: Millis,
    /// Also say in full why a promise is downgraded on a host (--json always does)
    #[arg(long)]
    pub notes: bool,
}

/// `mesh why`
#[derive(Debug, Clone, Args)]
pub struct WhyArgs {
    /// The group; may be left out when there is one
    #[arg(long, short)]
    pub group: Option<GroupName>,
}

/// A group and nothing more.
#[derive(Debug, Clone, Args)]
pub struct GroupArgs {
    /// The group; may be left out when there is one
    #[arg(long, short)]
    pub group: Option<GroupName>,
}

/// An instance, and its group where the name alone does not say.
#[derive(Debug, Clone, Args)]
pub struct InstanceArgs {
    /// The instance
    pub instance: InstanceName,
    /// The group; may be left out when the instance's name says it
    #[arg(long, short)]
    pub group: Option<GroupName>,
}

/// Where the primary shall be.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("target").required(true).multiple(true).args(["site", "instance"]))]
pub struct TargetArgs {
    /// The site the primary shall be at
    #[arg(long, short)]
    pub site: Option<SiteName>,
    /// The instance that shall be the primary
    #[arg(long, short)]
    pub instance: Option<InstanceName>,
    /// The group; may be left out when there is one
    #[arg(long, short)]
    pub group: Option<GroupName>,
    /// Every group whose primary stands elsewhere, all at the same time
    #[arg(long, requires = "site", conflicts_with_all = ["group", "instance"])]
    pub all: bool,
}

/// How a run is started and followed.
#[derive(Debug, Clone, Args)]
pub struct StartArgs {
    /// Only show the plan; changes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before starting
    #[arg(long, short)]
    pub yes: bool,
    /// Start it and return; `mesh run` follows it later
    #[arg(long)]
    pub detach: bool,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `mesh failover`
///
/// Forced, it may be left open where to: the way out of a run that is stuck is printed so, and must be pasted as it is.
#[derive(Debug, Clone, Args)]
#[command(mut_group("target", |group| group.required(false)))]
#[command(mut_arg("site", |site| site.required_unless_present_any(["instance", "force", "accept_loss"])))]
pub struct FailoverArgs {
    /// Where to.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Waive verdict, hold-down, lag limit and a required fencer (never the end of the old lease); needs --reason
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// In a zero-loss group: go on although acknowledged writes may be lost; needs --reason
    #[arg(long, requires = "reason")]
    pub accept_loss: bool,
    /// How.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `mesh switchover`
#[derive(Debug, Clone, Args)]
pub struct SwitchoverArgs {
    /// Where to.
    #[command(flatten)]
    pub target: TargetArgs,
    /// How.
    #[command(flatten)]
    pub start: StartArgs,
}

/// `mesh run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Which run, such as r42; the newest when left out
    pub run: Option<RunId>,
    /// Follow it to its end
    #[arg(long, short)]
    pub follow: bool,
}

/// `mesh approve`
#[derive(Debug, Clone, Args)]
pub struct ApproveArgs {
    /// Which, such as p42; those that wait are shown when left out
    pub proposal: Option<ProposalId>,
    /// Only show those that wait
    #[arg(long)]
    pub list: bool,
    /// Do not show its plan and ask before starting
    #[arg(long, short)]
    pub yes: bool,
    /// Start it and return; `mesh run` follows it later
    #[arg(long)]
    pub detach: bool,
}

/// `mesh withdraw`
#[derive(Debug, Clone, Args)]
pub struct WithdrawArgs {
    /// Which, such as p42
    pub proposal: ProposalId,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// A run and a reason.
#[derive(Debug, Clone, Args)]
pub struct RunReason {
    /// Which run, such as r42
    pub run: RunId,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `mesh skip`
#[derive(Debug, Clone, Args)]
pub struct SkipArgs {
    /// Which run, such as r42
    pub run: RunId,
    /// The service or hook, as the group's file names it
    pub name: ErrandName,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `mesh pause`
#[derive(Debug, Clone, Args)]
pub struct PauseArgs {
    /// The group; may be left out when there is one
    #[arg(long, short)]
    pub group: Option<GroupName>,
    /// For how long at most, such as 30m
    #[arg(long = "for", value_name = "TIME", value_parser = millis)]
    pub length: Millis,
    /// Why, for the audit and for whoever looks at status meanwhile
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `mesh degrade`
///
/// Meanwhile what is acknowledged stands on the primary alone: a failover is stuck until an operator accepts the loss. It
/// stays until it is ended with --end.
#[derive(Debug, Clone, Args)]
pub struct DegradeArgs {
    /// The group; may be left out when there is one
    #[arg(long, short)]
    pub group: Option<GroupName>,
    /// Have commits wait for standbys again
    #[arg(long)]
    pub end: bool,
    /// Why, for the audit and for whoever looks at status meanwhile
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// `mesh apply`
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// The group's file (TOML); `-` reads standard input
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Only validate it and say what would change
    #[arg(long)]
    pub dry_run: bool,
}

/// `mesh node`
#[derive(Debug, Clone, Subcommand)]
pub enum NodeCommand {
    /// Show the members
    List,
    /// Add a member
    Add(NodeAddArgs),
    /// Change who votes on leases: name all that shall (3, 5 or 7, each added with --voter before)
    Voters {
        /// Their names
        #[arg(required = true, value_name = "AGENT")]
        agents: Vec<AgentName>,
    },
    /// Remove a member
    Remove {
        /// Its name
        agent: AgentName,
    },
}

/// `mesh node add`
#[derive(Debug, Clone, Args)]
pub struct NodeAddArgs {
    /// Its name
    pub agent: AgentName,
    /// Its Raft number; never one that another disk has had
    #[arg(long, value_name = "NUMBER", value_parser = node_id)]
    pub id: NodeId,
    /// Its site
    #[arg(long, short)]
    pub site: SiteName,
    /// HOST:PORT of its RPC listener
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub address: String,
    /// Make it a voter once it has caught up
    #[arg(long)]
    pub voter: bool,
}

/// `mesh audit`
#[derive(Debug, Clone, Subcommand)]
pub enum AuditCommand {
    /// Show the newest records, or those from a number on
    Show {
        /// First record; the newest are shown when left out
        #[arg(long, value_name = "NUMBER")]
        from: Option<u64>,
        /// How many at most
        #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 30)]
        limit: u32,
        /// Only this group's
        #[arg(long, short)]
        group: Option<GroupName>,
        /// Only this run's
        #[arg(long)]
        run: Option<RunId>,
    },
    /// Check the chain of hashes here and compare it with every other agent's, or check an export
    Verify {
        /// An export to check instead: each record, and that the mesh has the same ones. Works without an agent too
        #[arg(long, short, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Compare every place that holds an epoch with the log, now: guards, databases, route gates, DNS markers, routes
    Live {
        /// Only this group's
        #[arg(long, short)]
        group: Option<GroupName>,
    },
    /// Write every record as a line of JSON
    Export {
        /// Where to; standard output when left out. An existing file is not overwritten
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// `mesh agent`
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentArgs {
    /// The agent's own file
    #[arg(long, short, env = "MESH_CONFIG", value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Instead of running.
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
}

/// `mesh agent …`
#[derive(Debug, Clone, Subcommand)]
pub enum AgentCommand {
    /// Create the store of a new agent, once, from its file
    Init(AgentInitArgs),
    /// Write a first configuration with comments, to be finished by hand
    Template(AgentTemplateArgs),
}

/// `mesh agent init`
#[derive(Debug, Clone, Args)]
pub struct AgentInitArgs {
    /// The agent's own file
    #[arg(long, short, env = "MESH_CONFIG", value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// `mesh agent template`
#[derive(Debug, Clone, Args)]
pub struct AgentTemplateArgs {
    /// Where to write it; an existing file is not overwritten
    #[arg(long, short, env = "MESH_CONFIG", value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Name of the mesh, the same on every host
    #[arg(long)]
    pub mesh: MeshId,
    /// Name of this agent
    #[arg(long)]
    pub name: AgentName,
    /// Site this host stands at
    #[arg(long, short)]
    pub site: SiteName,
    /// IP:PORT under which the other agents reach this one
    #[arg(long, value_name = "IP:PORT")]
    pub listen: SocketAddr,
}

/// `mesh guard`
#[derive(Debug, Clone, Args)]
pub struct GuardArgs {
    /// The agent's own file; the guard reads its instance there
    #[arg(long, short, env = "MESH_CONFIG", value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// The instance to guard
    #[arg(long, short)]
    pub instance: InstanceName,
}

/// `mesh leash`: what the guard passes is between it and the leash.
#[derive(Debug, Clone, Args)]
pub struct LeashArgs {
    /// Words of the guard
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

/// `mesh disk-probe`: started by the guard.
#[derive(Debug, Clone, Args)]
pub struct DiskProbeArgs {
    /// The guard's process number
    #[arg(long)]
    pub guard: i32,
    /// What to look at
    #[command(flatten)]
    pub probe: crate::guard::Probe,
}

/// `mesh ca`
#[derive(Debug, Clone, Subcommand)]
pub enum CaCommand {
    /// Make the mesh's certificate authority
    Init {
        /// Directory to keep it in; made with mode 0700, and never overwritten
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Name of the mesh
        #[arg(long)]
        mesh: MeshId,
    },
    /// Issue the key and certificate of an agent or a guard
    Issue(CaIssueArgs),
    /// Issue the key and certificate of a person, who asks agents from elsewhere
    Operator(CaOperatorArgs),
    /// Make a token with which a new host gets its certificate, once
    Token(CaTokenArgs),
    /// Give certificates to the hosts that have a token, while it runs
    Serve(CaServeArgs),
    /// Make the list of revoked certificates, or make it hold for longer
    Crl(CaListArgs),
    /// Add certificates to that list: who has them is refused everywhere once the list is on the hosts
    Revoke(CaRevokeArgs),
}

/// `mesh ca operator`
#[derive(Debug, Clone, Args)]
pub struct CaOperatorArgs {
    /// The person, as the audit shall name them
    pub name: OperatorName,
    /// What they may do: view, operate, force or admin, as in [access]; each includes those before it
    #[arg(long)]
    pub role: Role,
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Directory to write operator.crt and operator.key into, with ca.crt beside them. Nothing is overwritten
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// For how many days the certificate is valid
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
}

/// `mesh ca token`
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("joins").required(true).args(["agent", "guard"]))]
pub struct CaTokenArgs {
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// For this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<AgentName>,
    /// For the guard of this instance
    #[arg(long, value_name = "INSTANCE")]
    pub guard: Option<InstanceName>,
    /// For how long it may be used
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = token_length)]
    pub length: Millis,
}

/// `mesh ca serve`
#[derive(Debug, Clone, Args)]
pub struct CaServeArgs {
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Address and port of this machine that the new hosts reach
    #[arg(long, value_name = "IP:PORT")]
    pub listen: SocketAddr,
}

/// `mesh join`
///
/// The token is never an argument: others on this host see those.
#[derive(Debug, Clone, Args)]
pub struct JoinArgs {
    /// Where `mesh ca serve` listens
    #[arg(value_name = "HOST:PORT", value_parser = host_port)]
    pub authority: String,
    /// File with the token; `-` reads standard input. Left out, it stands in the variable MESH_TOKEN
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The host's own file, which says where key and certificate go; it need not be there yet
    #[arg(long, short, env = "MESH_CONFIG", value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Directory to write key, certificate and ca.crt into instead. Nothing is overwritten
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Account that the files are given to, such as mesh, or postgres for a guard
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
}

/// `mesh ca crl`
#[derive(Debug, Clone, Args)]
pub struct CaListArgs {
    /// Directory of the authority; the list is its crl.pem
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// For how many days the list holds: agents and guards do not start with one that is over
    #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

/// `mesh ca revoke`
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("whose").required(true).args(["agent", "guard", "operator", "cert", "number"]))]
pub struct CaRevokeArgs {
    /// The list.
    #[command(flatten)]
    pub list: CaListArgs,
    /// Every certificate that this agent was issued so far
    #[arg(long, value_name = "NAME")]
    pub agent: Option<AgentName>,
    /// Every certificate that the guard of this instance was issued so far
    #[arg(long, value_name = "INSTANCE")]
    pub guard: Option<InstanceName>,
    /// Every certificate that this person was issued so far
    #[arg(long, value_name = "NAME")]
    pub operator: Option<OperatorName>,
    /// The certificate in this file
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// The certificate with this number, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = hexadecimal)]
    pub number: Option<Number>,
}

/// The number of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number(pub Vec<u8>);

fn hexadecimal(text: &str) -> Result<Number, String> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    match bytes {
        Some(bytes)
            if digits.iter().all(u8::is_ascii_hexdigit)
                && digits.len().is_multiple_of(2)
                && !bytes.is_empty() =>
        {
            Ok(Number(bytes))
        }
        Some(_) | None => {
            Err("expected pairs of hexadecimal digits, as `openssl x509 -serial` prints them".to_owned())
        }
    }
}

/// `mesh ca issue`
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("who").required(true).args(["agent", "guard"]))]
pub struct CaIssueArgs {
    /// Directory of the authority
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Directory to write key and certificate into, with ca.crt beside them; the authority's own when left out. Nothing
    /// is overwritten
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// For this agent
    #[arg(long, value_name = "NAME")]
    pub agent: Option<AgentName>,
    /// For the guard of this instance
    #[arg(long, value_name = "INSTANCE")]
    pub guard: Option<InstanceName>,
    /// Also valid for this address; may be given several times
    #[arg(long = "address", value_name = "IP")]
    pub addresses: Vec<std::net::IpAddr>,
}

/// Reads a length of time: a number and `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// A sentence for the person who typed it.
pub fn millis(text: &str) -> Result<Millis, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("write a number and a unit: 500ms, 20s, 30m, 2h or 1d".to_owned()),
    };
    let number: u64 =
        number.parse().map_err(|_| "write a number and a unit: 500ms, 20s, 30m, 2h or 1d".to_owned())?;
    match number.checked_mul(factor) {
        None | Some(0) => Err("must be longer than nothing and shorter than for ever".to_owned()),
        Some(length) => Ok(Millis(length)),
    }
}

/// Longest time that a token may wait to be used.
const TOKEN_MAX: Millis = Millis(7 * 86_400_000);

fn token_length(text: &str) -> Result<Millis, String> {
    match millis(text)? {
        length if length <= TOKEN_MAX => Ok(length),
        _ => Err("a token waits at most 7d: make it when the host is there".to_owned()),
    }
}

fn node_id(text: &str) -> Result<NodeId, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number from 1 on".to_owned()),
        Ok(id) => Ok(NodeId(id)),
    }
}

/// Reads `HOST:PORT`.
///
/// # Errors
/// A sentence for the person who typed it.
pub fn host_port(text: &str) -> Result<String, String> {
    let wrong = || "must be HOST:PORT, such as 10.0.0.5:7400 or mesh-1.example:7400".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    match port.parse::<u16>() {
        Ok(port) if port > 0 && !host.is_empty() => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_surface_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(millis("30m"), Ok(Millis(1_800_000)));
        assert_eq!(millis("250ms"), Ok(Millis(250)));
        for bad in ["", "30", "m", "0s", "-1s", "1.5h", "99999999999999999999s", "18446744073709551615d"] {
            assert!(millis(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_must_be_said_is_asked_for() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        for good in [
            "mesh failover --site dr",
            "mesh failover --instance pg-dr --group orders --yes",
            "mesh failover -s dr --force --reason lost",
            "mesh failover -s dr --accept-loss --reason lost",
            "mesh failover --force --reason lost",
            "mesh failover --accept-loss --reason lost",
            "mesh plan --site dr --json",
            "mesh --socket /tmp/s status --watch",
            "mesh run",
            "mesh run r42 --follow",
            "mesh approve",
            "mesh approve --list",
            "mesh approve p42 --yes",
            "mesh withdraw p42 --reason x",
            "mesh pause --for 30m --reason upgrade",
            "mesh agent --config /tmp/a.toml",
            "mesh agent init --config /tmp/a.toml",
            "mesh agent template --mesh m --name a --site s --listen 127.0.0.1:1",
            "mesh guard --config /tmp/a.toml --instance pg-east",
            "mesh leash --some-flag of the guard",
            "mesh node add c --id 3 --site witness --address 127.0.0.1:7400 --voter",
            "mesh ca issue --dir /d --guard pg-east --out /o --address 10.0.0.1",
            "mesh ca crl --dir /d --days 30",
            "mesh ca revoke --dir /d --agent east-1",
            "mesh ca revoke --dir /d --cert /d/agent-east-1.crt",
            "mesh ca revoke --dir /d --number 0A:b1",
            "mesh ca revoke --dir /d --operator ada",
            "mesh ca operator ada --role force --dir /d --out /o --days 30",
            "mesh ca token --dir /d --agent north --for 30m",
            "mesh ca token --dir /d --guard pg-north",
            "mesh ca serve --dir /d --listen 10.0.0.9:7410",
            "mesh --at east-1@10.0.0.1:7400 --identity /i status",
            "mesh ca serve --dir /d --listen 10.0.0.9:7410 --at east-1@10.0.0.1:7400",
            "mesh join 10.0.0.9:7410",
            "mesh join --token-file - ca.example:7410 --out /o --owner mesh",
            "mesh audit export",
            "mesh quorum-recover",
            "mesh quorum-recover --lost east --lost witness --reason burnt --yes",
            "mesh adopt pg-dr",
            "mesh adopt pg-dr --accept-loss --reason left",
        ] {
            parse(good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        for bad in [
            "mesh failover",
            "mesh failover --force",
            "mesh switchover --reason x",
            "mesh failover --site dr --force",
            "mesh failover --site dr --accept-loss",
            "mesh quorum-recover --yes",
            "mesh quorum-recover --lost east --yes",
            "mesh quorum-recover --unsafe-now",
            "mesh adopt pg-dr --accept-loss",
            "mesh failover --site Dr",
            "mesh abort r4",
            "mesh withdraw p4",
            "mesh approve r4",
            "mesh pause --for 30m",
            "mesh pause --reason x",
            "mesh run forty",
            "mesh node add c --id 0 --site s --address x:1",
            "mesh ca issue --dir /d --out /o",
            "mesh ca crl --dir /d --days 0",
            "mesh ca revoke --dir /d",
            "mesh ca revoke --dir /d --agent east-1 --guard pg-east",
            "mesh ca operator ada --dir /d --out /o",
            "mesh ca operator ada --role root --dir /d --out /o",
            "mesh ca operator Ada --role view --dir /d --out /o",
            "mesh ca token --dir /d",
            "mesh ca token --dir /d --agent north --for 8d",
            "mesh ca token --dir /d --agent north --guard pg-north",
            "mesh ca serve --dir /d",
            "mesh join",
            "mesh join --token mesh-token.AAAA 10.0.0.9:7410",
            "mesh --at 10.0.0.1:7400 status",
            "mesh ca revoke --dir /d --number 0A:b",
            "mesh ca revoke --dir /d --number zz",
            "mesh apply",
        ] {
            assert!(parse(bad).is_err(), "{bad} must be refused");
        }
    }

    /// Every command that a runbook page prints can be given as it stands there, once its capitals are names.
    #[test]
    fn every_command_of_the_runbooks_is_one() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/runbooks");
        let mut tried = 0;
        for page in std::fs::read_dir(folder).unwrap() {
            let path = page.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            for quoted in text.split('`').skip(1).step_by(2).filter(|quoted| quoted.starts_with("mesh ")) {
                // A command's bare name stands for the command, not for what is typed.
                if quoted.split_whitespace().count() <= 2
                    || quoted.split_whitespace().count() == 3 && bare(quoted)
                {
                    continue;
                }
                let words = shell_words(quoted);
                let parsed = Cli::try_parse_from(words.iter().map(|word| meant(word)));
                // `mesh --version` parses to its answer.
                let answers = |error: &clap::Error| error.kind() == clap::error::ErrorKind::DisplayVersion;
                if let Some(error) = parsed.err().filter(|error| !answers(error)) {
                    panic!("{}: `{quoted}`: {error}", path.display());
                }
                tried += 1;
            }
        }
        assert!(tried > 20, "only {tried} commands were tried");
    }

    /// `mesh node voters`, `mesh ca init`: a command of two words, named in a sentence.
    fn bare(quoted: &str) -> bool {
        ["mesh node ", "mesh ca ", "mesh audit ", "mesh agent "].iter().any(|two| quoted.starts_with(two))
    }

    /// Words, of which one in quotes is one.
    fn shell_words(text: &str) -> Vec<String> {
        let outside = |(n, part): (usize, &str)| match n % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
            _ => vec![part.to_owned()],
        };
        text.split('"').enumerate().flat_map(outside).collect()
    }

    /// What stands for a name, as one.
    fn meant(word: &str) -> String {
        match word {
            "N" | "NUMBER" => "7".to_owned(),
            "RUN" => "r7".to_owned(),
            "HOST:PORT" | "IP:PORT" => "127.0.0.1:7400".to_owned(),
            "AGENT@HOST:PORT" => "east-1@127.0.0.1:7400".to_owned(),
            "ROLE" => "operate".to_owned(),
            "IP" => "10.0.0.9".to_owned(),
            "HEX" => "0A:b1".to_owned(),
            _ if word.chars().all(|c| c.is_ascii_uppercase() || c == '-') => word.to_lowercase(),
            _ => word.to_owned(),
        }
    }

    #[test]
    fn fuzz_words() {
        mesh_fuzz::fuzz!("words", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(Millis(length)) = millis(&text) {
                assert!(length > 0 && text.starts_with(|c: char| c.is_ascii_digit()), "{text:?} is {length}");
                assert_eq!(millis(&format!("{length}ms")), Ok(Millis(length)));
            }
            if let Ok(id) = node_id(&text) {
                assert_eq!(node_id(&id.to_string()), Ok(id));
            }
            if let Ok(kept) = host_port(&text) {
                assert_eq!(kept, text);
            }
        });
    }
}
