//! ResourceQuota: how much a namespace may have together.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus};

use super::check::one_of;
use super::pod_spec::resources::{canonical_list, is_standard, validate_amount};
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
        for (name, amount) in spec.hard.iter().flatten() {
            let path = path.child("hard").key(name);
            for wrong in qualified_name(name) {
                errors.invalid(&path, name.as_str(), wrong);
            }
            if !name.contains('/') && !is_standard(name) {
                errors.invalid(&path, name.as_str(), "must be a standard resource type or fully qualified");
                errors.invalid(&path, name.as_str(), "must be a standard resource for quota");
            }
            let whole = COUNTED.contains(&name.as_str()) || name.starts_with("count/");
            validate_amount(amount, whole, &path, errors);
        }
        for scope in spec.scopes.iter().flatten() {
            one_of(errors, &path.child("scopes"), scope, SCOPES);
        }
        let of_pods = |name: &str| {
            matches!(name, "pods" | "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("requests.")
                || name.starts_with("limits.")
        };
        let has_scopes = spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty());
        if has_scopes && spec.hard.iter().flatten().any(|(name, _)| !of_pods(name)) {
            let scopes = super::check::json(&spec.scopes);
            errors.invalid(&path.child("scopes"), scopes, "unsupported scope applied to resource");
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        let scopes = |quota: &Self| {
            let mut scopes = quota.spec.as_ref().and_then(|s| s.scopes.clone()).unwrap_or_default();
            scopes.sort();
            scopes
        };
        let (new, path) = (scopes(self), Path::new("spec").child("scopes"));
        errors.immutable(&path, &new, &scopes(old), super::check::json(&new));
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
