//! LimitRanges applied: what containers get that do not say how much they need, and what is too little or
//! too much for one container, pod or claim. Admission asks this.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, PodSpec,
};

use crate::kinds::pod_spec::resources::ResourceList;
use crate::quantity::Quantity;

/// Where a pod says what it was given.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Gives the containers of a new pod the amounts that they do not name.
pub fn set_defaults(pod: &mut Pod, ranges: &[Arc<LimitRange>]) {
    let Some(spec) = &mut pod.spec else { return };
    let mut given = Vec::new();
    let of_containers = |range: &Arc<LimitRange>| {
        let limits = range.spec.iter().flat_map(|spec| spec.limits.clone());
        limits.filter(|item| item.type_ == "Container").collect::<Vec<_>>()
    };
    let items: Vec<LimitRangeItem> = ranges.iter().flat_map(of_containers).collect();
    let inits = spec.init_containers.iter_mut().flatten().map(|container| ("init container", container));
    for (word, container) in spec.containers.iter_mut().map(|c| ("container", c)).chain(inits) {
        for item in &items {
            let resources = container.resources.get_or_insert_default();
            let requests = fill(&mut resources.requests, item.default_request.as_ref());
            let limits = fill(&mut resources.limits, item.default.as_ref());
            for (what, names) in [("request", requests), ("limit", limits)] {
                if !names.is_empty() {
                    given.push(format!("{} {what} for {word} {}", names.join(", "), container.name));
                }
            }
        }
    }
    if !given.is_empty() {
        let text = format!("LimitRanger plugin set: {}", given.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), text);
    }
}

/// Puts in what is missing; the names of that.
fn fill(list: &mut Option<ResourceList>, defaults: Option<&ResourceList>) -> Vec<String> {
    let mut names = Vec::new();
    for (name, amount) in defaults.into_iter().flatten() {
        let list = list.get_or_insert_default();
        if !list.contains_key(name) {
            list.insert(name.clone(), amount.clone());
            names.push(name.clone());
        }
    }
    names
}

type Amounts = BTreeMap<String, Quantity>;

fn amounts(list: Option<&ResourceList>) -> Amounts {
    let amount = |(name, amount): (&String, _)| Some((name.clone(), Quantity::of(amount)?));
    list.into_iter().flatten().filter_map(amount).collect()
}

/// What is wrong with a pod's amounts; empty: nothing.
pub fn check_pod(pod: &Pod, ranges: &[Arc<LimitRange>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(spec) = &pod.spec else { return wrong };
    for item in ranges.iter().flat_map(|range| range.spec.iter().flat_map(|spec| &spec.limits)) {
        match item.type_.as_str() {
            "Container" => {
                for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                    let (requests, limits) = of_container(container);
                    check(item, &requests, &limits, &mut wrong);
                }
            }
            "Pod" => {
                let (requests, limits) = of_pod(spec);
                check(item, &requests, &limits, &mut wrong);
            }
            _ => {}
        }
    }
    wrong
}

