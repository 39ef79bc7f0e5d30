//! The storage quota: when the objects take more than it allows, the cluster is read-only but for what
//! makes room, until they take clearly less.
//!
//! What counts is the bytes of all objects, which every server has in memory: a number that follows from
//! the folded state, the same on every server at the same revision. Whether the cluster is read-only is
//! decided in one place, by the leader, and told through the log: an object, the alarm, is there or it is
//! not ([`ALARM`]). Every front door looks for it before it proposes; the fold knows nothing of it.
//!
//! While it is there these pass: removals; what an object needs that is being deleted; changes that make
//! no object larger; Leases and status, so that nodes are not taken for dead and what runs is told; and tokens, so that a
//! server or a node can be replaced.

use std::time::Duration;

use balsa_client::Client;
use balsa_model::kind::kind_of;
use balsa_model::strategy::DeleteOptions;
use balsa_model::{Failure, Key, Mutation, Object, Operation, Reason, Revision};
use balsa_state::State;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

/// Namespace and name of the ConfigMap that says that the quota is exceeded.
const ALARM: (&str, &str) = ("kube-system", "balsa-storage-alarm");
/// What it says, for people.
const MESSAGE: &str = "message";
/// The part of the quota that must be free before writes are taken again: else it would go to and fro.
const FREE_AGAIN: u64 = 10;
/// How often the leader looks at how much there is. At the pace of a fast disk that is some tens of
/// megabytes, by which the quota may be exceeded.
const LOOK: Duration = Duration::from_millis(250);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Quota {
    state: State,
    /// 0: none.
    limit: u64,
}

impl Quota {
    pub(crate) fn new(state: State, limit: u64) -> Self {
        metrics::describe_gauge!("balsa_storage_object_bytes", "Bytes of all objects");
        metrics::describe_gauge!("balsa_storage_quota_bytes", "What they may take; 0: there is no quota");
        metrics::describe_gauge!(
            "balsa_storage_alarm",
            "1 while the quota is exceeded and only deletions are taken"
        );
        Self { state, limit }
    }

    /// Bytes of all objects, and how many there may be; 0: any number.
    pub(crate) fn usage(&self) -> (u64, u64) {
        (self.state.stored_bytes(), self.limit)
    }

    /// Why only deletions are taken, if that is so.
    pub(crate) fn alarm(&self) -> Option<String> {
        let alarm = self.state.get(kind_of::<ConfigMap>(), &Key::new(ALARM.0, ALARM.1))?;
        let message = alarm.typed::<ConfigMap>().and_then(|map| map.data.as_ref()?.get(MESSAGE).cloned());
        Some(message.unwrap_or_default())
    }

    /// Sets the metrics.
    pub(crate) fn measure(&self) {
        metrics::gauge!("balsa_storage_object_bytes").set(self.state.stored_bytes() as f64);
        metrics::gauge!("balsa_storage_quota_bytes").set(self.limit as f64);
        metrics::gauge!("balsa_storage_alarm").set(if self.alarm().is_some() { 1.0 } else { 0.0 });
    }

    /// Whether mutations may be proposed now.
    ///
    /// # Errors
    /// While the quota is exceeded, for what does not help.
    pub(crate) fn admit(&self, mutations: &[Mutation]) -> Result<(), Failure> {
        let Some(alarm) = self.alarm() else { return Ok(()) };
        let refused = |mutation: &&Mutation| !self.makes_room(mutation);
        mutations.iter().find(refused).map_or(Ok(()), |mutation| {
            let descriptor = mutation.kind.descriptor();
            let message =
                format!("{} \"{}\" cannot be written: {alarm}", descriptor.resource(), mutation.key.name);
            Err(Failure::new(Reason::InsufficientStorage, message).about(descriptor, &mutation.key.name))
        })
    }

    fn makes_room(&self, mutation: &Mutation) -> bool {
        match mutation.operation {
            Operation::Remove => true,
            Operation::Create => is_token(mutation),
            Operation::Replace => {
                // What is not there any more is for the fold to refuse.
                let Some(old) = self.state.get(mutation.kind, &mutation.key) else { return true };
                mutation.kind == kind_of::<Lease>() || helps(&old, mutation)
            }
        }
    }

    /// Raises and lifts the alarm, for ever; for the leader.
    pub(crate) async fn guard(self, client: Client) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = match (self.judge(), self.alarm().is_some()) {
                (Judgement::Exceeded, false) => self.raise(&client).await,
                (Judgement::Free, true) => self.lift(&client).await,
                _ => Ok(()),
            };
            if let Err(failure) = outcome {
                tracing::warn!(%failure, "the alarm of the storage quota cannot be changed; trying again");
            }
        }
    }

    fn judge(&self) -> Judgement {
        let (used, limit) = self.usage();
        match limit {
            0 => Judgement::Free,
            _ if used >= limit => Judgement::Exceeded,
            _ if used < limit - limit / FREE_AGAIN => Judgement::Free,
            _ => Judgement::Between,
        }
    }

    async fn raise(&self, client: &Client) -> Result<(), Failure> {
        let (used, limit) = self.usage();
        let message = format!(
            "the storage quota is exceeded ({} of objects, {} allowed), only deletions are accepted; delete what is \
             not needed, or start the servers with a larger --storage-quota",
            mebibytes(used),
            mebibytes(limit)
        );
        tracing::error!(used, limit, "{message}");
        let alarm = ConfigMap {
            metadata: ObjectMeta {
                namespace: Some(ALARM.0.to_owned()),
                name: Some(ALARM.1.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some([(MESSAGE.to_owned(), message)].into()),
            ..ConfigMap::default()
        };
        match client.api().create(&alarm).await {
            Err(failure) if failure.reason != Reason::AlreadyExists => Err(failure),
            _ => Ok(()),
        }
    }

    async fn lift(&self, client: &Client) -> Result<(), Failure> {
        let key = Key::new(ALARM.0, ALARM.1);
        client.api::<ConfigMap>().delete(&key, "", DeleteOptions::default()).await?;
        let (used, limit) = self.usage();
        tracing::info!(used, limit, "the storage quota is kept again: everything is accepted");
        Ok(())
    }
}

/// A token with which a machine joins, of its usual size.
fn is_token(mutation: &Mutation) -> bool {
    const LARGEST: usize = 2048;
    mutation.kind == kind_of::<Secret>()
        && mutation.key.namespace.as_ref() == "kube-system"
        && mutation.key.name.starts_with("bootstrap-token-")
        && mutation.object.len() <= LARGEST
}

/// How the objects compare with the quota.
enum Judgement {
    Exceeded,
    /// Below it, and not enough to say that it is over.
    Between,
    Free,
}

/// Whether a new version of an object helps, or must be for other reasons.
fn helps(old: &Object, mutation: &Mutation) -> bool {
    if old.is_deleting() {
        return true;
    }
    let Ok(new) = Object::seal(mutation.kind, &mutation.object, Revision(0)) else { return true };
    if new.is_deleting() {
        return true;
    }
    size(&new) <= size(old) || rest(old) == rest(&new)
}

/// Bytes of an object, whatever its revision.
fn size(object: &Object) -> usize {
    object.bytes().len() - object.revision().to_string().len()
}

/// An object but for its status and what every write changes.
fn rest(object: &Object) -> Value {
    let mut value = object.bare_value();
    if let Some(value) = value.as_object_mut() {
        value.remove("status");
    }
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("resourceVersion");
    }
    value
}

/// A number of bytes for people.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
