//! What a cluster can be asked, whoever answers.

use std::sync::Arc;

use async_trait::async_trait;
use balsa_model::selector::Filter;
use balsa_model::strategy::{DeleteOptions, Part};
use balsa_model::{Failure, Key, KindRef, Object, Precondition, Revision};
use futures::stream::BoxStream;
use serde_json::Value;

/// A list and the revision it shows.
#[derive(Clone, Debug, Default)]
pub struct ObjectList {
    /// The objects, by namespace and name.
    pub items: Vec<Arc<Object>>,
    /// The revision; a watch from here misses nothing.
    pub revision: Revision,
    /// Where the next page starts; empty after the last one.
    pub continue_token: String,
}

/// Which objects to list.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Those that match.
    pub filter: Filter,
    /// At most so many; 0: all.
    pub limit: usize,
    /// Where an earlier page ended; empty for the first.
    pub continue_token: String,
    /// Whatever the server has at hand will do, instead of the latest committed state.
    pub stale_allowed: bool,
}

impl ListQuery {
    /// All objects that match, as of now.
    pub fn matching(filter: Filter) -> Self {
        Self { filter, limit: 0, continue_token: String::new(), stale_allowed: false }
    }
}

/// How a write is made.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Do everything but persist it.
    pub dry_run: bool,
    /// Who manages the fields, for the record.
    pub field_manager: String,
}

/// How an object is deleted.
#[derive(Clone, Debug, Default)]
pub struct DeleteQuery {
    /// Grace period and what becomes of dependents.
    pub options: DeleteOptions,
    /// When it holds.
    pub precondition: Precondition,
    /// Do everything but delete.
    pub dry_run: bool,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the current objects as `Applied`, then [`WatchEvent::Synced`], then changes.
    Initial,
    /// With the changes after a revision.
    After(Revision),
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// An object is there, or changed, or starts to match.
    Applied(Arc<Object>),
    /// An object is gone or matches no more: its last version, under the revision of that change.
    Deleted(Arc<Object>),
    /// All that was there at the start has been told; the revision.
    Synced(Revision),
    /// Nothing of interest happened up to this revision.
    Bookmark(Revision),
}

/// Events in revision order. It ends when the server closes it; an `Expired` failure means that the
/// start is too old and the caller must list again.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, Failure>>;

/// A cluster, as its parts see it. Every method may fail with a [`Failure`]; `ServiceUnavailable`,
/// `Timeout`, `ServerTimeout` and `TooManyRequests` mean: try again.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// One object.
    async fn get(&self, kind: KindRef, key: &Key) -> Result<Arc<Object>, Failure>;

    /// Many.
    async fn list(&self, kind: KindRef, query: &ListQuery) -> Result<ObjectList, Failure>;

    /// Changes from `start` on.
    async fn watch(&self, kind: KindRef, filter: &Filter, start: Start) -> Result<WatchStream, Failure>;

    /// Puts a new object into `namespace` (empty: cluster-scoped).
    async fn create(
        &self,
        kind: KindRef,
        namespace: &str,
        value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Failure>;

    /// Puts another version of a part of an object. A `metadata.resourceVersion` or `metadata.uid` in
    /// `value` is a precondition.
    async fn update(
        &self,
        kind: KindRef,
        key: &Key,
        part: Part,
        value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Failure>;

    /// Deletes; the answer is the object as it is now, or as it was last.
    async fn delete(&self, kind: KindRef, key: &Key, query: &DeleteQuery) -> Result<Arc<Object>, Failure>;

    /// Gives pods their nodes, many in one entry; one answer each. A pod that has a node refuses.
    async fn bind(&self, bindings: Vec<(Key, String, String)>) -> Vec<Result<(), Failure>>;
}
