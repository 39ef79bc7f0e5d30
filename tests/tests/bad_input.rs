//! Bad manifests, each answered as Kubernetes answers it (code, reason, message and field), and after
//! all of them nothing in the cluster is different: no object came, went, or has another revision.
//!
//! A server without nodes is enough for it. The first part speaks REST, because there the whole answer
//! can be seen; the second is what a user reads from kubectl.
#![allow(clippy::unwrap_used)]

#[path = "bad_input/admission.rs"]
mod admission;
#[path = "bad_input/cluster.rs"]
mod cluster;
#[path = "bad_input/validation.rs"]
mod validation;

use std::collections::BTreeMap;
use std::time::Duration;

use balsa_testkit::{Cluster, Options, Rest, has_kubectl, wait_until};
use http::Method;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const MERGE: &str = "application/merge-patch+json";

const CONFIG_MAPS: &str = "/api/v1/namespaces/zoo/configmaps";
const PODS: &str = "/api/v1/namespaces/zoo/pods";
const SERVICES: &str = "/api/v1/namespaces/zoo/services";
const CLAIMS: &str = "/api/v1/namespaces/zoo/persistentvolumeclaims";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/zoo/deployments";

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
     '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// A request that must be refused, and how.
struct Bad {
    what: &'static str,
    method: Method,
    path: String,
    content_type: &'static str,
    body: Vec<u8>,
    code: u16,
    reason: &'static str,
    /// What the message has to contain.
    message: String,
    /// The fields that are named as causes, in order.
    fields: &'static [&'static str],
}

impl Bad {
    fn new(
        what: &'static str,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Self {
        let (path, message) = (path.to_owned(), String::new());
        Self { what, method, path, content_type, body, code: 0, reason: "", message, fields: &[] }
    }

    /// An object that is to be created.
    fn create(what: &'static str, path: &str, object: &Value) -> Self {
        Self::new(what, Method::POST, path, JSON, serde_json::to_vec(object).unwrap())
    }

    /// Text that is sent as it is.
    fn text(what: &'static str, path: &str, content_type: &'static str, text: &str) -> Self {
        Self::new(what, Method::POST, path, content_type, text.as_bytes().to_vec())
    }

    /// A change of an object that is there.
    fn patch(what: &'static str, path: String, patch: &Value) -> Self {
        Self::new(what, Method::PATCH, &path, MERGE, serde_json::to_vec(patch).unwrap())
    }

    /// 422, with the fields that are wrong.
    fn invalid(self, message: impl Into<String>, fields: &'static [&'static str]) -> Self {
        Self { fields, ..self.refused(422, "Invalid", message) }
    }

    fn refused(self, code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), ..self }
    }

    /// What is wrong with the server's answer; `None` if it is right.
    async fn complaint(&self, rest: &Rest) -> Option<String> {
        let mut connection = rest.connect().await.unwrap();
        let answer =
            connection.raw(self.method.clone(), &self.path, self.content_type, self.body.clone()).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Some(format!("{}: {error:#}", self.what)),
        };
        let message = answer.body["message"].as_str().unwrap_or_default();
        let causes = answer.body["details"]["causes"].as_array();
        let fields: Vec<_> =
            causes.into_iter().flatten().filter_map(|cause| cause["field"].as_str()).collect();
        let right = answer.code == self.code
            && answer.body["kind"] == "Status"
            && answer.body["status"] == "Failure"
            && answer.body["code"] == self.code
            && answer.body["reason"] == self.reason
            && message.contains(&self.message)
            && fields == self.fields;
        (!right).then(|| {
            let wanted = format!("{} {} {:?} {:?}", self.code, self.reason, self.message, self.fields);
            let mut got = format!("{} {}", answer.code, answer.body);
            got.truncate(got.floor_char_boundary(1500));
            format!("{}\n   want {wanted}\n   got  {got}", self.what)
        })
    }
}

