//! `mesh ca operator`, `mesh ca token` and `mesh ca serve`: what the authority does for people and for new hosts.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use mesh_proto::join::TokenTried;
use mesh_proto::operator::{Answer, Ask};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::args::{CaOperatorArgs, CaServeArgs, CaTokenArgs, Common};
use super::client::{Client, Remote};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::remote::At;
use super::version;
use crate::ca::desk::Desk;
use crate::ca::serve::{Event, Standing, now, serve};
use crate::ca::{self, Made, Pair, TokenError};
use crate::config::recoveries;
use crate::tls::{Dialer, Identity};

/// For how long the authority stays after the last token was used: a host whose answer was lost asks again.
const LINGER: Duration = Duration::from_secs(30);
/// How often it looks whether a token waits.
const LOOK: Duration = Duration::from_secs(1);

/// `mesh ca operator`
///
/// # Errors
/// [`ca::CaError`].
pub fn operator(args: &CaOperatorArgs) -> Result<(serde_json::Value, String), ca::CaError> {
    let CaOperatorArgs { name, role, dir, out, days } = args;
    let Pair { cert, key } = ca::operator(dir, name, *role, *days, out)?;
    let text = format!(
        "certificate {}\nkey         {}\nrole        {role}, for {days} days; in the audit: {name}\n\
         next: give the directory to {name}, who asks any agent from anywhere with it:\n      \
         mesh status --identity {} --at AGENT@HOST:PORT\n",
        cert.display(),
        key.display(),
        out.display()
    );
    Ok((serde_json::json!({ "cert": cert, "key": key, "role": role, "days": days }), text))
}

/// `mesh ca token`
///
/// # Errors
/// A [`Failure`]: no token was made.
pub fn token(args: &CaTokenArgs) -> Result<(serde_json::Value, String), Failure> {
    let identity = match (&args.agent, &args.guard) {
        (Some(agent), _) => Identity::Agent(agent.clone()),
        (None, Some(instance)) => Identity::Guard(instance.clone()),
        (None, None) => {
            return Err(Failure::new(Exit::Invalid, "for whom?", "add --agent NAME or --guard INSTANCE"));
        }
    };
    let expires = now().saturating_add(args.length.0.div_ceil(1000));
    let made = ca::make_token(&args.dir, &identity, expires);
    let Made { token, authority } = made.map_err(|error| failed(&error))?;
    let text = token.text();
    let until = i64::try_from(expires).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    let until = until.map(|at| at.strftime("%F %T UTC").to_string()).unwrap_or_default();
    let said = format!(
        "{text}\n\n\
         for         {identity} of {authority}\n\
         until       {until}; used once\n\
         next: 1. here, while hosts join: mesh ca serve --dir {} --listen IP:PORT --at AGENT@HOST:PORT\n      \
               2. there, with the line above on standard input: mesh join --token-file - HOST:PORT\n",
        args.dir.display()
    );
    Ok((serde_json::json!({ "token": text, "identity": identity.to_string(), "expires": expires }), said))
}

fn failed(error: &TokenError) -> Failure {
    let (exit, next) = match error {
        TokenError::Authority(ca::CaError::NoAuthority { .. }) => (Exit::NotFound, ""),
        TokenError::Authority(ca::CaError::Name(_)) => (Exit::Invalid, "give the host another name"),
        TokenError::Authority(_) | TokenError::Damaged { .. } => (Exit::Error, ""),
        TokenError::File { .. } => {
            (Exit::Error, "run this as the user that the authority's directory belongs to")
        }
    };
    Failure::new(exit, super::with_causes(error), next)
}

/// `mesh ca serve`
#[must_use]
pub fn run(common: &Common, args: &CaServeArgs) -> ExitCode {
    let output = Output::of_process(common.json);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(serving(&output, common, args)),
        Err(error) => Err(Failure::new(Exit::Error, format!("cannot start: {error}"), "")),
    };
    match ended {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.exit.into()
        }
    }
}

