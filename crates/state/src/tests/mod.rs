//! The state without a log: a bench that feeds an applier and keeps its tables in memory.
#![allow(clippy::unwrap_used)]

mod fold;
mod history;
mod log;
mod replay;
mod restore;
mod views;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use balsa_log::{Committed, LogIndex};
use balsa_model::kind::{Claim, Descriptor, Kind, KindRef, Registered, define, kind_of};
use balsa_model::selector::{FieldSelector, Filter, LabelSelector};
use balsa_model::{Key, Mutation, Object, Operation, Precondition, Revision};
use bytes::Bytes;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::applier::Applier;
use crate::codec::{Verdicts, decode_reply, encode_entry};
use crate::tables::memory::MemoryTables;
use crate::{Event, Start, State, StateConfig, Watch, WatchRequest};

/// A kind with an indexed field.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Gadget {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: GadgetSpec,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct GadgetSpec {
    #[serde(default)]
    node_name: String,
}

impl k8s_openapi::Resource for Gadget {
    const API_VERSION: &'static str = "test/v1";
    const GROUP: &'static str = "test";
    const KIND: &'static str = "Gadget";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "gadgets";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for Gadget {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Registered for Gadget {
    fn registered() -> KindRef {
        define::<Self>()
    }
}

impl Kind for Gadget {
    const DESCRIPTOR: Descriptor = Descriptor {
        field_labels: &["spec.nodeName"],
        indexed_fields: &["spec.nodeName"],
        ..Descriptor::namespaced("test", "v1", "Gadget", "gadgets", "gadget", "test.v1.Gadget")
    };

    fn field(&self, label: &str) -> String {
        if label == "spec.nodeName" { self.spec.node_name.clone() } else { String::new() }
    }
}

pub(crate) fn gadgets() -> KindRef {
    kind_of::<Gadget>()
}

pub(crate) fn config_maps() -> KindRef {
    kind_of::<ConfigMap>()
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// A mutation to begin tests with.
pub(crate) fn create(name: &str, node: &str) -> Mutation {
    let value = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": node}},
        "spec": {"nodeName": node},
    });
    mutation(Operation::Create, gadgets(), key(name), Object::canonical(gadgets(), &value))
}

pub(crate) fn replace(name: &str, node: &str) -> Mutation {
    Mutation { operation: Operation::Replace, ..create(name, node) }
}

pub(crate) fn remove(name: &str) -> Mutation {
    mutation(Operation::Remove, gadgets(), key(name), Vec::new())
}

pub(crate) fn create_map(name: &str) -> Mutation {
    let value = json!({"metadata": {"name": name, "namespace": "default"}, "data": {"a": "b"}});
    mutation(Operation::Create, config_maps(), key(name), Object::canonical(config_maps(), &value))
}

fn mutation(operation: Operation, kind: KindRef, key: Key, object: Vec<u8>) -> Mutation {
    Mutation {
        operation,
        kind,
        key,
        object: object.into(),
        precondition: Precondition::default(),
        claims: Vec::new(),
        user: "tester".into(),
    }
}

pub(crate) fn if_revision(revision: u64, mutation: Mutation) -> Mutation {
    let precondition = Precondition { revision: Some(Revision(revision)), uid: None };
    Mutation { precondition, ..mutation }
}

pub(crate) fn claiming(token: &str, mutation: Mutation) -> Mutation {
    let claim = Claim { token: token.to_owned(), field: "spec.ip", refusal: "it is taken" };
    Mutation { claims: vec![claim], ..mutation }
}

