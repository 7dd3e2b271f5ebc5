//! openraft's own suite for stores.

use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};

use super::super::medium::FileMedium;
use super::super::{FaultCell, Store};
use super::{MESH, create};
use crate::machine::{Applier, Shared};
use crate::tests::Ledger;
use crate::types::{StorageError, TypeConfig};

struct Builder;

impl StoreBuilder<TypeConfig, Store, Applier<Ledger>, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, Store, Applier<Ledger>), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let medium = FileMedium::new(dir.path().join("suite.store"));
        create(&medium);
        let faults = Arc::new(FaultCell::default());
        let store = Store::open_with(&medium, 1, MESH, Arc::clone(&faults), true).unwrap();
        let shared = Arc::new(Shared::new(Ledger::default()));
        Ok((dir, store.clone(), Applier::new(shared, store, faults)))
    }
}

#[test]
fn openrafts_suite_passes() {
    Suite::test_all(Builder).unwrap();
}
