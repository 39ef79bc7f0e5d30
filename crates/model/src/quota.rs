//! Quotas: what an object counts against them, which objects a quota is about, and when it is used up.
//! Admission and the controller that writes statuses share this.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, PodSpec, ResourceQuota, ScopedResourceSelectorRequirement, Service,
};

use crate::kind::AnyObject;
use crate::kinds::pod::phase;
use crate::kinds::pod_spec::resources::{Requests, ResourceList, limits, qos_class, requests};
use crate::quantity::Quantity;

/// Amounts by the names that quotas have for them.
pub type Usage = BTreeMap<String, Quantity>;

/// Kinds of the core group that are counted under their plain name, too.
const PLAIN: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// What containers must say when a quota limits it.
const COMPUTE: &[&str] = &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// What an object counts.
pub fn usage(object: &dyn AnyObject) -> Usage {
    let descriptor = object.kind().stored().descriptor();
    let mut usage = Usage::new();
    usage.insert(format!("count/{}", descriptor.resource()), Quantity::from_units(1));
    if descriptor.group.is_empty() && PLAIN.contains(&descriptor.plural) {
        usage.insert(descriptor.plural.to_owned(), Quantity::from_units(1));
    }
    let any = object.as_any();
    if let Some(pod) = any.downcast_ref::<Pod>() {
        of_pod(pod, &mut usage);
    } else if let Some(service) = any.downcast_ref::<Service>() {
        of_service(service, &mut usage);
    } else if let Some(claim) = any.downcast_ref::<PersistentVolumeClaim>() {
        of_claim(claim, &mut usage);
    }
    usage
}

/// A pod that is over counts nothing but itself.
fn of_pod(pod: &Pod, usage: &mut Usage) {
    let Some(spec) = pod.spec.as_ref().filter(|_| !matches!(phase(pod), "Succeeded" | "Failed")) else {
        return;
    };
    usage.insert("pods".to_owned(), Quantity::from_units(1));
    let mut add = |name: String, amount: Quantity| {
        if !amount.is_zero() {
            usage.insert(name, amount);
        }
    };
    for (prefix, Requests { cpu_milli, memory, ephemeral_storage, other }) in
        [("requests", requests(spec)), ("limits", limits(spec))]
    {
        let known = [
            ("cpu", Quantity::from_milli(cpu_milli)),
            ("memory", Quantity::from_bytes(memory)),
            ("ephemeral-storage", Quantity::from_bytes(ephemeral_storage)),
        ];
        for (name, amount) in known {
            add(format!("{prefix}.{name}"), amount);
            if prefix == "requests" {
                add(name.to_owned(), amount);
            }
        }
        for (name, amount) in other {
            add(format!("{prefix}.{name}"), Quantity::from_units(amount));
            if prefix == "requests" && name.starts_with("hugepages-") {
                add(name, Quantity::from_bytes(amount));
            }
        }
    }
}

fn of_service(service: &Service, usage: &mut Usage) {
    let Some(spec) = &service.spec else { return };
    let type_ = spec.type_.as_deref().unwrap_or_default();
    let ports = i64::try_from(spec.ports.as_ref().map_or(0, Vec::len)).unwrap_or(i64::MAX);
    let balanced = type_ == "LoadBalancer";
    if type_ == "NodePort" || (balanced && spec.allocate_load_balancer_node_ports != Some(false)) {
        usage.insert("services.nodeports".to_owned(), Quantity::from_units(ports));
    }
    if balanced {
        usage.insert("services.loadbalancers".to_owned(), Quantity::from_units(1));
    }
}

fn of_claim(claim: &PersistentVolumeClaim, usage: &mut Usage) {
    let Some(spec) = &claim.spec else { return };
    let wanted = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).and_then(|r| r.get("storage"));
    let wanted = wanted.and_then(Quantity::of);
    if let Some(wanted) = wanted {
        usage.insert("requests.storage".to_owned(), wanted);
    }
    if let Some(class) = spec.storage_class_name.as_deref().filter(|class| !class.is_empty()) {
        let of_class = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
        usage.insert(of_class("persistentvolumeclaims"), Quantity::from_units(1));
        if let Some(wanted) = wanted {
            usage.insert(of_class("requests.storage"), wanted);
        }
    }
}

/// What a quota limits.
pub fn hard(quota: &ResourceQuota) -> Usage {
    quantities(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()))
}

/// A list of amounts as numbers.
pub fn quantities(list: Option<&ResourceList>) -> Usage {
    let amount = |(name, amount): (&String, _)| Some((name.clone(), Quantity::of(amount)?));
    list.into_iter().flatten().filter_map(amount).collect()
}

