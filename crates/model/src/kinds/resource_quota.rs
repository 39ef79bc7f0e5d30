//! ResourceQuota: how much a namespace may have together.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{
    ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, ScopedResourceSelectorRequirement,
};

use super::check::{invalid_each, json};
use super::pod_spec::resources::{ResourceList, canonical_list, is_standard, validate_amount};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Subresource};
use crate::meta::qualified_name;
use crate::table::{Cell, Column};

/// Resources of objects, of which there are whole ones only.
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
/// Resources of pods that are not counted but measured.
const COMPUTED: &[&str] =
    &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
];

impl Kind for ResourceQuota {
    const DESCRIPTOR: Descriptor = Descriptor {
        returns_deleted: true,
        short_names: &["quota"],
        subresources: &[Subresource::Status],
        columns: &[Column::NAME, Column::text("Request"), Column::text("Limit"), Column::AGE],
        ..Descriptor::namespaced(
            "",
            "v1",
            "ResourceQuota",
            "resourcequotas",
            "resourcequota",
            "core.v1.ResourceQuota",
        )
    };

    fn set_defaults(&mut self) {
        if let Some(hard) = &mut self.spec.get_or_insert_default().hard {
            canonical_list(hard);
        }
    }

    fn prepare_create(&mut self) {
        self.status = Some(ResourceQuotaStatus::default());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), ResourceQuotaSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        validate_amounts(spec.hard.as_ref(), &path.child("hard"), errors);
        for scope in spec.scopes.iter().flatten() {
            let refuse = |errors: &mut FieldErrors, why| {
                errors.invalid(&path.child("scopes"), json(&spec.scopes), why);
            };
            if !SCOPES.contains(&scope.as_str()) {
                refuse(errors, "unsupported scope");
            }
            for _ in spec.hard.iter().flatten().filter(|(name, _)| !can_limit(scope, name)) {
                refuse(errors, "unsupported scope applied to resource");
            }
        }
        let scopes: Vec<&str> = spec.scopes.iter().flatten().map(String::as_str).collect();
        refuse_conflicts(&scopes, &path.child("scopes"), errors);
        if let Some(selector) = &spec.scope_selector {
            let path = path.child("scopeSelector").child("matchExpressions");
            for term in selector.match_expressions.iter().flatten() {
                validate_term(term, &path, errors);
                for _ in spec.hard.iter().flatten().filter(|(name, _)| !can_limit(&term.scope_name, name)) {
                    errors.invalid(&path, json(selector), "unsupported scope applied to resource");
                }
            }
            let scopes = selector.match_expressions.iter().flatten().map(|term| term.scope_name.as_str());
            refuse_conflicts(&scopes.collect::<Vec<_>>(), &path, errors);
        }
    }

    fn validate_status(&self, _old: &Self, errors: &mut FieldErrors) {
        let (Some(status), path) = (&self.status, Path::new("status")) else { return };
        validate_amounts(status.hard.as_ref(), &path.child("hard"), errors);
        validate_amounts(status.used.as_ref(), &path.child("used"), errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let scopes = |quota: &Self| {
            let mut scopes = quota.spec.as_ref().and_then(|s| s.scopes.clone()).unwrap_or_default();
            scopes.sort();
            scopes
        };
        let (new, path) = (scopes(self), Path::new("spec").child("scopes"));
        errors.immutable(&path, &new, &scopes(old), json(&new));
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        let [requests, limits] = usage_texts(self);
        vec![
            Cell::name(self.metadata()),
            Cell::text(requests),
            Cell::text(limits),
            Cell::age(self.metadata(), now),
        ]
    }
}

/// Whether a quota can limit a resource for the pods in a scope. Of resources that not everybody knows, anything can.
fn can_limit(scope: &str, resource: &str) -> bool {
    // What needs nothing cannot need too much.
    let computed = scope != "BestEffort" && COMPUTED.contains(&resource);
    resource == "pods" || computed || !SCOPES.contains(&scope) || !is_standard(resource)
}

/// Refuses scopes of which no pod can be in both.
fn refuse_conflicts(scopes: &[&str], path: &Path, errors: &mut FieldErrors) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.invalid(path, json(&scopes), "conflicting scopes");
        }
    }
}

