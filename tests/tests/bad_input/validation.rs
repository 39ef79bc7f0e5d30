//! `fieldValidation`: fields that do not exist and fields that stand twice are passed over, told, or refused, as the
//! client asks, in each language that a body can have.

use balsa_testkit::{Answer, Cluster, Options, Rest, has_kubectl};
use http::Method;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

const IN_JSON: &str = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"odd","lables":{}},"datum":{"a":"b"},"data":{"a":"1","a":"2"}}"#;
const IN_YAML: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: odd, lables: {}}
datum: {a: b}
data:
  a: '1'
  a: '2'
";

#[test]
fn odd_fields_are_passed_over_told_or_refused() {
    let cluster = Cluster::start(Options::nodes(0));
    let rest = cluster.rest();
    bodies_in_json_and_yaml(&rest);
    bodies_in_protobuf(&rest);
    patches(&rest);
    what_a_manager_applies(&rest);
    scales(&rest);
    the_word_itself(&rest);
    if has_kubectl() {
        what_kubectl_shows(&cluster);
    } else {
        println!("there is no kubectl here: the warnings that it prints are not looked at");
    }
    cluster.down();
}

fn send(
    rest: &Rest,
    method: Method,
    name: &str,
    validation: &str,
    content_type: &str,
    body: &[u8],
) -> Answer {
    let path = format!("{MAPS}{name}?dryRun=All&fieldManager=me&fieldValidation={validation}");
    rest.raw_now(method, &path, content_type, body.to_vec()).unwrap()
}

/// The texts of `Warning` headers, which have a code and an agent before them.
pub(crate) fn warnings(answer: &Answer) -> Vec<String> {
    let text = |header: &String| {
        let quoted = header.strip_prefix("299 - \"").and_then(|text| text.strip_suffix('"'));
        quoted.unwrap_or_else(|| panic!("{header} is no warning")).replace("\\\"", "\"")
    };
    answer.warnings.iter().map(text).collect()
}

#[track_caller]
fn is_taken(answer: &Answer, wanted: &[&str]) {
    assert!(answer.code < 300, "{} {}", answer.code, answer.body);
    assert_eq!(warnings(answer), wanted);
    // The last of two counts, and what nobody knows is not kept.
    assert_eq!((&answer.body["data"], &answer.body["datum"]), (&json!({"a": "2"}), &Value::Null));
}

#[track_caller]
fn is_refused(answer: &Answer, code: u16, reason: &str, message: &str) {
    let body = &answer.body;
    assert_eq!((answer.code, &body["reason"]), (code, &reason.into()), "{body}");
    assert!(body["message"].as_str().unwrap().ends_with(message), "{message:?} is not the end of {body}");
    assert!(answer.warnings.is_empty(), "what is refused is not told twice: {:?}", answer.warnings);
}

fn bodies_in_json_and_yaml(rest: &Rest) {
    let unknown = ["unknown field \"metadata.lables\"", "unknown field \"datum\""];
    let strict = "strict decoding error: ";
    for (content_type, text, twice, twice_refused) in [
        (JSON, IN_JSON, "duplicate field \"data.a\"", "duplicate field \"data.a\""),
        (
            YAML,
            IN_YAML,
            "line 7: key \"a\" already set in map",
            "yaml: unmarshal errors:\n  line 7: key \"a\" already set in map",
        ),
    ] {
        let told = [twice, unknown[0], unknown[1]];
        let message = format!("{strict}{twice_refused}, {}, {}", unknown[0], unknown[1]);
        let create =
            |validation: &str| send(rest, Method::POST, "", validation, content_type, text.as_bytes());
        is_taken(&create("Ignore"), &[]);
        is_taken(&create("Warn"), &told);
        is_taken(&create(""), &told);
        is_refused(&create("Strict"), 400, "BadRequest", &message);

        let made = rest.raw_now(Method::POST, MAPS, content_type, text.as_bytes().to_vec()).unwrap();
        assert_eq!((made.code, warnings(&made)), (201, told.map(str::to_owned).to_vec()));
        let update =
            |validation: &str| send(rest, Method::PUT, "/odd", validation, content_type, text.as_bytes());
        is_taken(&update("Ignore"), &[]);
        is_taken(&update("Warn"), &told);
        is_refused(&update("Strict"), 400, "BadRequest", &message);
        let gone = rest.call_now(Method::DELETE, &format!("{MAPS}/odd"), &Value::Null).unwrap();
        assert_eq!(gone.code, 200, "{}", gone.body);
    }
}

