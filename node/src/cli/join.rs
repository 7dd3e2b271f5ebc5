//! `mesh join`: a new host shows its token to the authority and gets its certificate.
//!
//! The key is made here and stays here. It is written first and the certificate last, each as a whole: a host that stopped half way
//! has a key and no certificate, and the same command goes on with that key. It never overwrites a key, a certificate or another
//! authority, and sends nothing before the other side has shown that it is the authority of the token.

mod files;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use mesh_proto::codec::{self, Kind};
use mesh_proto::command::MemberRecord;
use mesh_proto::join::{Issued, JoinAnswer, JoinAsk, TokenRefusal};
use mesh_proto::rpc::Envelope;
use mesh_proto::rpc::authority_client::AuthorityClient;
use rcgen::{CertificateParams, KeyPair};
use tonic::{Code, Request, Status};

use super::args::{Common, JoinArgs};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::{remote, version};
use crate::ca::desk::hexadecimal;
use crate::ca::token::{LONGEST, Token};
use crate::config::{NodeConfig, Reader};
use crate::tls::Identity;
use crate::tls::first::{self, FirstError};
use files::{Places, given_to};

/// The variable that a token may stand in instead of a file.
pub const VARIABLE: &str = "MESH_TOKEN";
/// How long the authority may take: it has the audit of the mesh say it first, perhaps after an election.
const ANSWER: Duration = Duration::from_secs(35);

/// Runs it.
#[must_use]
pub fn run(common: &Common, args: &JoinArgs) -> ExitCode {
    let output = Output::of_process(common.json);
    match join(&output, args) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

fn join(output: &Output, args: &JoinArgs) -> Result<(), Failure> {
    let token = token(args.token_file.as_deref())?;
    let config = config(&args.config)?;
    let places = Places::of(&token.identity, config.as_ref(), &args.config, args.out.as_deref())?;
    let owner = args.owner.as_deref().map(files::account).transpose()?;
    places.check_authority(token.fingerprint)?;
    let (key, resumed) = places.key()?;
    if resumed {
        output.progress(&format!("going on with the key in {}\n", places.key.display()))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Error, format!("cannot start: {error}"), ""))?;
    let issued = runtime.block_on(ask(&args.authority, &token, &key)).map_err(|failure| {
        // The key stays for the next try; nothing else was written.
        Failure {
            next: format!(
                "{}\nthis host is as it was, but for a key in {}",
                failure.next,
                places.key.display()
            ),
            ..failure
        }
    })?;
    if let Some(config) = &config
        && config.mesh.id != issued.mesh
    {
        let what = format!(
            "the token is of mesh {}, and {} is of mesh {}",
            issued.mesh,
            args.config.display(),
            config.mesh.id
        );
        return Err(Failure::new(
            Exit::Invalid,
            what,
            "correct `id` in [mesh], or take a token of that mesh; no certificate was written",
        ));
    }
    let written = places.write(&issued, &key, &token)?;
    if let Some(owner) = &owner {
        given_to(owner, written.iter().chain([&places.key]))?;
    }
    shown(output, args, &token.identity, &places, &issued, config.is_some())
}

fn token(file: Option<&Path>) -> Result<Token, Failure> {
    let unreadable = |what: String| {
        Failure::new(
            Exit::Invalid,
            what,
            "write the token into a file of your own (chmod 600), or give it on standard input: --token-file -",
        )
    };
    let mut text = String::new();
    // Somebody's disk image is no token.
    let limit = u64::try_from(LONGEST * 2).unwrap_or(u64::MAX);
    match file {
        Some(path) if path == Path::new("-") => {
            std::io::stdin()
                .lock()
                .take(limit)
                .read_to_string(&mut text)
                .map_err(|error| unreadable(format!("cannot read standard input: {error}")))?;
        }
        Some(path) => {
            remote::exposed(path)?;
            let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text));
            read.map_err(|error| unreadable(format!("cannot read {}: {error}", path.display())))?;
        }
        None => {
            text = std::env::var(VARIABLE)
                .map_err(|_| unreadable(format!("no token is given: neither --token-file nor {VARIABLE}")))?;
        }
    }
    Token::parse(&text).map_err(|error| {
        Failure::new(
            Exit::Invalid,
            error.to_string(),
            "nothing was sent; make another with `mesh ca token` if it is lost",
        )
    })
}

