//! A cluster in memory for the stories: client, controllers, a kubelet, and waiting for conditions.

use std::sync::Arc;
use std::time::Duration;

use balsa_client::memory::MemoryBackend;
use balsa_client::{Client, Informer};
use balsa_model::selector::Filter;
use balsa_model::strategy::{DeleteOptions, Part};
use balsa_model::{Key, Kind, Object};
use balsa_rt::{Clock, Scope, TaskKind};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::ControllerConfig;

const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster whose controllers run as long as it is held.
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) scope: Scope,
}

impl Cluster {
    pub(super) fn start(clock: Clock, config: ControllerConfig) -> Self {
        let client = Client::new(MemoryBackend::new(clock.clone()), "story");
        let scope = Scope::new();
        crate::start(client.clone(), clock, config, &scope);
        Self { client, scope }
    }

    /// With a kubelet for all pods.
    pub(super) async fn with_kubelet() -> Self {
        let config = ControllerConfig { local_path_dir: "/data".to_owned(), ..ControllerConfig::default() };
        let cluster = Self::start(Clock::system(), config);
        cluster.run_kubelet();
        cluster.create(namespace("default")).await;
        cluster
    }

    pub(super) async fn create<K: Kind>(&self, object: K) -> Arc<Object> {
        self.client.api::<K>().create(&object).await.unwrap()
    }

    pub(super) async fn list<K: Kind>(&self) -> Vec<K> {
        let all = self.client.api::<K>().list(Filter::everything()).await.unwrap();
        all.iter().map(|object| object.to_typed::<K>().unwrap()).collect()
    }

    pub(super) async fn find<K: Kind>(&self, namespace: &str, name: &str) -> Option<K> {
        self.client.api::<K>().find(&Key::new(namespace, name)).await.unwrap()
    }

    pub(super) async fn change<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        mut change: impl FnMut(&mut K) + Send,
    ) {
        let api = self.client.api::<K>();
        let key = Key::new(namespace, name);
        let written = api.modify(&key, Part::Main, |object| {
            change(object);
            true
        });
        written.await.unwrap();
    }

    pub(super) async fn delete<K: Kind>(&self, namespace: &str, name: &str, options: DeleteOptions) {
        self.client.api::<K>().delete(&Key::new(namespace, name), "", options).await.unwrap();
    }

    /// Waits until the objects of a kind are as `condition` says.
    pub(super) async fn wait<K: Kind>(&self, what: &str, condition: impl Fn(&[K]) -> bool) {
        let informer: Informer = self.client.informer::<K>(Filter::everything(), &self.scope);
        // What goes before it has listed is no change to it.
        informer.synced().await;
        let mut changes = informer.subscribe();
        let holds = async {
            loop {
                if condition(&self.list::<K>().await) {
                    return;
                }
                changes.recv().await;
            }
        };
        if tokio::time::timeout(PATIENCE, holds).await.is_err() {
            let last: Vec<Value> =
                self.list::<K>().await.iter().map(|o| serde_json::to_value(o).unwrap()).collect();
            panic!("waited in vain: {what}; there is {last:#?}");
        }
    }

    /// Marks every pod as running and ready, and lets go of those that are being deleted.
    pub(super) fn run_kubelet(&self) {
        let pods = self.client.informer::<Pod>(Filter::everything(), &self.scope);
        let mut changes = pods.subscribe();
        let client = self.client.clone();
        self.scope.spawn(TaskKind::Test, async move {
            while let Some(change) = changes.recv().await {
                let Some(object) = change.new else { continue };
                let api = client.api::<Pod>();
                if object.is_deleting() {
                    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                    let _ = api.delete(object.key(), object.uid(), now).await;
                    continue;
                }
                let _ = api.modify(object.key(), Part::Status, make_ready).await;
            }
        });
    }
}

/// Whether that changed anything. Pods with the image `broken` never become ready; those with `task` and
/// `fails` end.
fn make_ready(pod: &mut Pod) -> bool {
    let image = pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap_or_default();
    if crate::pods::is_ready(pod) || crate::pods::is_terminal(pod) || image == "broken" {
        return false;
    }
    let now = Clock::system().now_seconds().to_string();
    let status = match image.as_str() {
        "task" => json!({"phase": "Succeeded"}),
        "fails" => json!({"phase": "Failed"}),
        _ => json!({"phase": "Running", "podIP": "10.1.2.3", "podIPs": [{"ip": "10.1.2.3"}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}),
    };
    pod.status = Some(serde_json::from_value(status).unwrap());
    true
}

pub(super) fn from<K: Kind>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

pub(super) fn namespace(name: &str) -> k8s_openapi::api::core::v1::Namespace {
    from(json!({"metadata": {"name": name}}))
}
