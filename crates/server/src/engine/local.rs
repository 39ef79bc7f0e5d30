//! The [`Backend`] of the server's own parts: the same engine, the same admission, no network.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{
    Backend, DeleteQuery, ListQuery, ObjectList, Start, WatchEvent, WatchStream, WriteOptions,
};
use balsa_model::kind::{kind_of, to_value};
use balsa_model::selector::Filter;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, KindRef, Object, Operation, Precondition};
use balsa_state::{Event, Refusal, Watch};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::read::{Begin, Page, Wanted, watch_failed};
use super::{ATTEMPTS, Engine, check_precondition, read_failed, refused};
use crate::admission::Admitted;
use crate::authorize::Authorized;

/// How often an in-process watch learns how far the cluster has come.
const BOOKMARKS: std::time::Duration = std::time::Duration::from_secs(5);

/// The cluster as a part of this server sees it.
pub struct LocalBackend {
    engine: Engine,
    who: Authorized,
}

impl LocalBackend {
    /// A backend whose writes are those of `who`.
    pub fn new(engine: Engine, who: Authorized) -> Arc<Self> {
        Arc::new(Self { engine, who })
    }
}

/// A pod that is to have a node.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    /// The pod.
    pub pod: Key,
    /// Which pod of that name, and which version of it.
    pub precondition: Precondition,
    /// The node.
    pub node: String,
    /// What the pod shall be annotated with besides.
    pub annotations: BTreeMap<String, String>,
}

impl Binding {
    /// The precondition that names a pod's UID; empty: whichever it has.
    pub(crate) fn of_uid(uid: String) -> Precondition {
        Precondition { uid: Some(uid).filter(|uid| !uid.is_empty()), ..Precondition::default() }
    }
}

/// An event of the state as clients know it.
fn translate(event: Event) -> WatchEvent {
    match event {
        Event::Added(version) | Event::Modified(version) => WatchEvent::Applied(version.object().clone()),
        Event::Deleted(version) => WatchEvent::Deleted(version.object().clone()),
        Event::Bookmark(_, revision) => WatchEvent::Bookmark(revision),
        Event::InitialEnd(_, revision) => WatchEvent::Synced(revision),
    }
}

fn stream(watch: Watch) -> WatchStream {
    futures::stream::unfold(watch, |mut watch| async {
        let event = watch.next().await?;
        Some((event.map(translate).map_err(|error| watch_failed(&error)), watch))
    })
    .boxed()
}

#[async_trait]
impl Backend for LocalBackend {
    async fn get(&self, kind: KindRef, key: &Key) -> Result<Arc<Object>, Failure> {
        self.engine.get(&self.who, kind, key, Wanted::Latest).await
    }

    async fn list(&self, kind: KindRef, query: &ListQuery) -> Result<ObjectList, Failure> {
        let wanted = if query.stale_allowed { Wanted::Any } else { Wanted::Latest };
        let page = Page { limit: query.limit, continue_token: query.continue_token.clone() };
        let listed = self.engine.list(&self.who, kind, &query.filter, wanted, &page).await?;
        Ok(ObjectList {
            items: listed.items,
            revision: listed.revision,
            continue_token: listed.continue_token,
        })
    }

    async fn watch(&self, kind: KindRef, filter: &Filter, start: Start) -> Result<WatchStream, Failure> {
        let start = match start {
            Start::Initial => balsa_state::Start::Initial,
            Start::After(revision) => balsa_state::Start::After(revision),
        };
        let watch = self.engine.watch(&self.who, kind, filter.clone(), Begin::at(start, BOOKMARKS)).await?;
        Ok(stream(watch))
    }

