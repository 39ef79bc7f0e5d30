//! Role-based access control: rules of the roles that are bound to a user or a group of theirs.

use balsa_model::kinds;
use balsa_state::State;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use serde::de::DeserializeOwned;

use super::Attributes;
use crate::identity::Authenticated;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Whether a role that is bound to the user allows it: cluster-wide, or in the request's namespace.
pub(super) fn allows(state: &State, user: &Authenticated, wanted: &Attributes) -> bool {
    let cluster_wide =
        all::<ClusterRoleBinding>(state, "clusterrolebindings", "").into_iter().any(|binding| {
            names(binding.subjects.as_deref(), user, "") && role_allows(state, &binding.role_ref, "", wanted)
        });
    if cluster_wide || wanted.namespace.is_empty() {
        return cluster_wide;
    }
    all::<RoleBinding>(state, "rolebindings", &wanted.namespace).into_iter().any(|binding| {
        names(binding.subjects.as_deref(), user, &wanted.namespace)
            && role_allows(state, &binding.role_ref, &wanted.namespace, wanted)
    })
}

fn all<T: DeserializeOwned>(state: &State, plural: &str, namespace: &str) -> Vec<T> {
    let Some(kind) = kinds::by_resource(GROUP, plural) else { return Vec::new() };
    let view = state.view(kind);
    // Stored objects have been checked; one that does not decode binds nobody.
    view.list(namespace).filter_map(|object| serde_json::from_slice(object.bytes()).ok()).collect()
}

fn names(subjects: Option<&[Subject]>, user: &Authenticated, namespace: &str) -> bool {
    subjects.into_iter().flatten().any(|subject| match subject.kind.as_str() {
        "User" => subject.name == **user.user(),
        "Group" => user.is_in(&subject.name),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().unwrap_or(namespace);
            **user.user() == *format!("system:serviceaccount:{namespace}:{}", subject.name)
        }
        _ => false,
    })
}

fn role_allows(state: &State, role: &RoleRef, namespace: &str, wanted: &Attributes) -> bool {
    let rules = match role.kind.as_str() {
        "ClusterRole" => all::<ClusterRole>(state, "clusterroles", "")
            .into_iter()
            .find(|r| r.metadata.name.as_deref() == Some(&role.name))
            .and_then(|r| r.rules),
        _ => all::<Role>(state, "roles", namespace)
            .into_iter()
            .find(|r| r.metadata.name.as_deref() == Some(&role.name))
            .and_then(|r| r.rules),
    };
    rules.into_iter().flatten().any(|rule| rule_allows(&rule, wanted))
}

fn has(list: Option<&Vec<String>>, value: &str) -> bool {
    list.is_some_and(|list| list.iter().any(|item| item == "*" || item == value))
}

fn rule_allows(rule: &PolicyRule, wanted: &Attributes) -> bool {
    if !has(Some(&rule.verbs), &wanted.verb) {
        return false;
    }
    if wanted.resource.is_empty() {
        return rule.non_resource_urls.iter().flatten().any(|url| match url.strip_suffix('*') {
            Some(prefix) => wanted.path.starts_with(prefix),
            None => *url == wanted.path,
        });
    }
    let named = rule
        .resource_names
        .as_ref()
        .is_none_or(|names| names.is_empty() || (!wanted.name.is_empty() && names.contains(&wanted.name)));
    named && has(rule.api_groups.as_ref(), &wanted.group) && rule_names_resource(rule, wanted)
}

fn rule_names_resource(rule: &PolicyRule, wanted: &Attributes) -> bool {
    let resources = rule.resources.as_ref();
    if wanted.subresource.is_empty() {
        return has(resources, &wanted.resource);
    }
    has(resources, &format!("{}/{}", wanted.resource, wanted.subresource))
        || resources.is_some_and(|list| list.contains(&format!("*/{}", wanted.subresource)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(resources: &[&str], names: &[&str]) -> PolicyRule {
        let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        PolicyRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(texts(resources)),
            resource_names: (!names.is_empty()).then(|| texts(names)),
            verbs: vec!["get".to_owned()],
            ..PolicyRule::default()
        }
    }

    fn wanted(resource: &str, subresource: &str, name: &str) -> Attributes {
        Attributes {
            verb: "get".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        }
    }

    #[test]
    fn rules_match_as_kubernetes_documents() {
        assert!(rule_allows(&rule(&["pods"], &[]), &wanted("pods", "", "a")));
        assert!(!rule_allows(&rule(&["pods"], &[]), &wanted("pods", "log", "a")));
        assert!(rule_allows(&rule(&["pods/log"], &[]), &wanted("pods", "log", "a")));
        assert!(rule_allows(&rule(&["*/log"], &[]), &wanted("pods", "log", "a")));
        assert!(rule_allows(&rule(&["*"], &[]), &wanted("pods", "log", "a")));
        assert!(!rule_allows(&rule(&["pods"], &["b"]), &wanted("pods", "", "a")));
        assert!(!rule_allows(&rule(&["pods"], &["b"]), &wanted("pods", "", "")));
    }
}
