//! Streams into pods: which node, which container, and what the agent is asked for.

use std::sync::Arc;

use balsa_model::kind::kind_of;
use balsa_model::kinds::pod::waiting_to_start;
use balsa_model::{Failure, Key, Object};
use balsa_proto::agent::{Open, PodRef, open};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodSpec};

use crate::front::Front;
use crate::sessions::PodStream;

/// A pod, or a container of one, that somebody wants a stream into; or a node.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `None`: the node itself.
    pod: Option<PodRef>,
    node: String,
    /// Its name; found when the client named none and the pod has one. Empty: the pod as a whole.
    pub(crate) container: String,
    waiting: Option<String>,
    phase: String,
}

impl Front {
    /// Finds a container of a pod.
    ///
    /// # Errors
    /// `NotFound`, or `BadRequest` when it is not clear which container is meant, or the pod has no node yet.
    pub(crate) fn container(&self, key: &Key, container: &str) -> Result<Target, Failure> {
        self.container_if_placed(key, container)?.ok_or_else(|| without_node(key))
    }

    /// The same; `None` when the pod has no node yet.
    ///
    /// # Errors
    /// `NotFound`, or `BadRequest` when it is not clear which container is meant.
    pub(crate) fn container_if_placed(&self, key: &Key, container: &str) -> Result<Option<Target>, Failure> {
        let object = self.find_pod(key)?;
        let pod = typed(&object)?;
        let annotations = pod.metadata.annotations.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let container = choose(&spec, &annotations, &key.name, container)?;
        let status = pod.status.clone().unwrap_or_default();
        let statuses =
            [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
        let waiting = waiting_reason(statuses.iter().flatten().flatten(), &container);
        Ok(target(&object, &pod).map(|whole| Target { container, waiting, ..whole }))
    }

    /// Finds a pod.
    ///
    /// # Errors
    /// `NotFound`, or `BadRequest` when it has no node yet.
    pub(crate) fn pod(&self, key: &Key) -> Result<Target, Failure> {
        let object = self.find_pod(key)?;
        target(&object, &*typed(&object)?).ok_or_else(|| without_node(key))
    }

    fn find_pod(&self, key: &Key) -> Result<Arc<Object>, Failure> {
        let kind = kind_of::<Pod>();
        let found = self.engine.state().get(kind, key);
        found.ok_or_else(|| Failure::not_found(kind.descriptor(), &key.name))
    }

    /// Opens a stream into a pod or a node.
    ///
    /// # Errors
    /// When its node cannot be reached.
    pub(crate) async fn open_stream(&self, target: &Target, what: open::What) -> Result<PodStream, Failure> {
        let open = Open { id: String::new(), pod: target.pod.clone(), what: Some(what) };
        self.sessions.open(&target.node, open).await
    }
}

fn typed(object: &Object) -> Result<Arc<Pod>, Failure> {
    object.typed::<Pod>().ok_or_else(|| Failure::internal("pod does not decode"))
}

fn without_node(key: &Key) -> Failure {
    Failure::bad_request(format!("pod {} does not have a host assigned", key.name))
}

/// The pod as a whole; `None` when it has no node.
fn target(object: &Object, pod: &Pod) -> Option<Target> {
    let key = object.key();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty())?;
    let pod_ref = PodRef {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        uid: object.uid().to_owned(),
    };
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    Some(Target { pod: Some(pod_ref), node, container: String::new(), waiting: None, phase })
}

impl Target {
    /// A node itself.
    pub(crate) fn node(name: &str) -> Self {
        let (container, phase) = (String::new(), String::new());
        Self { pod: None, node: name.to_owned(), container, waiting: None, phase }
    }

    fn pod_name(&self) -> &str {
        self.pod.as_ref().map_or("", |pod| &pod.name)
    }

    /// Ports need a pod that runs.
    ///
    /// # Errors
    /// `BadRequest` when it does not.
    pub(crate) fn require_running(&self) -> Result<(), Failure> {
        if self.phase == "Running" {
            return Ok(());
        }
        Err(Failure::bad_request(format!(
            "pod {} is not running. Current status={}",
            self.pod_name(),
            self.phase
        )))
    }

    /// Logs and commands need a container that has run.
    ///
    /// # Errors
    /// `BadRequest` while it waits for its first start.
    pub(crate) fn require_started(&self) -> Result<(), Failure> {
        match &self.waiting {
            Some(reason) => {
                Err(Failure::bad_request(waiting_to_start(self.pod_name(), &self.container, reason)))
            }
            None => Ok(()),
        }
    }
}

/// Why a container waits that has never run.
fn waiting_reason<'a>(
    mut statuses: impl Iterator<Item = &'a ContainerStatus>,
    container: &str,
) -> Option<String> {
    let status = statuses.find(|status| status.name == container)?;
    if status.restart_count > 0 || status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
        return None;
    }
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    Some(waiting.reason.clone().unwrap_or_else(|| "ContainerCreating".to_owned()))
}

fn choose(
    spec: &PodSpec,
    annotations: &std::collections::BTreeMap<String, String>,
    pod: &str,
    wanted: &str,
) -> Result<String, Failure> {
    let names: Vec<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
    let init: Vec<&str> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    let default = annotations.get("kubectl.kubernetes.io/default-container").map(String::as_str);
    match wanted {
        "" => match (names.as_slice(), default.filter(|d| names.contains(d))) {
            (_, Some(default)) => Ok(default.to_owned()),
            ([only], None) => Ok((*only).to_owned()),
            _ => {
                let mut text = format!(
                    "a container name must be specified for pod {pod}, choose one of: [{}]",
                    names.join(" ")
                );
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Failure::bad_request(text))
            }
        },
        name if names.contains(&name) || init.contains(&name) || is_ephemeral(spec, name) => {
            Ok(name.to_owned())
        }
        name => Err(Failure::bad_request(format!("container {name} is not valid for pod {pod}"))),
    }
}

/// Whether it is one that `kubectl debug` has put there. Such a container is never meant without its name.
fn is_ephemeral(spec: &PodSpec, name: &str) -> bool {
    spec.ephemeral_containers.iter().flatten().any(|container| container.name == name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, EphemeralContainer};

    use super::*;

    #[test]
    fn which_container_is_meant() {
        let container = |name: &str| Container { name: name.to_owned(), ..Container::default() };
        let mut spec = PodSpec { containers: vec![container("a")], ..PodSpec::default() };
        let none = std::collections::BTreeMap::new();
        assert_eq!(choose(&spec, &none, "p", "").unwrap(), "a");
        assert!(choose(&spec, &none, "p", "x").is_err());
        let debugger = EphemeralContainer { name: "debugger".to_owned(), ..EphemeralContainer::default() };
        spec.ephemeral_containers = Some(vec![debugger]);
        assert_eq!(choose(&spec, &none, "p", "debugger").unwrap(), "debugger");
        assert_eq!(choose(&spec, &none, "p", "").unwrap(), "a");
        spec.containers.push(container("b"));
        let failure = choose(&spec, &none, "p", "").unwrap_err();
        assert_eq!(failure.message, "a container name must be specified for pod p, choose one of: [a b]");
    }
}
