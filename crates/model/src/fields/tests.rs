#![allow(clippy::unwrap_used)]
//! Stories of who owns what, and laws that hold for all of them.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kind::{Kind, kind_of};

/// An object and its books, as a server keeps them.
#[derive(Clone)]
struct Kept {
    value: Option<serde_json::Value>,
    managed: String,
    now: i64,
    kind: KindRef,
}

impl Kept {
    fn none<K: Kind>() -> Self {
        Self { value: None, managed: String::new(), now: 0, kind: kind_of::<K>() }
    }

    fn writer<'a>(&mut self, manager: &'a str, part: Part) -> Writer<'a> {
        self.now += 1;
        let now = Timestamp::from_second(self.now).unwrap();
        Writer { manager, kind: self.kind, part, subresource: "", now }
    }

    fn update(&mut self, manager: &str, part: Part, value: serde_json::Value) {
        let writer = self.writer(manager, part);
        self.managed = update(self.value.as_ref(), &value, &self.managed, Said::Nothing, &writer);
        self.value = Some(value);
    }

    fn try_apply(
        &mut self,
        manager: &str,
        part: Part,
        config: &serde_json::Value,
        force: bool,
    ) -> Result<(), String> {
        let writer = self.writer(manager, part);
        let applied = apply(self.value.as_ref(), config, &self.managed, force, &writer);
        let Applied { value, managed } = applied.map_err(|error| error.to_string())?;
        self.value = Some(checked(self.kind, value));
        self.managed = managed;
        Ok(())
    }

    fn apply(&mut self, manager: &str, config: &serde_json::Value) {
        self.try_apply(manager, Part::Main, config, false).unwrap();
    }

    fn owned(&self, manager: &str, operation: Operation) -> String {
        let managed = Managed::stored(&self.managed);
        let found = managed.entries.iter().find(|e| e.manager == manager && e.operation == operation);
        found.map(|entry| entry.set().to_string()).unwrap_or_default()
    }

    fn applied(&self, manager: &str) -> String {
        self.owned(manager, Operation::Apply)
    }

    fn data(&self) -> serde_json::Value {
        self.value.as_ref().unwrap().get("data").cloned().unwrap_or_default()
    }
}

/// A merged object as it is stored: pods have a spec, if an empty one.
fn checked(kind: KindRef, value: serde_json::Value) -> serde_json::Value {
    let mut value = crate::schema::check(kind.descriptor().message, value).unwrap().value;
    if kind == kind_of::<Pod>() && value.get("spec").is_none() {
        value["spec"] = json!({});
    }
    value
}

fn config_map(data: serde_json::Value) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": data})
}

#[test]
fn what_is_no_longer_applied_goes() {
    let mut kept = Kept::none::<ConfigMap>();
    kept.apply("one", &config_map(json!({"a": "1", "b": "2"})));
    assert_eq!(kept.applied("one"), r#"{"f:data":{"f:a":{},"f:b":{}}}"#);
    kept.apply("one", &config_map(json!({"a": "1"})));
    assert_eq!(kept.data(), json!({"a": "1"}));
    assert_eq!(kept.applied("one"), r#"{"f:data":{"f:a":{}}}"#);
    kept.apply("one", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}));
    assert_eq!(kept.data(), serde_json::Value::Null);
    assert_eq!(kept.managed, "");
}

#[test]
fn what_is_shared_stays_until_the_last_lets_go() {
    let mut kept = Kept::none::<ConfigMap>();
    kept.apply("one", &config_map(json!({"a": "1"})));
    kept.apply("two", &config_map(json!({"a": "1", "b": "2"})));
    kept.apply("one", &config_map(json!({"x": "1"})));
    assert_eq!(kept.data(), json!({"a": "1", "b": "2", "x": "1"}));
    kept.apply("two", &config_map(json!({"b": "2"})));
    assert_eq!(kept.data(), json!({"b": "2", "x": "1"}));
}

