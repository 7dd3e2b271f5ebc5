//! Somebody else starts a server: an operator by hand, a unit of the distribution, a boot that begins it before its guard. Nobody
//! asks mesh first, so all that stands between this server and its clients is what lies in its data directory.

use super::clock::ms;
use super::postgres::Processes;
use super::world::{Event, World};

impl World {
    /// Where strangers are about, one may start this server in a moment.
    pub(super) fn perhaps_a_stranger(&mut self, instance: usize) {
        if self.strangers && self.rng.chance(350) {
            let delay = self.rng.range(0, ms(1_500));
            self.after(delay, Event::Stranger { instance });
        }
    }

    /// Starts it if nothing of it runs, with its own `pg_hba.conf`: whom that lets in is in.
    pub(super) fn stranger_starts(&mut self, instance: usize) {
        let up = self.hosts[self.host(instance)].up && !self.hosts[self.host(instance)].frozen;
        let signal = self.servers[instance].signal;
        let it = &mut self.servers[instance];
        if !up || it.hung || it.processes != Processes::None {
            return;
        }
        it.life += 1;
        it.died = false;
        it.clients = true;
        it.streaming = false;
        it.processes = if signal { Processes::Standby } else { Processes::Primary };
        self.say(|| {
            format!("a stranger starts server {instance}: a {}", if signal { "standby" } else { "primary" })
        });
        self.tell_facts(instance);
    }
}
