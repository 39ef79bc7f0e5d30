//! Whether a node is one that a node selector means: terms are alternatives, what a term lists must
//! all hold.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

/// Whether one of the terms means that node.
pub fn selects(selector: &NodeSelector, node: &Node) -> bool {
    let none = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    matches(selector, node.metadata.name.as_deref().unwrap_or_default(), labels)
}

/// Whether one of the terms means a node of that name and with these labels.
pub fn matches(selector: &NodeSelector, name: &str, labels: &BTreeMap<String, String>) -> bool {
    selector.node_selector_terms.iter().any(|term| matches_term(term, name, labels))
}

/// Whether a term means that node. An empty term means none.
pub fn matches_term(term: &NodeSelectorTerm, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|requirement| holds(requirement, labels.get(&requirement.key).map(String::as_str)))
        && fields
            .iter()
            .all(|requirement| holds(requirement, (requirement.key == "metadata.name").then_some(name)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || value.is_some_and(|value| values.iter().any(|candidate| candidate == value));
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let numbers = (value.and_then(|v| v.parse().ok()), values.first().and_then(|v| v.parse().ok()));
        matches!(numbers, (Some(has), Some(limit)) if holds(&has, &limit))
    };
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn operators() {
        let labels: BTreeMap<String, String> = [("disk", "ssd"), ("cores", "8")]
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        for (key, operator, values, expected) in [
            ("disk", "In", json!(["ssd", "nvme"]), true),
            ("disk", "NotIn", json!(["ssd"]), false),
            ("gpu", "NotIn", json!(["x"]), true),
            ("gpu", "Exists", json!([]), false),
            ("gpu", "DoesNotExist", json!([]), true),
            ("cores", "Gt", json!(["4"]), true),
            ("cores", "Lt", json!(["8"]), false),
        ] {
            let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
            let selector: NodeSelector =
                serde_json::from_value(json!({"nodeSelectorTerms": [term]})).unwrap();
            assert_eq!(matches(&selector, "n", &labels), expected, "{key} {operator}");
        }
        let by_name = json!({"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["n"]}]}, {}]});
        let selector: NodeSelector = serde_json::from_value(by_name).unwrap();
        assert!(matches(&selector, "n", &labels));
        assert!(!matches(&selector, "m", &labels));
    }
}
