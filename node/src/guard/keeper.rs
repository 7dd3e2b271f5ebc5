//! Keeps a leash: tells it its duty, and replaces it when it is dead or does not listen.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::driver::Input;
use super::server::Server;
use crate::leash::{Duty, Leash, LeashError, Target};

/// A leash that has not acted on a word for this long was stopped.
const LAG: Duration = Duration::from_secs(1);
/// A leash that ends sooner than this after its start is not replaced at once: the fault is not the leash's.
const PAUSE: Duration = Duration::from_millis(200);

/// The leash of one guard.
pub(super) struct Keeper {
    target: Target,
    inputs: Sender<Input>,
    leash: Arc<Leash>,
    /// Which leash this is, so that the end of an earlier one is not taken for its.
    number: u64,
    duty: Duty,
    told: u64,
    started: Instant,
    ended: bool,
    lagging: Option<Instant>,
}

impl Keeper {
    /// Starts the first leash, without a duty.
    pub(super) fn start(server: &Server, inputs: &Sender<Input>) -> Result<Self, LeashError> {
        let cgroup = server.engine.cgroup().map(ToOwned::to_owned);
        let target = Target { data_dir: server.engine.data_dir().to_owned(), cgroup };
        let leash = start(&target, inputs, 1)?;
        Ok(Self {
            target,
            inputs: inputs.clone(),
            leash,
            number: 1,
            duty: Duty::Idle,
            told: 0,
            started: Instant::now(),
            ended: false,
            lagging: None,
        })
    }

    /// The leash, and the word that it must know before anything is started.
    pub(super) fn current(&self) -> (Arc<Leash>, u64) {
        (Arc::clone(&self.leash), self.told)
    }

    /// Tells it its duty.
    pub(super) fn tell(&mut self, duty: Duty) {
        self.duty = duty;
        match self.leash.feed(duty) {
            Ok(number) => self.told = number,
            Err(error) => {
                tracing::error!(%error, "starting another leash");
                self.ended = true;
                self.watch();
            }
        }
    }

    /// The leash with this number ended.
    pub(super) fn ended(&mut self, number: u64) {
        if number == self.number {
            tracing::error!("the leash ended; starting another one");
            self.ended = true;
            self.watch();
        }
    }

    /// Replaces it when it has ended, or lags behind: one that was stopped does not end.
    pub(super) fn watch(&mut self) {
        if self.ended {
            if self.started.elapsed() > PAUSE {
                self.replace();
            }
            return;
        }
        if self.leash.lag() == 0 {
            self.lagging = None;
            return;
        }
        let since = *self.lagging.get_or_insert_with(Instant::now);
        if since.elapsed() > LAG {
            tracing::error!(pid = self.leash.pid(), "the leash does not answer; starting another one");
            self.replace();
        }
    }

    fn replace(&mut self) {
        self.number += 1;
        self.lagging = None;
        self.started = Instant::now();
        // Until the new one is told its duty.
        self.ended = true;
        match start(&self.target, &self.inputs, self.number) {
            Ok(leash) => {
                self.leash = leash;
                match self.leash.feed(self.duty) {
                    Ok(number) => (self.told, self.ended) = (number, false),
                    Err(error) => tracing::error!(%error, "the new leash does not listen"),
                }
            }
            // Tried again soon; the guard itself still fences.
            Err(error) => {
                tracing::error!(%error, "no leash: a guard that is killed or stopped now fences nothing")
            }
        }
    }
}

fn start(target: &Target, inputs: &Sender<Input>, number: u64) -> Result<Arc<Leash>, LeashError> {
    let inputs = inputs.clone();
    let leash = Leash::start(target, move || {
        // A driver that is gone needs no leash any more.
        let _ = inputs.send(Input::LeashEnded(number));
    })?;
    Ok(Arc::new(leash))
}