async fn serving(output: &Output, common: &Common, args: &CaServeArgs) -> Result<(), Failure> {
    let unusable = |error: ca::CaError| failed(&TokenError::Authority(error));
    let standing = Standing::of(&args.dir).map_err(unusable)?;
    let desk = || Desk::new(&args.dir, version::build());
    let watching = desk();
    let waiting = || watching.waits_for_anybody(now()).map_err(|error| failed(&error));
    let _only = only_one(&args.dir)?;
    let mesh = match &common.at {
        Some(at) => Some(known(&standing, at).await?),
        None => None,
    };
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        let what = format!("cannot listen on {}: {error}", args.listen);
        Failure::new(
            Exit::Error,
            what,
            "give an address of this machine that the new hosts reach, and a free port",
        )
    })?;
    let address = listener.local_addr().unwrap_or(args.listen);
    output.progress(&begun(&standing, address, &mesh, waiting()?))?;
    let (events, mut seen) = mpsc::channel(64);
    let (stop, mut stopping) = watch::channel(false);
    let until = async move {
        let _ended = stopping.wait_for(|stop| *stop).await;
    };
    let served = serve(&standing, desk(), mesh, listener, events, until);
    tokio::pin!(served);
    let mut idle_since = tokio::time::Instant::now();
    loop {
        tokio::select! {
            ended = &mut served => return ended.map_err(unusable),
            stopped = tokio::signal::ctrl_c() => {
                stopped.map_err(|error| Failure::new(Exit::Error, format!("cannot wait for an interrupt: {error}"), ""))?;
                break;
            }
            Some(event) = seen.recv() => {
                idle_since = tokio::time::Instant::now();
                shown(output, &event)?;
            }
            () = tokio::time::sleep(LOOK) => {
                if waiting()? > 0 {
                    idle_since = tokio::time::Instant::now();
                } else if idle_since.elapsed() >= LINGER {
                    output.progress("no token waits any more; the authority is served no longer\n")?;
                    break;
                }
            }
        }
    }
    stop.send_replace(true);
    // Whoever is being answered gets the answer.
    let _ended = tokio::time::timeout(Duration::from_secs(5), served).await;
    Ok(())
}

/// One process decides about a token.
fn only_one(dir: &std::path::Path) -> Result<std::fs::File, Failure> {
    let path = dir.join("ca.crt");
    let file = std::fs::File::open(&path)
        .map_err(|error| Failure::new(Exit::Error, format!("cannot open {}: {error}", path.display()), ""))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        let what = format!("the authority in {} is served already", dir.display());
        Failure::new(
            Exit::Conflict,
            what,
            "new tokens are taken by the one that runs; stop it first to serve elsewhere",
        )
    })?;
    Ok(file)
}

/// The mesh, by an agent that answers and belongs to it.
async fn known(standing: &Standing, at: &At) -> Result<Client, Failure> {
    let unusable = |error: ca::CaError| failed(&TokenError::Authority(error));
    let dialer = Dialer::new(standing.material().map_err(unusable)?);
    let client = Client::remote(Remote { agent: at.agent.clone(), address: at.address.clone(), dialer });
    let answer = client.ask(Ask::Status).await.map_err(|error| error.failure(false))?;
    let Answer::Status(view) = answer else {
        return Err(Failure::new(
            Exit::Error,
            format!("the agent at {} answers another question", client.place()),
            "",
        ));
    };
    match view.mesh {
        Some(mesh) if recoveries(standing.mesh(), mesh.as_str()).is_some() => Ok(client),
        Some(mesh) => Err(Failure::new(
            Exit::Conflict,
            format!(
                "the agent at {} belongs to mesh {mesh}, and the authority is of mesh {}",
                client.place(),
                standing.mesh()
            ),
            "name an agent of this mesh with --at",
        )),
        None => Err(Failure::new(
            Exit::Conflict,
            format!("the mesh of the agent at {} is not formed yet", client.place()),
            "leave --at out until it is: there is no audit yet that could have it",
        )),
    }
}

fn begun(standing: &Standing, address: SocketAddr, mesh: &Option<Client>, waiting: usize) -> String {
    let recorded = match mesh {
        Some(client) => format!("the audit of the mesh, by {}", client.place()),
        None => "beside each token only: without --at the audit of the mesh has nothing of it".to_owned(),
    };
    format!(
        "authority   mesh {}, listening on {address}\n\
         tokens      {waiting} waiting; it ends by itself {} s after the last one is used or over\n\
         recorded    {recorded}\n\
         next: on the new host: mesh join --token-file FILE {address}\n",
        standing.mesh(),
        LINGER.as_secs()
    )
}

fn shown(output: &Output, event: &Event) -> Result<(), Failure> {
    let Event { tried, unrecorded } = event;
    if output.json {
        return output.value(&serde_json::json!({ "tried": tried, "unrecorded": unrecorded }));
    }
    let TokenTried { identity: _, from: _, number, refused } = tried;
    let word = if refused.is_some() {
        "refused"
    } else if number.is_some() {
        "issued"
    } else {
        "again"
    };
    let missing = unrecorded.as_ref().map(|why| format!("            not in the audit of the mesh: {why}\n"));
    output.text(&format!("{word:<12}{tried}\n{}", missing.unwrap_or_default()))
}
