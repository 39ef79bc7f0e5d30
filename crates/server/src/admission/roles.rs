//! Who writes roles and bindings gives nobody more than they have themselves, unless they may `escalate`
//! the role or `bind` it.

use balsa_model::{AnyObject, Failure, Object};
use balsa_state::State;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef};

use crate::authorize::{Attributes, Authorized, Authorizer, MASTERS, escalation, rbac};

pub(super) fn require_held(
    state: &State,
    who: &Authorized,
    object: &dyn AnyObject,
    old: Option<&Object>,
) -> Result<(), Failure> {
    if who.user().is_in(MASTERS) {
        return Ok(());
    }
    let any = object.as_any();
    let check = Check { state, who, object };
    if let Some(role) = any.downcast_ref::<Role>() {
        let same = old.and_then(Object::typed::<Role>).is_some_and(|old| old.rules == role.rules);
        return if same { Ok(()) } else { check.role("roles", role.rules.as_deref()) };
    }
    if let Some(role) = any.downcast_ref::<ClusterRole>() {
        let old = old.and_then(Object::typed::<ClusterRole>);
        let same =
            old.is_some_and(|old| old.rules == role.rules && old.aggregation_rule == role.aggregation_rule);
        if same {
            return Ok(());
        }
        // What is put together out of other roles may become anything.
        let rules = match role.aggregation_rule {
            Some(_) => Some(everything()),
            None => role.rules.clone(),
        };
        return check.role("clusterroles", rules.as_deref());
    }
    if let Some(binding) = any.downcast_ref::<RoleBinding>() {
        let old = old.and_then(Object::typed::<RoleBinding>);
        let same =
            old.is_some_and(|old| old.subjects == binding.subjects && old.role_ref == binding.role_ref);
        return if same { Ok(()) } else { check.binding(&binding.role_ref) };
    }
    if let Some(binding) = any.downcast_ref::<ClusterRoleBinding>() {
        let old = old.and_then(Object::typed::<ClusterRoleBinding>);
        let same =
            old.is_some_and(|old| old.subjects == binding.subjects && old.role_ref == binding.role_ref);
        return if same { Ok(()) } else { check.binding(&binding.role_ref) };
    }
    Ok(())
}

fn everything() -> Vec<PolicyRule> {
    let all = || Some(vec!["*".to_owned()]);
    let verbs = PolicyRule { verbs: vec!["*".to_owned()], ..PolicyRule::default() };
    vec![
        PolicyRule { api_groups: all(), resources: all(), ..verbs.clone() },
        PolicyRule { non_resource_urls: all(), ..verbs },
    ]
}

struct Check<'a> {
    state: &'a State,
    who: &'a Authorized,
    object: &'a dyn AnyObject,
}

impl Check<'_> {
    fn namespace(&self) -> &str {
        self.object.meta().namespace.as_deref().unwrap_or_default()
    }

    fn role(&self, resource: &str, rules: Option<&[PolicyRule]>) -> Result<(), Failure> {
        let name = self.object.meta().name.as_deref().unwrap_or_default();
        if self.may("escalate", resource, name) { Ok(()) } else { self.holds(rules.unwrap_or_default()) }
    }

    fn binding(&self, role: &RoleRef) -> Result<(), Failure> {
        let resource = if role.kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if self.may("bind", resource, &role.name) {
            return Ok(());
        }
        self.holds(&rbac::rules_of(self.state, role, self.namespace())?)
    }

    fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: self.object.kind().descriptor().group.to_owned(),
            resource: resource.to_owned(),
            namespace: self.namespace().to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        Authorizer::new(self.state.clone()).allows(self.who.user(), &attributes)
    }

    fn holds(&self, rules: &[PolicyRule]) -> Result<(), Failure> {
        let user = self.who.user();
        let owned = rbac::rules(self.state, user, self.namespace());
        match escalation::refusal(user, &owned, rules) {
            Some(why) => {
                let name = self.object.meta().name.as_deref().unwrap_or_default();
                Err(Failure::forbidden(self.object.kind().descriptor(), name, why))
            }
            None => Ok(()),
        }
    }
}
