//! The ConfigMaps, Secrets and RuntimeClasses that this node's pods name, and no others.
//!
//! One informer an object, with a filter on its name, for as long as a pod names it. A copy of each is
//! kept on disk (0600), so that a container can be started again while no server answers. A change is
//! told to the pods that name the object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use balsa_client::{Client, Informer};
use balsa_model::kind::from_slice;
use balsa_model::selector::Filter;
use balsa_model::{Key, Kind, Object};
use balsa_rt::{CancellationToken, Scope, TaskKind};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::node::v1::RuntimeClass;
use tokio::sync::mpsc;

use crate::files::write_private;

/// How long an object that was never seen is waited for.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// Keys and values.
pub(crate) type Data = BTreeMap<String, Vec<u8>>;

/// Where ConfigMaps, Secrets and RuntimeClasses come from. `Ok(None)`: there is no such object.
#[async_trait]
pub(crate) trait ObjectSource: Send + Sync {
    /// The data of a ConfigMap.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, String>;
    /// The data of a Secret.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, String>;
    /// The handler of a RuntimeClass.
    async fn handler(&self, class: &str) -> Result<Option<String>, String>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Which {
    ConfigMap,
    Secret,
    RuntimeClass,
}

/// One of them by name; classes are in no namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Reference {
    which: Which,
    namespace: String,
    name: String,
}

struct Watched {
    informer: Informer,
    users: BTreeSet<String>,
    /// Ends the informer when nobody names the object any more.
    _scope: Scope,
}

/// The objects that pods of this node name.
pub(crate) struct Objects {
    client: Client,
    directory: PathBuf,
    token: CancellationToken,
    watched: Mutex<HashMap<Reference, Watched>>,
    /// UIDs of pods whose objects changed.
    changed: mpsc::UnboundedSender<String>,
}

