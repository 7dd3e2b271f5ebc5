//! The commit quorum at the server: what `synchronous_standby_names` shall say, set so that it is surely in force, and the
//! marker after it. One writer for gate and quorum. It never goes back to an older version.

use std::time::{Duration, Instant};

use mesh_adapters::postgres::{self as pg, Clients, GateError, HbaError, Instance, SyncSetting};
use mesh_failover::guard::CommitGate;
use mesh_proto::quorum::{QuorumConfig, QuorumStage};

use super::hands::chain;
use super::server::Server;

/// How long setting or lifting the commit gate may take.
pub(super) const GATE_WITHIN: Duration = Duration::from_secs(1);
/// How long changing the quorum may take: two settings, each seen in force.
const CHANGE_WITHIN: Duration = Duration::from_secs(2);
/// How long one marker is waited for before the next one is written.
const MARKER_WITHIN: Duration = Duration::from_secs(10);
/// Pause after a marker that could not be written.
const MARKER_AGAIN: Duration = Duration::from_millis(250);

/// Whom commits wait for while too few standbys are named: no standby has this name. Not the gate's, which is lifted.
const NOBODY: &str = "mesh_waits_for_a_standby";

/// What the setting is to say. A quorum that too few standbys are named for lets nothing go, as the gate does.
pub(super) fn setting(config: Option<&QuorumConfig>, gated: bool) -> SyncSetting {
    let Some(config) = config else { return SyncSetting { version: 1, gated, quorum: None } };
    let nobody = || pg::Quorum { k: 1, names: vec![NOBODY.to_owned()] };
    let quorum = (config.k > 0).then(|| counted(config).unwrap_or_else(nobody));
    SyncSetting { version: config.version, gated, quorum: quorum.filter(|_| !gated) }
}

fn counted(config: &QuorumConfig) -> Option<pg::Quorum> {
    (config.k > 0 && config.satisfiable()).then(|| pg::Quorum { k: config.k, names: config.names() })
}

/// Sets or lifts the commit gate; lifted, the quorum that is to be is in force.
pub(super) async fn gate(server: &Server, instance: &Instance, gated: bool) {
    let deadline = Instant::now() + GATE_WITHIN;
    match set_gate(server, instance, gated, deadline).await {
        Ok(()) => tracing::info!(gated, "the commit gate is in force"),
        Err(error) => {
            tracing::warn!(gated, error = chain(&error), "the commit gate is not known to be in force");
            return;
        }
    }
    if !gated {
        mark(server, instance).await;
    }
}

pub(super) async fn set_gate(
    server: &Server,
    instance: &Instance,
    gated: bool,
    deadline: Instant,
) -> Result<(), GateError> {
    // From here on it may be set, in force or not.
    server.set_gate(CommitGate::Set);
    let quorum = server.quorum();
    let setting = setting(quorum.as_ref().map(|(config, _)| config), gated);
    match &quorum {
        // What was not seen in force before is seen on the way.
        Some((config, QuorumStage::Set)) if !gated => {
            pg::change_sync(instance, &setting, deadline).await?;
            server.quorum_is(config.version, QuorumStage::InForce);
        }
        Some(_) | None => pg::set_sync(instance, &setting, deadline).await?,
    }
    server.set_gate(if gated { CommitGate::InForce } else { CommitGate::Open });
    Ok(())
}

/// Has the server work by this quorum, and says when the marker is on it. Ended by whatever is set next.
pub(super) async fn set(server: &Server, instance: &Instance, config: QuorumConfig) {
    let version = config.version;
    if !server.shall_have(config) {
        tracing::warn!(version, "an older commit quorum than the one in force is not set");
        return;
    }
    let gated = server.gate() != CommitGate::Open;
    if server.quorum().is_some_and(|(_, stage)| stage == QuorumStage::Set) && !gated {
        match change(server, instance, Instant::now() + CHANGE_WITHIN).await {
            Ok(()) => tracing::info!(version, "the commit quorum is in force"),
            Err(error) => {
                tracing::warn!(
                    version,
                    error = chain(&error),
                    "the commit quorum is not known to be in force"
                );
                return;
            }
        }
    }
    // Behind the commit gate it comes into force when that is lifted.
    if !gated {
        mark(server, instance).await;
    }
}

/// Brings the quorum that the server shall have into force.
pub(super) async fn change(server: &Server, instance: &Instance, deadline: Instant) -> Result<(), GateError> {
    let Some((config, _)) = server.quorum() else { return Ok(()) };
    pg::change_sync(instance, &setting(Some(&config), false), deadline).await?;
    server.quorum_is(config.version, QuorumStage::InForce);
    Ok(())
}

/// Writes markers until one is on the quorum that is in force. A marker has everything before it with it, so that is also when
/// clients may read what a primary recovered from its own log (PROTOCOL, Boot gate).
async fn mark(server: &Server, instance: &Instance) {
    while let Some((config, QuorumStage::InForce)) = server.quorum() {
        let done = match counted(&config) {
            Some(quorum) => pg::marker(instance, &quorum, Instant::now() + MARKER_WITHIN).await,
            // Nobody is waited for: everything is where it shall be.
            None if config.k == 0 => Ok(()),
            // Nothing is let go, so there is nothing to mark.
            None => return,
        };
        let done = match done {
            Ok(()) if server.recovered() => {
                let opened = let_in(server, instance, Instant::now() + GATE_WITHIN).await;
                opened.map_err(|error| chain(&error))
            }
            other => other.map_err(|error| chain(&error)),
        };
        match done {
            Ok(()) => {
                tracing::info!(version = config.version, "the marker is on the commit quorum");
                server.quorum_is(config.version, QuorumStage::Marked);
            }
            Err(error) => {
                tracing::debug!(
                    error,
                    "the marker is not on the commit quorum yet, or clients are not let in"
                );
                tokio::time::sleep(MARKER_AGAIN).await;
            }
        }
    }
}

/// Opens the boot gate.
pub(super) async fn let_in(server: &Server, instance: &Instance, deadline: Instant) -> Result<(), HbaError> {
    if server.clients() == Some(Clients::LetIn) {
        return Ok(());
    }
    match pg::set_clients(instance, Clients::LetIn, deadline).await {
        Ok(()) => server.set_clients(Clients::LetIn),
        // Started by somebody else: its clients were never shut out, and status says so.
        Err(HbaError::OtherFile { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
