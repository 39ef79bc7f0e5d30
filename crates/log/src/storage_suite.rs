//! openraft's own storage suite, run on our stores.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::error::StateMachineError;
use crate::log_store::LogStore;
use crate::machine::{Committed, LogIndex, Machine, StateMachine};
use crate::store::Store;
use crate::tables::{Table, TableBatch, Tables};
use crate::transport::TransportConfig;
use crate::types::Types;

/// Keeps what it is given under its index.
struct Keeper;

#[async_trait]
impl StateMachine for Keeper {
    async fn restore(&mut self, _: &Tables, _: Option<LogIndex>) -> Result<(), StateMachineError> {
        Ok(())
    }

    async fn apply(&mut self, entries: Vec<Committed>, batch: &mut TableBatch) -> Vec<Bytes> {
        for entry in &entries {
            batch.put(Table::Objects, entry.index.0.to_be_bytes().to_vec(), entry.payload.clone());
        }
        entries.into_iter().map(|entry| entry.payload).collect()
    }

    async fn publish(&mut self, _: LogIndex) {}
}

struct Builder;

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), 1, None).unwrap());
        let log = LogStore::open(store.clone(), 1 << 20).unwrap();
        let (announce, _) = watch::channel(LogIndex::default());
        let machine =
            Machine::open(store, log.clone(), Box::new(Keeper), announce, &TransportConfig::plain())
                .await
                .unwrap();
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn openraft_accepts_our_stores() {
    Suite::test_all(Builder).await.unwrap();
}
