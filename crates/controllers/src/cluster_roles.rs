//! ClusterRoles that are put together out of others: one with an `aggregationRule` has the rules of all
//! roles that its selectors choose.
//!
//! Reads cluster roles; alone writes the rules of those that aggregate. One key a role; a change of any
//! role wakes all that aggregate, of which there are few. A second call changes nothing.

use std::sync::Arc;

use async_trait::async_trait;
use balsa_client::{Client, Informer, Next, Queue, Reconciler, feed};
use balsa_model::selector::LabelSelector;
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key};
use balsa_rt::Scope;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::caches::{Caches, settle};

struct ClusterRoles {
    client: Client,
    roles: Informer,
}

/// Starts the controller.
pub(crate) fn start(client: Client, caches: &Caches, scope: &Scope) {
    let queue: Queue<Key> = Queue::new();
    let roles = caches.cluster_roles.clone();
    feed(&caches.cluster_roles, &queue, scope, move |_| {
        let aggregates = |role: &ClusterRole| role.aggregation_rule.is_some();
        let all = roles.list();
        all.iter()
            .filter(|object| object.is(aggregates))
            .map(|object| object.key().clone())
            .collect::<Vec<_>>()
    });
    balsa_client::run(
        Arc::new(ClusterRoles { client, roles: caches.cluster_roles.clone() }),
        queue,
        1,
        scope,
    );
}

/// The rules that a role should have, out of all roles by name; `None` when it does not aggregate.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let aggregation = role.aggregation_rule.as_ref()?;
    let selectors: Vec<LabelSelector> = aggregation
        .cluster_role_selectors
        .iter()
        .flatten()
        // Checked when it was written.
        .filter_map(|selector| LabelSelector::from_meta(selector).ok())
        .collect();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in &selectors {
        for other in all {
            let itself = other.metadata.name == role.metadata.name;
            if itself || !selector.matches(other.metadata.labels.as_ref()) {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

#[async_trait]
impl Reconciler for ClusterRoles {
    type Key = Key;

    fn name(&self) -> &'static str {
        "cluster_roles"
    }

    async fn reconcile(&self, key: &Key) -> Result<Next, Failure> {
        let Some(object) = self.roles.get(key) else { return Ok(Next::Wait) };
        let Some(role) = object.typed::<ClusterRole>() else { return Ok(Next::Wait) };
        let mut all = self.roles.list();
        all.sort_by(|a, b| a.key().cmp(b.key()));
        let all: Vec<Arc<ClusterRole>> = all.iter().filter_map(|object| object.typed()).collect();
        let Some(rules) = plan(&role, &all) else { return Ok(Next::Wait) };
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(Next::Wait);
        }
        let wanted = ClusterRole { rules: Some(rules), ..ClusterRole::clone(&role) };
        let written = self.client.api::<ClusterRole>().update(&wanted, Part::Main).await?;
        settle(&self.roles, written.revision()).await;
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn role(name: &str, extra: Value) -> Arc<ClusterRole> {
        let mut value = json!({"metadata": {"name": name}});
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn rules_come_from_the_chosen_roles() {
        let part = |name: &str, verb: &str| {
            role(
                name,
                json!({"metadata": {"name": name, "labels": {"to": "view"}}, "rules": [{"verbs": [verb]}]}),
            )
        };
        let (a, b, twin) = (part("a", "get"), part("b", "list"), part("c", "get"));
        let other = role("other", json!({"rules": [{"verbs": ["delete"]}]}));
        let whole = role(
            "view",
            json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]}}),
        );
        let rules = plan(&whole, &[a.clone(), b, twin, other.clone(), whole.clone()]).unwrap();
        let verbs: Vec<&str> = rules.iter().map(|rule| rule.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["get", "list"]);
        assert_eq!(plan(&other, &[a]), None);
    }
}