fn config(path: &Path) -> Result<Option<NodeConfig>, Failure> {
    if !path.exists() {
        return Ok(None);
    }
    NodeConfig::load(path, Reader::CommandLine).map(Some).map_err(|error| {
        Failure::new(
            Exit::Invalid,
            super::with_causes(&error),
            "correct it, or name another with --config; nothing was sent",
        )
    })
}

async fn ask(address: &str, token: &Token, key: &KeyPair) -> Result<Issued, Failure> {
    let build = version::build();
    let bug = |error: String| Failure::new(Exit::Error, error, "please report this as a bug");
    let request =
        CertificateParams::default().serialize_request(key).map_err(|error| bug(error.to_string()))?;
    let ask = JoinAsk {
        protocol: u32::from(build.protocol),
        agreement: build.agreement,
        edition: crate::agent::edition::stated(),
        build: version::line().to_owned(),
        identity: token.identity.dns_name(),
        secret: token.secret_text(),
        request: hexadecimal(request.der()),
    };
    let body = codec::encode(Kind::Message, &ask).map_err(|error| bug(error.to_string()))?;
    let channel = first::contact(address, token.fingerprint).await.map_err(|error| unreached(&error))?;
    let mut client = AuthorityClient::new(channel);
    let mut request = Request::new(Envelope { mesh: String::new(), body });
    request.set_timeout(ANSWER);
    let late = |why: String| {
        Failure::new(
            Exit::Unknown,
            format!("the authority at {address} did not answer: {why}"),
            "run the same command again, with the same token: it goes on where this stopped",
        )
    };
    let reply = tokio::time::timeout(ANSWER, client.join(request))
        .await
        .map_err(|_| late(format!("not within {} s", ANSWER.as_secs())))?
        .map_err(|status| turned_down(&status).unwrap_or_else(|| late(super::with_causes(&status))))?;
    match codec::decode(Kind::Message, &reply.get_ref().body) {
        Ok(JoinAnswer::Issued(issued)) => Ok(*issued),
        Ok(JoinAnswer::Refused(why)) => Err(refused(&why)),
        Err(error) => Err(other_version(&super::with_causes(&error))),
    }
}

/// The authority could not read what was sent.
fn turned_down(status: &Status) -> Option<Failure> {
    let understood =
        !matches!(status.code(), Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied);
    (!understood).then(|| other_version(status.message()))
}

fn other_version(why: &str) -> Failure {
    Failure::new(
        Exit::NotSupported,
        format!("the authority speaks another version of mesh than this host: {why}"),
        "install the same release on both (`mesh --version`); the token is as good as before",
    )
}

fn unreached(error: &FirstError) -> Failure {
    let (exit, next) = match error {
        FirstError::NotReached { .. } => (
            Exit::NotReachable,
            "have `mesh ca serve` run on the machine with the authority, and name its address; nothing was sent",
        ),
        FirstError::Other { .. } => (
            Exit::Denied,
            "check the address, and that the token is of this very mesh; the token was not sent, and is as good as before",
        ),
        FirstError::NotNow { .. } => (Exit::Invalid, "set this host's clock right; the token was not sent"),
        FirstError::Broken { .. } => (Exit::Error, "the token was not sent"),
    };
    Failure::new(exit, super::with_causes(error), next)
}