/// A field of a message whose length stands before it.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2, content.len().try_into().unwrap()];
    bytes.extend_from_slice(content);
    bytes
}

/// Fields have numbers there and no names: one that this release does not know may be that of a newer client, and
/// is passed over whatever is asked.
fn bodies_in_protobuf(rest: &Rest) {
    let entry = |value: &[u8]| field(2, &[field(1, b"a"), field(2, value)].concat());
    let object = [field(1, &field(1, b"odd")), entry(b"1"), entry(b"2"), field(15, b"of tomorrow")].concat();
    let kind = field(1, &[field(1, b"v1"), field(2, b"ConfigMap")].concat());
    let body = [b"k8s\0".to_vec(), kind, field(2, &object)].concat();
    for validation in ["Ignore", "Warn", "Strict"] {
        is_taken(&send(rest, Method::POST, "", validation, PROTOBUF, &body), &[]);
    }
}

fn patches(rest: &Rest) {
    let object = json!({"metadata": {"name": "odd"}, "data": {"a": "1"}});
    assert_eq!(rest.call_now(Method::POST, MAPS, &object).unwrap().code, 201);
    let merge = r#"{"datum":{"x":"y"},"data":{"a":"1","a":"2"}}"#;
    let steps = r#"[{"op":"add","path":"/datum","value":{}},{"op":"replace","op":"replace","path":"/data/a","value":"2","why":"so"}]"#;
    let (unknown, twice) = ("unknown field \"datum\"", "duplicate field \"data.a\"");
    let of_steps = ["json patch duplicate field \"[1].op\"", "json patch unknown field \"[1].why\"", unknown];
    for (language, text, told) in [
        ("merge", merge, &[twice, unknown][..]),
        ("strategic-merge", merge, &[twice, unknown]),
        ("json", steps, &of_steps),
    ] {
        let content_type = format!("application/{language}-patch+json");
        let patch =
            |validation: &str| send(rest, Method::PATCH, "/odd", validation, &content_type, text.as_bytes());
        is_taken(&patch("Ignore"), &[]);
        is_taken(&patch("Warn"), told);
        is_taken(&patch(""), told);
        // It is the object that comes of it which is wrong.
        let refused = patch("Strict");
        is_refused(&refused, 422, "Invalid", &format!("strict decoding error: {}", told.join(", ")));
        assert_eq!(refused.body["details"]["causes"][0]["field"], "patch", "{}", refused.body);
    }
}

/// What nobody knows cannot be owned either: it is refused whatever is asked.
fn what_a_manager_applies(rest: &Rest) {
    let apply = |validation: &str, text: &str| {
        let name = "/applied";
        send(rest, Method::PATCH, name, validation, "application/apply-patch+yaml", text.as_bytes())
    };
    let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\n";
    let twice = format!("{head}data:\n  a: '1'\n  a: '2'\n");
    is_taken(&apply("Ignore", &twice), &[]);
    is_taken(&apply("Warn", &twice), &["line 6: key \"a\" already set in map"]);
    is_refused(&apply("Strict", &twice), 400, "BadRequest", "line 6: key \"a\" already set in map");
    let unknown = format!("{head}datum: {{a: b}}\n");
    for validation in ["Ignore", "Warn", "Strict"] {
        let refused = apply(validation, &unknown);
        let message = refused.body["message"].as_str().unwrap();
        assert!(refused.code >= 400 && message.contains("field not declared in schema"), "{message}");
    }
}

