//! Where a pod may run: node selectors, affinity, tolerations, spreading.

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm,
    Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::field::{FieldErrors, Path};
use crate::kinds::check::{invalid_each, json, label, label_key, one_of, subdomain};
use crate::meta;

/// What a taint may do.
pub(crate) const TAINT_EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

const NEEDS_SELECTOR: &str = "must not be specified when labelSelector is not set";

/// Checks tolerations.
pub(crate) fn validate_tolerations(tolerations: &[Toleration], path: &Path, errors: &mut FieldErrors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let key = toleration.key.as_deref().unwrap_or_default();
        let operator = toleration.operator.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        if !key.is_empty() {
            label_key(errors, &path.child("key"), key);
        } else if operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&path.child("operator"), operator, detail);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.child("effect"), effect, detail);
        }
        match operator {
            "" | "Equal" => {
                let wrong = meta::label_value(value);
                if !wrong.is_empty() {
                    errors.invalid(&path.child("operator"), value, wrong.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.invalid(&path.child("operator"), json(toleration), detail);
            }
            "Exists" => {}
            other => one_of(errors, &path.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            one_of(errors, &path.child("effect"), effect, TAINT_EFFECTS);
        }
    }
}

/// Checks all three kinds of affinity.
pub(super) fn validate_affinity(affinity: Option<&Affinity>, path: &Path, errors: &mut FieldErrors) {
    let Some(affinity) = affinity else { return };
    if let Some(node) = &affinity.node_affinity {
        validate_node_affinity(node, &path.child("nodeAffinity"), errors);
    }
    if let Some(pod) = &affinity.pod_affinity {
        let path = path.child("podAffinity");
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref();
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.as_deref();
        validate_pod_affinity(required, preferred, &path, errors);
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let path = path.child("podAntiAffinity");
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref();
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.as_deref();
        validate_pod_affinity(required, preferred, &path, errors);
    }
}

fn validate_node_affinity(affinity: &NodeAffinity, path: &Path, errors: &mut FieldErrors) {
    if let Some(selector) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
        validate_node_selector(selector, &path, errors);
    }
    let path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    for (i, term) in preferred.enumerate() {
        let path = path.index(i);
        validate_weight(term.weight, &path.child("weight"), errors);
        validate_node_term(&term.preference, &path.child("preference"), errors);
    }
}

fn validate_weight(weight: i32, path: &Path, errors: &mut FieldErrors) {
    if !(1..=100).contains(&weight) {
        errors.invalid(path, weight, "must be in the range 1-100");
    }
}

/// Checks a node selector: of a pod or of a persistent volume.
pub(crate) fn validate_node_selector(selector: &NodeSelector, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        let path = path.index(i);
        validate_node_term(term, &path, errors);
        for (j, requirement) in term.match_expressions.iter().flatten().enumerate() {
            let path = path.child("matchExpressions").index(j).child("values");
            for (k, value) in requirement.values.iter().flatten().enumerate() {
                invalid_each(errors, &path.index(k), value, meta::label_value(value));
            }
        }
    }
}

fn validate_node_term(term: &NodeSelectorTerm, path: &Path, errors: &mut FieldErrors) {
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        validate_node_requirement(requirement, &path.child("matchExpressions").index(i), errors);
    }
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        validate_node_field(requirement, &path.child("matchFields").index(i), errors);
    }
}

