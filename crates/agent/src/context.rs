//! What the actors of one node share.

use std::sync::{Arc, OnceLock};

use balsa_client::{Informer, Recorder};
use balsa_rt::Clock;
use balsa_runtime::Runtime;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use tokio::sync::watch;

use crate::board::StatusBoard;
use crate::config::AgentConfig;
use crate::logs::{LogName, Logs};
use crate::net::NetworkSeam;
use crate::net::shown::Shown;
use crate::node::facts::Machine;
use crate::objects::{ObjectSource as _, Objects, runtime_class};
use crate::pod::admission::Admission;
use crate::pod::env::{is_told_of, service_variables};
use crate::pod::fields::PodFacts;
use crate::pod::image::Images;
use crate::volumes;

/// What the actors of one node share.
pub(crate) struct NodeContext {
    pub config: Arc<AgentConfig>,
    pub runtime: Arc<dyn Runtime>,
    /// The scheme of container ids.
    pub engine: String,
    /// The engine can make read-only mounts so all the way down.
    pub recursive_read_only: bool,
    pub pause_image: String,
    pub network: NetworkSeam,
    /// Whether pods may be attached.
    pub network_ready: watch::Receiver<bool>,
    /// What the service proxies show.
    pub shown: Arc<Shown>,
    pub objects: Arc<Objects>,
    /// Which pods get in.
    pub admission: Admission,
    pub volumes: volumes::Shared,
    pub images: Images,
    pub board: Arc<StatusBoard>,
    pub logs: Arc<Logs>,
    pub recorder: Recorder,
    pub services: Informer,
    pub machine: Machine,
    pub clock: Clock,
    /// The node's own HTTP endpoint, once it is made.
    pub http: OnceLock<axum::Router>,
}

impl NodeContext {
    /// Records an event about a pod, or about one of its containers.
    pub(crate) fn event(
        &self,
        pod: &Pod,
        container: Option<&str>,
        type_: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut about: ObjectReference = balsa_client::events::reference_to(pod);
        about.field_path = container.map(|name| {
            let init =
                crate::pod::observed::init_containers(pod).any(|(_, container)| container.name == name);
            let list = match (init, crate::pod::ephemeral::find(pod, name)) {
                (true, _) => "initContainers",
                (false, Some(_)) => "ephemeralContainers",
                (false, None) => "containers",
            };
            format!("spec.{list}{{{name}}}")
        });
        self.recorder.event(&about, type_, reason, message);
    }

    /// The engine's runtime for a pod; `None` is its usual one. Words of the kubelet where there is none.
    pub(crate) async fn handler(&self, pod: &Pod) -> Result<Option<String>, String> {
        let Some(class) = runtime_class(pod) else { return Ok(None) };
        match self.objects.handler(class).await {
            Ok(Some(handler)) => Ok(Some(handler).filter(|handler| !handler.is_empty())),
            Ok(None) => Err(format!("RuntimeClass \"{class}\" not found")),
            Err(error) => Err(format!("failed to get RuntimeClass {class}: {error}")),
        }
    }

    /// What a pod may learn of itself.
    pub(crate) fn facts(&self, address: Option<std::net::IpAddr>) -> PodFacts {
        PodFacts {
            pod_ip: address.map(|address| address.to_string()).unwrap_or_default(),
            host_ip: self.config.node_ip.to_string(),
            node_name: self.config.node_name.clone(),
            node_cpu_milli: self.machine.cpu_milli,
            node_memory: self.machine.memory,
            node_storage: self.machine.storage,
        }
    }

    /// The service variables of a pod.
    pub(crate) fn service_variables(&self, pod: &Pod) -> Vec<(String, String)> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links) != Some(false);
        let objects = self.services.list();
        let told = objects.iter().filter(|object| is_told_of(object.key(), namespace, links));
        let told: Vec<Arc<Service>> = told.filter_map(|object| object.typed()).collect();
        let mut variables = service_variables(&told);
        let known = variables.iter().any(|(name, _)| name == "KUBERNETES_SERVICE_HOST");
        if let Some((address, port)) = self.config.api_service.filter(|_| !known) {
            variables.push(("KUBERNETES_SERVICE_HOST".to_owned(), address.to_string()));
            variables.push(("KUBERNETES_SERVICE_PORT".to_owned(), port.to_string()));
        }
        variables
    }

    /// Whose log a container's is.
    pub(crate) fn log_name(&self, pod: &Pod, container: &str) -> LogName {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        LogName {
            namespace: text(&pod.metadata.namespace),
            pod: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            container: container.to_owned(),
        }
    }
}
