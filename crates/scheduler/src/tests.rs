//! Tables for the planner, in small clusters.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::{ClusterView, Decision, Needs, explain, plan, preempt};

fn node(name: &str, extra: Value) -> Node {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
    });
    merge(&mut value, extra);
    serde_json::from_value(value).unwrap()
}

fn pod(name: &str, spec: Value) -> Arc<Needs> {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": name.split('-').next()}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]},
    });
    merge(&mut value["spec"], spec);
    Arc::new(Needs::of(&serde_json::from_value::<Pod>(value).unwrap()))
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn view(nodes: &[Node]) -> ClusterView {
    let mut view = ClusterView::default();
    for node in nodes {
        view.set_node(node);
    }
    view.set_namespace("n", Some(Default::default()));
    view
}

fn placed(decisions: &[Decision]) -> Vec<String> {
    let text = |d: &Decision| match &d.outcome {
        Ok(placement) => placement.node.clone(),
        Err(reasons) => reasons.to_string(),
    };
    decisions.iter().map(text).collect()
}

fn one(view: &ClusterView, pod: Arc<Needs>) -> String {
    placed(&plan(view, &[pod])).remove(0)
}

#[test]
fn reasons_are_told_in_the_words_of_kubernetes() {
    let tainted =
        |name| node(name, json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}));
    let view =
        view(&[tainted("a"), tainted("b"), node("c", json!({"status": {"allocatable": {"cpu": "500m"}}}))]);
    assert_eq!(
        one(&view, pod("p", json!({}))),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {k: v}. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
    assert_eq!(one(&ClusterView::default(), pod("p", json!({}))), "no nodes available to schedule pods");
}

#[test]
fn filters() {
    let cordoned = node("a", json!({"spec": {"unschedulable": true}}));
    let tolerant =
        json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]});
    let not_helpful = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let no_victims = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    let mut busy = view(&[node("a", json!({}))]);
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    busy.place_pod(pod("web-1", port.clone()), "a");
    let anti = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    for (view, pod, expected) in [
        (
            view(std::slice::from_ref(&cordoned)),
            pod("p", json!({})),
            format!("1 node(s) were unschedulable. {not_helpful}"),
        ),
        (view(&[cordoned]), pod("p", tolerant), "a".to_owned()),
        (
            view(&[node("a", json!({}))]),
            pod("p", json!({"nodeSelector": {"disk": "ssd"}})),
            format!("1 node(s) didn't match Pod's node affinity/selector. {not_helpful}"),
        ),
        (
            busy.clone(),
            pod("q", port),
            format!("1 node(s) didn't have free ports for the requested pod ports. {no_victims}"),
        ),
        (
            busy.clone(),
            pod("q", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "4"}}}]})),
            "a".to_owned(),
        ),
        (
            busy.clone(),
            pod("q", anti),
            format!("1 node(s) didn't match pod anti-affinity rules. {no_victims}"),
        ),
        (
            busy.clone(),
            pod("q", near.clone()),
            format!("1 node(s) didn't match pod affinity rules. {not_helpful}"),
        ),
        (busy.clone(), pod("db-1", near), "a".to_owned()),
        (
            busy,
            pod("q", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]})),
            format!("persistentvolumeclaim \"data\" not found. {not_helpful}"),
        ),
    ] {
        let got = one(&view, pod.clone());
        assert_eq!(got.strip_prefix("0/1 nodes are available: ").unwrap_or(&got), expected, "{}", pod.key);
    }
}

#[test]
fn nodes_of_one_machine_share_its_ports() {
    let at = |name: &str, address: &str| {
        node(name, json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}}))
    };
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let mut view = view(&[at("a", "10.0.0.1"), at("b", "10.0.0.1")]);
    view.place_pod(pod("web-1", port.clone()), "a");
    let said = one(&view, pod("web-2", port.clone()));
    let why = "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.";
    assert!(said.starts_with(why), "{said}");
    let other = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 81}]}]});
    assert!(["a", "b"].contains(&one(&view, pod("other", other)).as_str()));
    view.set_node(&at("c", "10.0.0.2"));
    assert_eq!(one(&view, pod("web-2", port.clone())), "c", "another machine has ports of its own");
    // Loopback is another place on every machine.
    let mut view = self::view(&[at("a", "127.0.0.1"), at("b", "127.0.0.1")]);
    view.place_pod(pod("web-1", port.clone()), "a");
    assert_eq!(one(&view, pod("web-2", port)), "b");
}

