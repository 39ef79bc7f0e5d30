//! Role-based access control: rules of the roles that are bound to a user or a group of theirs.

use balsa_model::kind::kind_of;
use balsa_model::{Failure, Key};
use balsa_state::State;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::Attributes;
use crate::identity::Authenticated;

/// How a user came by a rule.
struct Source<'a> {
    /// `RoleBinding` or `ClusterRoleBinding`.
    kind: &'static str,
    /// Its name; with its namespace, where it has one.
    binding: String,
    role: &'a RoleRef,
    subject: &'a Subject,
}

impl Source<'_> {
    /// In the words of access reviews.
    fn told(&self) -> String {
        let Subject { kind, name, namespace, .. } = self.subject;
        let name = match namespace.as_deref().filter(|_| kind == "ServiceAccount") {
            Some(namespace) => format!("{name}/{namespace}"),
            None => name.clone(),
        };
        let (binding, role) = (&self.binding, self.role);
        format!(
            "RBAC: allowed by {} \"{binding}\" of {} \"{}\" to {kind} \"{name}\"",
            self.kind, role.kind, role.name
        )
    }
}

/// Why a user may do something, if a role that is bound to them allows it: cluster-wide, or in the
/// request's namespace.
pub(super) fn allows(state: &State, user: &Authenticated, wanted: &Attributes) -> Option<String> {
    let allowed = |rule: &PolicyRule, source: &Source<'_>| rule_allows(rule, wanted).then(|| source.told());
    find(state, user, &wanted.namespace, allowed)
}

/// All rules that a user has in a namespace; empty: in the cluster.
pub(crate) fn rules(state: &State, user: &Authenticated, namespace: &str) -> Vec<PolicyRule> {
    let mut rules = Vec::new();
    find(state, user, namespace, |rule, _| {
        rules.push(rule.clone());
        None::<()>
    });
    rules
}

/// The rules of a role, as a binding in a namespace names it.
///
/// # Errors
/// `NotFound`.
pub(crate) fn rules_of(state: &State, role: &RoleRef, namespace: &str) -> Result<Vec<PolicyRule>, Failure> {
    let kind = if role.kind == "ClusterRole" { kind_of::<ClusterRole>() } else { kind_of::<Role>() };
    let mut found = None;
    with_rules(state, role, namespace, |rules| found = Some(rules.to_vec()));
    found.ok_or_else(|| Failure::not_found(kind.descriptor(), &role.name))
}

/// Shows the rules that a user has to `look`, one by one, until it has found something.
fn find<T>(
    state: &State,
    user: &Authenticated,
    namespace: &str,
    mut look: impl FnMut(&PolicyRule, &Source<'_>) -> Option<T>,
) -> Option<T> {
    let mut found = None;
    let bindings = state.view(kind_of::<ClusterRoleBinding>());
    for binding in bindings.iter().filter_map(|object| object.typed::<ClusterRoleBinding>()) {
        let Some(subject) = subject_of(binding.subjects.as_deref(), user, "") else { continue };
        let name = binding.metadata.name.clone().unwrap_or_default();
        let source = Source { kind: "ClusterRoleBinding", binding: name, role: &binding.role_ref, subject };
        with_rules(state, source.role, "", |rules| found = rules.iter().find_map(|rule| look(rule, &source)));
        if found.is_some() {
            return found;
        }
    }
    if namespace.is_empty() {
        return None;
    }
    let bindings = state.view(kind_of::<RoleBinding>());
    for binding in bindings.list(namespace).filter_map(|object| object.typed::<RoleBinding>()) {
        let Some(subject) = subject_of(binding.subjects.as_deref(), user, namespace) else { continue };
        let name = format!("{}/{namespace}", binding.metadata.name.as_deref().unwrap_or_default());
        let source = Source { kind: "RoleBinding", binding: name, role: &binding.role_ref, subject };
        with_rules(state, source.role, namespace, |rules| {
            found = rules.iter().find_map(|rule| look(rule, &source));
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The subject of a binding that the user is, or is in.
fn subject_of<'a>(
    subjects: Option<&'a [Subject]>,
    user: &Authenticated,
    namespace: &str,
) -> Option<&'a Subject> {
    subjects.into_iter().flatten().find(|subject| match subject.kind.as_str() {
        "User" => subject.name == **user.user(),
        "Group" => user.is_in(&subject.name),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().unwrap_or(namespace);
            **user.user() == *format!("system:serviceaccount:{namespace}:{}", subject.name)
        }
        _ => false,
    })
}

/// Shows the rules of a role, if it is there.
fn with_rules(state: &State, role: &RoleRef, namespace: &str, show: impl FnOnce(&[PolicyRule])) {
    let name = role.name.as_str();
    if role.kind == "ClusterRole" {
        let found = state.get(kind_of::<ClusterRole>(), &Key::new("", name));
        if let Some(role) = found.and_then(|object| object.typed::<ClusterRole>()) {
            show(role.rules.as_deref().unwrap_or_default());
        }
    } else {
        let found = state.get(kind_of::<Role>(), &Key::new(namespace, name));
        if let Some(role) = found.and_then(|object| object.typed::<Role>()) {
            show(role.rules.as_deref().unwrap_or_default());
        }
    }
}

pub(super) fn has(list: Option<&Vec<String>>, value: &str) -> bool {
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