/// Whether a quota is about an object, by its scopes.
pub fn covers(quota: &ResourceQuota, object: &dyn AnyObject) -> bool {
    let Some(spec) = &quota.spec else { return false };
    let selected = spec.scope_selector.as_ref().and_then(|selector| selector.match_expressions.as_ref());
    let mut scopes = spec.scopes.iter().flatten().peekable();
    let mut selected = selected.into_iter().flatten().peekable();
    if scopes.peek().is_none() && selected.peek().is_none() {
        return true;
    }
    let pod = object.as_any().downcast_ref::<Pod>();
    let Some(spec) = pod.and_then(|pod| pod.spec.as_ref()) else { return false };
    scopes.all(|scope| is_in_scope(scope, spec)) && selected.all(|wanted| meets(wanted, spec))
}

fn is_in_scope(scope: &str, spec: &PodSpec) -> bool {
    match scope {
        "Terminating" => spec.active_deadline_seconds.is_some(),
        "NotTerminating" => spec.active_deadline_seconds.is_none(),
        "BestEffort" => qos_class(spec) == "BestEffort",
        "NotBestEffort" => qos_class(spec) != "BestEffort",
        "PriorityClass" => spec.priority_class_name.as_deref().is_some_and(|class| !class.is_empty()),
        "CrossNamespacePodAffinity" => reaches_other_namespaces(spec),
        _ => false,
    }
}

fn meets(wanted: &ScopedResourceSelectorRequirement, spec: &PodSpec) -> bool {
    if wanted.scope_name != "PriorityClass" {
        return is_in_scope(&wanted.scope_name, spec);
    }
    let class = spec.priority_class_name.clone().unwrap_or_default();
    let listed = wanted.values.iter().flatten().any(|value| *value == class);
    match wanted.operator.as_str() {
        "In" => !class.is_empty() && listed,
        "NotIn" => !listed,
        "Exists" => !class.is_empty(),
        "DoesNotExist" => class.is_empty(),
        _ => false,
    }
}

fn reaches_other_namespaces(spec: &PodSpec) -> bool {
    let Some(affinity) = &spec.affinity else { return false };
    let (near, far) = (affinity.pod_affinity.as_ref(), affinity.pod_anti_affinity.as_ref());
    let required = [
        near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref()),
        far.and_then(|far| far.required_during_scheduling_ignored_during_execution.as_ref()),
    ];
    let preferred = [
        near.and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_ref()),
        far.and_then(|far| far.preferred_during_scheduling_ignored_during_execution.as_ref()),
    ];
    let terms = required.into_iter().flatten().flatten();
    let mut terms =
        terms.chain(preferred.into_iter().flatten().flatten().map(|wish| &wish.pod_affinity_term));
    terms.any(|term| {
        term.namespace_selector.is_some() || term.namespaces.as_ref().is_some_and(|n| !n.is_empty())
    })
}

/// What of `usage` a quota limits.
pub fn limited(hard: &Usage, usage: &Usage) -> Usage {
    usage
        .iter()
        .filter(|(name, _)| hard.contains_key(*name))
        .map(|(name, amount)| (name.clone(), *amount))
        .collect()
}

/// What a new version counts more than the old one.
pub fn growth(new: &Usage, old: &Usage) -> Usage {
    let more = |(name, amount): (&String, &Quantity)| {
        let more = *amount - old.get(name).copied().unwrap_or(Quantity::ZERO);
        (more > Quantity::ZERO).then(|| (name.clone(), more))
    };
    new.iter().filter_map(more).collect()
}

/// Two amounts of each, together.
pub fn sum(one: &Usage, other: &Usage) -> Usage {
    let mut sum = one.clone();
    for (name, amount) in other {
        let total = sum.entry(name.clone()).or_insert(Quantity::ZERO);
        // In the first zero's place the amount's own way of printing counts.
        *total = if total.is_zero() { *amount } else { *total + *amount };
    }
    sum
}

/// What a refusal says when `wanted` does not fit; `None`: it does.
pub fn exceeded(quota: &str, hard: &Usage, used: &Usage, wanted: &Usage) -> Option<String> {
    let of = |list: &Usage, name: &String| list.get(name).copied().unwrap_or(Quantity::ZERO);
    let beyond: Vec<&String> =
        wanted.keys().filter(|name| of(used, name) + of(wanted, name) > of(hard, name)).collect();
    if beyond.is_empty() {
        return None;
    }
    let shown = |list: &Usage| {
        beyond.iter().map(|name| format!("{name}={}", of(list, name))).collect::<Vec<_>>().join(",")
    };
    let (wanted, used, hard) = (shown(wanted), shown(used), shown(hard));
    Some(format!("exceeded quota: {quota}, requested: {wanted}, used: {used}, limited: {hard}"))
}