fn refused(why: &TokenRefusal) -> Failure {
    let (exit, next) = match why {
        TokenRefusal::Unknown => (
            Exit::Denied,
            "make another on the machine with the authority: mesh ca token --dir DIR --agent NAME",
        ),
        TokenRefusal::Used => (
            Exit::Conflict,
            "if that was not this host, somebody else has the token: look at `mesh audit show` and revoke that certificate \
             (mesh ca revoke), then make another token",
        ),
        TokenRefusal::Expired => (
            Exit::Denied,
            "make another on the machine with the authority: mesh ca token --dir DIR --agent NAME",
        ),
        TokenRefusal::OtherName { .. } => (Exit::Denied, "take the token of this very host"),
        TokenRefusal::Protocol { .. } | TokenRefusal::Edition { .. } => (
            Exit::NotSupported,
            "install the release that the mesh runs (`mesh --version` on one of its hosts), then run this again; the token is as \
             good as before",
        ),
        TokenRefusal::Request => (Exit::Error, "please report this as a bug"),
        TokenRefusal::NotRecorded { .. } => (
            Exit::NotReachable,
            "when the mesh has a leader and all agents are new enough, run this again; the token is as good as before",
        ),
        TokenRefusal::Failed => {
            (Exit::Error, "look at what `mesh ca serve` prints there, then run this again")
        }
    };
    Failure::new(exit, format!("the token was refused: {why}"), next)
}

fn shown(
    output: &Output,
    args: &JoinArgs,
    identity: &Identity,
    places: &Places,
    issued: &Issued,
    configured: bool,
) -> Result<(), Failure> {
    let value = serde_json::json!({
        "mesh": issued.mesh, "identity": identity.to_string(), "cert": places.cert, "key": places.key, "ca": places.ca,
        "members": issued.members.iter().map(|member| &member.agent).collect::<Vec<_>>(),
    });
    output.show(&value, |_, _| {
        let mut text = format!(
            "joined      {identity} of mesh {}\nkey         {}\ncertificate {}\nauthority   {}\n",
            issued.mesh,
            places.key.display(),
            places.cert.display(),
            places.ca.display()
        );
        if let Some(list) = places.list.as_ref().filter(|_| issued.list.is_some()) {
            text.push_str(&format!("revoked     {}\n", list.display()));
        }
        if !issued.members.is_empty() {
            text.push_str(&format!(
                "members     {} ({})\n",
                places.members.display(),
                names(&issued.members)
            ));
        }
        if args.owner.is_none() && rustix::process::geteuid().is_root() {
            text.push_str(
                "owner       root: give the key to the account that runs it, or use --owner next time\n",
            );
        }
        text.push_str(&next(args, identity, issued, configured));
        text
    })
}

fn names(members: &[MemberRecord]) -> String {
    members.iter().map(|member| member.agent.as_str()).collect::<Vec<_>>().join(", ")
}

fn next(args: &JoinArgs, identity: &Identity, issued: &Issued, configured: bool) -> String {
    let mut steps = Vec::new();
    if !configured {
        steps.push(format!(
            "write {}, such as with `mesh agent template`; [[mesh.voter]] is in members.toml",
            args.config.display()
        ));
    }
    match identity {
        Identity::Guard(instance) => steps.push(format!("systemctl start mesh-guard@{instance}")),
        Identity::Agent(name) => {
            steps.push("mesh agent init, once, and systemctl start mesh-agent".to_owned());
            steps.push(if issued.members.is_empty() {
                "mesh form, once, on one host, when all voters are up".to_owned()
            } else {
                format!("on a member: mesh node add {name} --id N --site SITE --address HOST:PORT")
            });
        }
        // Nobody joins as one of these.
        Identity::Operator(..) | Identity::Authority => {}
    }
    let lines: Vec<String> =
        steps.iter().enumerate().map(|(n, step)| format!("{}. {step}\n", n + 1)).collect();
    format!("next: {}", lines.join("      "))
}

/// Where a new host's files go when its configuration does not say.
fn beside(config: &Path) -> PathBuf {
    config.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

#[cfg(test)]
mod tests;
