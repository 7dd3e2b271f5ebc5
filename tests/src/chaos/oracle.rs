//! What was acknowledged, and whether it is kept: rows through the route, and rows of clients that stay with one server each,
//! over its own Unix socket, where neither a partition nor a route is between.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::Result;

use crate::lab::cluster::Cluster;
use crate::lab::postgres::Server;
use crate::lab::writer::Writer;

/// Rows of the writer at the `n`-th server are numbered from `n + 1` times this on, apart from those through the route.
const APART: i64 = 1_000_000_000_000;

/// Everybody who remembers acknowledgements.
#[derive(Debug)]
pub struct Oracle {
    direct: Vec<Writer>,
    /// How many acknowledgements of each writer were looked at: the route's, then each server's.
    looked: Vec<usize>,
    /// Which server acknowledged last.
    last: Option<(Instant, usize)>,
}

/// What a look found.
#[derive(Debug)]
pub struct Found {
    /// Rows acknowledged since the last look.
    pub acknowledged: usize,
    /// Rows that were acknowledged and that the primary lacks.
    pub lost: Vec<i64>,
    /// Whether servers acknowledged in turns more often than the epoch changed.
    pub two_writers: bool,
}

impl Oracle {
    /// Starts a writer at each server.
    #[must_use]
    pub fn start(cluster: &Cluster) -> Self {
        let direct: Vec<Writer> = cluster
            .servers
            .iter()
            .zip(1..)
            .map(|(server, n)| Writer::start_patient(server.local_client(), "direct", n * APART))
            .collect();
        Self { looked: vec![0; direct.len() + 1], direct, last: None }
    }

    /// Looks whether the primary has what was acknowledged since the last look, or ever if it is to be the `whole`.
    ///
    /// # Errors
    /// When the primary does not answer.
    pub async fn look(
        &mut self,
        cluster: &Cluster,
        writer: &Writer,
        primary: usize,
        whole: bool,
        epochs: u64,
    ) -> Result<Found> {
        let writers: Vec<&Writer> = std::iter::once(writer).chain(&self.direct).collect();
        let mut ids = Vec::new();
        let mut acknowledged = 0;
        let mut times: Vec<(Instant, usize)> = self.last.into_iter().collect();
        for (n, writer) in writers.into_iter().enumerate() {
            let new = writer.from(self.looked[n]);
            acknowledged += new.len();
            if let Some(server) = n.checked_sub(1) {
                times.extend(new.iter().map(|ack| (ack.at, server)));
            }
            if whole {
                ids.extend(writer.from(0).iter().map(|ack| ack.id));
            } else {
                ids.extend(new.iter().map(|ack| ack.id));
            }
            self.looked[n] += new.len();
        }
        self.last = times.iter().max().copied();
        let lost = lacking(&cluster.servers[primary], ids).await?;
        Ok(Found { acknowledged, lost, two_writers: turns(times) > epochs })
    }
}

/// How often the server that acknowledges changed.
fn turns(mut times: Vec<(Instant, usize)>) -> u64 {
    times.sort_unstable();
    let changes = times.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
    u64::try_from(changes).unwrap_or(u64::MAX)
}

async fn lacking(server: &Server, ids: Vec<i64>) -> Result<Vec<i64>> {
    let mut lacking = Vec::new();
    for some in ids.chunks(50_000) {
        let there: HashSet<i64> = server.ids_among(some).await?.into_iter().collect();
        lacking.extend(some.iter().filter(|id| !there.contains(id)));
    }
    Ok(lacking)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::turns;

    #[test]
    fn acknowledgements_in_turns_are_two_writers() {
        let zero = Instant::now();
        let at = |ms: u64, server: usize| (zero + Duration::from_millis(ms), server);
        assert_eq!(turns(vec![at(1, 0), at(2, 0)]), 0);
        assert_eq!(turns(vec![at(3, 1), at(1, 0), at(2, 0), at(4, 1)]), 1, "one change of primary");
        assert_eq!(turns(vec![at(1, 0), at(2, 1), at(3, 0), at(4, 1)]), 3);
    }
}
