//! `metrics.k8s.io`: what nodes and pods use now, for `kubectl top` and whoever scales by it. Nothing of it
//! is stored: it is asked of the agents.

use axum::response::Response;
use balsa_controllers::usage::{Amount, PodUsage};
use balsa_model::kind::kind_of;
use balsa_model::quantity::Quantity;
use balsa_model::selector::Filter;
use balsa_model::{Descriptor, Failure, Key, Object, Reason};
use http::{Method, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::path::ResourcePath;
use super::{Call, respond};
use crate::authorize::Attributes;
use crate::usage::{self, NodeUsage};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Nodes,
    Pods,
}

/// What a path asks the measure of.
pub(super) fn measured(path: &ResourcePath) -> Option<Of> {
    if path.group != GROUP || path.version != VERSION {
        return None;
    }
    match path.plural.as_str() {
        "nodes" => Some(Of::Nodes),
        "pods" => Some(Of::Pods),
        _ => None,
    }
}

impl Of {
    fn kind(self) -> &'static str {
        if self == Self::Nodes { "NodeMetrics" } else { "PodMetrics" }
    }

    /// How refusals name it.
    fn descriptor(self) -> Descriptor {
        match self {
            Self::Nodes => Descriptor::cluster(GROUP, VERSION, "NodeMetrics", "nodes", "", ""),
            Self::Pods => Descriptor::namespaced(GROUP, VERSION, "PodMetrics", "pods", "", ""),
        }
    }
}

/// Answers with measures.
pub(super) async fn serve(of: Of, call: &Call, path: &ResourcePath) -> Result<Response, Failure> {
    if !path.subresource.is_empty() || (of == Of::Nodes && !path.namespace.is_empty()) {
        return Err(Failure::generic(Reason::NotFound));
    }
    let one = !path.name.is_empty();
    let attributes = Attributes {
        verb: if one { "get" } else { "list" }.to_owned(),
        group: GROUP.to_owned(),
        resource: path.plural.clone(),
        namespace: path.namespace.clone(),
        name: path.name.clone(),
        ..Attributes::default()
    };
    call.front.authorize(&call.user, &attributes)?;
    if !matches!(call.method, Method::GET | Method::HEAD) || call.query.flag("watch") {
        return Err(Failure::generic(Reason::MethodNotAllowed));
    }
    let descriptor = of.descriptor();
    let mut filter = call.query.filter(&descriptor, &path.namespace, &path.name)?;
    // Labels and names are those of the objects that are measured.
    filter.name = one.then(|| path.name.as_str().into());
    let mut items = match of {
        Of::Nodes => nodes(call, path, &filter).await,
        Of::Pods => pods(call, path, &filter).await,
    };
    if one {
        let found = items.pop().ok_or_else(|| Failure::not_found(&descriptor, &path.name))?;
        return Ok(respond::value(StatusCode::OK, &found));
    }
    for item in &mut items {
        if let Some(fields) = item.as_object_mut() {
            fields.retain(|name, _| !matches!(name.as_str(), "kind" | "apiVersion"));
        }
    }
    let list = json!({
        "kind": format!("{}List", of.kind()), "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items,
    });
    Ok(respond::value(StatusCode::OK, &list))
}

async fn nodes(call: &Call, path: &ResourcePath, filter: &Filter) -> Vec<Value> {
    let known = |node: &str| call.front.engine.state().get(kind_of::<Node>(), &Key::new("", node));
    let measured: Vec<NodeUsage> = if path.name.is_empty() {
        usage::of_all(&call.front).await
    } else {
        usage::of_node(&call.front, &path.name).await.into_iter().collect()
    };
    let shown = |node: NodeUsage| {
        let object = known(&node.node).filter(|object| filter.matches(object))?;
        let mut shown = measure(Of::Nodes, &object, node.at, node.window);
        shown["usage"] = amounts(node.amount);
        Some(shown)
    };
    measured.into_iter().filter_map(shown).collect()
}

async fn pods(call: &Call, path: &ResourcePath, filter: &Filter) -> Vec<Value> {
    let state = call.front.engine.state();
    let get = |namespace: &str, name: &str| state.get(kind_of::<Pod>(), &Key::new(namespace, name));
    let measured: Vec<NodeUsage> = if path.name.is_empty() {
        usage::of_all(&call.front).await
    } else {
        // Only its own node knows.
        let pod = get(&path.namespace, &path.name).and_then(|object| object.typed::<Pod>());
        match pod.as_deref().and_then(balsa_model::kinds::pod::node_name) {
            Some(node) => usage::of_node(&call.front, node).await.into_iter().collect(),
            None => Vec::new(),
        }
    };
    let shown = |pod: PodUsage| {
        let object = get(&pod.namespace, &pod.name).filter(|object| filter.matches(object))?;
        let mut shown = measure(Of::Pods, &object, pod.at, pod.window);
        let container = |(name, amount): (&String, &Amount)| json!({"name": name, "usage": amounts(*amount)});
        shown["containers"] = pod.containers.iter().map(container).collect();
        Some(shown)
    };
    let mut items: Vec<Value> = measured.into_iter().flat_map(|node| node.pods).filter_map(shown).collect();
    let key = |item: &Value| {
        let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
        (text("namespace"), text("name"))
    };
    items.sort_by_key(key);
    items
}

/// What every measure says.
fn measure(of: Of, object: &Object, at: Timestamp, window: std::time::Duration) -> Value {
    let mut metadata = json!({"name": &*object.key().name, "creationTimestamp": whole(at)});
    if !object.key().namespace.is_empty() {
        metadata["namespace"] = (*object.key().namespace).into();
    }
    if let Some(labels) = &object.meta().labels {
        metadata["labels"] = json!(labels);
    }
    json!({
        "kind": of.kind(), "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata,
        "timestamp": whole(at), "window": format!("{:.3}s", window.as_secs_f64()),
    })
}

fn whole(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or_default().to_string()
}

fn amounts(amount: Amount) -> Value {
    let memory = i64::try_from(amount.memory / 1024).unwrap_or(i64::MAX);
    json!({"cpu": format!("{}n", amount.cpu_nanos), "memory": Quantity::from_bytes(memory.saturating_mul(1024)).to_string()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_amounts() {
        let path = |group: &str, plural: &str| ResourcePath {
            group: group.to_owned(),
            version: VERSION.to_owned(),
            plural: plural.to_owned(),
            ..ResourcePath::default()
        };
        assert_eq!(measured(&path(GROUP, "nodes")), Some(Of::Nodes));
        assert_eq!(measured(&path(GROUP, "pods")), Some(Of::Pods));
        assert_eq!(measured(&path("", "pods")), None);
        assert_eq!(
            amounts(Amount { cpu_nanos: 12, memory: 3 << 20 }),
            json!({"cpu": "12n", "memory": "3Mi"})
        );
    }
}