/// What is wrong with a claim's amount; empty: nothing.
pub fn check_claim(claim: &PersistentVolumeClaim, ranges: &[Arc<LimitRange>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = amounts(resources.and_then(|resources| resources.requests.as_ref()));
    for item in ranges.iter().flat_map(|range| range.spec.iter().flat_map(|spec| &spec.limits)) {
        if item.type_ == "PersistentVolumeClaim" {
            // A claim has no limit but what it asks for.
            check(item, &requests, &requests, &mut wrong);
        }
    }
    wrong
}

fn of_container(container: &Container) -> (Amounts, Amounts) {
    let resources = container.resources.as_ref();
    (
        amounts(resources.and_then(|resources| resources.requests.as_ref())),
        amounts(resources.and_then(|resources| resources.limits.as_ref())),
    )
}

/// All containers together, or the largest init container where that is more. What one of them does not
/// name, the pod as a whole does not.
fn of_pod(spec: &PodSpec) -> (Amounts, Amounts) {
    let all: Vec<(Amounts, Amounts)> = spec.containers.iter().map(of_container).collect();
    let part = |pick: fn(&(Amounts, Amounts)) -> &Amounts| {
        let mut sum = Amounts::new();
        for (name, amount) in all.iter().flat_map(pick) {
            let total = sum.entry(name.clone()).or_insert(Quantity::ZERO);
            *total = if total.is_zero() { *amount } else { *total + *amount };
        }
        sum.retain(|name, _| all.iter().all(|amounts| pick(amounts).contains_key(name)));
        for (name, amount) in
            spec.init_containers.iter().flatten().map(of_container).flat_map(|c| pick(&c).clone())
        {
            let most = sum.entry(name).or_insert(amount);
            *most = (*most).max(amount);
        }
        sum
    };
    (part(|amounts| &amounts.0), part(|amounts| &amounts.1))
}

fn check(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts, wrong: &mut Vec<String>) {
    let type_ = &item.type_;
    for (name, least) in amounts(item.min.as_ref()) {
        let told = format!("minimum {name} usage per {type_} is {least}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => wrong.push(format!("{told}.  No request is specified")),
            (Some(request), _) if *request < least => wrong.push(format!("{told}, but request is {request}")),
            (_, Some(limit)) if *limit < least => wrong.push(format!("{told}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, most) in amounts(item.max.as_ref()) {
        let told = format!("maximum {name} usage per {type_} is {most}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => wrong.push(format!("{told}.  No limit is specified")),
            (_, Some(limit)) if *limit > most => wrong.push(format!("{told}, but limit is {limit}")),
            (Some(request), _) if *request > most => wrong.push(format!("{told}, but request is {request}")),
            _ => {}
        }
    }
    for (name, most) in amounts(item.max_limit_request_ratio.as_ref()) {
        let told = format!("{name} max limit to request ratio per {type_} is {most}");
        let request = requests.get(&name).filter(|amount| !amount.is_zero());
        let limit = limits.get(&name).filter(|amount| !amount.is_zero());
        let (Some(request), Some(limit)) = (request, limit) else {
            let what = if request.is_none() { "request" } else { "limit" };
            wrong.push(format!("{told}, but no {what} is specified or {what} is 0"));
            continue;
        };
        let ratio = limit.milli() as f64 / request.milli() as f64;
        if ratio > most.milli() as f64 / 1000.0 {
            wrong.push(format!("{told}, but provided ratio is {ratio:.6}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ranges(item: Value) -> [Arc<LimitRange>; 1] {
        let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}});
        [Arc::new(serde_json::from_value(range).unwrap())]
    }

    fn pod(resources: Value) -> Pod {
        let containers = json!([{"name": "c", "resources": resources}]);
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": containers}}))
            .unwrap()
    }

    #[test]
    fn what_is_not_said_is_given() {
        let ranges = ranges(
            json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m", "memory": "1Mi"}}),
        );
        let mut pod = pod(json!({"requests": {"cpu": "200m"}}));
        set_defaults(&mut pod, &ranges);
        let value = serde_json::to_value(&pod).unwrap();
        assert_eq!(
            value["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "200m", "memory": "1Mi"}})
        );
        assert_eq!(
            value["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: memory request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn too_little_and_too_much() {
        let bounds = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "2"}});
        let ranges = ranges(bounds);
        for (resources, wrong) in [
            (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}), vec![]),
            (
                json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "100m"}}),
                vec!["minimum cpu usage per Container is 100m, but request is 50m"],
            ),
            (
                json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3"}}),
                vec!["maximum cpu usage per Container is 2, but limit is 3"],
            ),
            (
                json!({}),
                vec![
                    "minimum cpu usage per Container is 100m.  No request is specified",
                    "maximum cpu usage per Container is 2.  No limit is specified",
                    "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
                ],
            ),
            (
                json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "2"}}),
                vec!["cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000"],
            ),
        ] {
            assert_eq!(check_pod(&pod(resources), &ranges), wrong);
        }
    }

    #[test]
    fn pods_as_a_whole_and_claims() {
        let whole = ranges(json!({"type": "Pod", "max": {"cpu": "1"}}));
        let two: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "600m"}}}, {"name": "b", "resources": {"limits": {"cpu": "600m"}}}]}}))
        .unwrap();
        assert_eq!(check_pod(&two, &whole), ["maximum cpu usage per Pod is 1, but limit is 1200m"]);
        let claims = ranges(json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}));
        let claim: PersistentVolumeClaim = serde_json::from_value(
            json!({"metadata": {}, "spec": {"resources": {"requests": {"storage": "2Gi"}}}}),
        )
        .unwrap();
        assert_eq!(
            check_claim(&claim, &claims),
            ["maximum storage usage per PersistentVolumeClaim is 1Gi, but limit is 2Gi"]
        );
    }
}
