//! Keeping the one snapshot, whole and checksummed, beside the log it replaces.

use std::io;
use std::sync::Arc;

use mesh_proto::raft as pb;

use super::codec::{self, Corrupt, Kind};
use super::{Store, Write};
use crate::types::{Snapshot, SnapshotBytes, SnapshotMeta};
use crate::wire;

pub(super) fn parse(record: pb::SnapshotRecord) -> Result<Option<Arc<Snapshot>>, Corrupt> {
    if record.meta.is_none() {
        return Ok(None);
    }
    let meta = wire::snapshot_meta_back(record.meta.as_ref())
        .map_err(|lacking| Corrupt::new("snapshot", lacking.to_string()))?;
    Ok(Some(Arc::new(Snapshot { meta, snapshot: Box::new(SnapshotBytes(record.data)) })))
}

impl Store {
    /// Makes a snapshot durable, then lets it be read. Never replaces a newer one.
    pub(crate) async fn save_snapshot(&self, meta: &SnapshotMeta, bytes: &SnapshotBytes) -> io::Result<()> {
        if self.snapshot().is_some_and(|kept| kept.meta.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let record = pb::SnapshotRecord { meta: Some(wire::snapshot_meta(meta)), data: bytes.0.clone() };
        self.write(Write::Snapshot(codec::encode(Kind::Snapshot, &record))).await?;
        let snapshot = Snapshot { meta: meta.clone(), snapshot: Box::new(bytes.clone()) };
        self.state().snapshot = Some(Arc::new(snapshot));
        Ok(())
    }

    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.state().snapshot.clone()
    }
}
