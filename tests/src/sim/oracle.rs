//! What clients were promised. A client that got no acknowledgement was promised nothing, neither that its write is
//! there nor that it is not.

use mesh_proto::Epoch;

use super::clock::ms;
use super::world::{Event, World};

/// A write that a client saw acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    pub instance: usize,
    pub epoch: Epoch,
    /// Where it stands in the WAL, and the history up to there.
    pub at: usize,
    pub hash: u64,
    /// A person accepted that it may be lost.
    pub written_off: bool,
}

/// All acknowledged writes.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub writes: Vec<Acknowledged>,
    /// Of them, through the route.
    pub through_route: u64,
}

impl World {
    /// Clients write wherever they can: directly to every server, and through the route.
    pub(super) fn client(&mut self) {
        self.after(ms(15), Event::Client);
        for instance in 0..self.servers.len() {
            // Clients are many, but not without end: who waits writes nothing more.
            if !self.able(instance) || self.servers[instance].sync.waiting.len() > 60 {
                continue;
            }
            self.write(instance);
            if self.proxy.leads_to == Some(instance)
                && self.net.talks(self.setup.route_host, self.host(instance))
            {
                self.oracle.through_route += 1;
            }
        }
    }

    pub(super) fn write(&mut self, instance: usize) {
        let content = self.fresh();
        let now = self.now;
        let epoch = self.group().epoch;
        let server = &mut self.servers[instance];
        server.write(now, content);
        let at = server.wal.len() - 1;
        let write = Acknowledged { instance, epoch, at, hash: server.wal[at], written_off: false };
        if self.setup.zero_loss() {
            self.wait_for_quorum(instance, write);
        } else {
            self.oracle.writes.push(write);
        }
    }

    /// Acknowledged writes of an instance in an epoch that another one does not have.
    pub(super) fn missing(&self, of: usize, epoch: Epoch, at: usize) -> usize {
        let there = &self.servers[at].wal;
        let writes = self.oracle.writes.iter().filter(|w| w.instance == of && w.epoch == epoch);
        writes.filter(|w| there.get(w.at) != Some(&w.hash)).count()
    }
}
