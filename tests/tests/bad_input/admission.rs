//! Pods that a namespace or a class does not let in, and what whoever makes pods is warned of.

use balsa_testkit::{Answer, Cluster, Options, Rest};
use http::Method;
use serde_json::{Value, json};

use super::validation::warnings;

const NAMESPACE: &str = "/api/v1/namespaces/default";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";
const MERGE: &str = "application/merge-patch+json";

const HOST_NETWORK: &str = "host namespaces (hostNetwork=true)";

#[test]
fn a_namespace_says_what_its_pods_may() {
    let cluster = Cluster::start(Options::nodes(0));
    let rest = cluster.rest();
    let privileged = json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]});

    assert!(label(&rest, "warn", "baseline").warnings.is_empty());
    let warning = format!("would violate PodSecurity \"baseline:latest\": {HOST_NETWORK}");
    let created = create(&rest, PODS, &pod("old", &privileged));
    assert_eq!((created.code, warnings(&created)), (201, vec![warning.clone()]));
    let created = create(&rest, DEPLOYMENTS, &deployment("d", &privileged));
    assert_eq!((created.code, warnings(&created)), (201, vec![warning]));

    let refused = label(&rest, "enforce", "strict");
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert_eq!(
        refused.body["message"],
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \
         \"strict\": must be one of privileged, baseline, restricted"
    );
    let told = label(&rest, "enforce", "baseline");
    assert_eq!(told.code, 200, "{}", told.body);
    let told = warnings(&told);
    assert_eq!(
        told[0],
        "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\""
    );
    assert!(told[1].ends_with(": host namespaces"), "{told:?}");

    for path in [PODS.to_owned(), format!("{PODS}?dryRun=All")] {
        let refused = create(&rest, &path, &pod("new", &privileged));
        assert_eq!((refused.code, &refused.body["reason"]), (403, &json!("Forbidden")));
        assert_eq!(
            refused.body["message"],
            format!("pods \"new\" is forbidden: violates PodSecurity \"baseline:latest\": {HOST_NETWORK}")
        );
    }
    let labelled = merge(&rest, &format!("{PODS}/old"), &json!({"metadata": {"labels": {"a": "b"}}}));
    assert_eq!(labelled.code, 200, "what is there stays: {}", labelled.body);
    let harmless = json!({"containers": [{"name": "c", "image": "i"}]});
    assert_eq!(create(&rest, PODS, &pod("new", &harmless)).code, 201);
    let guest = json!({"spec": {"ephemeralContainers": [
        {"name": "g", "image": "i", "securityContext": {"privileged": true}}]}});
    let refused = merge(&rest, &format!("{PODS}/new/ephemeralcontainers"), &guest);
    assert_eq!(refused.code, 403, "{}", refused.body);
    cluster.down();
}

#[test]
fn a_runtime_class_says_what_its_pods_cost_and_where_they_run() {
    let cluster = Cluster::start(Options::nodes(0));
    let rest = cluster.rest();
    let spec = |more: &Value| {
        let mut spec = json!({"runtimeClassName": "small", "containers": [{"name": "c", "image": "i"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let refused = create(&rest, PODS, &pod("early", &spec(&json!({}))));
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        "pods \"early\" is forbidden: pod rejected: RuntimeClass \"small\" not found"
    );
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "small"},
        "handler": "runc", "overhead": {"podFixed": {"memory": "20Mi"}},
        "scheduling": {"nodeSelector": {"disk": "fast"}, "tolerations": [{"key": "small", "operator": "Exists"}]}});
    assert_eq!(create(&rest, CLASSES, &class).code, 201);

    let made = create(&rest, PODS, &pod("good", &spec(&json!({"nodeSelector": {"zone": "a"}}))));
    assert_eq!(made.code, 201, "{}", made.body);
    let made = &made.body["spec"];
    assert_eq!(made["overhead"], json!({"memory": "20Mi"}));
    assert_eq!(made["nodeSelector"], json!({"disk": "fast", "zone": "a"}));
    let tolerations = made["tolerations"].as_array().unwrap();
    assert!(tolerations.contains(&json!({"key": "small", "operator": "Exists"})), "{tolerations:?}");

    for (more, why) in [
        (
            json!({"nodeSelector": {"disk": "slow"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[disk] = fast; pod.spec.nodeSelector[disk] = slow",
        ),
        (
            json!({"overhead": {"memory": "1Mi"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"overhead": {"memory": "1Mi"}, "runtimeClassName": ""}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
    ] {
        let refused = create(&rest, PODS, &pod("bad", &spec(&more)));
        assert_eq!(refused.code, 403, "{}", refused.body);
        assert_eq!(refused.body["message"], format!("pods \"bad\" is forbidden: {why}"));
    }
    cluster.down();
}

#[test]
fn what_is_likely_not_meant_is_told() {
    let cluster = Cluster::start(Options::nodes(0));
    let rest = cluster.rest();
    let env = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
    let spec = json!({"containers": [{"name": "c", "image": "i", "env": env}], "imagePullSecrets": [{}]});
    let told = [
        "env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        "imagePullSecrets[0].name: invalid empty name \"\"",
    ];
    for (path, object) in [(PODS, pod("p", &spec)), (DEPLOYMENTS, deployment("d", &spec))] {
        let created = create(&rest, path, &object);
        assert_eq!(created.code, 201, "{}", created.body);
        for told in told {
            assert!(warnings(&created).iter().any(|w| w.contains(told)), "{path}: {:?}", created.warnings);
        }
    }
    cluster.down();
}

fn label(rest: &Rest, mode: &str, level: &str) -> Answer {
    let labels = json!({format!("pod-security.kubernetes.io/{mode}"): level});
    merge(rest, NAMESPACE, &json!({"metadata": {"labels": labels}}))
}

fn merge(rest: &Rest, path: &str, patch: &Value) -> Answer {
    rest.raw_now(Method::PATCH, path, MERGE, patch.to_string().into()).unwrap()
}

fn create(rest: &Rest, path: &str, object: &Value) -> Answer {
    rest.call_now(Method::POST, path, object).unwrap()
}

fn pod(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn deployment(name: &str, spec: &Value) -> Value {
    let labels = json!({"app": name});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}})
}
