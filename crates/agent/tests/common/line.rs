//! The line between a node and its cluster, which can be cut.
#![allow(dead_code, reason = "most stories need no outage")]

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::memory::MemoryBackend;
use balsa_client::{Backend, DeleteQuery, ListQuery, ObjectList, Start, WatchStream, WriteOptions};
use balsa_model::selector::Filter;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, KindRef, Object, Reason};
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::watch;

/// A cluster at the other end of a line.
pub(crate) struct Line {
    cluster: Arc<MemoryBackend>,
    cut: watch::Sender<bool>,
}

impl Line {
    pub(crate) fn to(cluster: Arc<MemoryBackend>) -> Arc<Self> {
        Arc::new(Self { cluster, cut: watch::Sender::new(false) })
    }

    /// Nothing gets through any more; watches end.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// All is as before.
    pub(crate) fn mend(&self) {
        self.cut.send_replace(false);
    }

    fn through(&self) -> Result<&MemoryBackend, Failure> {
        if *self.cut.borrow() {
            return Err(Failure::new(Reason::ServiceUnavailable, "the line is cut"));
        }
        Ok(&self.cluster)
    }
}

#[async_trait]
impl Backend for Line {
    async fn get(&self, kind: KindRef, key: &Key) -> Result<Arc<Object>, Failure> {
        self.through()?.get(kind, key).await
    }

    async fn list(&self, kind: KindRef, query: &ListQuery) -> Result<ObjectList, Failure> {
        self.through()?.list(kind, query).await
    }

    async fn watch(&self, kind: KindRef, filter: &Filter, start: Start) -> Result<WatchStream, Failure> {
        let events = self.through()?.watch(kind, filter, start).await?;
        let mut cut = self.cut.subscribe();
        let end = async move {
            let _ = cut.wait_for(|cut| *cut).await;
        };
        Ok(events.take_until(Box::pin(end)).boxed())
    }

    async fn create(
        &self,
        kind: KindRef,
        namespace: &str,
        value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Failure> {
        self.through()?.create(kind, namespace, value, options).await
    }

    async fn update(
        &self,
        kind: KindRef,
        key: &Key,
        part: Part,
        value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Failure> {
        self.through()?.update(kind, key, part, value, options).await
    }

    async fn delete(&self, kind: KindRef, key: &Key, query: &DeleteQuery) -> Result<Arc<Object>, Failure> {
        self.through()?.delete(kind, key, query).await
    }

    async fn bind(&self, bindings: Vec<(Key, String, String)>) -> Vec<Result<(), Failure>> {
        match self.through() {
            Ok(cluster) => cluster.bind(bindings).await,
            Err(failure) => bindings.iter().map(|_| Err(failure.clone())).collect(),
        }
    }
}
