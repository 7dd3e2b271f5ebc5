//! The network between hosts: delay, loss, repetition, and directions that are cut.

use std::collections::BTreeSet;

use super::clock::{Time, ms};
use super::rng::Rng;

/// The network.
#[derive(Debug, Clone)]
pub struct Net {
    /// Directions that are cut.
    cut: BTreeSet<(usize, usize)>,
    /// One-way delay between hosts, in microseconds: from, to.
    pub delay: (Time, Time),
    /// Messages lost, per mille.
    pub loss: u64,
    /// Messages delivered twice, per mille.
    pub twice: u64,
}

impl Net {
    /// A healthy network.
    #[must_use]
    pub const fn new(delay: (Time, Time)) -> Self {
        Self { cut: BTreeSet::new(), delay, loss: 0, twice: 0 }
    }

    /// Whether messages pass in this direction.
    #[must_use]
    pub fn passes(&self, from: usize, to: usize) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }

    /// Whether two hosts can talk: a connection needs both directions.
    #[must_use]
    pub fn talks(&self, a: usize, b: usize) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }

    /// Cuts a direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        if from != to {
            self.cut.insert((from, to));
        }
    }

    /// Cuts hosts off from all others, in both directions.
    pub fn split(&mut self, side: &[usize], hosts: usize) {
        for a in 0..hosts {
            for b in 0..hosts {
                if side.contains(&a) != side.contains(&b) {
                    self.cut(a, b);
                }
            }
        }
    }

    /// Everything is connected, nothing is lost.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.loss = 0;
        self.twice = 0;
    }

    /// The delays after which copies of a message arrive: none, one or two.
    pub fn deliveries(&self, rng: &mut Rng, from: usize, to: usize) -> Vec<Time> {
        if from == to {
            return vec![rng.range(30, 200)];
        }
        if !self.passes(from, to) || rng.chance(self.loss) {
            return Vec::new();
        }
        let mut arrivals = vec![rng.range(self.delay.0, self.delay.1)];
        if rng.chance(self.twice) {
            arrivals.push(rng.range(self.delay.0, self.delay.1 + ms(300)));
        }
        arrivals
    }
}
