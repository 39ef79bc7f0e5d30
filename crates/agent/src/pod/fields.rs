//! What a pod may learn of itself: `fieldRef` and `resourceFieldRef`, in variables and in files. Pure.

use std::collections::BTreeMap;

use balsa_model::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

/// What is known of the pod beside its object.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodFacts {
    /// The pod's address, once it has one.
    pub pod_ip: String,
    /// The node's address.
    pub host_ip: String,
    /// The node's name.
    pub node_name: String,
    /// What the node has, for containers without limits: processors in thousandths, bytes of memory,
    /// bytes of disk.
    pub node_cpu_milli: i64,
    /// See above.
    pub node_memory: i64,
    /// See above.
    pub node_storage: i64,
}

/// The value of a field path; `None` when there is no such field.
pub(crate) fn field(pod: &Pod, facts: &PodFacts, path: &str) -> Option<String> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return None,
        };
        return Some(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let spec = pod.spec.as_ref()?;
    Some(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => {
            spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned())
        }
        "spec.restartPolicy" => text(&spec.restart_policy),
        "status.podIP" | "status.podIPs" if spec.host_network == Some(true) => facts.host_ip.clone(),
        "status.podIP" | "status.podIPs" => facts.pod_ip.clone(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        _ => return None,
    })
}

/// `key="value"` lines, as the downward API writes maps.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

/// The value of a container's request or limit, in units of the divisor, rounded up.
pub(crate) fn resource(
    container: &Container,
    facts: &PodFacts,
    selector: &ResourceFieldSelector,
) -> Option<String> {
    let (which, name) = selector.resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let of = |map: Option<&BTreeMap<String, _>>| map.and_then(|map| map.get(name)).and_then(Quantity::of);
    let limit = of(resources.and_then(|r| r.limits.as_ref()));
    let found = match which {
        "limits" => limit,
        // What is not requested is what the limit says; a request of nothing is 0.
        "requests" => {
            of(resources.and_then(|r| r.requests.as_ref())).or(limit).or(Some(Quantity::from_units(0)))
        }
        _ => return None,
    };
    let divisor = selector.divisor.as_ref().and_then(Quantity::of).filter(|divisor| !divisor.is_zero());
    let divisor = divisor.unwrap_or(Quantity::from_units(1));
    let (amount, unit) = match name {
        "cpu" => (found.map_or(facts.node_cpu_milli, Quantity::milli), divisor.milli()),
        "memory" => (found.map_or(facts.node_memory, Quantity::value), divisor.value()),
        "ephemeral-storage" => (found.map_or(facts.node_storage, Quantity::value), divisor.value()),
        _ if name.starts_with("hugepages-") => (found.map_or(0, Quantity::value), divisor.value()),
        _ => return None,
    };
    let unit = unit.max(1);
    Some((amount / unit + i64::from(amount % unit > 0)).to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_a_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"a": "1", "b": "x\"y"}},
            "spec": {"containers": []},
        }))
        .unwrap();
        let facts = PodFacts { pod_ip: "10.0.0.2".into(), node_name: "n1".into(), ..PodFacts::default() };
        for (path, expected) in [
            ("metadata.name", Some("p")),
            ("metadata.labels['a']", Some("1")),
            ("metadata.labels['none']", Some("")),
            ("metadata.labels", Some("a=\"1\"\nb=\"x\\\"y\"")),
            ("status.podIP", Some("10.0.0.2")),
            ("spec.nodeName", Some("n1")),
            ("spec.serviceAccountName", Some("default")),
            ("spec.nothing", None),
        ] {
            assert_eq!(field(&pod, &facts, path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn resources_are_rounded_up_in_units_of_the_divisor() {
        let container: Container = serde_json::from_value(json!({
            "name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "100Mi"}, "requests": {"cpu": "250m"}},
        }))
        .unwrap();
        let facts = PodFacts { node_cpu_milli: 4000, node_storage: 7, ..PodFacts::default() };
        for (name, divisor, expected) in [
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("1m"), "1500"),
            ("requests.cpu", Some("100m"), "3"),
            ("limits.memory", Some("1Mi"), "100"),
            ("requests.memory", None, "104857600"),
            ("limits.ephemeral-storage", None, "7"),
        ] {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": name, "divisor": divisor})).unwrap();
            assert_eq!(
                resource(&container, &facts, &selector).as_deref(),
                Some(expected),
                "{name} {divisor:?}"
            );
        }
    }
}