impl Objects {
    /// Nothing is watched yet. The receiver hears the UIDs of pods whose objects changed.
    pub(crate) fn new(
        client: Client,
        directory: PathBuf,
        token: CancellationToken,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<String>) {
        // An UID for each change of an object and each pod of this node that names it; who hears it only passes it on.
        let (changed, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self { client, directory, token, watched: Mutex::default(), changed }), receiver)
    }

    /// Watches what this pod names; watches what nobody names no longer.
    pub(crate) fn acquire(self: &Arc<Self>, uid: &str, pod: &Pod) {
        let wanted = references(pod);
        let mut watched = self.lock();
        for reference in &wanted {
            let entry = watched.entry(reference.clone()).or_insert_with(|| self.watch(reference));
            entry.users.insert(uid.to_owned());
        }
        watched.retain(|reference, entry| {
            if !wanted.contains(reference) {
                entry.users.remove(uid);
            }
            !entry.users.is_empty()
        });
    }

    /// The pod is gone.
    pub(crate) fn release(&self, uid: &str) {
        self.lock().retain(|reference, entry| {
            entry.users.remove(uid);
            if entry.users.is_empty() {
                let _ = std::fs::remove_file(self.copy_of(reference));
            }
            !entry.users.is_empty()
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Reference, Watched>> {
        self.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn watch(self: &Arc<Self>, reference: &Reference) -> Watched {
        let scope = Scope::under(&self.token);
        let name = Some(reference.name.as_str().into());
        let filter = match reference.which {
            Which::RuntimeClass => Filter { name, ..Filter::everything() },
            Which::ConfigMap | Which::Secret => Filter { name, ..Filter::namespaced(&reference.namespace) },
        };
        let informer = match reference.which {
            Which::ConfigMap => self.client.informer::<ConfigMap>(filter, &scope),
            Which::Secret => self.client.informer::<Secret>(filter, &scope),
            Which::RuntimeClass => self.client.informer::<RuntimeClass>(filter, &scope),
        };
        let (mut changes, this, reference) = (informer.subscribe(), Arc::downgrade(self), reference.clone());
        scope.spawn(TaskKind::Agent, async move {
            while let Some(changed) = changes.recv().await {
                let Some(this) = this.upgrade() else { return };
                this.keep_copy(&reference, changed.new.as_deref());
                let users = this.lock().get(&reference).map(|entry| entry.users.clone()).unwrap_or_default();
                for user in users {
                    let _ = this.changed.send(user);
                }
            }
        });
        Watched { informer, users: BTreeSet::new(), _scope: scope }
    }

    fn copy_of(&self, reference: &Reference) -> PathBuf {
        let which = match reference.which {
            Which::ConfigMap => "configmap",
            Which::Secret => "secret",
            Which::RuntimeClass => "runtimeclass",
        };
        self.directory.join(format!("{which}_{}_{}.json", reference.namespace, reference.name))
    }

    fn keep_copy(&self, reference: &Reference, object: Option<&Object>) {
        let path = self.copy_of(reference);
        let outcome = match object {
            Some(object) => write_private(&path, object.bytes()),
            None => std::fs::remove_file(&path),
        };
        if let Err(error) = outcome {
            tracing::debug!(path = %path.display(), %error, "copy not kept");
        }
    }

    /// As the server tells it; where no server answers, as it was last seen.
    async fn find<K: Kind>(&self, reference: Reference) -> Result<Option<K>, String> {
        let informer = self.lock().get(&reference).map(|entry| entry.informer.clone());
        let Some(informer) = informer else { return Err(format!("{} is not watched", reference.name)) };
        let key = Key::new(reference.namespace.as_str(), reference.name.as_str());
        if tokio::time::timeout(FIRST_LOOK, informer.synced()).await.is_ok() {
            let found = informer.get(&key);
            return found.map(|o| from_slice(o.bytes()).map_err(|e| e.to_string())).transpose();
        }
        let bytes = std::fs::read(self.copy_of(&reference)).map_err(|_| {
            format!("failed to sync {} cache: timed out waiting for the condition", reference.name)
        })?;
        from_slice(&bytes).map(Some).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl ObjectSource for Objects {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        let reference =
            Reference { which: Which::ConfigMap, namespace: namespace.to_owned(), name: name.to_owned() };
        let found: Option<ConfigMap> = self.find(reference).await?;
        Ok(found.map(|object| {
            let text = object.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
            let binary = object.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0));
            text.chain(binary).collect()
        }))
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        let reference =
            Reference { which: Which::Secret, namespace: namespace.to_owned(), name: name.to_owned() };
        let found: Option<Secret> = self.find(reference).await?;
        Ok(found.map(|object| object.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()))
    }

    async fn handler(&self, class: &str) -> Result<Option<String>, String> {
        let reference =
            Reference { which: Which::RuntimeClass, namespace: String::new(), name: class.to_owned() };
        let found: Option<RuntimeClass> = self.find(reference).await?;
        Ok(found.map(|class| class.handler))
    }
}

/// Everything of the kind that a pod names.
fn references(pod: &Pod) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let Some(spec) = &pod.spec else { return found };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut add = |which: Which, name: &str| {
        if !name.is_empty() {
            found.insert(Reference { which, namespace: namespace.to_owned(), name: name.to_owned() });
        }
    };
    let ephemeral = crate::pod::ephemeral::all(pod);
    let members = crate::pod::observed::members(pod).map(|(_, container)| container);
    for container in members.chain(&ephemeral) {
        for source in container.env_from.iter().flatten() {
            source.config_map_ref.iter().for_each(|r| add(Which::ConfigMap, &r.name));
            source.secret_ref.iter().for_each(|r| add(Which::Secret, &r.name));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            source.config_map_key_ref.iter().for_each(|r| add(Which::ConfigMap, &r.name));
            source.secret_key_ref.iter().for_each(|r| add(Which::Secret, &r.name));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        volume.config_map.iter().for_each(|r| add(Which::ConfigMap, &r.name));
        volume.secret.iter().for_each(|r| add(Which::Secret, r.secret_name.as_deref().unwrap_or_default()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            source.config_map.iter().for_each(|r| add(Which::ConfigMap, &r.name));
            source.secret.iter().for_each(|r| add(Which::Secret, &r.name));
        }
    }
    spec.image_pull_secrets.iter().flatten().for_each(|r| add(Which::Secret, &r.name));
    if let Some(name) = runtime_class(pod) {
        let (namespace, name) = (String::new(), name.to_owned());
        found.insert(Reference { which: Which::RuntimeClass, namespace, name });
    }
    found
}

/// The RuntimeClass that a pod names, if it names one.
pub(crate) fn runtime_class(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.runtime_class_name.as_deref().filter(|name| !name.is_empty())
}

/// Objects that do not change, for tests: by `namespace/name`.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct FixedObjects {
    pub config_maps: BTreeMap<String, Data>,
    pub secrets: BTreeMap<String, Data>,
}

#[cfg(test)]
#[async_trait]
impl ObjectSource for FixedObjects {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        Ok(self.config_maps.get(&format!("{namespace}/{name}")).cloned())
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Data>, String> {
        Ok(self.secrets.get(&format!("{namespace}/{name}")).cloned())
    }

    async fn handler(&self, _class: &str) -> Result<Option<String>, String> {
        Ok(None)
    }
}
