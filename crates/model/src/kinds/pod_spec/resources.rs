//! What containers ask for and may use: canonical amounts, checks, sums, quality of service.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use crate::field::{FieldErrors, Path};
use crate::meta;
use crate::quantity::Quantity;

/// Amounts by the name of the resource, as specs and statuses hold them.
pub type ResourceList = BTreeMap<String, ApiQuantity>;

/// What a pod needs of a node, in the units that schedulers count in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of the node's own disk.
    pub ephemeral_storage: i64,
    /// Whole units of everything else, by name.
    pub other: BTreeMap<String, i64>,
}

impl Requests {
    /// The amounts of a list; what is no quantity counts as nothing.
    pub fn of(list: &ResourceList) -> Self {
        let mut requests = Self::default();
        for (name, amount) in list {
            let Some(amount) = Quantity::of(amount) else { continue };
            match name.as_str() {
                "cpu" => requests.cpu_milli = amount.milli(),
                "memory" => requests.memory = amount.value(),
                "ephemeral-storage" => requests.ephemeral_storage = amount.value(),
                _ => {
                    requests.other.insert(name.clone(), amount.value());
                }
            }
        }
        requests
    }

    /// Adds what another needs.
    pub fn add(&mut self, more: &Self) {
        self.cpu_milli = self.cpu_milli.saturating_add(more.cpu_milli);
        self.memory = self.memory.saturating_add(more.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(more.ephemeral_storage);
        for (name, amount) in &more.other {
            let sum = self.other.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Raises each amount to that of another.
    pub fn raise_to(&mut self, other: &Self) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.other {
            let most = self.other.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }
}

/// What a pod needs of a node. Init containers run one after the other and before the rest, so the
/// largest counts, not the sum; those that keep running (`restartPolicy: Always`) count from their start on.
pub fn requests(spec: &PodSpec) -> Requests {
    sum(spec, |resources| resources.requests.as_ref())
}

/// What a pod may use, by the same rule.
pub fn limits(spec: &PodSpec) -> Requests {
    sum(spec, |resources| resources.limits.as_ref())
}

fn sum(spec: &PodSpec, part: impl Fn(&ResourceRequirements) -> Option<&ResourceList>) -> Requests {
    let of = |container: &Container| {
        container.resources.as_ref().and_then(&part).map(Requests::of).unwrap_or_default()
    };
    let mut running = Requests::default();
    let mut most = Requests::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = running.clone();
        now.add(&of(container));
        if container.restart_policy.as_deref() == Some("Always") {
            running = now.clone();
        }
        most.raise_to(&now);
    }
    for container in &spec.containers {
        running.add(&of(container));
    }
    running.raise_to(&most);
    if let Some(overhead) = &spec.overhead {
        running.add(&Requests::of(overhead));
    }
    running
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let mut requests: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut limits: BTreeMap<&str, Quantity> = BTreeMap::new();
    let mut all_limited = true;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = container.resources.as_ref();
        add_counted(resources.and_then(|r| r.requests.as_ref()), &mut requests);
        let limited = add_counted(resources.and_then(|r| r.limits.as_ref()), &mut limits);
        all_limited &= limited == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Adds the amounts that decide the quality of service; how many there were.
fn add_counted(list: Option<&ResourceList>, sums: &mut BTreeMap<&str, Quantity>) -> usize {
    let mut count = 0;
    for name in ["cpu", "memory"] {
        let amount = list.and_then(|list| list.get(name)).and_then(Quantity::of);
        if let Some(amount) = amount.filter(|a| !a.is_zero() && !a.is_negative()) {
            let sum = sums.entry(name).or_insert(Quantity::ZERO);
            *sum = *sum + amount;
            count += 1;
        }
    }
    count
}

/// Writes each amount in its canonical form; what is no quantity is left to validation.
pub(crate) fn canonical_list(list: &mut ResourceList) {
    for amount in list.values_mut() {
        if let Some(quantity) = Quantity::of(amount) {
            *amount = quantity.round_to_milli().to_api();
        }
    }
}

/// Whether a resource is an extended one: a device that somebody counts, never shared.
pub fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

fn is_standard_for_containers(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// Whether a name without a prefix is one of the resources that there are.
pub(crate) fn is_standard(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "storage",
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
        "requests.cpu",
        "requests.memory",
        "requests.ephemeral-storage",
        "requests.storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
    ];
    is_standard_for_containers(name) || NAMES.contains(&name)
}

/// Checks what a container asks for and may use.
pub(in crate::kinds) fn validate(
    resources: Option<&ResourceRequirements>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(resources) = resources else { return };
    let empty = ResourceList::new();
    let limits = resources.limits.as_ref().unwrap_or(&empty);
    let requests = resources.requests.as_ref().unwrap_or(&empty);
    for (name, amount) in limits {
        validate_entry(name, amount, &path.child("limits").key(name), errors);
    }
    let requests_path = path.child("requests");
    for (name, amount) in requests {
        validate_entry(name, amount, &requests_path.key(name), errors);
        let limit = limits.get(name);
        let (Some(request), limit_amount) = (Quantity::of(amount), limit.and_then(Quantity::of)) else {
            continue;
        };
        let overcommits = !is_extended(name) && !name.starts_with("hugepages-");
        match limit_amount {
            Some(limit) if !overcommits && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), detail);
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), detail);
            }
            None if !overcommits => {
                let detail = "Limit must be set for non overcommitable resources";
                errors.required(&path.child("limits"), detail);
            }
            _ => {}
        }
    }
    let has = |wanted: fn(&str) -> bool| limits.keys().chain(requests.keys()).any(|name| wanted(name));
    if has(|name| name.starts_with("hugepages-")) && !has(|name| matches!(name, "cpu" | "memory")) {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

/// Checks a resource of containers: its name and its amount.
pub(crate) fn validate_entry(name: &str, amount: &ApiQuantity, path: &Path, errors: &mut FieldErrors) {
    for wrong in meta::qualified_name(name) {
        errors.invalid(path, name, wrong);
    }
    if !name.contains('/') {
        if !is_standard(name) {
            errors.invalid(path, name, "must be a standard resource type or fully qualified");
        }
        if !is_standard_for_containers(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    }
    validate_amount(amount, is_extended(name), path, errors);
}

/// Checks an amount of a resource.
pub(crate) fn validate_amount(amount: &ApiQuantity, whole: bool, path: &Path, errors: &mut FieldErrors) {
    match Quantity::parse(&amount.0) {
        Err(error) => errors.invalid(path, amount.0.as_str(), error.to_string()),
        Ok(amount) if amount.is_negative() => {
            errors.invalid(path, amount.to_string(), "must be greater than or equal to 0");
        }
        Ok(amount) if whole && !amount.is_integer() => {
            errors.invalid(path, amount.to_string(), "must be an integer");
        }
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "m", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn the_largest_init_container_counts() {
        let spec = spec(json!({
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "init", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}],
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "500m", "memory": "1Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "500m", "example.com/gpu": "2"}}}],
            "overhead": {"cpu": "10m"}}));
        let got = requests(&spec);
        assert_eq!((got.cpu_milli, got.memory), (2110, 1 << 30));
        assert_eq!(got.other["example.com/gpu"], 2);
    }

    #[test]
    fn quality_of_service() {
        let none = json!({});
        for (containers, class) in [
            (json!([container(none.clone(), none.clone())]), "BestEffort"),
            (json!([container(json!({"cpu": "1"}), none.clone())]), "Burstable"),
            (
                json!([container(json!({"cpu": "1", "memory": "1"}), json!({"cpu": "1", "memory": "1"}))]),
                "Guaranteed",
            ),
            (
                json!([
                    container(json!({"cpu": "1", "memory": "1"}), json!({"cpu": "1", "memory": "1"})),
                    container(none.clone(), none)
                ]),
                "Burstable",
            ),
        ] {
            assert_eq!(qos_class(&spec(json!({"containers": containers}))), class);
        }
    }

    #[test]
    fn wrong_amounts_are_refused() {
        for (requests, limits, wanted) in [
            (
                json!({"cpu": "2"}),
                json!({"cpu": "1"}),
                "requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                json!({"cpu": "-1"}),
                json!({}),
                "requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                json!({"example.com/gpu": "1"}),
                json!({}),
                "limits: Required value: Limit must be set for non overcommitable resources",
            ),
            (
                json!({}),
                json!({"example.com/gpu": "1.5"}),
                "limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
            ),
        ] {
            let spec = spec(json!({"containers": [container(requests, limits)]}));
            let mut errors = FieldErrors::new();
            validate(spec.containers[0].resources.as_ref(), &Path::default(), &mut errors);
            let texts: Vec<String> = errors.into_vec().iter().map(ToString::to_string).collect();
            assert_eq!(texts, [wanted]);
        }
    }
}
