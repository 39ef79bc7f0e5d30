//! Records core/v1 Events about objects, without ever holding anybody up.
//!
//! A recorder hands its events to one task through a bounded channel; what does not fit is dropped and
//! counted. Equal events (object, type, reason, message) become one Event object whose `count` grows; so do many that
//! differ in their message only.
//! Which Event object that is, is remembered for the latest [`REMEMBERED`] ones only; forgetting it
//! costs nothing but a second Event object. The task ends with the last clone of its recorder.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, Kind, Object};
use balsa_rt::{Clock, TaskKind};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tokio::sync::mpsc;

use crate::api::{Api, Client};

mod similar;

use similar::Similar;

/// Events that wait to be written: a scheduler binds a few thousand pods at once and each gets one.
const WAITING: usize = 16 * 1024;
/// How many are taken at once, to be merged and written side by side.
const BATCH: usize = 256;
/// Writes under way at a time.
const PARALLEL: usize = 16;
/// Event objects whose count can still grow.
const REMEMBERED: usize = 4096;
/// The longest part of an object's name that fits before the suffix of its events.
const NAME_MAX: usize = 236;
/// The longest message.
const MESSAGE_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Identity {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    /// The part of the object: what two containers do is not the same.
    part: String,
    type_: &'static str,
    reason: String,
    message: String,
}

struct Entry {
    identity: Identity,
    reference: ObjectReference,
    /// What is to be read; of events that are told as one, it is not what makes them equal.
    message: String,
}

/// Writes Events in the name of one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Entry>,
}

impl Recorder {
    /// A recorder for `component`, with a task of its own that writes.
    pub fn new(client: Client, component: &'static str, clock: Clock) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        let writer = Writer {
            api: client.api(),
            component,
            clock,
            known: Mutex::default(),
            latest: AtomicI64::new(0),
        };
        balsa_rt::spawn(TaskKind::Helper, writer.run(receiver));
        Self { sender }
    }

    /// Records that something happened to an object. `type_` is `Normal` or `Warning`.
    pub fn event(
        &self,
        about: &ObjectReference,
        type_: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let message = shortened(message.into());
        let identity = Identity {
            kind: text(&about.kind),
            namespace: text(&about.namespace),
            name: text(&about.name),
            uid: text(&about.uid),
            part: text(&about.field_path),
            type_,
            reason: reason.to_owned(),
            message: message.clone(),
        };
        if self.sender.try_send(Entry { identity, reference: about.clone(), message }).is_err() {
            metrics::counter!("balsa_events_dropped_total").increment(1);
        }
    }
}

/// A message that is not too long.
fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        let end = (0..=MESSAGE_MAX - 3).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

/// How an Event names an object.
pub fn reference_of(object: &Object) -> ObjectReference {
    let descriptor = object.kind().descriptor();
    ObjectReference {
        api_version: Some(descriptor.api_version()),
        kind: Some(descriptor.kind.to_owned()),
        namespace: object.meta().namespace.clone(),
        name: object.meta().name.clone(),
        uid: object.meta().uid.clone(),
        resource_version: object.meta().resource_version.clone(),
        field_path: None,
    }
}

