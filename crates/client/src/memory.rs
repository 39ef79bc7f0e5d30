//! A cluster in memory: the same strategy and preconditions as a server, without log, admission or
//! network. For tests of controllers, scheduler and agents.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use balsa_model::selector::Filter;
use balsa_model::strategy::{self, Deletion, Part, Stamp};
use balsa_model::{AnyObject, Failure, Key, KindRef, Object, Precondition, Revision};
use balsa_rt::Clock;
use futures::StreamExt as _;
use imbl::OrdMap;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::backend::{
    Backend, DeleteQuery, ListQuery, ObjectList, Start, WatchEvent, WatchStream, WriteOptions,
};

struct Watcher {
    kind: KindRef,
    filter: Filter,
    sender: mpsc::UnboundedSender<Result<WatchEvent, Failure>>,
}

#[derive(Default)]
struct Objects {
    revision: u64,
    kinds: HashMap<KindRef, OrdMap<Key, Arc<Object>>>,
    watchers: Vec<Watcher>,
}

/// A cluster in memory.
pub struct MemoryBackend {
    objects: Mutex<Objects>,
    clock: Clock,
}

impl MemoryBackend {
    /// An empty cluster whose times are those of `clock`.
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { objects: Mutex::default(), clock })
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Objects {
    fn find(&self, kind: KindRef, key: &Key) -> Result<Arc<Object>, Failure> {
        let found = self.kinds.get(&kind).and_then(|objects| objects.get(key)).cloned();
        found.ok_or_else(|| Failure::not_found(kind.descriptor(), &key.name))
    }

    /// Stores a version (or takes the object away, with its last version) and tells the watchers.
    fn put(&mut self, object: &dyn AnyObject, remove: bool) -> Result<Arc<Object>, Failure> {
        let kind = object.kind();
        self.revision += 1;
        let bytes = Object::canonical(kind, &object.to_value());
        let stored = Object::seal(kind, &bytes, Revision(self.revision)).map_err(Failure::internal)?;
        let (stored, objects) = (Arc::new(stored), self.kinds.entry(kind).or_default());
        let old = if remove {
            objects.remove(stored.key())
        } else {
            objects.insert(stored.key().clone(), stored.clone())
        };
        self.watchers.retain(|watcher| {
            if watcher.kind != kind {
                return true;
            }
            let was = old.as_ref().is_some_and(|old| watcher.filter.matches(old));
            let event = match (was, !remove && watcher.filter.matches(&stored)) {
                (_, true) => WatchEvent::Applied(stored.clone()),
                (true, false) => WatchEvent::Deleted(stored.clone()),
                (false, false) => return true,
            };
            watcher.sender.send(Ok(event)).is_ok()
        });
        Ok(stored)
    }
}

fn check(old: &Object, precondition: &Precondition) -> Result<(), Failure> {
    let descriptor = old.kind().descriptor();
    if precondition.uid.as_deref().is_some_and(|uid| uid != old.uid()) {
        return Err(Failure::conflict(
            descriptor,
            &old.key().name,
            "the UID in the precondition does not match",
        ));
    }
    if precondition.revision.is_some_and(|revision| revision != old.revision()) {
        return Err(Failure::modified(descriptor, &old.key().name));
    }
    Ok(())
}

fn precondition_of(value: &Value) -> Precondition {
    let text = |field: &str| value.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
    Precondition {
        revision: text("resourceVersion").and_then(|v| v.parse().ok()),
        uid: text("uid").filter(|uid| !uid.is_empty()).map(str::to_owned),
    }
}

#[async_trait]
impl Backend for MemoryBackend {
    async fn get(&self, kind: KindRef, key: &Key) -> Result<Arc<Object>, Failure> {
        self.lock().find(kind, key)
    }

    async fn list(&self, kind: KindRef, query: &ListQuery) -> Result<ObjectList, Failure> {
        let objects = self.lock();
        let items = objects.kinds.get(&kind).into_iter().flat_map(|kind| kind.values());
        let items = items.filter(|object| query.filter.matches(object)).cloned().collect();
        Ok(ObjectList { items, revision: Revision(objects.revision), continue_token: String::new() })
    }

    async fn watch(&self, kind: KindRef, filter: &Filter, start: Start) -> Result<WatchStream, Failure> {
        let mut objects = self.lock();
        let (sender, receiver) = mpsc::unbounded_channel();
        if let Start::After(revision) = start
            && revision.0 < objects.revision
        {
            return Err(Failure::expired("objects in memory keep no history"));
        }
        if start == Start::Initial {
            for object in objects.kinds.get(&kind).into_iter().flat_map(|kind| kind.values()) {
                if filter.matches(object) {
                    let _ = sender.send(Ok(WatchEvent::Applied(object.clone())));
                }
            }
            let _ = sender.send(Ok(WatchEvent::Synced(Revision(objects.revision))));
        }
        objects.watchers.push(Watcher { kind, filter: filter.clone(), sender });
        Ok(UnboundedReceiverStream::new(receiver).boxed())
    }