#[test]
fn pods_that_repel_others_are_heard() {
    let mut view = view(&[node("a", json!({})), node("b", json!({}))]);
    let anti = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    view.place_pod(pod("lonely", anti), "a");
    assert_eq!(one(&view, pod("web-1", json!({}))), "b");
    view.remove_node("b");
    assert!(one(&view, pod("web-1", json!({}))).contains("didn't satisfy existing pods anti-affinity rules"));
    view.remove_pod("lonely");
    assert_eq!(one(&view, pod("web-1", json!({}))), "a");
}

#[test]
fn a_batch_knows_what_it_has_placed() {
    let view = view(&[node("a", json!({})), node("b", json!({}))]);
    let pods: Vec<_> = (0..9).map(|i| pod(&format!("web-{i}"), json!({}))).collect();
    let placed = placed(&plan(&view, &pods));
    assert_eq!(placed.iter().filter(|node| *node == "a").count(), 4);
    assert_eq!(placed.iter().filter(|node| *node == "b").count(), 4);
    assert!(placed[8].starts_with("0/2 nodes are available: 2 Insufficient cpu."), "{}", placed[8]);
}

#[test]
fn equal_pods_spread_and_small_constraints_hold() {
    let zone = |name: &str, zone: &str| node(name, json!({"metadata": {"labels": {"zone": zone}}}));
    let view = view(&[zone("a", "x"), zone("b", "x"), zone("c", "y")]);
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let pods: Vec<_> = (0..6).map(|i| pod(&format!("web-{i}"), spread.clone())).collect();
    let placed = placed(&plan(&view, &pods));
    assert_eq!(placed.iter().filter(|node| *node == "c").count(), 3, "{placed:?}");
}

#[test]
fn preferences_decide_between_equals() {
    let ssd = node("b", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let avoid = node("c", json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}}));
    let view = view(&[node("a", json!({})), ssd, avoid]);
    let wish = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
    assert_eq!(one(&view, pod("p", wish)), "b");
    let bound: Vec<_> = (0..4).map(|i| pod(&format!("x{i}"), json!({}))).collect();
    assert!(placed(&plan(&view, &bound[..2])).iter().all(|node| node != "c"));
}

#[test]
fn claims_hold_a_pod_or_follow_it() {
    let mut view = view(&[node("a", json!({})), node("b", json!({}))]);
    let class = json!({"metadata": {"name": "local"}, "provisioner": "x", "volumeBindingMode": "WaitForFirstConsumer"});
    view.set_class("local", Some(serde_json::from_value(class).unwrap()));
    let claim = |extra: Value| {
        let mut value =
            json!({"metadata": {"name": "data", "namespace": "n"}, "spec": {"storageClassName": "local"}});
        merge(&mut value, extra);
        Some(serde_json::from_value(value).unwrap())
    };
    let key = balsa_model::Key::new("n", "data");
    let user = pod("p", json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}));
    view.set_claim(&key, claim(json!({})));
    let placement = plan(&view, std::slice::from_ref(&user)).remove(0).outcome.unwrap();
    assert_eq!(placement.claims, std::slice::from_ref(&key));
    let bound = json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
    view.set_claim(&key, claim(bound));
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}]}}}});
    view.set_volume("pv", Some(serde_json::from_value(volume).unwrap()));
    let placement = plan(&view, std::slice::from_ref(&user)).remove(0).outcome.unwrap();
    assert_eq!((placement.node.as_str(), placement.claims.len()), ("b", 0));
    let told = explain(&view, &user).unwrap();
    assert_eq!(told[0].1[0].to_string(), "node(s) had volume node affinity conflict");
    view.set_claim(&key, claim(json!({"spec": {"storageClassName": "other"}})));
    assert!(one(&view, user).contains("pod has unbound immediate PersistentVolumeClaims"));
}

