//! Role, ClusterRole, RoleBinding, ClusterRoleBinding: who may do what.
//!
//! The four are one subject and share their rules, so they share a file. Invariant: what a binding
//! refers to never changes.

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::cells::created_at;
use super::check::{json, one_of, subdomain};
use super::pod_spec::scheduling::validate_label_selector;
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, NameRule};
use crate::meta::path_segment;
use crate::table::{Cell, Column};

/// The group of these kinds, of users and of groups.
pub const GROUP: &str = "rbac.authorization.k8s.io";

const ROLE_COLUMNS: &[Column] = &[Column::NAME, super::cells::CREATED_AT];
const BINDING_COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Role"),
    Column::AGE,
    Column::wide("Users"),
    Column::wide("Groups"),
    Column::wide("ServiceAccounts"),
];

impl Kind for Role {
    const DESCRIPTOR: Descriptor = Descriptor {
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        columns: ROLE_COLUMNS,
        ..Descriptor::namespaced(GROUP, "v1", "Role", "roles", "role", "rbac.v1.Role")
    };

    fn validate(&self, errors: &mut FieldErrors) {
        validate_rules(self.rules.as_deref().unwrap_or_default(), true, errors);
    }

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        vec![Cell::name(self.metadata()), created_at(self.metadata())]
    }
}

impl Kind for ClusterRole {
    const DESCRIPTOR: Descriptor = Descriptor {
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        columns: ROLE_COLUMNS,
        ..Descriptor::cluster(
            GROUP,
            "v1",
            "ClusterRole",
            "clusterroles",
            "clusterrole",
            "rbac.v1.ClusterRole",
        )
    };

    fn validate(&self, errors: &mut FieldErrors) {
        validate_rules(self.rules.as_deref().unwrap_or_default(), false, errors);
        let Some(aggregation) = &self.aggregation_rule else { return };
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
        if selectors.is_empty() {
            errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for (i, selector) in selectors.iter().enumerate() {
            validate_label_selector(selector, &path.index(i), errors);
        }
    }

    fn row(&self, _now: Timestamp) -> Vec<Cell> {
        vec![Cell::name(self.metadata()), created_at(self.metadata())]
    }
}

impl Kind for RoleBinding {
    const DESCRIPTOR: Descriptor = Descriptor {
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        columns: BINDING_COLUMNS,
        ..Descriptor::namespaced(
            GROUP,
            "v1",
            "RoleBinding",
            "rolebindings",
            "rolebinding",
            "rbac.v1.RoleBinding",
        )
    };

