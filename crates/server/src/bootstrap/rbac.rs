//! The roles and bindings that people, charts and controllers refer to by name. What `admin`, `edit` and
//! `view` may is put together by the controller out of the roles that are labelled for it.

use balsa_client::Client;
use balsa_model::Failure;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Value, json};

use super::create;

const GROUP: &str = "rbac.authorization.k8s.io";
const AUTHENTICATED: &str = "system:authenticated";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Creates those that are missing.
///
/// # Errors
/// What the engine says, but for `AlreadyExists`.
pub(super) async fn seed(client: &Client) -> Result<(), Failure> {
    for role in plain_roles().into_iter().chain(user_roles()).chain(signer_roles()) {
        create::<ClusterRole>(client, role).await?;
    }
    for binding in cluster_bindings() {
        create::<ClusterRoleBinding>(client, binding).await?;
    }
    create::<Role>(client, authentication_reader()).await?;
    create::<RoleBinding>(client, authentication_reader_binding()).await
}

/// What every one of them carries.
fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    json!({"metadata": metadata(name), "rules": rules})
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn named(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "resourceNames": names, "verbs": verbs})
}

fn urls(paths: &[&str], verbs: &[&str]) -> Value {
    json!({"nonResourceURLs": paths, "verbs": verbs})
}

fn plain_roles() -> Vec<Value> {
    let events = || rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]);
    let review = |group: &str, resource: &str| rule(&[group], &[resource], &["create"]);
    vec![
        role("cluster-admin", vec![rule(&["*"], &["*"], &["*"]), urls(&["*"], &["*"])]),
        role(
            "system:discovery",
            vec![urls(
                &[
                    "/api",
                    "/api/*",
                    "/apis",
                    "/apis/*",
                    "/healthz",
                    "/livez",
                    "/openapi",
                    "/openapi/*",
                    "/readyz",
                    "/version",
                    "/version/",
                ],
                &["get"],
            )],
        ),
        role(
            "system:monitoring",
            vec![urls(
                &[
                    "/healthz",
                    "/healthz/*",
                    "/livez",
                    "/livez/*",
                    "/metrics",
                    "/metrics/slis",
                    "/readyz",
                    "/readyz/*",
                ],
                &["get"],
            )],
        ),
        role(
            "system:basic-user",
            vec![
                rule(
                    &["authorization.k8s.io"],
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    &["create"],
                ),
                review("authentication.k8s.io", "selfsubjectreviews"),
            ],
        ),
        role(
            "system:public-info-viewer",
            vec![urls(&["/healthz", "/livez", "/readyz", "/version", "/version/"], &["get"])],
        ),
        role(
            "system:auth-delegator",
            vec![
                review("authentication.k8s.io", "tokenreviews"),
                review("authorization.k8s.io", "subjectaccessreviews"),
            ],
        ),
        role(
            "system:service-account-issuer-discovery",
            vec![urls(&["/.well-known/openid-configuration", "/openid/v1/jwks"], &["get"])],
        ),
        role("system:node", node_rules()),
        role(
            "system:node-bootstrapper",
            vec![rule(
                &["certificates.k8s.io"],
                &["certificatesigningrequests"],
                &["create", "get", "list", "watch"],
            )],
        ),
        role(
            "system:node-proxier",
            vec![
                rule(&[""], &["endpoints", "services"], &["list", "watch"]),
                rule(&[""], &["nodes"], READ),
                events(),
                rule(&["discovery.k8s.io"], &["endpointslices"], &["list", "watch"]),
                rule(&["networking.k8s.io"], &["servicecidrs"], &["list", "watch"]),
            ],
        ),
        role("system:kube-dns", vec![rule(&[""], &["endpoints", "services"], &["list", "watch"])]),
        role("system:kube-scheduler", scheduler_rules()),
        role(
            "system:volume-scheduler",
            vec![
                rule(&[""], &["persistentvolumes"], &["get", "list", "patch", "update", "watch"]),
                rule(&[""], &["persistentvolumeclaims"], &["get", "list", "patch", "update", "watch"]),
                rule(&["storage.k8s.io"], &["storageclasses"], READ),
            ],
        ),
        role(
            "system:persistent-volume-provisioner",
            vec![
                rule(&[""], &["persistentvolumes"], &["create", "delete", "get", "list", "watch"]),
                rule(&[""], &["persistentvolumeclaims"], &["get", "list", "update", "watch"]),
                rule(&["storage.k8s.io"], &["storageclasses"], READ),
                rule(&[""], &["events"], &["watch"]),
                events(),
            ],
        ),
        role(
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            vec![review("certificates.k8s.io", "certificatesigningrequests/nodeclient")],
        ),
        role(
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            vec![review("certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
        ),
    ]
}

/// What a node's program may: its authorizer narrows it to what is the node's own.
fn node_rules() -> Vec<Value> {
    vec![
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews", "subjectaccessreviews"], &["create"]),
        rule(&[""], &["services"], READ),
        rule(&[""], &["nodes"], &["create", "get", "list", "watch"]),
        rule(&[""], &["nodes", "nodes/status"], &["patch", "update"]),
        rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]),
        rule(&[""], &["pods"], READ),
        rule(&[""], &["pods"], &["create", "delete"]),
        rule(&[""], &["pods/status"], &["patch", "update"]),
        rule(&[""], &["pods/eviction"], &["create"]),
        rule(&[""], &["configmaps", "secrets"], READ),
        rule(&[""], &["persistentvolumeclaims", "persistentvolumes"], &["get"]),
        rule(&["certificates.k8s.io"], &["certificatesigningrequests"], &["create", "get", "list", "watch"]),
        rule(&["coordination.k8s.io"], &["leases"], &["create", "delete", "get", "patch", "update"]),
        rule(&[""], &["serviceaccounts/token"], &["create"]),
        rule(&["storage.k8s.io"], &["csidrivers"], READ),
        rule(&["storage.k8s.io"], &["csinodes"], &["create", "delete", "get", "patch", "update"]),
        rule(&["node.k8s.io"], &["runtimeclasses"], READ),
    ]
}