/// `node: victims`, or nothing.
fn way(view: &ClusterView, pod: &Needs) -> String {
    let Some(found) = preempt(view, pod) else { return String::new() };
    let mut victims: Vec<_> = found.victims.iter().map(|victim| victim.uid.clone()).collect();
    victims.sort();
    format!("{}: {}", found.node, victims.join(" "))
}

#[test]
fn the_light_make_way_for_the_weighty() {
    let mut view = view(&[node("a", json!({})), node("b", json!({}))]);
    let weighing = |name: &str, priority: i32, cpu: &str| {
        let containers = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]);
        pod(name, json!({"priority": priority, "containers": containers}))
    };
    for (name, priority, cpu, node) in
        [("a1", 10, "2", "a"), ("a2", 5, "2", "a"), ("b1", 1, "1", "b"), ("b2", 20, "3", "b")]
    {
        view.place_pod(weighing(name, priority, cpu), node);
    }
    // Where the weightiest victim is lightest, and no more than must go.
    assert_eq!(way(&view, &weighing("p", 15, "2")), "a: a2");
    assert_eq!(way(&view, &weighing("p", 15, "1")), "b: b1");
    assert_eq!(way(&view, &weighing("p", 15, "4")), "a: a1 a2");
    assert_eq!(way(&view, &weighing("p", 30, "4")), "a: a1 a2");
    assert_eq!(way(&view, &weighing("p", 1, "1")), "", "equals stay");
    assert_eq!(way(&view, &weighing("p", 30, "5")), "", "it would not help");
    let never = pod("p", json!({"priority": 30, "preemptionPolicy": "Never"}));
    assert_eq!(way(&view, &never), "");
    let budget = json!({"metadata": {"name": "b", "namespace": "n"},
        "spec": {"selector": {"matchLabels": {"app": "b1"}}}, "status": {"disruptionsAllowed": 0,
            "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    let budget = serde_json::from_value(budget).unwrap();
    view.set_budget(&balsa_model::Key::new("n", "b"), Some(&budget));
    assert_eq!(way(&view, &weighing("p", 15, "1")), "a: a2", "budgets are spared where that is possible");
    // Nobody lighter takes the place while the victim leaves.
    let urgent = weighing("p", 15, "2");
    view.nominate(urgent.clone(), "a", &[]);
    view.remove_pod("a2");
    assert!(one(&view, weighing("q", 12, "1")).starts_with("0/2 nodes are available"));
    assert_eq!(one(&view, urgent), "a");
}

#[test]
fn nobody_makes_way_for_two() {
    let mut view = view(&[node("a", json!({})), node("b", json!({}))]);
    let weighing = |name: &str, priority: i32, cpu: &str| {
        let containers = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]);
        pod(name, json!({"priority": priority, "containers": containers}))
    };
    for (name, priority, node) in [("a1", 1, "a"), ("b1", 2, "b")] {
        view.place_pod(weighing(name, priority, "4"), node);
    }
    let mut next = |name: &str, cpu: &str| {
        let pod = weighing(name, 10, cpu);
        let found = preempt(&view, &pod)?;
        view.nominate(pod, &found.node, &found.victims);
        Some((found.node, found.victims.iter().map(|victim| victim.uid.clone()).collect::<Vec<_>>()))
    };
    assert_eq!(next("p", "2"), Some(("a".to_owned(), vec!["a1".to_owned()])));
    assert_eq!(next("q", "2"), Some(("a".to_owned(), vec![])), "there is room for it beside p");
    assert_eq!(next("r", "2"), Some(("b".to_owned(), vec!["b1".to_owned()])), "there is none for a third");
    assert_eq!(next("s", "4"), None);
}

mod story {
    //! The loop on a cluster in memory.

    use std::time::Duration;

    use balsa_client::memory::MemoryBackend;
    use balsa_client::{Client, Subscription};
    use balsa_model::selector::Filter;
    use balsa_rt::{Clock, Scope};
    use k8s_openapi::api::core::v1::Namespace;

    use super::*;