    async fn create(
        &self,
        kind: KindRef,
        namespace: &str,
        mut value: Value,
        _options: &WriteOptions,
    ) -> Result<Arc<Object>, Failure> {
        let generate = value.pointer("/metadata/generateName").and_then(Value::as_str).map(str::to_owned);
        if let (Some(prefix), None) = (generate, value.pointer("/metadata/name")) {
            value["metadata"]["name"] = format!("{prefix}{}", balsa_rt::random_suffix(5)).into();
        }
        let stamp = Stamp { now: self.clock.now_seconds(), uid: balsa_rt::new_uid() };
        let object = strategy::prepare_create(kind, namespace, value, &stamp)?;
        strategy::validate_create(kind, object.as_ref())?;
        let name = object.meta().name.clone().unwrap_or_default();
        let namespace = object.meta().namespace.clone().unwrap_or_default();
        let mut objects = self.lock();
        if objects.find(kind, &Key::new(namespace, name.as_str())).is_ok() {
            return Err(Failure::already_exists(kind.descriptor(), &name));
        }
        objects.put(object.as_ref(), false)
    }

    async fn update(
        &self,
        kind: KindRef,
        key: &Key,
        part: Part,
        value: Value,
        _options: &WriteOptions,
    ) -> Result<Arc<Object>, Failure> {
        let mut objects = self.lock();
        let old = objects.find(kind, key)?;
        check(&old, &precondition_of(&value))?;
        let object = strategy::prepare_update(&old, value, part)?;
        strategy::validate_update(kind, object.as_ref(), &old, part)?;
        if Object::canonical(kind, &object.to_value()) == Object::canonical(kind, &old.value()) {
            return Ok(old);
        }
        let finished = strategy::is_finished(object.as_ref());
        objects.put(object.as_ref(), finished)
    }

    async fn delete(&self, kind: KindRef, key: &Key, query: &DeleteQuery) -> Result<Arc<Object>, Failure> {
        let mut objects = self.lock();
        let old = objects.find(kind, key)?;
        check(&old, &query.precondition)?;
        match strategy::prepare_delete(&old, &query.options, self.clock.now_seconds())? {
            Deletion::Remove => {
                let last = old.decode().ok_or_else(|| Failure::internal("stored object does not decode"))?;
                objects.put(last.as_ref(), true)
            }
            Deletion::Mark(object) => objects.put(object.as_ref(), false),
            Deletion::Unchanged => Ok(old),
        }
    }

    async fn bind(&self, bindings: Vec<(Key, String, String)>) -> Vec<Result<(), Failure>> {
        let Some(pods) = balsa_model::kinds::by_resource("", "pods") else {
            return bindings.iter().map(|_| Err(Failure::internal("pods are not served"))).collect();
        };
        let mut objects = self.lock();
        let mut answers = Vec::with_capacity(bindings.len());
        for (key, uid, node) in bindings {
            answers.push(bind_one(&mut objects, pods, &key, &uid, &node));
        }
        answers
    }
}

fn bind_one(objects: &mut Objects, pods: KindRef, key: &Key, uid: &str, node: &str) -> Result<(), Failure> {
    let old = objects.find(pods, key)?;
    check(&old, &Precondition { uid: (!uid.is_empty()).then(|| uid.to_owned()), revision: None })?;
    let mut value = old.value();
    if value.pointer("/spec/nodeName").is_some() {
        return Err(Failure::conflict(pods.descriptor(), &key.name, "pod is already assigned to a node"));
    }
    value["spec"]["nodeName"] = node.into();
    let object = pods.decode(value)?;
    objects.put(object.as_ref(), false).map(|_| ())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;
    use crate::Client;

    fn config_map(name: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}})).unwrap()
    }

    #[tokio::test]
    async fn an_informer_follows_what_is_written() {
        let scope = balsa_rt::Scope::new();
        let client = Client::new(MemoryBackend::new(Clock::system()), "test");
        let api = client.api::<ConfigMap>();
        api.create(&config_map("a")).await.unwrap();
        let informer = client.informer::<ConfigMap>(Filter::everything(), &scope);
        informer.synced().await;
        assert_eq!(informer.list().len(), 1);
        let written = api.create(&config_map("b")).await.unwrap();
        informer.reached(written.revision()).await;
        assert!(informer.get(&Key::new("default", "b")).is_some());
        assert_eq!(informer.list_in("default").len(), 2);
        assert!(informer.list_in("other").is_empty());
    }

    #[tokio::test]
    async fn a_stale_update_is_refused() {
        let client = Client::new(MemoryBackend::new(Clock::system()), "test");
        let api = client.api::<ConfigMap>();
        let first = api.create(&config_map("a")).await.unwrap();
        let mut stale = first.to_typed::<ConfigMap>().unwrap();
        stale.data = Some([("k".to_owned(), "v".to_owned())].into());
        api.update(&stale, Part::Main).await.unwrap();
        let failure = api.update(&stale, Part::Main).await.unwrap_err();
        assert_eq!(failure.reason, balsa_model::Reason::Conflict);
    }
}