/// How an Event names a typed object.
pub fn reference_to<K: Kind>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::DESCRIPTOR.api_version()),
        kind: Some(K::DESCRIPTOR.kind.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// The Events whose count can still grow, the oldest forgotten first.
#[derive(Default)]
struct Known {
    keys: HashMap<Identity, Key>,
    order: VecDeque<Identity>,
}

struct Writer {
    api: Api<Event>,
    component: &'static str,
    clock: Clock,
    known: Mutex<Known>,
    /// When the latest Event was made, in microseconds.
    latest: AtomicI64,
}

impl Writer {
    async fn run(self, mut receiver: mpsc::Receiver<Entry>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut similar = Similar::default();
        while receiver.recv_many(&mut batch, BATCH).await > 0 {
            let now = self.clock.now();
            let merged = merge(batch.drain(..).map(|entry| similar.combine(entry, now)));
            futures::stream::iter(merged)
                .for_each_concurrent(PARALLEL, |(entry, count)| self.write(entry, count))
                .await;
        }
    }

    async fn write(&self, entry: Entry, count: i32) {
        let known = self.lock().keys.get(&entry.identity).cloned();
        let written = match known {
            Some(key) => self.grow(&key, count, &entry.message).await,
            None => Ok(false),
        };
        let outcome = match written {
            Ok(false) => self.create(entry, count).await,
            other => other.map(|_| ()),
        };
        if let Err(failure) = outcome {
            metrics::counter!("balsa_events_dropped_total").increment(1);
            tracing::debug!(%failure, "event not written");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts on; false when the Event object is gone.
    async fn grow(&self, key: &Key, by: i32, message: &str) -> Result<bool, Failure> {
        let now = self.clock.now_seconds();
        let written = self
            .api
            .modify(key, Part::Main, |event| {
                event.count = Some(event.count.unwrap_or(1).saturating_add(by));
                event.last_timestamp = Some(Time(now));
                event.message = Some(message.to_owned());
                true
            })
            .await?;
        Ok(written.is_some())
    }

    async fn create(&self, entry: Entry, count: i32) -> Result<(), Failure> {
        let event = self.build(&entry, count);
        let written = self.api.create(&event).await?;
        let mut known = self.lock();
        if known.keys.insert(entry.identity.clone(), written.key().clone()).is_none() {
            known.order.push_back(entry.identity);
        }
        while known.order.len() > REMEMBERED {
            if let Some(oldest) = known.order.pop_front() {
                known.keys.remove(&oldest);
            }
        }
        Ok(())
    }

    fn build(&self, entry: &Entry, count: i32) -> Event {
        let Identity { namespace, name, type_, reason, .. } = &entry.identity;
        // Events about cluster-scoped objects live in `default`.
        let namespace = if namespace.is_empty() { "default" } else { namespace };
        let stem =
            &name[..(0..=name.len().min(NAME_MAX)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0)];
        let now = Time(self.clock.now_seconds());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{stem}.{}", self.suffix())),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: entry.reference.clone(),
            type_: Some((*type_).to_owned()),
            reason: Some(reason.clone()),
            message: Some(entry.message.clone()),
            count: Some(count),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: None }),
            reporting_component: Some(self.component.to_owned()),
            reporting_instance: Some(String::new()),
            ..Event::default()
        }
    }

    /// Later Events of an object have later names: what is shown by time, in whole seconds, falls back on the
    /// order of the list. Time comes first in it; what is random keeps two writers apart.
    fn suffix(&self) -> String {
        let now = self.clock.now().as_microsecond();
        let after = |latest: i64| Some(now.max(latest.saturating_add(1)));
        let latest = self.latest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        let time = latest.ok().and_then(after).unwrap_or(now);
        format!("{time:013x}{}", balsa_rt::random_suffix(3))
    }
}

/// Equal events of a batch become one, with how many they were; order is kept.
fn merge(batch: impl Iterator<Item = Entry>) -> Vec<(Entry, i32)> {
    let mut merged: Vec<(Entry, i32)> = Vec::new();
    let mut places: HashMap<Identity, usize> = HashMap::new();
    for entry in batch {
        match places.get(&entry.identity) {
            Some(place) => {
                merged[*place].1 = merged[*place].1.saturating_add(1);
                merged[*place].0.message = entry.message;
            }
            None => {
                places.insert(entry.identity.clone(), merged.len());
                merged.push((entry, 1));
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use balsa_model::selector::Filter;

    use super::*;
    use crate::memory::MemoryBackend;

    #[tokio::test]
    async fn equal_events_are_counted_and_those_of_another_container_are_not_equal() {
        let client = Client::new(MemoryBackend::new(Clock::system()), "test");
        let recorder = Recorder::new(client.clone(), "tester", Clock::system());
        let about = |part: Option<&str>| ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some("web".to_owned()),
            namespace: Some("default".to_owned()),
            uid: Some("u".to_owned()),
            field_path: part.map(str::to_owned),
            ..ObjectReference::default()
        };
        for _ in 0..3 {
            recorder.event(&about(None), "Warning", "FailedScheduling", "no room");
        }
        for container in ["spec.containers{a}", "spec.containers{b}"] {
            recorder.event(&about(Some(container)), "Normal", "Pulled", "it is there");
        }
        let counted = async {
            loop {
                let events = client.api::<Event>().list(Filter::namespaced("default")).await.unwrap();
                let counts: Vec<_> = events.iter().map(|e| e.typed::<Event>().unwrap().count).collect();
                if counts == [Some(3), Some(1), Some(1)] {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), counted).await.unwrap();
    }

    #[tokio::test]
    async fn the_list_has_them_in_their_order() {
        let client = Client::new(MemoryBackend::new(Clock::system()), "test");
        let recorder = Recorder::new(client.clone(), "tester", Clock::system());
        let about = ObjectReference {
            name: Some("web".to_owned()),
            namespace: Some("default".to_owned()),
            ..ObjectReference::default()
        };
        let steps = ["Scheduled", "Pulled", "Created", "Started", "Killing"];
        for reason in steps {
            recorder.event(&about, "Normal", reason, "of a pod");
        }
        let listed = async {
            loop {
                let events = client.api::<Event>().list(Filter::namespaced("default")).await.unwrap();
                if events.len() == steps.len() {
                    return events
                        .iter()
                        .map(|e| e.typed::<Event>().unwrap().reason.clone().unwrap())
                        .collect();
                }
                tokio::task::yield_now().await;
            }
        };
        let reasons: Vec<String> = tokio::time::timeout(Duration::from_secs(10), listed).await.unwrap();
        assert_eq!(reasons, steps);
    }
}
