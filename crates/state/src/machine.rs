//! The state as the log wants it: a thin adapter around the applier.

use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use balsa_log::{Committed, LogIndex, StateMachine, StateMachineError, Table, TableBatch};
use balsa_model::kind::KindRef;
use balsa_rt::TaskKind;
use bytes::Bytes;

use crate::applier::{Applier, RestoreError};
use crate::state::{State, StateConfig};
use crate::tables::{TableError, Tables, Visit, Write};

/// What the log feeds with committed entries; everybody else reads its [`State`].
pub struct Machine {
    applier: Applier,
    state: State,
}

impl Machine {
    /// Starts the actors of `kinds`. The log fills them when it is opened with this machine.
    pub fn new(kinds: &[KindRef], config: StateConfig) -> Self {
        let state = State::start(kinds, config);
        Self { applier: Applier::new(state.clone()), state }
    }

    /// What it folds into.
    pub fn state(&self) -> State {
        self.state.clone()
    }
}

#[async_trait]
impl StateMachine for Machine {
    async fn restore(
        &mut self,
        tables: &balsa_log::Tables,
        applied: Option<LogIndex>,
    ) -> Result<(), StateMachineError> {
        let tables = Arc::new(tables.clone());
        let restored = self.applier.restore(tables, applied.map(|index| index.0)).await;
        restored.map_err(|error| match error {
            RestoreError::Damaged { .. } => StateMachineError::damaged(error),
            other => StateMachineError::new(other),
        })
    }

    async fn apply(&mut self, entries: Vec<Committed>, batch: &mut TableBatch) -> Vec<Bytes> {
        match self.applier.apply(entries).await {
            Ok((replies, writes)) => {
                writes.into_iter().for_each(|write| put(write, batch));
                replies
            }
            Err(error) => {
                // Going on would make this server differ from the others. The task table ends the process
                // with these words; that no replies come back stops the log until then.
                drop(balsa_rt::spawn(TaskKind::Applier, async move { Err::<(), _>(error) }));
                Vec::new()
            }
        }
    }

    async fn publish(&mut self, applied: LogIndex) {
        self.applier.publish(applied.0).await;
    }
}

fn put(write: Write, batch: &mut TableBatch) {
    match write {
        Write::Put(table, key, value) => batch.put(table, key, value),
        Write::Delete(table, key) => batch.delete(table, key),
        Write::DeleteRange(table, from, to) => batch.delete_range(table, from, to),
    }
}

impl Tables for balsa_log::Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        self.get(table, key).map_err(|error| TableError(error.to_string()))
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), TableError> {
        let visit = |key: &[u8], value: &[u8]| -> ControlFlow<()> { visit(key, value) };
        self.scan(table, from, to, false, visit).map_err(|error| TableError(error.to_string()))
    }

    fn last(&self, table: Table, from: &[u8], to: &[u8]) -> Result<Option<Bytes>, TableError> {
        let mut last = None;
        let visit = |_: &[u8], value: &[u8]| {
            last = Some(Bytes::copy_from_slice(value));
            ControlFlow::Break(())
        };
        self.scan(table, from, to, true, visit).map_err(|error| TableError(error.to_string()))?;
        Ok(last)
    }
}