    async fn create(
        &self,
        kind: KindRef,
        namespace: &str,
        value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Failure> {
        let who = self.who.clone().with_manager(&options.field_manager);
        Ok(self.engine.create(&who, kind, namespace, value, options.dry_run).await?.object)
    }

    async fn update(
        &self,
        kind: KindRef,
        key: &Key,
        part: Part,
        value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Failure> {
        let who = self.who.clone().with_manager(&options.field_manager);
        Ok(self.engine.update(&who, kind, key, part, value, options.dry_run).await?.object)
    }

    async fn delete(&self, kind: KindRef, key: &Key, query: &DeleteQuery) -> Result<Arc<Object>, Failure> {
        let DeleteQuery { options, precondition, dry_run } = query;
        Ok(self.engine.delete(&self.who, kind, key, options, precondition, *dry_run).await?.object)
    }

    async fn bind(&self, bindings: Vec<(Key, String, String)>) -> Vec<Result<(), Failure>> {
        let binding = |(pod, uid, node)| Binding {
            pod,
            precondition: Binding::of_uid(uid),
            node,
            annotations: BTreeMap::new(),
        };
        self.engine.bind(&self.who, bindings.into_iter().map(binding).collect()).await
    }
}

/// Says in the status that the pod has a node.
fn mark_scheduled(pod: &mut Pod, now: Timestamp) {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
}

impl Engine {
    /// Gives pods their nodes, all in one entry; those that were written to meanwhile in another one.
    pub(crate) async fn bind(&self, who: &Authorized, bindings: Vec<Binding>) -> Vec<Result<(), Failure>> {
        let mut answers = vec![Ok(()); bindings.len()];
        let mut open: Vec<usize> = (0..bindings.len()).collect();
        for attempt in 0..ATTEMPTS {
            // Somebody was faster: what they wrote may not be here yet.
            if attempt > 0
                && let Err(error) = self.store.read_barrier().await
            {
                open.iter().for_each(|&place| answers[place] = Err(read_failed(&error)));
                break;
            }
            open = self.bind_once(who, &bindings, open, &mut answers).await;
            if open.is_empty() {
                break;
            }
        }
        answers
    }

    /// Whether a binding would do, as things are.
    ///
    /// # Errors
    /// What `bind` would say.
    pub(crate) async fn try_binding(&self, who: &Authorized, binding: &Binding) -> Result<(), Failure> {
        self.store.read_barrier().await.map_err(|error| read_failed(&error))?;
        self.binding(who, binding).map(drop)
    }

    /// One attempt for the bindings at `open`; the places of those that others were faster than.
    async fn bind_once(
        &self,
        who: &Authorized,
        bindings: &[Binding],
        open: Vec<usize>,
        answers: &mut [Result<(), Failure>],
    ) -> Vec<usize> {
        let mut proposed = Vec::new();
        for place in open {
            match self.binding(who, &bindings[place]) {
                Ok(admitted) => proposed.push((place, admitted)),
                Err(failure) => answers[place] = Err(failure),
            }
        }
        if proposed.is_empty() {
            return Vec::new();
        }
        let (places, admitted): (Vec<usize>, Vec<Admitted>) = proposed.into_iter().unzip();
        let verdicts = match self.propose(who, Admitted::join(admitted)).await {
            Ok(verdicts) => verdicts,
            Err(failure) => {
                places.into_iter().for_each(|place| answers[place] = Err(failure.clone()));
                return Vec::new();
            }
        };
        let mut overtaken = Vec::new();
        for (place, verdict) in places.into_iter().zip(verdicts) {
            if matches!(verdict, Err(Refusal::Conflict { .. })) {
                overtaken.push(place);
            }
            let name = &bindings[place].pod.name;
            answers[place] = verdict.map(drop).map_err(|refusal| refused(kind_of::<Pod>(), name, refusal));
        }
        overtaken
    }

    fn binding(&self, who: &Authorized, binding: &Binding) -> Result<Admitted, Failure> {
        let Binding { pod: key, precondition, node, annotations } = binding;
        let pods = kind_of::<Pod>();
        let old =
            self.state().get(pods, key).ok_or_else(|| Failure::not_found(pods.descriptor(), &key.name))?;
        check_precondition(&old, precondition)?;
        let mut pod = old.to_typed::<Pod>().ok_or_else(|| Failure::internal("pod does not decode"))?;
        if old.is_deleting() {
            return Err(Failure::conflict(
                pods.descriptor(),
                &key.name,
                format!("pod {} is being deleted, cannot be assigned to a host", key.name),
            ));
        }
        let spec = pod.spec.get_or_insert_default();
        if let Some(present) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
            let why = format!("pod {} is already assigned to node \"{present}\"", key.name);
            return Err(Failure::conflict(pods.descriptor(), &key.name, why));
        }
        spec.node_name = Some(node.clone());
        if !annotations.is_empty() {
            pod.metadata.annotations.get_or_insert_default().extend(annotations.clone());
        }
        let now = self.clock.now_seconds();
        mark_scheduled(&mut pod, now);
        let precondition = Precondition { revision: Some(old.revision()), uid: Some(old.uid().to_owned()) };
        // Nobody owns what a binding sets.
        let value = to_value(&pod);
        let form = (&value, old.managed_fields());
        Ok(self.admission.admitted(self.mutation(who, Operation::Replace, &pod, form, precondition)))
    }
}
