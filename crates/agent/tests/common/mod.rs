//! A cluster in memory with one node, for stories.

mod line;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use balsa_agent::{Agent, AgentConfig, AgentHandle, CountedNetwork, NetworkSeam, Timing};
use balsa_client::Client;
use balsa_client::memory::MemoryBackend;
use balsa_model::selector::Filter;
use balsa_model::strategy::DeleteOptions;
use balsa_model::{Key, Kind};
use balsa_rt::{Clock, Scope};
use balsa_runtime::Runtime;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod, PodStatus};
use line::Line;
use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster with one node.
#[allow(dead_code, reason = "each story uses what it needs")]
pub(crate) struct World {
    pub(crate) client: Client,
    /// What is between the cluster and the node's agent.
    pub(crate) line: Arc<Line>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: NetworkSeam,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) config: AgentConfig,
    pub(crate) scope: Scope,
    pub(crate) agent: Option<AgentHandle>,
}

#[allow(dead_code, reason = "each story uses what it needs")]
impl World {
    /// A cluster whose node's agent has not started. Back-offs are short.
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("node-{}", balsa_rt::random_suffix(6));
        let mut config = AgentConfig::new(&name, directory.path(), Ipv4Addr::LOCALHOST.into());
        config.cluster = format!("test-{name}");
        config.pod_cidr = Some("10.231.7.0/24".parse().unwrap());
        config.timing = Timing {
            retry: Duration::from_millis(100),
            restart_first: Duration::from_millis(500),
            restart_ceiling: Duration::from_secs(2),
            resync: Duration::from_secs(2),
            usage: Duration::from_millis(200),
            ..Timing::default()
        };
        let cluster = MemoryBackend::new(Clock::system());
        let (client, line) = (Client::new(cluster.clone(), "test"), Line::to(cluster));
        let network = Arc::new(CountedNetwork::default());
        Self { client, line, runtime, network, directory, config, scope: Scope::new(), agent: None }
    }

    /// Starts the agent, for the first time or again.
    pub(crate) async fn start(&mut self) {
        let client = Client::new(self.line.clone(), "kubelet");
        let agent = Agent::new(self.config.clone(), client, self.runtime.clone(), self.network.clone());
        balsa_rt::telemetry::install_logs("warn", balsa_rt::telemetry::LogFormat::Text);
        let handle = agent.start(&self.scope).await.unwrap();
        handle.ready().await;
        self.agent = Some(handle);
    }

    /// Stops the agent; containers go on.
    pub(crate) async fn stop(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.drain().await;
        }
    }

    /// Creates any object.
    pub(crate) async fn create<K: Kind>(&self, mut object: Value) {
        object["metadata"]["namespace"] = "default".into();
        let object: K = serde_json::from_value(object).unwrap();
        self.client.api::<K>().create(&object).await.unwrap();
    }

    /// Creates a pod on the node.
    pub(crate) async fn pod(&self, name: &str, mut spec: Value) {
        spec["nodeName"] = self.config.node_name.as_str().into();
        if spec.get("terminationGracePeriodSeconds").is_none() {
            spec["terminationGracePeriodSeconds"] = 2.into();
        }
        self.create::<Pod>(json!({"metadata": {"name": name}, "spec": spec})).await;
    }

    /// The pod, if it is there.
    pub(crate) async fn find(&self, name: &str) -> Option<Pod> {
        self.client.api::<Pod>().find(&Key::new("default", name)).await.unwrap()
    }

    /// Deletes a pod with its own grace period.
    pub(crate) async fn delete(&self, name: &str) {
        self.client
            .api::<Pod>()
            .delete(&Key::new("default", name), "", DeleteOptions::default())
            .await
            .unwrap();
    }

    /// Waits until the pod's status is as asked.
    pub(crate) async fn until(&self, name: &str, what: &str, is: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let mut last = None;
        let found = async {
            loop {
                let status = self.find(name).await.and_then(|pod| pod.status);
                if let Some(status) = status.as_ref().filter(|status| is(status)) {
                    return status.clone();
                }
                last = status;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(status) => status,
            Err(_) => panic!(
                "pod {name} never: {what}; it is {}\nevents: {:#?}",
                serde_json::to_string_pretty(&last).unwrap(),
                self.events().await
            ),
        }
    }

    /// Waits until every container is ready.
    pub(crate) async fn ready(&self, name: &str) -> PodStatus {
        self.until(name, "ready", |status| condition(status, "Ready") == "True").await
    }

    /// Waits until the pod is gone.
    pub(crate) async fn gone(&self, name: &str) {
        let gone = async {
            while self.find(name).await.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, gone).await.is_ok(), "pod {name} does not go");
    }

    /// How many containers of this node there are.
    pub(crate) async fn containers(&self) -> usize {
        let filter = balsa_runtime::ListFilter::label(balsa_runtime::labels::NODE, &self.config.node_name);
        self.runtime.list(&filter).await.unwrap().len()
    }

    /// Reasons of all events.
    pub(crate) async fn reasons(&self) -> Vec<String> {
        self.events().await.into_iter().map(|(reason, _)| reason).collect()
    }

    /// Reasons and messages of all events.
    pub(crate) async fn events(&self) -> Vec<(String, String)> {
        let events = self.client.api::<Event>().list(Filter::everything()).await.unwrap();
        let typed = events.iter().filter_map(|object| object.typed::<Event>());
        typed
            .map(|event| {
                (event.reason.clone().unwrap_or_default(), event.message.clone().unwrap_or_default())
            })
            .collect()
    }
}

/// The status of a condition.
#[allow(dead_code, reason = "each story uses what it needs")]
pub(crate) fn condition(status: &PodStatus, type_: &str) -> String {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == type_);
    found.map(|condition| condition.status.clone()).unwrap_or_default()
}

/// The status of the first container.
#[allow(dead_code, reason = "each story uses what it needs")]
pub(crate) fn first(status: &PodStatus) -> ContainerStatus {
    status.container_statuses.as_ref().and_then(|list| list.first()).cloned().unwrap_or_default()
}

/// Why the first container waits.
#[allow(dead_code, reason = "each story uses what it needs")]
pub(crate) fn waiting(status: &PodStatus) -> String {
    first(status).state.and_then(|state| state.waiting).and_then(|waiting| waiting.reason).unwrap_or_default()
}