fn scheduler_rules() -> Vec<Value> {
    vec![
        rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]),
        rule(&["coordination.k8s.io"], &["leases"], &["create", "get", "list", "update", "watch"]),
        rule(&[""], &["nodes"], READ),
        rule(&[""], &["pods"], &["delete", "get", "list", "watch"]),
        rule(&[""], &["bindings", "pods/binding"], &["create"]),
        rule(&[""], &["pods/status"], &["patch", "update"]),
        rule(&[""], &["replicationcontrollers", "services"], READ),
        rule(&["apps"], &["replicasets", "statefulsets"], READ),
        rule(&["policy"], &["poddisruptionbudgets"], READ),
        rule(&[""], &["persistentvolumeclaims", "persistentvolumes"], READ),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
        rule(&["storage.k8s.io"], &["csidrivers", "csinodes", "csistoragecapacities"], READ),
        rule(&[""], &["namespaces"], READ),
    ]
}

/// `admin`, `edit` and `view`, each with the role that it begins with.
fn user_roles() -> Vec<Value> {
    let label = |to: &str| format!("rbac.authorization.k8s.io/aggregate-to-{to}");
    let whole = |name: &str, of: &str, into: Option<&str>| {
        let mut role = json!({
            "metadata": metadata(name),
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label(of): "true"}}]},
        });
        if let Some(into) = into {
            role["metadata"]["labels"][label(into)] = "true".into();
        }
        role
    };
    let part = |to: &str, rules: Vec<Value>| {
        let mut role = role(&format!("system:aggregate-to-{to}"), rules);
        role["metadata"]["labels"][label(to)] = "true".into();
        role
    };
    // What Kubernetes has from its metrics server.
    let mut metrics =
        role("system:aggregated-metrics-reader", vec![rule(&["metrics.k8s.io"], &["nodes", "pods"], READ)]);
    for to in ["admin", "edit", "view"] {
        metrics["metadata"]["labels"][label(to)] = "true".into();
    }
    vec![
        metrics,
        whole("admin", "admin", None),
        whole("edit", "edit", Some("admin")),
        whole("view", "view", Some("edit")),
        part("admin", admin_rules()),
        part("edit", edit_rules()),
        part("view", view_rules()),
    ]
}

fn admin_rules() -> Vec<Value> {
    vec![
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
        rule(&[GROUP], &["rolebindings", "roles"], ALL),
    ]
}

fn edit_rules() -> Vec<Value> {
    const STREAMS: &[&str] =
        &["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"];
    const OBJECTS: &[&str] = &[
        "configmaps",
        "events",
        "persistentvolumeclaims",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "secrets",
        "serviceaccounts",
        "services",
        "services/proxy",
    ];
    const APPS: &[&str] = &[
        "daemonsets",
        "deployments",
        "deployments/rollback",
        "deployments/scale",
        "replicasets",
        "replicasets/scale",
        "statefulsets",
        "statefulsets/scale",
    ];
    vec![
        rule(&[""], STREAMS, READ),
        rule(&[""], &["serviceaccounts"], &["impersonate"]),
        rule(&[""], &["pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"], WRITE),
        rule(&[""], &["pods/eviction"], &["create"]),
        rule(&[""], OBJECTS, WRITE),
        rule(&[""], &["serviceaccounts/token"], &["create"]),
        rule(&["apps"], APPS, WRITE),
        rule(&["autoscaling"], &["horizontalpodautoscalers"], WRITE),
        rule(&["batch"], &["cronjobs", "jobs"], WRITE),
        rule(&["policy"], &["poddisruptionbudgets"], WRITE),
        rule(&["networking.k8s.io"], &["ingresses", "networkpolicies"], WRITE),
        rule(&["coordination.k8s.io"], &["leases"], ALL),
    ]
}

