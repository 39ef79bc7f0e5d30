//! YAML means to `balsa apply`, to the REST API and to kubectl the same.

use balsa_testkit::{Cluster, Options, has_kubectl};
use http::Method;
use serde_json::{Value, json};

const ZOO: &str = "/api/v1/namespaces/default";

/// Words that YAML 1.2 reads otherwise: an octal number, a boolean, digits in groups, a merged map.
fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations: &notes {{on: 'yes', 0o20: '0400'}}\n  labels:\n    \
         <<: *notes\n    plain: x\nspec:\n  automountServiceAccountToken: off\n  nodeName: nowhere\n  \
         terminationGracePeriodSeconds: 1_0\n  containers: [{{name: c, image: c, stdin: yes}}]\n  volumes:\n  \
         - name: v\n    configMap: {{name: c, defaultMode: 0400, optional: Yes}}\n"
    )
}

fn assert_read(object: &Value) {
    let spec = &object["spec"];
    assert_eq!(spec["volumes"][0]["configMap"], json!({"name": "c", "defaultMode": 256, "optional": true}));
    assert_eq!(
        (&spec["automountServiceAccountToken"], &spec["containers"][0]["stdin"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(spec["terminationGracePeriodSeconds"], 10);
    let labels = &object["metadata"]["labels"];
    assert_eq!(*labels, json!({"true": "yes", "16": "0400", "plain": "x"}));
}

#[test]
fn yaml_is_read_as_kubernetes_reads_it() {
    let cluster = Cluster::start(Options::nodes(0));
    let rest = cluster.rest();
    let post = |query: &str, text: &str| {
        rest.raw_now(Method::POST, &format!("{ZOO}/pods{query}"), "application/yaml", text.into()).unwrap()
    };
    cluster.apply(&pod("by-balsa"));
    assert_read(&cluster.read(&format!("{ZOO}/pods/by-balsa")).unwrap());
    assert_read(&post("", &pod("by-rest")).body);
    let path = format!("{ZOO}/pods/by-apply?fieldManager=me");
    let applied = rest.raw_now(Method::PATCH, &path, "application/apply-patch+yaml", pod("by-apply").into());
    assert_read(&applied.unwrap().body);
    if has_kubectl() {
        cluster.kubectl_with(["apply", "-f", "-"], &pod("by-kubectl")).ok();
        assert_read(&cluster.read(&format!("{ZOO}/pods/by-kubectl")).unwrap());
    }

    // What is printed means the same when it is read again.
    let printed = cluster.balsa(["get", "pod", "by-balsa", "-o", "yaml"]).ok();
    assert!(printed.contains("\"16\": \"0400\"") && printed.contains("\"true\": \"yes\""), "{printed}");
    assert!(cluster.balsa_with(["apply", "-f", "-"], &printed).ok().contains("pod/by-balsa "));
    assert_read(&cluster.read(&format!("{ZOO}/pods/by-balsa")).unwrap());

    // The last of two keys counts; who wants to be told is.
    let twice = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: twice}\ndata:\n  a: '1'\n  a: '2'\n";
    let told = cluster.balsa_with(["apply", "-f", "-"], twice);
    assert!(told.stderr.contains("line 6: key \"a\" already set in map"), "{told}");
    assert_eq!(cluster.read(&format!("{ZOO}/configmaps/twice")).unwrap()["data"], json!({"a": "2"}));
    let path = format!("{ZOO}/configmaps?fieldValidation=Strict");
    let refused = rest.raw_now(Method::POST, &path, "application/yaml", twice.into()).unwrap();
    assert_eq!(
        (refused.code, refused.body["message"].as_str().unwrap()),
        (
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: yaml: unmarshal errors:\n  \
             line 6: key \"a\" already set in map"
        )
    );
    cluster.down();
}