fn validate_node_requirement(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut FieldErrors) {
    let count = requirement.values.as_ref().map_or(0, Vec::len);
    let values = path.child("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if count == 0 => {
            errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            errors.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if count != 1 => {
            errors.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    label_key(errors, &path.child("key"), &requirement.key);
}

fn validate_node_field(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut FieldErrors) {
    match requirement.operator.as_str() {
        "In" | "NotIn" if requirement.values.as_ref().is_none_or(|v| v.len() != 1) => errors.required(
            &path.child("values"),
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        ),
        "In" | "NotIn" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    if requirement.key != "metadata.name" {
        let detail = "not a valid field selector key";
        errors.invalid(&path.child("key"), requirement.key.as_str(), detail);
        return;
    }
    for (i, name) in requirement.values.iter().flatten().enumerate() {
        subdomain(errors, &path.child("values").index(i), name);
    }
}

fn validate_pod_affinity(
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let required_path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in required.into_iter().flatten().enumerate() {
        validate_pod_term(term, &required_path.index(i), errors);
    }
    let preferred_path = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (i, weighted) in preferred.into_iter().flatten().enumerate() {
        let path = preferred_path.index(i);
        validate_weight(weighted.weight, &path.child("weight"), errors);
        validate_pod_term(&weighted.pod_affinity_term, &path.child("podAffinityTerm"), errors);
    }
}

fn validate_pod_term(term: &PodAffinityTerm, path: &Path, errors: &mut FieldErrors) {
    if let Some(selector) = &term.label_selector {
        validate_label_selector(selector, &path.child("labelSelector"), errors);
    }
    if let Some(selector) = &term.namespace_selector {
        validate_label_selector(selector, &path.child("namespaceSelector"), errors);
    }
    for namespace in term.namespaces.iter().flatten() {
        label(errors, &path.child("namespace"), namespace);
    }
    validate_label_keys(term, path, errors);
    if term.topology_key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    label_key(errors, &path.child("topologyKey"), &term.topology_key);
}

/// Labels whose values are to be those of the pod itself, or others.
fn validate_label_keys(term: &PodAffinityTerm, path: &Path, errors: &mut FieldErrors) {
    let mismatched = term.mismatch_label_keys.as_deref().unwrap_or_default();
    let matched = term.match_label_keys.as_deref().unwrap_or_default();
    for (field, keys) in [("matchLabelKeys", matched), ("mismatchLabelKeys", mismatched)] {
        let path = path.child(field);
        if !keys.is_empty() && term.label_selector.is_none() {
            errors.forbidden(&path, NEEDS_SELECTOR);
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            label_key(errors, &path.index(i), key);
        }
    }
    for (i, key) in matched.iter().enumerate().filter(|(_, key)| mismatched.contains(key)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(&path.child("matchLabelKeys").index(i), key.as_str(), detail);
    }
}

/// Checks a label selector.
pub(crate) fn validate_label_selector(selector: &LabelSelector, path: &Path, errors: &mut FieldErrors) {
    meta::validate_labels(selector.match_labels.as_ref(), &path.child("matchLabels"), errors);
    for (i, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let count = requirement.values.as_ref().map_or(0, Vec::len);
        match requirement.operator.as_str() {
            "In" | "NotIn" if count == 0 => {
                errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
            }
            "Exists" | "DoesNotExist" if count > 0 => errors.forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        label_key(errors, &path.child("key"), &requirement.key);
        for (j, value) in requirement.values.iter().flatten().enumerate() {
            for wrong in meta::label_value(value) {
                errors.invalid(&path.child("values").index(j), value.as_str(), wrong);
            }
        }
    }
}

/// Checks how pods are spread.
pub(super) fn validate_spread(
    constraints: &[TopologySpreadConstraint],
    path: &Path,
    errors: &mut FieldErrors,
) {
    const ACTIONS: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        let action = constraint.when_unsatisfiable.as_str();
        if constraint.max_skew <= 0 {
            errors.invalid(&path.child("maxSkew"), constraint.max_skew, "must be greater than zero");
        }
        if constraint.topology_key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        one_of(errors, &path.child("whenUnsatisfiable"), action, ACTIONS);
        // All but the last one of a kind are told.
        let is_same = |other: &TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == action
        };
        if constraints[i + 1..].iter().any(is_same) {
            let value = format!("{{{}, {action}}}", constraint.topology_key);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), value);
        }
        if let Some(domains) = constraint.min_domains {
            let path = path.child("minDomains");
            if domains <= 0 {
                errors.invalid(&path, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(&path, domains, detail);
            }
        }
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            if let Some(policy) = policy {
                one_of(errors, &path.child(field), policy, &["Honor", "Ignore"]);
            }
        }
        validate_spread_keys(constraint, &path.child("matchLabelKeys"), errors);
        if let Some(selector) = &constraint.label_selector {
            validate_label_selector(selector, &path.child("labelSelector"), errors);
        }
    }
}

fn validate_spread_keys(constraint: &TopologySpreadConstraint, path: &Path, errors: &mut FieldErrors) {
    let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
    let selector = constraint.label_selector.as_ref();
    if !keys.is_empty() && selector.is_none() {
        errors.forbidden(path, NEEDS_SELECTOR);
    }
    let is_selected = |key: &String| {
        selector.is_some_and(|selector| {
            selector.match_labels.as_ref().is_some_and(|labels| labels.contains_key(key))
                || selector.match_expressions.iter().flatten().any(|requirement| requirement.key == *key)
        })
    };
    for (i, key) in keys.iter().enumerate() {
        label_key(errors, &path.index(i), key);
        if is_selected(key) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.invalid(&path.index(i), key.as_str(), detail);
        }
    }
}

/// Checks the name of a node that a pod was given.
pub(super) fn validate_node_name(name: Option<&str>, path: &Path, errors: &mut FieldErrors) {
    if let Some(name) = name.filter(|n| !n.is_empty()) {
        subdomain(errors, path, name);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn texts(errors: FieldErrors) -> Vec<String> {
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn constraints_are_said_once_and_their_keys_too() {
        let constraint = |more: Value| {
            let mut constraint =
                json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
            constraint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(constraint).unwrap()
        };
        let constraints = [
            constraint(json!({"minDomains": 0, "matchLabelKeys": ["a"]})),
            constraint(json!({"matchLabelKeys": ["a"], "labelSelector": {"matchLabels": {"a": "b"}}})),
        ];
        let mut errors = FieldErrors::new();
        validate_spread(&constraints, &Path::new("s"), &mut errors);
        assert_eq!(
            texts(errors),
            [
                "s[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, DoNotSchedule}\"",
                "s[0].minDomains: Invalid value: 0: must be greater than zero",
                "s[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
                "s[1].matchLabelKeys[0]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector",
            ]
        );
    }

    #[test]
    fn terms_name_labels_and_nodes() {
        let affinity = json!({
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b c"]}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["N"]}]}]}},
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone",
                "labelSelector": {}, "namespaces": ["N"], "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"]}]}});
        let affinity: Affinity = serde_json::from_value(affinity).unwrap();
        let mut errors = FieldErrors::new();
        validate_affinity(Some(&affinity), &Path::new("a"), &mut errors);
        let fields: Vec<String> = errors.into_vec().into_iter().map(|error| error.field).collect();
        let node = "a.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
        let pod = "a.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]";
        assert_eq!(
            fields,
            [
                format!("{node}[0].matchExpressions[0].values[0]"),
                format!("{node}[1].matchFields[0].values[0]"),
                format!("{pod}.namespace"),
                format!("{pod}.matchLabelKeys[0]"),
            ]
        );
    }
}