fn view_rules() -> Vec<Value> {
    const OBJECTS: &[&str] = &[
        "configmaps",
        "endpoints",
        "persistentvolumeclaims",
        "persistentvolumeclaims/status",
        "pods",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "serviceaccounts",
        "services",
        "services/status",
    ];
    const ASIDE: &[&str] = &[
        "bindings",
        "events",
        "limitranges",
        "namespaces/status",
        "pods/log",
        "pods/status",
        "replicationcontrollers/status",
        "resourcequotas",
        "resourcequotas/status",
    ];
    const APPS: &[&str] = &[
        "controllerrevisions",
        "daemonsets",
        "daemonsets/status",
        "deployments",
        "deployments/scale",
        "deployments/status",
        "replicasets",
        "replicasets/scale",
        "replicasets/status",
        "statefulsets",
        "statefulsets/scale",
        "statefulsets/status",
    ];
    vec![
        rule(&[""], OBJECTS, READ),
        rule(&[""], ASIDE, READ),
        rule(&[""], &["namespaces"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["apps"], APPS, READ),
        rule(&["autoscaling"], &["horizontalpodautoscalers", "horizontalpodautoscalers/status"], READ),
        rule(&["batch"], &["cronjobs", "cronjobs/status", "jobs", "jobs/status"], READ),
        rule(&["policy"], &["poddisruptionbudgets", "poddisruptionbudgets/status"], READ),
        rule(&["networking.k8s.io"], &["ingresses", "ingresses/status", "networkpolicies"], READ),
    ]
}

/// Who may allow certificates of a signer, and for two of them who may make them.
fn signer_roles() -> Vec<Value> {
    const SIGNERS: [(&str, &str); 4] = [
        ("kube-apiserver-client", "kubernetes.io/kube-apiserver-client"),
        ("kube-apiserver-client-kubelet", "kubernetes.io/kube-apiserver-client-kubelet"),
        ("kubelet-serving", "kubernetes.io/kubelet-serving"),
        ("legacy-unknown", "kubernetes.io/legacy-unknown"),
    ];
    let approver = |(short, signer): &(&str, &str)| {
        role(
            &format!("system:certificates.k8s.io:{short}-approver"),
            vec![
                rule(&["certificates.k8s.io"], &["certificatesigningrequests"], READ),
                rule(&["certificates.k8s.io"], &["certificatesigningrequests/approval"], &["update"]),
                named(&["certificates.k8s.io"], &["signers"], &[signer], &["approve"]),
            ],
        )
    };
    SIGNERS.iter().map(approver).collect()
}

fn cluster_bindings() -> Vec<Value> {
    let binding = |name: &str, subjects: &[(&str, &str)]| {
        let subjects: Vec<Value> = subjects
            .iter()
            .map(|(kind, name)| json!({"apiGroup": GROUP, "kind": kind, "name": name}))
            .collect();
        json!({
            "metadata": metadata(name),
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
            "subjects": if subjects.is_empty() { Value::Null } else { subjects.into() },
        })
    };
    vec![
        binding("cluster-admin", &[("Group", "system:masters")]),
        binding("system:monitoring", &[("Group", "system:monitoring")]),
        binding("system:discovery", &[("Group", AUTHENTICATED)]),
        binding("system:basic-user", &[("Group", AUTHENTICATED)]),
        binding(
            "system:public-info-viewer",
            &[("Group", AUTHENTICATED), ("Group", "system:unauthenticated")],
        ),
        binding("system:kube-scheduler", &[("User", "system:kube-scheduler")]),
        binding("system:volume-scheduler", &[("User", "system:kube-scheduler")]),
        binding("system:node", &[]),
        binding("system:node-proxier", &[("User", "system:kube-proxy")]),
        json!({
            "metadata": metadata("system:service-account-issuer-discovery"),
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"},
            "subjects": [{"apiGroup": GROUP, "kind": "Group", "name": "system:serviceaccounts"}],
        }),
    ]
}

/// Extension servers read there whom they are to trust.
fn authentication_reader() -> Value {
    let mut metadata = metadata("extension-apiserver-authentication-reader");
    metadata["namespace"] = "kube-system".into();
    let rules = vec![named(&[""], &["configmaps"], &["extension-apiserver-authentication"], READ)];
    json!({"metadata": metadata, "rules": rules})
}

fn authentication_reader_binding() -> Value {
    let mut metadata = metadata("system::extension-apiserver-authentication-reader");
    metadata["namespace"] = "kube-system".into();
    let user = |name: &str| json!({"apiGroup": GROUP, "kind": "User", "name": name});
    json!({
        "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "extension-apiserver-authentication-reader"},
        "subjects": [user("system:kube-controller-manager"), user("system:kube-scheduler")],
    })
}