/// Checks one term of a selector of scopes. Its index is not in the path: nor is it in Kubernetes'.
fn validate_term(term: &ScopedResourceSelectorRequirement, path: &Path, errors: &mut FieldErrors) {
    let (scope, operator) = (term.scope_name.as_str(), term.operator.as_str());
    if !SCOPES.contains(&scope) {
        errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
    } else if scope != "PriorityClass" && operator != "Exists" {
        let detail = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.invalid(&path.child("operator"), operator, detail);
    }
    let has_values = term.values.as_ref().is_some_and(|values| !values.is_empty());
    match operator {
        "In" | "NotIn" if !has_values => {
            let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.required(&path.child("values"), detail);
        }
        "Exists" | "DoesNotExist" if has_values => {
            let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.invalid(&path.child("values"), json(&term.values), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
}

fn validate_amounts(amounts: Option<&ResourceList>, path: &Path, errors: &mut FieldErrors) {
    for (name, amount) in amounts.into_iter().flatten() {
        let path = path.key(name);
        invalid_each(errors, &path, name, qualified_name(name));
        if !name.contains('/') && !is_standard(name) {
            errors.invalid(&path, name.as_str(), "must be a standard resource type or fully qualified");
            errors.invalid(&path, name.as_str(), "must be a standard resource for quota");
        }
        let whole = COUNTED.contains(&name.as_str()) || name.starts_with("count/");
        validate_amount(amount, whole, &path, errors);
    }
}

/// `pods: 1/10, requests.cpu: 100m/2`, and the same of limits.
fn usage_texts(quota: &ResourceQuota) -> [String; 2] {
    let status = quota.status.as_ref();
    let used = status.and_then(|s| s.used.as_ref());
    let mut texts = [Vec::new(), Vec::new()];
    for (name, hard) in status.and_then(|s| s.hard.as_ref()).into_iter().flatten() {
        let used = used.and_then(|u| u.get(name)).map_or("0", |q| q.0.as_str());
        let text = format!("{name}: {used}/{}", hard.0);
        texts[usize::from(name.starts_with("limits"))].push(text);
    }
    texts.map(|parts| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scopes_go_together() {
        let wrong = |spec: serde_json::Value| {
            let quota: ResourceQuota = serde_json::from_value(json!({"spec": spec})).unwrap();
            let mut errors = FieldErrors::new();
            Kind::validate(&quota, &mut errors);
            errors.into_vec().into_iter().map(|e| e.field).collect::<Vec<_>>()
        };
        let term = |scope: &str, operator: &str, values: serde_json::Value| {
            wrong(json!({"scopeSelector": {"matchExpressions":
                [{"scopeName": scope, "operator": operator, "values": values}]}}))
        };
        let path = |field: &str| vec![format!("spec.scopeSelector.matchExpressions.{field}")];
        assert_eq!(wrong(json!({"scopes": ["Terminating", "NotTerminating"]})), ["spec.scopes"]);
        assert!(term("PriorityClass", "In", json!(["high"])).is_empty());
        assert!(term("BestEffort", "Exists", json!(null)).is_empty());
        assert_eq!(term("Mine", "Exists", json!(null)), path("scopeName"));
        assert_eq!(term("PriorityClass", "In", json!([])), path("values"));
        assert_eq!(term("PriorityClass", "Exists", json!(["a"])), path("values"));
        assert_eq!(term("PriorityClass", "Gt", json!(null)), path("operator"));
        assert_eq!(term("Terminating", "In", json!(["a"])), path("operator"));
    }

    #[test]
    fn a_scope_limits_what_its_pods_can_need() {
        let wrong = |scope: &str, resource: &str| {
            let spec = json!({"hard": {resource: "1"}, "scopes": [scope]});
            let quota: ResourceQuota = serde_json::from_value(json!({"spec": spec})).unwrap();
            let mut errors = FieldErrors::new();
            Kind::validate(&quota, &mut errors);
            errors.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let refused =
            |scope: &str, why: &str| vec![format!("spec.scopes: Invalid value: [\"{scope}\"]: {why}")];
        let (scope, resource) = ("unsupported scope", "unsupported scope applied to resource");
        assert_eq!(wrong("Mine", "pods"), refused("Mine", scope));
        assert!(wrong("BestEffort", "pods").is_empty());
        assert_eq!(wrong("BestEffort", "cpu"), refused("BestEffort", resource));
        assert!(wrong("NotBestEffort", "limits.memory").is_empty());
        assert_eq!(wrong("Terminating", "services"), refused("Terminating", resource));
        assert_eq!(wrong("PriorityClass", "requests.storage"), refused("PriorityClass", resource));
        assert!(wrong("PriorityClass", "example.com/dongle").is_empty());
        let spec = json!({"hard": {"secrets": "1"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": "BestEffort", "operator": "Exists"}]}});
        let quota: ResourceQuota = serde_json::from_value(json!({"spec": spec})).unwrap();
        let mut errors = FieldErrors::new();
        Kind::validate(&quota, &mut errors);
        let fields: Vec<_> = errors.into_vec().into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["spec.scopeSelector.matchExpressions"]);
    }

    #[test]
    fn checks_and_row() {
        let mut quota: ResourceQuota = serde_json::from_value(json!({"metadata": {"name": "q"},
            "spec": {"hard": {"pods": "1.5", "bogus": "1"}},
            "status": {"hard": {"pods": "2", "limits.cpu": "4"}, "used": {"pods": "1"}}}))
        .unwrap();
        let mut errors = FieldErrors::new();
        Kind::validate(&quota, &mut errors);
        assert_eq!(errors.into_vec().len(), 3);
        let cells: Vec<_> = Kind::row(&quota, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
        assert_eq!(cells, ["q", "pods: 1/2", "limits.cpu: 0/4", "<unknown>"]);
        Kind::prepare_create(&mut quota);
        assert_eq!(serde_json::to_value(&quota.status).unwrap(), json!({}));
    }
}
