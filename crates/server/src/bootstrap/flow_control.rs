//! The flow schemas and priority levels that every cluster has: those that must be there, and those that a new
//! one starts with.

use std::time::Duration;

use balsa_client::Client;
use balsa_model::Failure;
use balsa_model::kind::kind_of;
use balsa_model::kinds::flow_schema::{self, CATCH_ALL, EXEMPT, all_requests, groups};
use balsa_model::kinds::priority_level_configuration;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use serde_json::{Value, json};

use crate::members::Members;

/// How often it is tried until all are there.
const TRY: Duration = Duration::from_secs(2);

/// Creates what is missing, as soon as every server can store it: servers of builds that do not know these kinds
/// would end.
pub(crate) async fn seed(client: Client, members: Members) -> Result<(), Failure> {
    let kinds = [kind_of::<FlowSchema>(), kind_of::<PriorityLevelConfiguration>()];
    let mut ticks = tokio::time::interval(TRY);
    loop {
        ticks.tick().await;
        if !members.all_store(&kinds).await {
            continue;
        }
        match create_all(&client).await {
            Ok(()) => return Ok(()),
            Err(failure) => tracing::warn!(%failure, "flow schemas are not complete; trying again"),
        }
    }
}

async fn create_all(client: &Client) -> Result<(), Failure> {
    let (schemas, levels) = objects();
    for level in levels {
        super::create::<PriorityLevelConfiguration>(client, level).await?;
    }
    for schema in schemas {
        super::create::<FlowSchema>(client, schema).await?;
    }
    Ok(())
}

/// The schemas, and the levels that they name.
pub(crate) fn objects() -> (Vec<Value>, Vec<Value>) {
    let mut schemas = schemas();
    let mut levels = levels();
    for name in [EXEMPT, CATCH_ALL] {
        schemas.push(object(name, &json!(flow_schema::mandatory(name))));
        levels.push(object(name, &json!(priority_level_configuration::mandatory(name))));
    }
    (schemas, levels)
}

fn object(name: &str, spec: &Value) -> Value {
    json!({
        "metadata": {"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
        "spec": spec,
    })
}

/// A level that queues: its shares, what of them it lends, its queues and how many of them a flow has.
fn level(name: &str, shares: i32, lendable: i32, queues: i32, hand: i32) -> Value {
    let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
    let limited = json!({
        "nominalConcurrencyShares": shares, "lendablePercent": lendable,
        "limitResponse": {"type": "Queue", "queuing": queuing},
    });
    object(name, &json!({"type": "Limited", "limited": limited}))
}

fn levels() -> Vec<Value> {
    vec![
        level("system", 30, 33, 64, 6),
        level("node-high", 40, 25, 64, 6),
        level("leader-election", 10, 0, 16, 4),
        level("workload-high", 40, 50, 128, 6),
        level("workload-low", 100, 90, 128, 6),
        level("global-default", 20, 50, 128, 6),
    ]
}

fn schema(name: &str, level: &str, precedence: i32, by: &str, rules: &Value) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules,
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object(name, &spec)
}

fn users(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

/// Service accounts of the namespace `kube-system`.
fn accounts(names: &[&str]) -> Vec<Value> {
    let account = |name: &&str| json!({"kind": "ServiceAccount", "serviceAccount": {"name": name, "namespace": "kube-system"}});
    names.iter().map(account).collect()
}

/// Requests for these resources in any namespace.
fn resources(verbs: &[&str], group: &str, names: &[&str], cluster_scope: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": names, "namespaces": ["*"]});
    if cluster_scope {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn schemas() -> Vec<Value> {
    const MANAGER: &str = "system:kube-controller-manager";
    const SCHEDULER: &str = "system:kube-scheduler";
    const EVERYBODY: [&str; 2] = ["system:unauthenticated", "system:authenticated"];
    let (every_account, write) = (accounts(&["*"]), ["get", "create", "update"]);
    let leases = resources(&write, "coordination.k8s.io", &["leases"], false);
    let electing = |subjects: Vec<Value>| json!([{"subjects": subjects, "resourceRules": [leases]}]);
    let managers = [users(&[MANAGER, SCHEDULER]), every_account.clone()].concat();
    let endpoint_accounts = accounts(&["endpoint-controller", "endpointslicemirroring-controller"]);
    let endpoint_managers = [users(&[MANAGER]), endpoint_accounts].concat();
    let endpoints = json!([{
        "subjects": endpoint_managers,
        "resourceRules": [resources(&write, "", &["endpoints"], false)],
    }]);
    let nodes = json!([{
        "subjects": groups(&["system:nodes"]),
        "resourceRules": [
            resources(&["*"], "", &["nodes", "nodes/status"], true),
            resources(&["*"], "coordination.k8s.io", &["leases"], false),
        ],
    }]);
    let probes = json!([{
        "subjects": groups(&EVERYBODY),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}],
    }]);
    let all = |subjects: Vec<Value>| all_requests(&subjects.into());
    let all_of = |names: &[&str]| all_requests(&groups(names));
    let (by_user, by_namespace) = ("ByUser", "ByNamespace");
    vec![
        schema("probes", EXEMPT, 2, "", &probes),
        schema("system-leader-election", "leader-election", 100, by_user, &electing(managers)),
        schema("endpoint-controller", "workload-high", 150, by_user, &endpoints),
        schema("workload-leader-election", "leader-election", 200, by_user, &electing(every_account.clone())),
        schema("system-node-high", "node-high", 400, by_user, &nodes),
        schema("system-nodes", "system", 500, by_user, &all_of(&["system:nodes"])),
        schema("kube-controller-manager", "workload-high", 800, by_namespace, &all(users(&[MANAGER]))),
        schema("kube-scheduler", "workload-high", 800, by_namespace, &all(users(&[SCHEDULER]))),
        schema("kube-system-service-accounts", "workload-high", 900, by_namespace, &all(every_account)),
        schema("service-accounts", "workload-low", 9000, by_user, &all_of(&["system:serviceaccounts"])),
        schema("global-default", "global-default", 9900, by_user, &all_of(&EVERYBODY)),
    ]
}

#[cfg(test)]
mod tests {
    use balsa_model::Kind;
    use balsa_model::field::FieldErrors;
    use serde::de::DeserializeOwned;

    use super::*;

    fn check<K: Kind + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &Value) {
        let object: K = serde_json::from_value(value.clone()).unwrap();
        let mut defaulted = object.clone();
        defaulted.set_defaults();
        assert_eq!(object, defaulted, "nothing is left open");
        let mut errors = FieldErrors::new();
        object.validate(&mut errors);
        assert!(errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn what_a_cluster_starts_with_is_right_and_names_what_is_there() {
        let (schemas, levels) = objects();
        assert_eq!((schemas.len(), levels.len()), (13, 8));
        levels.iter().for_each(check::<PriorityLevelConfiguration>);
        for schema in &schemas {
            check::<FlowSchema>(schema);
            let level = &schema["spec"]["priorityLevelConfiguration"]["name"];
            assert!(levels.iter().any(|known| known["metadata"]["name"] == *level), "{level}");
        }
    }
}
