//! Which pod and container logs and commands are about: a pod by name, or one of a workload's.

use anyhow::{anyhow, bail};
use balsa_client::{Backend as _, ListQuery};
use balsa_model::kind::kind_of;
use balsa_model::selector::{Filter, LabelSelector};
use balsa_model::{Key, KindRef, Object};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as MetaSelector;

use crate::connect::Session;
use crate::output;
use crate::target;

/// The container that is meant where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The pod of a word: `web`, `pod/web`, or `deploy/web` for one of its pods.
pub(crate) async fn find(session: &Session, word: &str) -> anyhow::Result<Pod> {
    let (kind, name) =
        if word.contains('/') { target::one(word)? } else { (kind_of::<Pod>(), word.to_owned()) };
    let object = session.remote.get(kind, &session.key(kind, &name)).await?;
    if let Some(pod) = object.to_typed::<Pod>() {
        return Ok(pod);
    }
    let selector = selector_of(kind, &object)?;
    let mut pods = matching(session, selector).await?;
    // One that runs has more to tell.
    pods.sort_by_key(|pod| phase(pod) != "Running");
    let name = output::named(kind.descriptor(), &name);
    pods.into_iter().next().ok_or_else(|| anyhow!("{name} has no pods"))
}

/// The pods that labels select.
pub(crate) async fn matching(session: &Session, labels: LabelSelector) -> anyhow::Result<Vec<Pod>> {
    let filter = Filter { labels, ..Filter::namespaced(&session.namespace) };
    let list = session.remote.list(kind_of::<Pod>(), &ListQuery::matching(filter)).await?;
    Ok(list.items.iter().filter_map(|object| object.to_typed::<Pod>()).collect())
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// The pods' labels that a workload, or a Service, selects.
fn selector_of(kind: KindRef, object: &Object) -> anyhow::Result<LabelSelector> {
    let value = object.value();
    let selector = value.pointer("/spec/selector").cloned().unwrap_or_default();
    let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    if structured {
        let selector: MetaSelector = serde_json::from_value(selector)?;
        return Ok(LabelSelector::from_meta(&selector)?);
    }
    match serde_json::from_value::<std::collections::BTreeMap<String, String>>(selector) {
        Ok(labels) if !labels.is_empty() => Ok(LabelSelector::from_map(&labels)),
        _ => bail!("{} select no pods; name a pod", kind.descriptor().plural),
    }
}

/// The place of a pod.
pub(crate) fn key(pod: &Pod) -> Key {
    let meta = &pod.metadata;
    Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// The names of a pod's containers, init containers first.
pub(crate) fn containers(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    init.chain(spec.into_iter().flat_map(|spec: &PodSpec| &spec.containers)).map(|c| c.name.clone()).collect()
}

/// Whether a container's own process has a terminal.
pub(crate) fn has_terminal(pod: &Pod, container: &str) -> bool {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let mut all = init.chain(spec.into_iter().flat_map(|spec| &spec.containers));
    all.any(|of| of.name == container && of.tty == Some(true))
}

/// Whether it is one that `kubectl debug` has put there.
fn is_ephemeral(pod: &Pod, name: &str) -> bool {
    let ephemeral = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref());
    ephemeral.into_iter().flatten().any(|container| container.name == name)
}

/// The container that is meant: the one named, else the pod's default one, which is said when there
/// are several.
pub(crate) fn container(pod: &Pod, named: Option<&str>) -> anyhow::Result<String> {
    let all = containers(pod);
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(name) = named {
        if !all.iter().any(|container| container == name) && !is_ephemeral(pod, name) {
            bail!("container {name} is not valid for pod {pod_name}; it has {}", all.join(", "));
        }
        return Ok(name.to_owned());
    }
    let annotated = pod.metadata.annotations.as_ref().and_then(|a| a.get(DEFAULT_CONTAINER));
    if let Some(name) = annotated.filter(|name| all.contains(name)) {
        return Ok(name.clone());
    }
    let first = pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|c| c.name.clone());
    let first = first.ok_or_else(|| anyhow!("pod {pod_name} has no containers"))?;
    if all.len() > 1 {
        output::tell(format_args!("Defaulted container \"{first}\" out of: {}", all.join(", ")));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn the_default_container() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}
        }))
        .unwrap();
        assert_eq!(container(&pod, None).unwrap(), "a");
        assert_eq!(container(&pod, Some("i")).unwrap(), "i");
        assert!(container(&pod, Some("x")).is_err());
        pod.metadata.annotations = Some([(DEFAULT_CONTAINER.to_owned(), "b".to_owned())].into());
        assert_eq!(container(&pod, None).unwrap(), "b");
    }
}