#[test]
fn bad_manifests_are_refused_and_change_nothing() {
    let cluster = Cluster::start(Options::nodes(0));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rest = cluster.rest();
    cluster.apply(include_str!("bad_input/witness.yaml"));
    let before = quiet(&runtime, &rest);

    let mut bad = wrong_types();
    bad.extend(missing_and_unknown_fields());
    bad.extend(bad_values());
    bad.extend(immutable_fields());
    bad.extend(wrong_places());
    bad.extend(wrong_sizes_and_formats());
    bad.extend(cluster::refusals());
    assert!(bad.len() >= 20);
    let mut complaints: Vec<String> =
        bad.iter().filter_map(|bad| runtime.block_on(bad.complaint(&rest))).collect();
    if has_kubectl() {
        complaints.extend(what_kubectl_says(&cluster));
    } else {
        println!("there is no kubectl here: what it prints is not looked at");
    }
    assert!(
        complaints.is_empty(),
        "{} of {} answers:\n{}",
        complaints.len(),
        bad.len(),
        complaints.join("\n")
    );
    assert_eq!(runtime.block_on(everything(&rest)), before, "something has changed");
}

fn wrong_types() -> Vec<Bad> {
    let quantity =
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    vec![
        Bad::create("a text for a number", DEPLOYMENTS, &deployment(&json!({"replicas": "three"}))).refused(
            400,
            "BadRequest",
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go \
             struct field DeploymentSpec.spec.replicas of type int32",
        ),
        Bad::create("a number for a text", CONFIG_MAPS, &config_map("c", &json!({"age": 3}))).refused(
            400,
            "BadRequest",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go \
             struct field ConfigMap.data of type string",
        ),
        Bad::create("a bad quantity", PODS, &pod(&json!({"resources": {"limits": {"memory": "lots"}}}))).refused(
            400,
            "BadRequest",
            format!("Pod in version \"v1\" cannot be handled as a Pod: {quantity}"),
        ),
    ]
}

fn missing_and_unknown_fields() -> Vec<Bad> {
    let strict = |path: &str| format!("{path}?fieldValidation=Strict");
    vec![
        Bad::create(
            "an empty Deployment",
            DEPLOYMENTS,
            &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}),
        )
        .invalid(
            "Deployment.apps \"d\" is invalid: [spec.selector: Required value, spec.template.metadata.labels: Invalid \
             value: null: `selector` does not match template `labels`, spec.template.spec.containers: Required value]",
            &["spec.selector", "spec.template.metadata.labels", "spec.template.spec.containers"],
        ),
        Bad::create("no name", CONFIG_MAPS, &json!({"apiVersion": "v1", "kind": "ConfigMap"})).invalid(
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
            &["metadata.name"],
        ),
        Bad::create("a misspelt field", &strict(PODS), &pod(&json!({"imagee": "x"}))).refused(
            400,
            "BadRequest",
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \
             \"spec.containers[0].imagee\"",
        ),
        Bad::text(
            "a field given twice",
            &strict(CONFIG_MAPS),
            JSON,
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1","a":"2"}}"#,
        )
        .refused(
            400,
            "BadRequest",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \
             \"data.a\"",
        ),
        Bad::create("a Service without ports", SERVICES, &service(&json!({}))).invalid(
            "Service \"s\" is invalid: spec.ports: Required value",
            &["spec.ports"],
        ),
    ]
}

