//! What a node may do: read what every node needs, write what is its own, and read just the
//! ConfigMaps, Secrets and accounts that its pods name.

use balsa_model::Key;
use balsa_model::kind::kind_of;
use balsa_model::kinds::pod::node_name;
use balsa_state::State;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Volume};

use super::Attributes;

const READ: [&str; 3] = ["get", "list", "watch"];

/// Whether the agent of `node` may.
pub(super) fn allows(state: &State, node: &str, wanted: &Attributes) -> bool {
    let read = READ.contains(&wanted.verb.as_str());
    match (wanted.group.as_str(), wanted.resource.as_str()) {
        ("", "services" | "endpoints" | "namespaces" | "persistentvolumeclaims")
        | ("discovery.k8s.io", "endpointslices")
        | ("node.k8s.io", "runtimeclasses")
        | ("storage.k8s.io", "storageclasses") => read,
        ("", "nodes") => read || is_own_node(node, wanted),
        ("", "pods") => pods(state, node, wanted, read),
        ("", "persistentvolumes") => read || matches!(wanted.verb.as_str(), "update" | "patch"),
        ("", "events") => matches!(wanted.verb.as_str(), "create" | "update" | "patch" | "get"),
        ("coordination.k8s.io", "leases") => {
            wanted.namespace == "kube-node-lease" && (wanted.verb == "create" || wanted.name == node)
        }
        ("", "configmaps" | "secrets" | "serviceaccounts") => referred(state, node, wanted, read),
        ("", "") => read && (wanted.path.starts_with("/api") || wanted.path.starts_with("/openapi")),
        _ => false,
    }
}

fn is_own_node(node: &str, wanted: &Attributes) -> bool {
    // A create names its object in the body only; admission holds it to the node's own name.
    (wanted.verb == "create" && wanted.subresource.is_empty())
        || (wanted.name == node && matches!(wanted.verb.as_str(), "update" | "patch"))
}

fn pods(state: &State, node: &str, wanted: &Attributes, read: bool) -> bool {
    if wanted.name.is_empty() {
        return read && wanted.field_selector.contains(&format!("spec.nodeName={node}"));
    }
    let view = state.view(kind_of::<Pod>());
    let key = Key::new(wanted.namespace.as_str(), wanted.name.as_str());
    // A pod that is gone is nobody's secret: the answer will be NotFound.
    let own = view.get(&key).is_none_or(|object| object.is(|pod| node_name(pod) == Some(node)));
    own && (read || matches!(wanted.verb.as_str(), "update" | "patch" | "delete"))
}

fn referred(state: &State, node: &str, wanted: &Attributes, read: bool) -> bool {
    let token =
        wanted.resource == "serviceaccounts" && wanted.subresource == "token" && wanted.verb == "create";
    let name = match wanted.name.as_str() {
        "" => wanted.field_selector.strip_prefix("metadata.name=").unwrap_or_default(),
        name => name,
    };
    if name.is_empty() || !(token || (read && wanted.subresource.is_empty())) {
        return false;
    }
    let view = state.view(kind_of::<Pod>());
    let Some(mut pods) = view.by_field("spec.nodeName", node) else { return false };
    pods.any(|pod| {
        *pod.key().namespace == *wanted.namespace
            && pod.is(|pod: &Pod| pod.spec.as_ref().is_some_and(|spec| refers(spec, &wanted.resource, name)))
    })
}

/// Whether a pod names the object, in its volumes, its environment or as its account.
fn refers(spec: &PodSpec, resource: &str, name: &str) -> bool {
    match resource {
        "serviceaccounts" => spec.service_account_name.as_deref().unwrap_or("default") == name,
        "configmaps" => names_config_map(spec, name),
        _ => names_secret(spec, name),
    }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &k8s_openapi::api::core::v1::Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn names_config_map(spec: &PodSpec, name: &str) -> bool {
    let in_volume = |volume: &Volume| {
        volume.config_map.as_ref().is_some_and(|c| c.name == name)
            || volume
                .projected
                .iter()
                .flat_map(|p| p.sources.iter().flatten())
                .any(|source| source.config_map.as_ref().is_some_and(|c| c.name == name))
    };
    spec.volumes.iter().flatten().any(in_volume)
        || containers(spec).any(|container| {
            container
                .env_from
                .iter()
                .flatten()
                .any(|e| e.config_map_ref.as_ref().is_some_and(|c| c.name == name))
                || container.env.iter().flatten().any(|e| {
                    let from = e.value_from.as_ref().and_then(|v| v.config_map_key_ref.as_ref());
                    from.is_some_and(|c| c.name == name)
                })
        })
}

fn names_secret(spec: &PodSpec, name: &str) -> bool {
    let in_volume = |volume: &Volume| {
        volume.secret.as_ref().is_some_and(|s| s.secret_name.as_deref() == Some(name))
            || volume
                .projected
                .iter()
                .flat_map(|p| p.sources.iter().flatten())
                .any(|source| source.secret.as_ref().is_some_and(|s| s.name == name))
    };
    spec.volumes.iter().flatten().any(in_volume)
        || spec.image_pull_secrets.iter().flatten().any(|s| s.name == name)
        || containers(spec).any(|container| {
            container.env_from.iter().flatten().any(|e| e.secret_ref.as_ref().is_some_and(|s| s.name == name))
                || container.env.iter().flatten().any(|e| {
                    let from = e.value_from.as_ref().and_then(|v| v.secret_key_ref.as_ref());
                    from.is_some_and(|s| s.name == name)
                })
        })
}
