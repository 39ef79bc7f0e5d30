//! Every directive of strategic merge patches.

use serde_json::json;

use super::*;

fn template() -> Value {
    json!({"template": {"spec": {
        "containers": [
            {"name": "one", "image": "a:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
             "ports": [{"containerPort": 80}, {"containerPort": 81, "name": "x"}]},
            {"name": "two", "image": "a:1", "args": ["a", "b"]},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "c"}}],
        "tolerations": [{"key": "k"}],
        "nodeSelector": {"x": "1"},
    }}})
}

/// The template's spec after a patch of it.
fn patched(spec: Value) -> Result<Value> {
    let patch = json!({"template": {"spec": spec}});
    apply("core.v1.PodTemplate", &template(), &patch).map(|value| value["template"]["spec"].clone())
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[test]
fn items_merge_by_their_key() {
    let spec = patched(json!({"containers": [{"name": "two", "image": "b:2"}]})).unwrap();
    assert_eq!(names(&spec["containers"]), ["one", "two"]);
    assert_eq!(spec["containers"][1], json!({"name": "two", "image": "b:2", "args": ["a", "b"]}));
    let spec = patched(json!({"containers": [{"name": "zero", "image": "z"}]})).unwrap();
    assert_eq!(names(&spec["containers"]), ["zero", "one", "two"]);
    let env = json!({"containers": [{"name": "one", "env": [{"name": "B", "value": "22"}, {"name": "C"}]}]});
    let spec = patched(env).unwrap();
    assert_eq!(names(&spec["containers"][0]["env"]), ["A", "B", "C"]);
    assert_eq!(spec["containers"][0]["env"][1]["value"], "22");
    let ports =
        json!({"containers": [{"name": "one", "ports": [{"containerPort": 81, "$patch": "delete"}]}]});
    assert_eq!(patched(ports).unwrap()["containers"][0]["ports"], json!([{"containerPort": 80}]));
}

#[test]
fn what_does_not_merge_is_replaced() {
    let spec =
        patched(json!({"tolerations": [{"key": "o"}], "containers": [{"name": "two", "args": ["c"]}]}));
    let spec = spec.unwrap();
    assert_eq!(spec["tolerations"], json!([{"key": "o"}]));
    assert_eq!(spec["containers"][1]["args"], json!(["c"]));
    let spec = patched(json!({"nodeSelector": {"x": null, "y": "2"}, "volumes": null})).unwrap();
    assert_eq!(spec["nodeSelector"], json!({"y": "2"}));
    assert!(spec.get("volumes").is_none());
}

#[test]
fn patch_directives() {
    let spec = patched(json!({"containers": [{"name": "one", "$patch": "delete"}]})).unwrap();
    assert_eq!(names(&spec["containers"]), ["two"]);
    let spec = patched(json!({"containers": [{"name": "f"}, {"$patch": "replace"}]})).unwrap();
    assert_eq!(names(&spec["containers"]), ["f"]);
    let spec = patched(json!({"nodeSelector": {"$patch": "replace", "y": "2"}})).unwrap();
    assert_eq!(spec["nodeSelector"], json!({"y": "2"}));
    let spec = patched(json!({"nodeSelector": {"$patch": "delete"}})).unwrap();
    assert_eq!(spec["nodeSelector"], json!({}));
    let volumes = json!({"volumes": [{"name": "v", "$patch": "delete"}, {"name": "n", "emptyDir": {}}]});
    assert_eq!(names(&patched(volumes).unwrap()["volumes"]), ["n", "w"]);
    let error = |spec| patched(spec).unwrap_err().message;
    assert_eq!(
        error(json!({"containers": [{"name": "one", "$patch": "explode"}]})),
        "unknown patch type: explode in map: map[$patch:explode name:one]"
    );
    assert_eq!(
        error(json!({"containers": [{"$patch": "delete"}]})),
        "map: map[$patch:delete] does not contain declared merge key: name"
    );
    assert_eq!(
        error(json!({"containers": [{"image": "nokey"}]})),
        "map: map[image:nokey] does not contain declared merge key: name"
    );
}

#[test]
fn orders_are_set() {
    let spec = patched(json!({"$setElementOrder/containers": [{"name": "two"}, {"name": "one"}]})).unwrap();
    assert_eq!(names(&spec["containers"]), ["two", "one"]);
    let spec = patched(json!({
        "$setElementOrder/containers": [{"name": "one"}, {"name": "new"}, {"name": "two"}],
        "containers": [{"name": "new", "image": "n"}],
    }))
    .unwrap();
    assert_eq!(names(&spec["containers"]), ["one", "new", "two"]);
    let spec = patched(json!({"$setElementOrder/volumes": [{"name": "w"}, {"name": "v"}], "volumes": []}));
    assert_eq!(names(&spec.unwrap()["volumes"]), ["w", "v"]);
    let wrong = json!({"$setElementOrder/containers": [{"name": "two"}], "containers": [{"name": "one"}]});
    assert_eq!(
        patched(wrong).unwrap_err().message,
        "The order in patch list:\n[map[name:one]]\n doesn't match $setElementOrder list:\n[map[name:two]]\n"
    );
}

#[test]
fn keys_are_retained() {
    let volume = json!({"name": "w", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}});
    let spec = patched(json!({"volumes": [volume]})).unwrap();
    assert_eq!(spec["volumes"][1], json!({"name": "w", "secret": {"secretName": "s"}}));
    let original = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let strategy = |patch: Value| {
        apply("apps.v1.Deployment", &original, &json!({"spec": {"strategy": patch}}))
            .map(|v| v["spec"]["strategy"].clone())
    };
    let good = json!({"$retainKeys": ["type"], "type": "Recreate", "rollingUpdate": null});
    assert_eq!(strategy(good).unwrap(), json!({"type": "Recreate"}));
    let bad = json!({"$retainKeys": ["type"], "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}});
    assert_eq!(strategy(bad).unwrap_err().message, "invalid patch format of retainKeys");
}

#[test]
fn primitive_lists_merge() {
    let patched = |original: &[&str], patch: Value| {
        let original = json!({"metadata": {"finalizers": original}});
        apply("core.v1.ConfigMap", &original, &json!({"metadata": patch}))
            .map(|value| value["metadata"]["finalizers"].clone())
            .unwrap()
    };
    assert_eq!(patched(&["1", "2"], json!({"finalizers": ["3", "1"]})), json!(["3", "1", "2"]));
    let delete = json!({"$deleteFromPrimitiveList/finalizers": ["2"]});
    assert_eq!(patched(&["3", "1", "2"], delete), json!(["3", "1"]));
    let both = json!({"$deleteFromPrimitiveList/finalizers": ["9"], "finalizers": ["4"]});
    assert_eq!(patched(&["3", "1"], both), json!(["4", "3", "1"]));
    let all = json!({
        "$deleteFromPrimitiveList/finalizers": ["1"], "finalizers": ["4"],
        "$setElementOrder/finalizers": ["3", "4"],
    });
    assert_eq!(patched(&["1", "3"], all), json!(["3", "4"]));
}

#[test]
fn what_is_new_comes_without_directives() {
    let spec = patched(json!({"containers": [{
        "name": "n", "$setElementOrder/env": [{"name": "A"}], "env": [{"name": "A", "value": null}],
        "securityContext": {"$retainKeys": ["privileged"], "privileged": true},
    }]}))
    .unwrap();
    assert_eq!(
        spec["containers"][0],
        json!({"name": "n", "env": [{"name": "A"}], "securityContext": {"privileged": true}})
    );
}

#[test]
fn custom_types_merge_by_fields_alone() {
    let merged = apply("", &json!({"a": {"b": 1}, "l": [1]}), &json!({"a": {"c": 2}, "l": [2]})).unwrap();
    assert_eq!(merged, json!({"a": {"b": 1, "c": 2}, "l": [2]}));
}