#[test]
fn conflicts_are_refused_and_forced() {
    let mut kept = Kept::none::<ConfigMap>();
    kept.apply("one", &config_map(json!({"a": "1", "b": "2"})));
    let refusal = kept.try_apply("two", Part::Main, &config_map(json!({"a": "9"})), false).unwrap_err();
    assert_eq!(refusal, "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    kept.update("editor", Part::Main, config_map(json!({"a": "1", "b": "3"})));
    let both = config_map(json!({"a": "9", "b": "9"}));
    let refusal = kept.try_apply("two", Part::Main, &both, false).unwrap_err();
    assert_eq!(
        refusal,
        "Apply failed with 2 conflicts: conflicts with \"editor\" using v1:\n- .data.b\nconflicts with \"one\":\n- .data.a"
    );
    kept.try_apply("two", Part::Main, &both, true).unwrap();
    assert_eq!(kept.data(), json!({"a": "9", "b": "9"}));
    assert_eq!(kept.applied("one"), "");
    assert_eq!(kept.applied("two"), r#"{"f:data":{"f:a":{},"f:b":{}}}"#);
}

#[test]
fn a_change_takes_over_and_a_removal_takes_away() {
    let mut kept = Kept::none::<ConfigMap>();
    kept.update("creator", Part::Main, config_map(json!({"a": "1", "b": "1"})));
    assert_eq!(kept.owned("creator", Operation::Update), r#"{"f:data":{".":{},"f:a":{},"f:b":{}}}"#);
    kept.update("editor", Part::Main, config_map(json!({"a": "2"})));
    assert_eq!(kept.owned("editor", Operation::Update), r#"{"f:data":{"f:a":{}}}"#);
    assert_eq!(kept.owned("creator", Operation::Update), r#"{"f:data":{}}"#);
    let before = kept.managed.clone();
    kept.update("nobody", Part::Main, config_map(json!({"a": "2"})));
    assert_eq!(kept.managed, before);
}

#[test]
fn the_status_is_owned_by_who_writes_it() {
    let mut kept = Kept::none::<Pod>();
    let pod = |image: &str, status: serde_json::Value| json!({"metadata": {"name": "p", "labels": {"l": "1"}}, "spec": {"containers": [{"name": "c", "image": image}]}, "status": status});
    kept.update("kubectl", Part::Main, pod("a", json!({"phase": "Pending"})));
    assert!(!kept.managed.contains("f:status"));
    kept.update("agent", Part::Status, pod("a", json!({"phase": "Running"})));
    assert!(kept.managed.ends_with(
        r#""manager":"agent","operation":"Update","apiVersion":"v1","time":"1970-01-01T00:00:02Z","fieldsType":"FieldsV1","fieldsV1":{"f:status":{"f:phase":{}}},"subresource":"status"}]"#
    ), "{}", kept.managed);
    // Who writes both at once owns both, each in its part.
    kept.update("agent", Part::Whole, pod("b", json!({"phase": "Failed"})));
    let managed = Managed::stored(&kept.managed);
    let of_agent: Vec<_> = managed.entries.iter().filter(|e| e.manager == "agent").collect();
    assert_eq!(of_agent.len(), 2);
    assert!(kept.owned("kubectl", Operation::Update).contains("f:name"));
    assert!(!kept.owned("kubectl", Operation::Update).contains("f:image"));
}

#[test]
fn objects_without_books_get_them_with_the_first_apply() {
    let mut kept = Kept::none::<ConfigMap>();
    kept.value = Some(config_map(json!({"a": "1"})));
    kept.update("editor", Part::Main, config_map(json!({"a": "2"})));
    assert_eq!(kept.managed, "");
    let refusal =
        kept.try_apply("one", Part::Main, &config_map(json!({"a": "3", "b": "1"})), false).unwrap_err();
    assert_eq!(
        refusal,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a"
    );
    kept.apply("one", &config_map(json!({"a": "2", "b": "1"})));
    assert_eq!(kept.owned("before-first-apply", Operation::Update), r#"{"f:data":{".":{},"f:a":{}}}"#);
    kept.update("editor", Part::Main, config_map(json!({"a": "2", "b": "1", "c": "1"})));
    assert_eq!(kept.owned("editor", Operation::Update), r#"{"f:data":{"f:c":{}}}"#);
}

#[test]
fn books_are_forgotten_and_replaced_on_demand() {
    let mut kept = Kept::none::<ConfigMap>();
    kept.apply("one", &config_map(json!({"a": "1"})));
    let value = config_map(json!({"a": "2"}));
    let writer = kept.writer("x", Part::Main);
    assert_eq!(update(kept.value.as_ref(), &value, &kept.managed, Said::Reset, &writer), "");
    let theirs = Managed::stored(&kept.managed.replace("\"one\"", "\"other\""));
    let text = update(kept.value.as_ref(), &value, &kept.managed, Said::Managed(theirs.clone()), &writer);
    assert!(text.contains("\"x\"") && !text.contains("\"one\"") && !text.contains("\"other\""), "{text}");
    let same = kept.value.clone().unwrap();
    let text = update(kept.value.as_ref(), &same, &kept.managed, Said::Managed(theirs.clone()), &writer);
    assert!(text.contains("\"other\""), "{text}");
    // Through a part nobody says who owns what.
    let writer = kept.writer("x", Part::Status);
    let text = update(kept.value.as_ref(), &same, &kept.managed, Said::Managed(theirs), &writer);
    assert_eq!(text, kept.managed);
}

/// Owners in one version of a kind lose what is changed through another, by the names of their own.
#[test]
fn versions_of_a_kind_share_their_books() {
    use k8s_openapi::api::autoscaling::{v1, v2};
    let autoscaler = |version: &str, spec: serde_json::Value| json!({"apiVersion": version, "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": spec});
    let cpu = |percent: i32| json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}]);
    let mut kept = Kept::none::<v2::HorizontalPodAutoscaler>();
    kept.apply("one", &autoscaler("autoscaling/v2", json!({"maxReplicas": 3, "metrics": cpu(50)})));
    let stored = kept.value.take().unwrap();
    let (old, new) = (kind_of::<v1::HorizontalPodAutoscaler>(), kind_of::<v2::HorizontalPodAutoscaler>());
    kept.kind = old;
    kept.value = Some(old.from_stored(stored));
    let other = autoscaler("autoscaling/v1", json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 60}));
    let refusal = kept.try_apply("two", Part::Main, &other, false).unwrap_err();
    assert_eq!(refusal, "Apply failed with 1 conflict: conflict with \"one\": .spec.metrics");
    kept.try_apply("two", Part::Main, &other, true).unwrap();
    assert_eq!(kept.applied("one"), r#"{"f:spec":{"f:maxReplicas":{}}}"#);
    assert_eq!(
        kept.applied("two"),
        r#"{"f:spec":{"f:maxReplicas":{},"f:targetCPUUtilizationPercentage":{}}}"#
    );
    // What an applier named in another version and names no longer goes, too.
    let stored = old.to_stored(kept.value.take().unwrap());
    (kept.kind, kept.value) = (new, Some(stored));
    kept.apply("two", &autoscaler("autoscaling/v2", json!({"maxReplicas": 3})));
    assert_eq!(kept.value.as_ref().unwrap()["spec"].get("metrics"), None);
    assert_eq!(kept.applied("two"), r#"{"f:spec":{"f:maxReplicas":{}}}"#);
}

#[test]
fn many_updaters_become_ancient() {
    let mut kept = Kept::none::<ConfigMap>();
    let mut data = serde_json::Map::new();
    for i in 0..14 {
        data.insert(format!("k{i}"), "v".into());
        kept.update(&format!("m{i:02}"), Part::Main, config_map(data.clone().into()));
    }
    let managed = Managed::stored(&kept.managed);
    assert_eq!(managed.entries.len(), 10);
    let ancient = kept.owned("ancient-changes", Operation::Update);
    for i in 0..5 {
        assert!(ancient.contains(&format!("f:k{i}\"")), "{ancient}");
    }
    assert!(kept.owned("m13", Operation::Update).contains("f:k13"));
}

#[test]
fn kubectl_takes_over_what_it_applied_from_the_client() {
    let mut kept = Kept::none::<ConfigMap>();
    let last = config_map(json!({"a": "1", "b": "1"}));
    let mut live = last.clone();
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    kept.update("kubectl-client-side-apply", Part::Main, live.clone());
    live["data"]["b"] = "edited".into();
    kept.update("editor", Part::Main, live);
    let wanted = config_map(json!({"a": "2", "b": "2"}));
    let refusal = kept.try_apply("kubectl", Part::Main, &wanted, false).unwrap_err();
    assert_eq!(refusal, "Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.b");
    kept.apply("kubectl", &config_map(json!({"a": "2"})));
    let annotation = kept.value.as_ref().unwrap()["metadata"]["annotations"]
        ["kubectl.kubernetes.io/last-applied-configuration"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(annotation.contains(r#""data":{"a":"2"}"#), "{annotation}");
    // Others are not meant by the annotation.
    let refusal = kept.try_apply("other", Part::Main, &config_map(json!({"a": "3"})), false).unwrap_err();
    assert!(refusal.contains("conflict with \"kubectl\""), "{refusal}");
}

#[test]
fn configurations_are_checked() {
    let mut kept = Kept::none::<Deployment>();
    let mut refused =
        |config: serde_json::Value| kept.try_apply("one", Part::Main, &config, false).unwrap_err();
    assert_eq!(refused(json!({"bogus": 1})), ".bogus: field not declared in schema");
    assert_eq!(
        refused(json!({"spec": {"replicas": "3"}})),
        ".spec.replicas: expected numeric (int or float), got \"3\""
    );
    assert_eq!(
        refused(json!({"spec": {"template": {"spec": {"containers": [
            {"name": "main", "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]}
        ]}}}})),
        ".spec.template.spec.containers[name=\"main\"].ports: duplicate entries for key [containerPort=80,protocol=\"TCP\"]"
    );
    assert_eq!(
        refused(json!({"spec": {"template": {"spec": {"tolerations": [{"bogus": 1}]}}}})),
        ".spec.template.spec.tolerations[0].bogus: field not declared in schema"
    );
}

#[test]
fn containers_of_two_appliers_live_together() {
    let mut kept = Kept::none::<Pod>();
    let pod = |containers: serde_json::Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
    kept.apply("one", &pod(json!([{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}])));
    kept.apply("two", &pod(json!([{"name": "b", "image": "1"}])));
    kept.apply("one", &pod(json!([{"name": "a", "image": "2"}])));
    let containers = kept.value.as_ref().unwrap()["spec"]["containers"].clone();
    assert_eq!(containers, json!([{"name": "a", "image": "2"}, {"name": "b", "image": "1"}]));
    kept.apply("one", &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}));
    let containers = kept.value.as_ref().unwrap()["spec"]["containers"].clone();
    assert_eq!(containers, json!([{"name": "b", "image": "1"}]));
}

#[test]
fn what_became_whole_is_owned_as_a_whole() {
    let mut kept = Kept::none::<Deployment>();
    let deployment = |labels: serde_json::Value| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels}}});
    kept.apply("one", &deployment(json!({"a": "1"})));
    let whole = kept.managed.clone();
    assert!(whole.contains(r#"{"f:spec":{"f:selector":{}}}"#), "{whole}");
    // As a release wrote it in which selectors were owned label by label.
    kept.managed = whole.replace(r#""f:selector":{}"#, r#""f:selector":{"f:matchLabels":{"f:a":{}}}"#);
    kept.apply("one", &deployment(json!({"b": "1"})));
    assert_eq!(kept.applied("one"), r#"{"f:spec":{"f:selector":{}}}"#);
    let refusal = kept.try_apply("two", Part::Main, &deployment(json!({"a": "1"})), false).unwrap_err();
    assert!(refusal.ends_with("conflict with \"one\": .spec.selector"), "{refusal}");
}

#[test]
fn managers_are_named_by_their_program() {
    assert_eq!(manager_of_user_agent("kubectl/v1.33.0 (linux/amd64) kubernetes/abc"), "kubectl");
    assert_eq!(manager_of_user_agent("a\u{7}b"), "ab");
    assert_eq!(manager_of_user_agent(&"ü".repeat(100)).len(), 128);
    let mut errors = FieldErrors::new();
    validate_manager(&"x".repeat(129), &Path::new("fieldManager"), &mut errors);
    validate_manager("a\nb", &Path::new("fieldManager"), &mut errors);
    assert_eq!(errors.into_vec().len(), 2);
}

// What stands in configurations of the laws below: scalars, a map, a list by keys within a list by keys, a
// set, and a map that is owned as a whole.
fn configs() -> impl Strategy<Value = serde_json::Value> {
    let word = || prop::sample::select(vec!["a", "b", "c"]);
    let map = move || prop::collection::btree_map(word(), word(), 0..3);
    let env = prop::collection::btree_map(word(), word(), 0..3);
    let container = (prop::option::of(word()), env);
    let containers = prop::collection::btree_map(word(), container, 0..3);
    (map(), map(), containers, prop::collection::btree_set(word(), 0..3), prop::option::of(1..3_i64))
        .prop_map(|(labels, selector, containers, finalizers, grace)| {
            let containers: Vec<_> = containers
                .into_iter()
                .map(|(name, (image, env))| {
                    let env: Vec<_> =
                        env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
                    let mut container = json!({"name": name});
                    if let Some(image) = image {
                        container["image"] = image.into();
                    }
                    if !env.is_empty() {
                        container["env"] = env.into();
                    }
                    container
                })
                .collect();
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}});
            if !labels.is_empty() {
                pod["metadata"]["labels"] = json!(labels);
            }
            if !finalizers.is_empty() {
                pod["metadata"]["finalizers"] = json!(finalizers);
            }
            if !selector.is_empty() {
                pod["spec"]["nodeSelector"] = json!(selector);
            }
            if !containers.is_empty() {
                pod["spec"]["containers"] = containers.into();
            }
            if let Some(grace) = grace {
                pod["spec"]["terminationGracePeriodSeconds"] = grace.into();
            }
            pod
        })
}

fn sets() -> impl Strategy<Value = Set> {
    configs().prop_map(|config| walk::to_set(&config, &shape::Shape::of_kind("core.v1.Pod")))
}

/// Writes of several managers, one after the other.
fn stories() -> impl Strategy<Value = Vec<(usize, bool, serde_json::Value)>> {
    prop::collection::vec((0..3_usize, any::<bool>(), configs()), 1..7)
}

fn told(story: &[(usize, bool, serde_json::Value)]) -> Kept {
    let mut kept = Kept::none::<Pod>();
    for (who, applies, config) in story {
        let manager = ["one", "two", "three"][*who];
        if *applies {
            kept.try_apply(manager, Part::Main, config, true).unwrap();
        } else {
            kept.update(manager, Part::Main, config.clone());
        }
    }
    kept
}

/// A structure that is always there: nobody has to own it.
fn spec_itself() -> Set {
    [&[Element::field("spec")][..]].into_iter().collect()
}

fn paths_of(kept: &Kept) -> Set {
    let shape = shape::Shape::of_kind("core.v1.Pod");
    update::ownable(&walk::to_set(kept.value.as_ref().unwrap(), &shape))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sets_obey_the_laws(a in sets(), b in sets(), c in sets()) {
        prop_assert_eq!(a.union(&b), b.union(&a));
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(a.union(&b).union(&c), a.union(&b.union(&c)));
        prop_assert_eq!(a.union(&a), a.clone());
        prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
        prop_assert!(a.difference(&b).intersection(&b).is_empty());
        prop_assert!(a.recursive_difference(&b).difference(&a.difference(&b)).is_empty());
        prop_assert_eq!(Set::parse(&a.to_string()).unwrap(), a.clone());
        let paths = a.paths();
        prop_assert!(paths.iter().all(|path| a.has(path)));
        prop_assert_eq!(paths.iter().map(Vec::as_slice).collect::<Set>(), a);
    }

    #[test]
    fn applying_twice_is_applying_once(story in stories(), config in configs()) {
        let mut kept = told(&story);
        kept.try_apply("one", Part::Main, &config, true).unwrap();
        let (value, managed) = (kept.value.clone(), kept.managed.clone());
        kept.try_apply("one", Part::Main, &config, false).unwrap();
        prop_assert_eq!(kept.value, value);
        prop_assert_eq!(kept.managed, managed);
    }

    #[test]
    fn what_is_applied_is_there_and_owned(story in stories(), config in configs()) {
        let mut kept = told(&story);
        kept.try_apply("one", Part::Main, &config, true).unwrap();
        let shape = shape::Shape::of_kind("core.v1.Pod");
        let wanted = update::ownable(&walk::to_set(&config, &shape));
        prop_assert!(wanted.difference(&paths_of(&kept)).difference(&spec_itself()).is_empty());
        let owned = kept.applied("one");
        prop_assert_eq!(if owned.is_empty() { Set::new() } else { Set::parse(&owned).unwrap() }, wanted);
        // Nothing that the applier wants is otherwise.
        let merged = merge::merge(kept.value.as_ref().unwrap(), &config, &shape).unwrap();
        let again = checked(kept.kind, merged);
        prop_assert_eq!(Some(again), kept.value);
    }

    #[test]
    fn what_only_an_applier_owned_goes_with_it(story in stories(), config in configs()) {
        let mut kept = told(&story);
        kept.try_apply("alone", Part::Main, &config, true).unwrap();
        let others = {
            let managed = Managed::stored(&kept.managed);
            let others = managed.entries.iter().filter(|e| e.manager != "alone");
            others.fold(Set::new(), |all, entry| all.union(&entry.set()))
        };
        let mine = Managed::stored(&kept.managed);
        let mine = mine.entries.iter().find(|e| e.manager == "alone");
        let mine = mine.map(|entry| entry.set().into_owned()).unwrap_or_default();
        let nothing = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}});
        kept.try_apply("alone", Part::Main, &nothing, false).unwrap();
        prop_assert_eq!(kept.applied("alone"), "");
        let left = paths_of(&kept);
        // An item of a list stays as long as somebody owns something in it, with what tells it apart.
        for path in mine.difference(&others).difference(&spec_itself()).paths() {
            let held = (1..path.len()).any(|n| others.has(&path[..n])) || !below(&others, &path).is_empty();
            prop_assert!(held || !left.has(&path), "{} is still there", shown(&path));
        }
        for path in others.paths() {
            prop_assert!(left.has(&path) || !paths_of(&kept).has(&path));
        }
    }

    #[test]
    fn each_field_that_somebody_changed_has_an_owner(story in stories()) {
        let kept = told(&story);
        // Of an object that was created with nothing in it nobody keeps books until the first apply.
        prop_assume!(!kept.managed.is_empty());
        let managed = Managed::stored(&kept.managed);
        let owned = managed.entries.iter().fold(Set::new(), |all, entry| all.union(&entry.set()));
        prop_assert!(paths_of(&kept).difference(&owned).difference(&spec_itself()).is_empty());
    }

    #[test]
    fn books_are_read_as_they_are_written(story in stories()) {
        let kept = told(&story);
        prop_assert_eq!(Managed::stored(&kept.managed).write(), kept.managed.clone());
        if !kept.managed.is_empty() {
            prop_assert_eq!(Managed::sent(&kept.managed).unwrap().write(), kept.managed);
        }
    }

    #[test]
    fn any_text_is_refused_or_read(text in "\\PC{0,60}") {
        let _ = Managed::sent(&text);
        let _ = Set::parse(&text);
        let _ = Element::parse(&text);
    }
}

/// What a set has below a path.
fn below(set: &Set, path: &[Element]) -> Set {
    let mut at = set;
    for element in path {
        match at.nodes().iter().find(|node| node.element == *element) {
            Some(node) => at = &node.below,
            None => return Set::new(),
        }
    }
    at.clone()
}