/// What a pod's containers must say because a quota limits it, and do not; `None`: nothing is missing.
pub fn unspecified(quota: &str, hard: &Usage, object: &dyn AnyObject) -> Option<String> {
    let spec = object.as_any().downcast_ref::<Pod>()?.spec.as_ref()?;
    let mut missing: Vec<String> = Vec::new();
    for name in COMPUTE.iter().filter(|name| hard.contains_key(**name)) {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let silent: BTreeSet<&str> =
            containers.filter(|container| !says(container, name)).map(|c| c.name.as_str()).collect();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.into_iter().collect::<Vec<_>>().join(",")));
        }
    }
    (!missing.is_empty()).then(|| format!("failed quota: {quota}: must specify {}", missing.join("; ")))
}

fn says(container: &Container, name: &str) -> bool {
    let Some(resources) = &container.resources else { return false };
    let (list, name) = match name.split_once('.') {
        Some(("limits", name)) => (&resources.limits, name),
        Some((_, name)) => (&resources.requests, name),
        None => (&resources.requests, name),
    };
    list.as_ref().is_some_and(|list| list.contains_key(name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kind::kind_of;

    fn pod(spec: Value) -> Box<dyn AnyObject> {
        kind_of::<Pod>().decode(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn quota(spec: Value) -> ResourceQuota {
        serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": spec})).unwrap()
    }

    fn texts(usage: &Usage) -> Vec<String> {
        usage.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn what_objects_count() {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1"}}});
        assert_eq!(
            texts(&usage(pod(json!({"containers": [container]})).as_ref())),
            [
                "count/pods=1",
                "cpu=500m",
                "limits.cpu=1",
                "memory=1Gi",
                "pods=1",
                "requests.cpu=500m",
                "requests.memory=1Gi"
            ]
        );
        let over =
            json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {"phase": "Failed"}});
        assert_eq!(texts(&usage(kind_of::<Pod>().decode(over).unwrap().as_ref())), ["count/pods=1"]);
        let service = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        assert_eq!(
            texts(&usage(kind_of::<Service>().decode(service).unwrap().as_ref())),
            ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=2"]
        );
        let claim = json!({"metadata": {"name": "c"}, "spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            texts(&usage(kind_of::<PersistentVolumeClaim>().decode(claim).unwrap().as_ref())),
            [
                "count/persistentvolumeclaims=1",
                "gold.storageclass.storage.k8s.io/persistentvolumeclaims=1",
                "gold.storageclass.storage.k8s.io/requests.storage=1Gi",
                "persistentvolumeclaims=1",
                "requests.storage=1Gi"
            ]
        );
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let quota = quota(json!({"hard": {"pods": "1", "cpu": "2", "services": "1"}}));
        let pod = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        let (hard, used) = (hard(&quota), Usage::from([("pods".to_owned(), Quantity::from_units(1))]));
        let wanted = limited(&hard, &usage(pod.as_ref()));
        assert_eq!(texts(&wanted), ["cpu=1", "pods=1"]);
        assert_eq!(
            exceeded("q", &hard, &used, &wanted).unwrap(),
            "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
        );
        assert_eq!(exceeded("q", &hard, &Usage::new(), &wanted), None);
        assert_eq!(texts(&growth(&wanted, &used)), ["cpu=1"]);
        assert_eq!(texts(&sum(&wanted, &used)), ["cpu=1", "pods=2"]);
    }

    #[test]
    fn containers_say_what_is_limited() {
        let hard = hard(&quota(json!({"hard": {"limits.cpu": "1", "requests.memory": "1Gi", "pods": "1"}})));
        let said = json!({"limits": {"cpu": "1"}, "requests": {"memory": "1"}});
        let pod =
            pod(json!({"containers": [{"name": "b"}, {"name": "a"}, {"name": "c", "resources": said}]}));
        assert_eq!(
            unspecified("q", &hard, pod.as_ref()).unwrap(),
            "failed quota: q: must specify limits.cpu for: a,b; requests.memory for: a,b"
        );
    }

    #[test]
    fn scopes_choose_pods() {
        let best_effort = pod(json!({"containers": [{"name": "c"}]}));
        let important = pod(
            json!({"containers": [{"name": "c"}], "priorityClassName": "high", "activeDeadlineSeconds": 5}),
        );
        let service = kind_of::<Service>().decode(json!({"metadata": {"name": "s"}, "spec": {}})).unwrap();
        for (spec, first, second) in [
            (json!({}), true, true),
            (json!({"scopes": ["BestEffort"]}), true, true),
            (json!({"scopes": ["Terminating"]}), false, true),
            (json!({"scopes": ["NotTerminating", "BestEffort"]}), true, false),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}),
                false,
                true,
            ),
        ] {
            let plain = spec == json!({});
            let quota = quota(spec);
            assert_eq!(
                (covers(&quota, best_effort.as_ref()), covers(&quota, important.as_ref())),
                (first, second)
            );
            assert_eq!(covers(&quota, service.as_ref()), plain);
        }
    }
}