fn bad_values() -> Vec<Bad> {
    let mounts = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let demanding = json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}});
    let mut twins = pod(&json!({}));
    let twin = twins["spec"]["containers"][0].clone();
    twins["spec"]["containers"].as_array_mut().unwrap().push(twin);
    let mut labelled = config_map("c", &json!({}));
    labelled["metadata"]["labels"] = json!({"app": "has space"});
    vec![
        Bad::create("a bad name", CONFIG_MAPS, &config_map("Bad_Name", &json!({}))).invalid(
            format!("ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": {SUBDOMAIN}"),
            &["metadata.name"],
        ),
        Bad::create("a bad label", CONFIG_MAPS, &labelled).invalid(
            "ConfigMap \"c\" is invalid: metadata.labels: Invalid value: \"has space\": a valid label must be an \
             empty string or consist of alphanumeric characters",
            &["metadata.labels"],
        ),
        Bad::create("a bad key", CONFIG_MAPS, &config_map("c", &json!({"bad key": ""}))).invalid(
            "ConfigMap \"c\" is invalid: data[bad key]: Invalid value: \"bad key\": a valid config key must consist of \
             alphanumeric characters, '-', '_' or '.'",
            &["data[bad key]"],
        ),
        Bad::create("a negative number", DEPLOYMENTS, &deployment(&json!({"replicas": -1}))).invalid(
            "Deployment.apps \"d\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            &["spec.replicas"],
        ),
        Bad::create("a mount of nothing", PODS, &pod(&mounts)).invalid(
            "Pod \"p\" is invalid: spec.containers[0].volumeMounts[0].name: Not found: \"data\"",
            &["spec.containers[0].volumeMounts[0].name"],
        ),
        Bad::create("more asked for than allowed", PODS, &pod(&demanding)).invalid(
            "Pod \"p\" is invalid: spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or \
             equal to cpu limit of 1",
            &["spec.containers[0].resources.requests"],
        ),
        Bad::create("two containers of one name", PODS, &twins).invalid(
            "Pod \"p\" is invalid: spec.containers[1].name: Duplicate value: \"c\"",
            &["spec.containers[1].name"],
        ),
        Bad::create(
            "a node port out of range",
            SERVICES,
            &service(&json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]})),
        )
        .invalid(
            "Service \"s\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid \
             range. The range of valid ports is 30000-32767",
            &["spec.ports[0].nodePort"],
        ),
    ]
}

fn immutable_fields() -> Vec<Bad> {
    let selector = json!({"spec": {"selector": {"matchLabels": {"app": "goldie"}},
        "template": {"metadata": {"labels": {"app": "goldie"}}}}});
    let command = json!({"spec": {"containers": [
        {"name": "main", "image": "registry.test/goldie:1", "command": ["sleep"]}]}});
    vec![
        Bad::patch("an immutable ConfigMap", format!("{CONFIG_MAPS}/fixed"), &json!({"data": {"gift": "hat"}}))
            .invalid(
                "ConfigMap \"fixed\" is invalid: data: Forbidden: field is immutable when `immutable` is set",
                &["data"],
            ),
        Bad::patch("another selector", format!("{DEPLOYMENTS}/phippy"), &selector).invalid(
            "Deployment.apps \"phippy\" is invalid: spec.selector: Invalid value: {\"matchLabels\":{\"app\":\
             \"goldie\"}}: field is immutable",
            &["spec.selector"],
        ),
        Bad::patch("another command of a pod", format!("{PODS}/goldie"), &command).invalid(
            "Pod \"goldie\" is invalid: spec: Forbidden: pod updates may not change fields other than \
             `spec.containers[*].image`",
            &["spec"],
        ),
        Bad::patch(
            "another cluster IP",
            format!("{SERVICES}/phippy"),
            &json!({"spec": {"clusterIP": "10.96.200.1", "clusterIPs": ["10.96.200.1"]}}),
        )
        .invalid(
            "Service \"phippy\" is invalid: spec.clusterIPs[0]: Invalid value: [\"10.96.200.1\"]: may not change once set",
            &["spec.clusterIPs[0]"],
        ),
        Bad::patch(
            "other access modes of a claim",
            format!("{CLAIMS}/box"),
            &json!({"spec": {"accessModes": ["ReadWriteMany"]}}),
        )
        .invalid(
            "PersistentVolumeClaim \"box\" is invalid: spec: Forbidden: spec is immutable after creation except \
             resources.requests",
            &["spec"],
        ),
        Bad::patch(
            "another type of a Secret",
            "/api/v1/namespaces/zoo/secrets/key".to_owned(),
            &json!({"type": "other"}),
        )
        .invalid("Secret \"key\" is invalid: type: Invalid value: \"other\": field is immutable", &["type"]),
    ]
}

