//! What makes an instance a primary or a usable replica for a load balancer. Pure, and closed: what is not certain is no.

use mesh_proto::evidence::{GuardStatus, ProcessState, WriteProbe};
use mesh_proto::operator::StatusView;
use mesh_proto::{Epoch, InstanceName, Millis};

use super::traefik::Lead;

/// A lease with less left than this is not worth a new session: an answer takes as long to have an effect.
const LEASE_WORTH: Millis = Millis(100);

/// Where the answers come from. Implemented by the agent, which asks the guards of its host.
pub trait RoleSource: Send + Sync + 'static {
    /// Asks every guard of this host now. Waits no longer than `limit` for any of them; a guard that does not
    /// answer in time is [`Silence`], not absent.
    fn instances(&self, limit: Millis) -> impl Future<Output = Vec<LocalInstance>> + Send;
    /// Whether the agent's own loops turn; else what hangs.
    ///
    /// # Errors
    /// What hangs, in words.
    fn live(&self) -> Result<(), String>;
    /// Whether the agent takes part in the mesh (formed, a leader known, its log not behind); else what is missing.
    ///
    /// # Errors
    /// What is missing, in words.
    fn ready(&self) -> Result<(), String>;
    /// Where the clients of each group may be led, from the applied state of the mesh.
    fn leads(&self) -> Vec<Lead>;
    /// The status of the mesh, as this agent knows it; for `/metrics`.
    fn status(&self) -> StatusView;
}

/// One instance of this host.
#[derive(Debug, Clone)]
pub struct LocalInstance {
    /// Its name.
    pub name: InstanceName,
    /// The probe interval of its group: an older status is no status.
    pub probe: Millis,
    /// What its guard says now.
    pub reading: Result<Reading, Silence>,
}

/// What a guard said.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Its status.
    pub status: GuardStatus,
    /// Time since the guard made it, counted from before it was asked.
    pub age: Millis,
    /// Bytes of WAL behind the primary, as far as the agent knows.
    pub lag_bytes: Option<u64>,
}

/// Why a guard said nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// It did not answer in time.
    #[error("its guard did not answer within {0}")]
    Late(Millis),
    /// It was not reached.
    #[error("its guard was not reached")]
    NotReached,
    /// It answered with an error.
    #[error("its guard answered with an error")]
    Failed,
}

/// The answer about one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Whether it is what was asked for; else why not.
    pub(super) verdict: Result<(), String>,
    /// The epoch of the lease that it holds.
    pub(super) epoch: Option<Epoch>,
    /// Its lag.
    pub(super) lag_bytes: Option<u64>,
}

/// Whether this instance may take writes.
pub(super) fn primary(instance: &LocalInstance) -> Answer {
    about(instance, |reading| may_write(&reading.status, reading.age))
}

/// Whether this instance may take reads, at most `limit` bytes behind.
pub(super) fn replica(instance: &LocalInstance, limit: Option<u64>) -> Answer {
    about(instance, |reading| may_read(reading, limit))
}

/// Whether this instance does what its role asks of it.
pub(super) fn health(instance: &LocalInstance) -> Answer {
    about(instance, |reading| match reading.status.process {
        ProcessState::Primary => {
            may_write(&reading.status, reading.age).and_then(|()| writes(&reading.status))
        }
        ProcessState::Standby => may_read(reading, None),
        other @ (ProcessState::Starting
        | ProcessState::Stopped
        | ProcessState::Died
        | ProcessState::Unresponsive
        | ProcessState::Unknown) => Err(words(other).to_owned()),
    })
}

fn about(instance: &LocalInstance, judge: impl FnOnce(&Reading) -> Result<(), String>) -> Answer {
    let reading = match &instance.reading {
        Ok(reading) => reading,
        Err(silence) => return Answer { verdict: Err(silence.to_string()), epoch: None, lag_bytes: None },
    };
    let verdict = if reading.age > instance.probe {
        Err(format!(
            "the newest word of its guard is {} old; more than {} is too old",
            reading.age, instance.probe
        ))
    } else if reading.status.instance != instance.name {
        Err(format!("the guard that answers is the one of {}", reading.status.instance))
    } else {
        judge(reading)
    };
    let epoch = reading.status.lease.map(|lease| lease.term.epoch);
    Answer { verdict, epoch, lag_bytes: reading.lag_bytes }
}

fn may_write(status: &GuardStatus, age: Millis) -> Result<(), String> {
    if status.process != ProcessState::Primary {
        return Err(words(status.process).to_owned());
    }
    let Some(lease) = status.lease else {
        return Err("it runs as a primary without a lease".to_owned());
    };
    let left = lease.remaining.minus(age);
    if left < LEASE_WORTH {
        return Err(format!("its lease ends in {left}"));
    }
    if status.gate > lease.term.epoch {
        return Err(format!(
            "its lease is of epoch {}, and epoch {} has begun",
            lease.term.epoch, status.gate
        ));
    }
    if status.commit_gated {
        return Err("its commits are held: its lease is not being renewed".to_owned());
    }
    if status.clients_wait {
        return Err("clients are shut out until its commit quorum has what it recovered".to_owned());
    }
    if status.receipt.as_ref().is_some_and(|receipt| receipt.term >= lease.term) {
        return Err("it was fenced".to_owned());
    }
    Ok(())
}

/// Slow or failing writes are no doubt about the role, only about the health.
fn writes(status: &GuardStatus) -> Result<(), String> {
    match status.write_probe {
        WriteProbe::Ok { .. } | WriteProbe::NotApplicable | WriteProbe::WaitingForStandbys => Ok(()),
        WriteProbe::Late { waiting } => Err(format!("a write has been waiting for {waiting}")),
        WriteProbe::Failed { code, since } => {
            Err(format!("writes fail with {} since {since}", String::from_utf8_lossy(&code)))
        }
    }
}

fn may_read(reading: &Reading, limit: Option<u64>) -> Result<(), String> {
    let status = &reading.status;
    if status.process != ProcessState::Standby {
        return Err(words(status.process).to_owned());
    }
    if !status.receiving.as_ref().is_some_and(|receiving| receiving.streaming) {
        return Err("it does not stream from the primary".to_owned());
    }
    if status.frozen.is_some() {
        return Err("it is frozen for a failover".to_owned());
    }
    match (limit, reading.lag_bytes) {
        (None, _) => Ok(()),
        (Some(_), None) => Err("its lag is not known".to_owned()),
        (Some(limit), Some(lag)) if lag <= limit => Ok(()),
        (Some(limit), Some(lag)) => Err(format!("it is {lag} bytes behind; at most {limit} were asked for")),
    }
}

fn words(process: ProcessState) -> &'static str {
    match process {
        ProcessState::Primary => "it is a primary",
        ProcessState::Standby => "it is a standby",
        ProcessState::Starting => "it is starting",
        ProcessState::Stopped => "it is stopped",
        ProcessState::Died => "it died",
        ProcessState::Unresponsive => "it does not answer its guard",
        ProcessState::Unknown => "its guard does not know its state yet",
    }
}

/// Reads a size: a number of bytes, or one with `kB`, `MB`, `GB` (powers of 1024, as PostgreSQL counts; case does not
/// matter, an `i` neither).
pub(super) fn size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_size() {
        mesh_fuzz::fuzz!("size", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let Some(size) = size(&text) else { return };
            let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
            assert!(digits.parse::<u64>().is_ok_and(|number| size >= number && (number == 0) == (size == 0)));
        });
    }
}
