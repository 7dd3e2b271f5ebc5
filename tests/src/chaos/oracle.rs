//! What was acknowledged, and whether it is kept: rows through the route, rows of clients that stay with one server each, over
//! its own Unix socket, where neither a partition nor a route is between, rows of transactions that were open for seconds, and
//! transactions that were prepared.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use anyhow::Result;

use crate::lab::cluster::Cluster;
use crate::lab::postgres::Server;
use crate::lab::prepared::{Known, Preparer, name};
use crate::lab::writer::Writer;

/// Rows of the writer at the `n`-th server are numbered from `n + 1` times this on, apart from those through the route.
const APART: i64 = 1_000_000_000_000;

/// Rows of the transactions that stay open at the `n`-th server are numbered from `n + 1` times this further on.
const HELD: i64 = 100_000_000_000;
/// Rows of transactions that are prepared are numbered from here on.
const PREPARED: i64 = 500_000_000_000;

/// Everybody who remembers acknowledgements.
#[derive(Debug)]
pub struct Oracle {
    /// Who writes to one server each, and to which.
    direct: Vec<(usize, Writer)>,
    preparer: Preparer,
    /// How many transactions it knew to be prepared at the last look.
    prepared: usize,
    /// How many acknowledgements of each writer were looked at: the route's, then each direct one's.
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
    /// Transactions that were acknowledged as prepared since the last look.
    pub prepared: usize,
    /// Prepared transactions whose fate is not the one that the client was told.
    pub astray: Vec<String>,
    /// Whether servers acknowledged in turns more often than the epoch changed.
    pub two_writers: bool,
}

impl Oracle {
    /// Starts two writers at each server, one of which holds its transactions open, and a client that prepares its own where
    /// `route` leads.
    #[must_use]
    pub fn start(cluster: &Cluster, route: tokio_postgres::Config) -> Self {
        let mut direct = Vec::new();
        for (server, n) in cluster.servers.iter().zip(0..) {
            let (at, first) = (direct.len() / 2, (n + 1) * APART);
            direct.push((at, Writer::start_patient(server.local_client(), "direct", first)));
            direct.push((at, Writer::start_holding(server.local_client(), "held", first + HELD)));
        }
        let preparer = Preparer::start(route, PREPARED);
        Self { looked: vec![0; direct.len() + 1], direct, preparer, prepared: 0, last: None }
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
        let direct = self.direct.iter().map(|(at, writer)| (Some(*at), writer));
        let writers: Vec<(Option<usize>, &Writer)> = std::iter::once((None, writer)).chain(direct).collect();
        let mut ids = Vec::new();
        let mut acknowledged = 0;
        let mut times: Vec<(Instant, usize)> = self.last.into_iter().collect();
        for (n, (server, writer)) in writers.into_iter().enumerate() {
            let new = writer.from(self.looked[n]);
            acknowledged += new.len();
            if let Some(server) = server {
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
        let astray = self.astray(&cluster.servers[primary]).await?;
        let ever = self.preparer.acknowledged();
        let prepared = ever - std::mem::replace(&mut self.prepared, ever);
        Ok(Found { acknowledged, lost, prepared, astray, two_writers: turns(times) > epochs })
    }

    /// Which of the prepared transactions are not as the client was told.
    async fn astray(&self, server: &Server) -> Result<Vec<String>> {
        let told = self.preparer.ledger();
        // In this order: one that is committed meanwhile is seen before, after, or twice.
        let prepared: HashSet<String> = server.prepared().await?.into_iter().collect();
        let ids: Vec<i64> = told.keys().copied().collect();
        let mut rows = HashSet::new();
        for some in ids.chunks(50_000) {
            rows.extend(server.ids_among(some).await?);
        }
        let later = self.preparer.ledger();
        let is = |id: i64| (prepared.contains(&name(id)), rows.contains(&id));
        Ok(wrong(&told, &later, is)
            .into_iter()
            .map(|(id, known)| format!("{} ({known:?})", name(id)))
            .collect())
    }
}

/// Which are not as they were told before the look; `later` is what was told after it, and `is` whether the look found the
/// transaction prepared, and its row.
fn wrong(
    told: &BTreeMap<i64, Known>,
    later: &BTreeMap<i64, Known>,
    is: impl Fn(i64) -> (bool, bool),
) -> Vec<(i64, Known)> {
    let taken_back =
        |id| matches!(later.get(id), Some(Known::RollingBack | Known::RolledBack | Known::RolledBackUnheard));
    told.iter()
        .filter(|(id, known)| {
            let (prepared, row) = is(**id);
            match known {
                Known::Asked | Known::RollingBack | Known::RolledBackUnheard => false,
                Known::Prepared => !prepared && !row && !taken_back(id),
                Known::Committing | Known::CommittedUnheard => !prepared && !row,
                Known::Committed => !row,
                Known::RolledBack => prepared || row,
                Known::Gone => true,
            }
        })
        .map(|(id, known)| (*id, *known))
        .collect()
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

    use super::{BTreeMap, Known, turns, wrong};

    #[test]
    fn what_was_told_of_a_prepared_transaction_must_be_so() {
        let of = |known| BTreeMap::from([(1, known)]);
        let seen = |known, is| wrong(&of(known), &of(known), |_| is).len();
        let (nowhere, prepared, row) = ((false, false), (true, false), (false, true));
        for known in [Known::Prepared, Known::Committing, Known::CommittedUnheard] {
            assert_eq!([nowhere, prepared, row].map(|is| seen(known, is)), [1, 0, 0], "{known:?}");
        }
        assert_eq!([nowhere, prepared, row].map(|is| seen(Known::Committed, is)), [1, 1, 0]);
        assert_eq!([nowhere, prepared, row].map(|is| seen(Known::RolledBack, is)), [0, 1, 1]);
        assert_eq!([nowhere, prepared, row].map(|is| seen(Known::Gone, is)), [1, 1, 1]);
        for known in [Known::Asked, Known::RollingBack, Known::RolledBackUnheard] {
            assert_eq!([nowhere, prepared, row].map(|is| seen(known, is)), [0, 0, 0], "{known:?}");
        }
        let rolled_back_meanwhile = wrong(&of(Known::Prepared), &of(Known::RollingBack), |_| nowhere);
        assert_eq!(rolled_back_meanwhile, []);
    }

    #[test]
    fn acknowledgements_in_turns_are_two_writers() {
        let zero = Instant::now();
        let at = |ms: u64, server: usize| (zero + Duration::from_millis(ms), server);
        assert_eq!(turns(vec![at(1, 0), at(2, 0)]), 0);
        assert_eq!(turns(vec![at(3, 1), at(1, 0), at(2, 0), at(4, 1)]), 1, "one change of primary");
        assert_eq!(turns(vec![at(1, 0), at(2, 1), at(3, 0), at(4, 1)]), 3);
    }
}