    fn set_defaults(&mut self) {
        set_binding_defaults(&mut self.role_ref, self.subjects.as_mut());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        validate_role_ref(&self.role_ref, &["Role", "ClusterRole"], errors);
        validate_subjects(self.subjects.as_deref().unwrap_or_default(), true, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        validate_same_role(&self.role_ref, &old.role_ref, errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        binding_row(self.metadata(), &self.role_ref, self.subjects.as_deref().unwrap_or_default(), now)
    }
}

impl Kind for ClusterRoleBinding {
    const DESCRIPTOR: Descriptor = Descriptor {
        name_rule: NameRule::PathSegment,
        create_on_update: true,
        columns: BINDING_COLUMNS,
        ..Descriptor::cluster(
            GROUP,
            "v1",
            "ClusterRoleBinding",
            "clusterrolebindings",
            "clusterrolebinding",
            "rbac.v1.ClusterRoleBinding",
        )
    };

    fn set_defaults(&mut self) {
        set_binding_defaults(&mut self.role_ref, self.subjects.as_mut());
    }

    fn validate(&self, errors: &mut FieldErrors) {
        validate_role_ref(&self.role_ref, &["ClusterRole"], errors);
        validate_subjects(self.subjects.as_deref().unwrap_or_default(), false, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        validate_same_role(&self.role_ref, &old.role_ref, errors);
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        binding_row(self.metadata(), &self.role_ref, self.subjects.as_deref().unwrap_or_default(), now)
    }
}

fn set_binding_defaults(role: &mut RoleRef, subjects: Option<&mut Vec<Subject>>) {
    if role.api_group.is_empty() {
        role.api_group = GROUP.to_owned();
    }
    for subject in subjects.into_iter().flatten() {
        let open = subject.api_group.as_deref().is_none_or(str::is_empty);
        if open && matches!(subject.kind.as_str(), "User" | "Group") {
            subject.api_group = Some(GROUP.to_owned());
        }
    }
}

fn validate_rules(rules: &[PolicyRule], namespaced: bool, errors: &mut FieldErrors) {
    for (i, rule) in rules.iter().enumerate() {
        let path = Path::new("rules").index(i);
        let is_empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
        if rule.verbs.is_empty() {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        if let Some(urls) = rule.non_resource_urls.as_ref().filter(|urls| !urls.is_empty()) {
            let path = path.child("nonResourceURLs");
            if namespaced {
                errors.invalid(&path, json(urls), "namespaced rules cannot apply to non-resource URLs");
            }
            if !(is_empty(&rule.api_groups) && is_empty(&rule.resources) && is_empty(&rule.resource_names)) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&path, json(urls), detail);
            }
            continue;
        }
        if is_empty(&rule.api_groups) {
            let detail = "resource rules must supply at least one api group";
            errors.required(&path.child("apiGroups"), detail);
        }
        if is_empty(&rule.resources) {
            let detail = "resource rules must supply at least one resource";
            errors.required(&path.child("resources"), detail);
        }
    }
}

fn validate_role_ref(role: &RoleRef, kinds: &[&str], errors: &mut FieldErrors) {
    let path = Path::new("roleRef");
    one_of(errors, &path.child("apiGroup"), &role.api_group, &[GROUP]);
    one_of(errors, &path.child("kind"), &role.kind, kinds);
    if role.name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    for wrong in path_segment(&role.name) {
        errors.invalid(&path.child("name"), role.name.as_str(), wrong);
    }
}

fn validate_same_role(new: &RoleRef, old: &RoleRef, errors: &mut FieldErrors) {
    if new != old {
        errors.invalid(&Path::new("roleRef"), json(new), "cannot change roleRef");
    }
}

fn validate_subjects(subjects: &[Subject], namespaced: bool, errors: &mut FieldErrors) {
    for (i, subject) in subjects.iter().enumerate() {
        let path = Path::new("subjects").index(i);
        let group = subject.api_group.as_deref().unwrap_or_default();
        if subject.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        match subject.kind.as_str() {
            "ServiceAccount" => {
                if !subject.name.is_empty() {
                    subdomain(errors, &path.child("name"), &subject.name);
                }
                one_of(errors, &path.child("apiGroup"), group, &[""]);
                if !namespaced && subject.namespace.as_deref().is_none_or(str::is_empty) {
                    errors.required(&path.child("namespace"), "");
                }
            }
            "User" | "Group" => one_of(errors, &path.child("apiGroup"), group, &[GROUP]),
            other => one_of(errors, &path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
        }
    }
}

fn binding_row(
    meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    role: &RoleRef,
    subjects: &[Subject],
    now: Timestamp,
) -> Vec<Cell> {
    let of = |kind: &str, text: fn(&Subject) -> String| {
        let names: Vec<String> = subjects.iter().filter(|s| s.kind == kind).map(text).collect();
        Cell::text(names.join(", "))
    };
    vec![
        Cell::name(meta),
        Cell::text(format!("{}/{}", role.kind, role.name)),
        Cell::age(meta, now),
        of("User", |s| s.name.clone()),
        of("Group", |s| s.name.clone()),
        of("ServiceAccount", |s| format!("{}/{}", s.namespace.as_deref().unwrap_or_default(), s.name)),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn errors<K: Kind>(value: Value) -> Vec<String> {
        let mut object: K = serde_json::from_value(value).unwrap();
        object.set_defaults();
        let mut errors = FieldErrors::new();
        object.validate(&mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn wrong_rules_are_refused() {
        let rules = |rule: Value| json!({"metadata": {"name": "r"}, "rules": [rule]});
        assert_eq!(
            errors::<Role>(rules(json!({"resources": ["pods"], "verbs": ["get"]}))),
            ["rules[0].apiGroups: Required value: resource rules must supply at least one api group"]
        );
        assert_eq!(
            errors::<Role>(rules(json!({"nonResourceURLs": ["/x"], "verbs": ["get"]}))),
            [
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs"
            ]
        );
        assert!(
            errors::<ClusterRole>(rules(json!({"nonResourceURLs": ["/x"], "verbs": ["get"]}))).is_empty()
        );
    }

    #[test]
    fn bindings() {
        let value = json!({"metadata": {"name": "rb"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects":
            [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
        let mut binding: RoleBinding = serde_json::from_value(value).unwrap();
        Kind::set_defaults(&mut binding);
        assert_eq!(binding.role_ref.api_group, GROUP);
        assert_eq!(binding.subjects.as_ref().unwrap()[1].api_group, None);
        let cells: Vec<_> = Kind::row(&binding, Timestamp::UNIX_EPOCH).into_iter().map(|c| c.0).collect();
        assert_eq!(cells, ["rb", "Role/r", "<unknown>", "u", "", "n/s"]);
        assert_eq!(
            errors::<RoleBinding>(json!({"metadata": {"name": "rb"}})),
            [
                "roleRef.kind: Unsupported value: \"\": supported values: \"Role\", \"ClusterRole\"",
                "roleRef.name: Required value",
            ]
        );
    }
}
