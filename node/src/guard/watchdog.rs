//! The thread that writes to the watchdog device, where the instance's section names one: the host is reset when the guard does
//! not fence in time, whatever keeps it from it. It has a thread of its own because a device may take its time.
//!
//! It writes only while a reset a whole timeout later would still come before the lease's end and the fence budget are over;
//! how long that is it is told by the driver, and goes on by what it was told last: a driver that hangs is what the device is
//! there for. It disarms the device in one case: the guard went down, and its instance is proven quiet.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use mesh_adapters::watchdog::{Watchdog, WatchdogError};
use mesh_adapters::words;
use mesh_failover::Moment;
use mesh_failover::guard::{Guard, Safe};
use mesh_proto::Millis;

use super::driver::{Alarm, Input};
use super::server::Server;
use super::{GuardError, host};
use crate::clock::Reading;

/// Pause between two writes.
const TICK: Duration = Duration::from_millis(100);
/// Pause before a device that could not be opened is tried again.
const OPEN_AGAIN: Duration = Duration::from_secs(10);
/// How long disarming may take before the guard goes down all the same.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// Up to when the host may go on, as the driver said last.
#[derive(Debug, Clone, Copy)]
enum Duty {
    /// The guard has held no lease yet: nothing is armed.
    Observe,
    /// Written to while a whole timeout fits before this; `None`: freely.
    Keep { until: Option<Reading>, fits: Duration },
    /// The guard goes down, and its instance is quiet.
    Down,
}

/// The driver's end of it.
pub(super) struct Keeper {
    thread: Option<(Sender<Duty>, Receiver<()>)>,
}

impl Keeper {
    /// Starts the thread, if there is a device.
    pub(super) fn start(
        path: Option<PathBuf>,
        server: &Arc<Server>,
        inputs: &Sender<Input>,
    ) -> Result<Self, GuardError> {
        let Some(path) = path else { return Ok(Self { thread: None }) };
        let (duties, inbox) = channel();
        let (tell, closed) = channel();
        let mut run = Run { path, server: Arc::clone(server), device: None, refused: None };
        run.not_covered("the watchdog device is not armed before the first lease");
        let inputs = inputs.clone();
        std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || {
                let _alarm = Alarm { thread: "watchdog", inputs };
                run.serve(&inbox);
                // A guard that does not wait for it any more is gone.
                let _ = tell.send(());
            })
            .map_err(host("start the thread of the watchdog"))?;
        Ok(Self { thread: Some((duties, closed)) })
    }

    /// Says how long the host may go on.
    pub(super) fn tend(&self, now: Moment, guard: &Guard) {
        let duty = if guard.armed() {
            let until = match guard.safe(now) {
                Safe::ForEver => None,
                Safe::Until(at) => Some(Reading::now().after(at.since(now))),
            };
            Duty::Keep { until, fits: guard.watchdog_fits().duration() }
        } else {
            Duty::Observe
        };
        self.say(duty);
    }

    /// The guard is down and its instance quiet: the device is disarmed.
    pub(super) fn down(&self) {
        self.say(Duty::Down);
        if let Some((_, closed)) = &self.thread
            && closed.recv_timeout(CLOSE_WITHIN).is_err()
        {
            tracing::error!("the watchdog device was not disarmed in time: this host may be reset");
        }
    }

    fn say(&self, duty: Duty) {
        if let Some((duties, _)) = &self.thread
            && duties.send(duty).is_err()
        {
            tracing::debug!("the thread of the watchdog is gone; its end stops the guard");
        }
    }
}

struct Run {
    path: PathBuf,
    server: Arc<Server>,
    device: Option<Watchdog>,
    /// When it was refused, and for what length.
    refused: Option<(Instant, Duration)>,
}

impl Run {
    fn serve(&mut self, inbox: &Receiver<Duty>) {
        let mut duty = Duty::Observe;
        loop {
            match inbox.recv_timeout(TICK) {
                Ok(newest) => duty = inbox.try_iter().last().unwrap_or(newest),
                Err(RecvTimeoutError::Timeout) => {}
                // The driver ended by a fault: the device stays armed, and resets the host unless a guard is back in time.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            match duty {
                Duty::Observe => {}
                Duty::Keep { until, fits } => self.keep(until, fits),
                Duty::Down => {
                    if let Some(device) = self.device.take()
                        && let Err(error) = device.close()
                    {
                        tracing::error!(error = words(&error), "the watchdog device is not disarmed");
                    }
                    return;
                }
            }
        }
    }

    fn keep(&mut self, until: Option<Reading>, fits: Duration) {
        if self.device.is_none() {
            self.open(fits);
        }
        let Some(device) = self.device.as_mut() else { return };
        if device.timeout() > fits
            && let Err(error) = device.fit(fits)
        {
            self.refuse(&error, fits);
            return;
        }
        let reset = Reading::now().after(Millis::from(device.timeout()));
        if until.is_some_and(|until| reset.reached(until)) {
            tracing::warn!("the watchdog is not put off any more: the fence is late");
            return;
        }
        if let Err(error) = device.kick() {
            self.refuse(&error, fits);
        }
    }

    fn open(&mut self, fits: Duration) {
        let again = |(at, length): (Instant, Duration)| length != fits || at.elapsed() >= OPEN_AGAIN;
        if !self.refused.is_none_or(again) {
            return;
        }
        match Watchdog::open(&self.path, fits) {
            Ok(device) => {
                let (identity, timeout) = (device.identity(), device.timeout());
                tracing::info!(identity, ?timeout, "the watchdog is armed");
                self.server.watchdog(format!(
                    "the watchdog ({identity}) resets this host {} s after its guard stops working; one that was suspended or \
                     frozen as a whole may still answer for some milliseconds when it goes on",
                    timeout.as_secs()
                ));
                self.refused = None;
                self.device = Some(device);
            }
            Err(error) => self.refuse(&error, fits),
        }
    }

    /// The device is of no use, now: it is let go.
    fn refuse(&mut self, error: &WatchdogError, fits: Duration) {
        let known = self.refused.is_some_and(|(_, length)| length == fits);
        self.refused = Some((Instant::now(), fits));
        let why = words(error);
        if !known {
            tracing::error!(why, "the watchdog does not cover this host");
        }
        if let Some(device) = self.device.take()
            && let Err(error) = device.close()
        {
            tracing::error!(error = words(&error), "the watchdog device is not disarmed");
        }
        self.not_covered(&why);
    }

    fn not_covered(&self, why: &str) {
        self.server.watchdog(format!(
            "not covered by its watchdog ({why}): a host that was suspended or frozen as a whole may answer for some \
             milliseconds before its guard fences"
        ));
    }
}