/// An applier with its tables.
pub(crate) struct Bench {
    pub(crate) state: State,
    pub(crate) tables: MemoryTables,
    applier: Applier,
    index: u64,
    proposals: u128,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(StateConfig::default()).await
    }

    pub(crate) async fn with(config: StateConfig) -> Self {
        Self::over(MemoryTables::default(), config).await
    }

    pub(crate) async fn over(tables: MemoryTables, config: StateConfig) -> Self {
        Self::at(0, tables, config).await
    }

    /// A server that starts with what its tables reflect.
    async fn at(index: u64, tables: MemoryTables, config: StateConfig) -> Self {
        let state = State::start(&[gadgets(), config_maps()], config);
        let mut applier = Applier::new(state.clone());
        applier.restore(Arc::new(tables.clone()), (index > 0).then_some(index)).await.unwrap();
        Self { state, tables, applier, index, proposals: 0 }
    }

    /// A server that starts again.
    pub(crate) async fn restart(self) -> Self {
        let config = self.state.shared.config.clone();
        Self { proposals: self.proposals, ..Self::at(self.index, self.tables, config).await }
    }

    /// A snapshot that replaces the state of a running server.
    pub(crate) async fn restore(&mut self, tables: &MemoryTables) {
        self.tables.replace_with(tables);
        self.applier.restore(Arc::new(self.tables.clone()), Some(self.index)).await.unwrap();
    }

    fn next(&mut self, payload: Bytes) -> Committed {
        self.index += 1;
        Committed { index: LogIndex(self.index), payload }
    }

    pub(crate) async fn commit(&mut self, payloads: Vec<Bytes>) -> Vec<Bytes> {
        let entries = payloads.into_iter().map(|payload| self.next(payload)).collect();
        let (replies, writes) = self.applier.apply(entries).await.unwrap();
        self.tables.write(writes);
        self.applier.publish(self.index).await;
        replies
    }

    pub(crate) async fn try_commit(&mut self, payload: Bytes) -> Result<(), String> {
        let entry = self.next(payload);
        self.applier.apply(vec![entry]).await.map(|_| ()).map_err(|error| error.to_string())
    }

    pub(crate) fn entry(&mut self, mutations: &[Mutation]) -> Bytes {
        self.proposals += 1;
        encode_entry(self.proposals.to_be_bytes(), 1_700_000_000_000, mutations)
    }

    pub(crate) async fn apply(&mut self, mutations: Vec<Mutation>) -> Verdicts {
        let entry = self.entry(&mutations);
        let reply = self.commit(vec![entry]).await.remove(0);
        decode_reply(&reply).unwrap()
    }

    /// Applies what must be accepted.
    pub(crate) async fn must(&mut self, mutation: Mutation) -> Revision {
        self.apply(vec![mutation]).await.remove(0).unwrap()
    }
}

/// What a client knows from watching; it objects to events that make no sense.
#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) objects: BTreeMap<Key, Bytes>,
    pub(crate) last: Revision,
    initial_over: bool,
}

impl Replica {
    /// Of a client that has listed what a view shows.
    pub(crate) fn listed(objects: impl IntoIterator<Item = Arc<Object>>, revision: Revision) -> Self {
        let objects =
            objects.into_iter().map(|object| (object.key().clone(), object.bytes().clone())).collect();
        Self { objects, last: revision, initial_over: true }
    }

    pub(crate) fn see(&mut self, event: &Event) {
        if self.initial_over {
            let is_bookmark = event.object().is_none();
            let in_order = event.revision() > self.last || is_bookmark && event.revision() == self.last;
            assert!(in_order, "{event:?} after {}", self.last);
            self.last = event.revision();
        }
        match event {
            Event::Added(version) => {
                let object = version.object();
                let before = self.objects.insert(object.key().clone(), object.bytes().clone());
                assert!(before.is_none(), "{event:?} was there");
            }
            Event::Modified(version) => {
                let object = version.object();
                let before = self.objects.insert(object.key().clone(), object.bytes().clone());
                assert!(before.is_some(), "{event:?} was not there");
            }
            Event::Deleted(version) => {
                let object = version.object();
                assert!(self.objects.remove(object.key()).is_some(), "{event:?} was not there");
                assert_eq!(object.meta().resource_version, Some(object.revision().to_string()));
            }
            Event::Bookmark(_, _) => {}
            Event::InitialEnd(_, revision) => {
                assert!(!self.initial_over);
                self.initial_over = true;
                self.last = *revision;
            }
        }
    }

    /// Watches until everything up to `revision` has been told.
    pub(crate) async fn follow(&mut self, watch: &mut Watch, revision: Revision) {
        while !(self.initial_over && self.last >= revision) {
            let batch = tokio::time::timeout(Duration::from_secs(20), watch.next_batch());
            let batch = batch.await.expect("the watch stands still").expect("the server is there").unwrap();
            batch.iter().for_each(|event| self.see(event));
        }
    }
}

/// What a list with that filter shows.
pub(crate) fn list(state: &State, filter: &Filter) -> BTreeMap<Key, Bytes> {
    let view = state.view(gadgets());
    view.select(filter, None).map(|object| (object.key().clone(), object.bytes().clone())).collect()
}

/// A watch whose bookmarks come all the time.
pub(crate) fn request(filter: Filter, start: Start) -> WatchRequest {
    WatchRequest { kind: gadgets(), filter, start, bookmarks: Some(Duration::from_millis(2)) }
}

pub(crate) fn on_node(node: &str) -> Filter {
    Filter { fields: FieldSelector::equal("spec.nodeName", node), ..Filter::default() }
}

pub(crate) fn labelled(app: &str) -> Filter {
    Filter { labels: LabelSelector::parse(&format!("app={app}")).unwrap(), ..Filter::default() }
}

pub(crate) fn named(name: &str) -> Filter {
    Filter { namespace: Some("default".into()), name: Some(name.into()), ..Filter::default() }
}

/// All sorts of filters.
pub(crate) fn filters() -> Vec<Filter> {
    vec![
        Filter::everything(),
        Filter::namespaced("default"),
        Filter::namespaced("other"),
        on_node("n1"),
        labelled("n1"),
        named("g1"),
        Filter { labels: LabelSelector::parse("app!=n2").unwrap(), ..on_node("n1") },
    ]
}