fn wrong_places() -> Vec<Bad> {
    let mut elsewhere = config_map("c", &json!({}));
    elsewhere["metadata"]["namespace"] = json!("other");
    let mut old = config_map("c", &json!({}));
    old["apiVersion"] = json!("v2");
    vec![
        Bad::create("another namespace inside", CONFIG_MAPS, &elsewhere).refused(
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        Bad::create(
            "a namespace that is not there",
            "/api/v1/namespaces/nowhere/configmaps",
            &config_map("c", &json!({})),
        )
        .refused(404, "NotFound", "namespaces \"nowhere\" not found"),
        Bad::create("another kind", CONFIG_MAPS, &pod(&json!({}))).refused(
            400,
            "BadRequest",
            "Pod in version \"v1\" cannot be handled as a ConfigMap",
        ),
        Bad::create("another version", CONFIG_MAPS, &old).refused(
            400,
            "BadRequest",
            "ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for \
             version \"v2\"",
        ),
        Bad::create("what is there already", CONFIG_MAPS, &config_map("fixed", &json!({}))).refused(
            409,
            "AlreadyExists",
            "configmaps \"fixed\" already exists",
        ),
        Bad::patch(
            "a change of an old state",
            format!("{DEPLOYMENTS}/phippy"),
            &json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 3}}),
        )
        .refused(
            409,
            "Conflict",
            "Operation cannot be fulfilled on deployments.apps \"phippy\": the object has been modified; please apply \
             your changes to the latest version and try again",
        ),
    ]
}

fn wrong_sizes_and_formats() -> Vec<Bad> {
    let fat = config_map("big", &json!({"a": "x".repeat(1_048_577)}));
    let huge = config_map("big", &json!({"a": "x".repeat(3 * 1024 * 1024)}));
    let unrecognized = "the object provided is unrecognized (must be of type ConfigMap)";
    vec![
        Bad::create("a fat ConfigMap", CONFIG_MAPS, &fat)
            .invalid("Too long: may not be more than 1048576 bytes", &["[]"]),
        Bad::create("a huge request", CONFIG_MAPS, &huge).refused(
            413,
            "RequestEntityTooLarge",
            "Request entity too large: limit is 3145728",
        ),
        Bad::text("truncated JSON", CONFIG_MAPS, JSON, r#"{"apiVersion":"v1","kind":"ConfigMap","meta"#).refused(
            400,
            "BadRequest",
            format!("{unrecognized}: couldn't get version/kind; json parse error: unexpected end of JSON input"),
        ),
        Bad::text("truncated YAML", CONFIG_MAPS, YAML, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"c")
            .refused(400, "BadRequest", unrecognized),
        Bad::text("an unknown format", CONFIG_MAPS, "text/csv", "a,b").refused(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf",
        ),
    ]
}

/// Manifests on kubectl's standard input, and what it has to print.
fn what_kubectl_says(cluster: &Cluster) -> Vec<String> {
    let head = "metadata: {name: c, namespace: zoo}";
    let cases = [
        (
            format!("apiVersion: v1\nkind: ConfigMap\n{head}\ndata:\n  a: \"open"),
            "error converting YAML to JSON: yaml: line".to_owned(),
        ),
        (
            format!("apiVersion: v1\nkind: Deployment\n{head}\n"),
            "no matches for kind \"Deployment\" in version \"v1\"".to_owned(),
        ),
        (
            format!("apiVersion: apps/v1\nkind: Deploymint\n{head}\n"),
            "no matches for kind \"Deploymint\" in version \"apps/v1\"\nensure CRDs are installed first"
                .to_owned(),
        ),
        (
            format!("apiVersion: v1\nkind: ConfigMap\n{head}\ndatas: {{}}\n"),
            "strict decoding error: unknown field \"datas\"".to_owned(),
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name, namespace: zoo}\n".to_owned(),
            format!(
                "The ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": {SUBDOMAIN}"
            ),
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nowhere}\n".to_owned(),
            "namespaces \"nowhere\" not found".to_owned(),
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fixed, namespace: zoo}\ndata: {gift: hat}\n"
                .to_owned(),
            "data: Forbidden: field is immutable when `immutable` is set".to_owned(),
        ),
    ];
    let mut complaints = Vec::new();
    for (manifest, wanted) in cases {
        let answer = cluster.kubectl_with(["apply", "-f", "-"], &manifest);
        if answer.code == 0 || !answer.stderr.contains(&wanted) {
            complaints.push(format!("{manifest}\n   want {wanted}\n   got  {answer}"));
        }
    }
    complaints
}

fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn pod(container: &Value) -> Value {
    let mut first = json!({"name": "c", "image": "registry.test/app:1"});
    merge(&mut first, container);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [first]}})
}

fn service(spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec})
}

fn deployment(spec: &Value) -> Value {
    let mut whole = json!({
        "selector": {"matchLabels": {"app": "d"}},
        "template": {
            "metadata": {"labels": {"app": "d"}},
            "spec": {"containers": [{"name": "c", "image": "registry.test/app:1"}]},
        },
    });
    merge(&mut whole, spec);
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": whole})
}

fn merge(into: &mut Value, more: &Value) {
    let more = more.as_object().unwrap().clone();
    into.as_object_mut().unwrap().extend(more);
}

/// Every object of the kinds that the bad manifests are about, with uid and revision.
async fn everything(rest: &Rest) -> BTreeMap<String, (Value, Value)> {
    let core = ["namespaces", "configmaps", "secrets", "services", "pods", "persistentvolumeclaims"];
    let apps = ["deployments", "replicasets"];
    let paths = core.map(|plural| format!("/api/v1/{plural}")).into_iter();
    let paths = paths.chain(apps.map(|plural| format!("/apis/apps/v1/{plural}")));
    let mut all = BTreeMap::new();
    for path in paths {
        let list = rest.call(Method::GET, &path, &Value::Null).await.unwrap();
        assert_eq!(list.code, 200, "{}", list.body);
        for item in list.body["items"].as_array().unwrap() {
            let meta = &item["metadata"];
            let key = format!("{path} {} {}", meta["namespace"], meta["name"]);
            all.insert(key, (meta["uid"].clone(), meta["resourceVersion"].clone()));
        }
    }
    all
}

/// The same, once the controllers have done what they do with new objects.
fn quiet(runtime: &tokio::runtime::Runtime, rest: &Rest) -> BTreeMap<String, (Value, Value)> {
    let get = |path: String| runtime.block_on(rest.call(Method::GET, &path, &Value::Null)).unwrap().body;
    wait_until("the controllers have seen everything", PATIENCE, || {
        let deployment = get(format!("{DEPLOYMENTS}/phippy"));
        let conditions = deployment["status"]["conditions"].as_array().map_or(0, Vec::len);
        let pod = get(format!("{PODS}/goldie"));
        let unscheduled = pod["status"]["conditions"][0]["reason"] == "Unschedulable";
        // The last of what every cluster has.
        let seeded = get("/api/v1/namespaces/kube-system/services/kube-dns".to_owned())["kind"] == "Service";
        let observed = deployment["status"]["observedGeneration"] == 1 && conditions > 0;
        let seen = seeded && observed && unscheduled;
        if seen { Ok(()) } else { Err(format!("{} {}", deployment["status"], pod["status"])) }
    });
    // Two looks that agree, some requests apart.
    let mut last = runtime.block_on(everything(rest));
    wait_until("nothing changes any more", PATIENCE, || {
        let now = runtime.block_on(everything(rest));
        let same = now == last;
        last = now;
        if same { Ok(()) } else { Err("still changing") }
    });
    last
}