/// A Scale is no kind, and its fields count as those of any.
fn scales(rest: &Rest) {
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "odd"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "c"}]}}}});
    assert_eq!(rest.call_now(Method::POST, path, &deployment).unwrap().code, 201);
    let send = |method: Method, options: &str, content_type: &str, text: &str| {
        let path = format!("{path}/odd/scale?dryRun=All&fieldManager=me&{options}");
        rest.raw_now(method, &path, content_type, text.as_bytes().to_vec()).unwrap()
    };
    let is_scaled = |answer: &Answer, wanted: &[&str]| {
        assert!(answer.code < 300, "{} {}", answer.code, answer.body);
        assert_eq!(
            (warnings(answer), &answer.body["spec"]),
            (wanted.iter().map(|w| (*w).to_owned()).collect(), &json!({"replicas": 2}))
        );
    };
    let whole = r#"{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"odd"},"spec":{"replicas":1,"replicas":2,"copies":3}}"#;
    let part = r#"{"spec":{"replicas":1,"replicas":2,"copies":3}}"#;
    let steps = r#"[{"op":"add","path":"/spec/copies","value":3},{"op":"replace","path":"/spec/replicas","value":2}]"#;
    let (twice, unknown) = ("duplicate field \"spec.replicas\"", "unknown field \"spec.copies\"");
    let (merge, strategic) = ("application/merge-patch+json", "application/strategic-merge-patch+json");
    for (method, content_type, text, told, (code, reason)) in [
        (Method::PUT, JSON, whole, &[twice, unknown][..], (400, "BadRequest")),
        (Method::PATCH, merge, part, &[twice, unknown], (422, "Invalid")),
        (Method::PATCH, strategic, part, &[twice, unknown], (422, "Invalid")),
        (Method::PATCH, "application/json-patch+json", steps, &[unknown], (422, "Invalid")),
    ] {
        let send = |validation: &str| {
            send(method.clone(), &format!("fieldValidation={validation}"), content_type, text)
        };
        is_scaled(&send("Ignore"), &[]);
        is_scaled(&send("Warn"), told);
        is_scaled(&send(""), told);
        is_refused(&send("Strict"), code, reason, &format!("strict decoding error: {}", told.join(", ")));
    }
    let head = "apiVersion: autoscaling/v1\nkind: Scale\nmetadata: {name: odd}\nspec:\n  replicas: 2\n";
    let apply = |validation: &str, more: &str| {
        let options = format!("force=true&fieldValidation={validation}");
        send(Method::PATCH, &options, "application/apply-patch+yaml", &format!("{head}{more}"))
    };
    let told = "line 6: key \"replicas\" already set in map";
    is_scaled(&apply("Ignore", "  replicas: 2\n"), &[]);
    is_scaled(&apply("Warn", "  replicas: 2\n"), &[told]);
    is_refused(&apply("Strict", "  replicas: 2\n"), 400, "BadRequest", told);
    for validation in ["Ignore", "Warn", "Strict"] {
        let why = "(/odd; autoscaling/v1, Kind=Scale): .spec.copies: field not declared in schema";
        is_refused(&apply(validation, "  copies: 3\n"), 400, "BadRequest", why);
    }
}

fn the_word_itself(rest: &Rest) {
    let body = json!({"metadata": {"name": "a"}}).to_string();
    let refused = send(rest, Method::POST, "", "Loud", JSON, body.as_bytes());
    let why =
        "fieldValidation: Unsupported value: \"Loud\": supported values: \"Ignore\", \"Strict\", \"Warn\"";
    is_refused(&refused, 422, "Invalid", &format!("CreateOptions.meta.k8s.io \"\" is invalid: {why}"));
}

fn what_kubectl_shows(cluster: &Cluster) {
    let odd = IN_YAML.replace("  a: '1'\n", "").replace("name: odd", "name: by-kubectl");
    let create = |validate: &str| {
        cluster
            .kubectl_with(["create", "--dry-run=server", "-f", "-", &format!("--validate={validate}")], &odd)
    };
    let said = create("strict").fails();
    assert!(said.contains("unknown field \"datum\"") && said.contains("\"metadata.lables\""), "{said}");
    let said = create("warn");
    assert_eq!(
        (said.code, said.stdout.trim()),
        (0, "configmap/by-kubectl created (server dry run)"),
        "{said}"
    );
    for wanted in ["Warning: unknown field \"datum\"\n", "Warning: unknown field \"metadata.lables\"\n"] {
        assert!(said.stderr.contains(wanted), "{said}");
    }
    let said = create("ignore");
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said}");
}