    fn waiting_pod(name: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]},
        }))
        .unwrap()
    }

    async fn until(client: &Client, changes: &mut Subscription, condition: impl Fn(&[Pod]) -> bool) {
        let holds = async {
            loop {
                let all = client.api::<Pod>().list(Filter::everything()).await.unwrap();
                let all: Vec<Pod> = all.iter().map(|o| o.to_typed::<Pod>().unwrap()).collect();
                if condition(&all) {
                    return;
                }
                changes.recv().await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), holds).await.is_err() {
            let all = client.api::<Pod>().list(Filter::everything()).await.unwrap();
            panic!("waited in vain; there is {:#?}", all.iter().map(|o| o.value()).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn an_urgent_pod_gets_its_place() {
        let client = Client::new(MemoryBackend::new(Clock::system()), "test");
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        client.api::<Namespace>().create(&namespace).await.unwrap();
        let created = client.api::<Node>().create(&node("a", json!({}))).await.unwrap();
        let mut value = created.to_typed::<Node>().unwrap();
        let ready = node("a", json!({}));
        (value.spec, value.status) = (ready.spec, ready.status);
        client.api::<Node>().update(&value, balsa_model::strategy::Part::Whole).await.unwrap();
        let scope = Scope::new();
        crate::start(client.clone(), Clock::system(), &scope);
        let mut changes = client.informer::<Pod>(Filter::everything(), &scope).subscribe();
        for i in 0..4 {
            client.api::<Pod>().create(&waiting_pod(&format!("p{i}"))).await.unwrap();
        }
        let is_bound = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.is_some();
        until(&client, &mut changes, |pods| pods.len() == 4 && pods.iter().all(is_bound)).await;
        let mut urgent = waiting_pod("urgent");
        urgent.spec.as_mut().unwrap().priority = Some(100);
        client.api::<Pod>().create(&urgent).await.unwrap();
        let leaving = |pod: &&Pod| pod.metadata.deletion_timestamp.is_some();
        until(&client, &mut changes, |pods| pods.iter().filter(leaving).count() == 1).await;
        let all = client.api::<Pod>().list(Filter::everything()).await.unwrap();
        let victim = all.iter().find(|pod| pod.is_deleting()).unwrap();
        // Its node lets go of it.
        let now =
            balsa_model::strategy::DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
        client.api::<Pod>().delete(victim.key(), victim.uid(), now).await.unwrap();
        until(&client, &mut changes, |pods| pods.len() == 4 && pods.iter().all(is_bound)).await;
        let bound =
            client.api::<Pod>().find(&balsa_model::Key::new("default", "urgent")).await.unwrap().unwrap();
        assert_eq!(bound.status.unwrap().nominated_node_name.as_deref(), Some("a"));
    }

    #[tokio::test]
    async fn pods_are_bound_and_those_without_room_say_so_until_there_is_some() {
        let client = Client::new(MemoryBackend::new(Clock::system()), "test");
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        client.api::<Namespace>().create(&namespace).await.unwrap();
        let scope = Scope::new();
        crate::start(client.clone(), Clock::system(), &scope);
        let put_node = async |name: &str| {
            let created = client.api::<Node>().create(&node(name, json!({}))).await.unwrap();
            // A new node has a taint and no status until it says that it is ready.
            let mut value = created.to_typed::<Node>().unwrap();
            let ready = node(name, json!({}));
            (value.spec, value.status) = (ready.spec, ready.status);
            client.api::<Node>().update(&value, balsa_model::strategy::Part::Whole).await.unwrap();
        };
        put_node("a").await;
        let mut changes = client.informer::<Pod>(Filter::everything(), &scope).subscribe();
        for i in 0..6 {
            client.api::<Pod>().create(&waiting_pod(&format!("p{i}"))).await.unwrap();
        }
        let bound =
            |pods: &[Pod]| pods.iter().filter(|p| p.spec.as_ref().unwrap().node_name.is_some()).count();
        let said = |pods: &[Pod]| {
            let conditions =
                pods.iter().flat_map(|p| p.status.iter().flat_map(|s| s.conditions.iter().flatten()));
            conditions.filter(|c| c.reason.as_deref() == Some("Unschedulable")).count()
        };
        until(&client, &mut changes, |pods| bound(pods) == 4 && said(pods) == 2).await;
        put_node("b").await;
        until(&client, &mut changes, |pods| bound(pods) == 6).await;
    }
}
