//! Pods of a cluster of several servers on one machine find the API, and go on finding it when a server dies.

use std::collections::BTreeSet;

use balsa_testkit::{MachineLock, has_kubectl, images, kubectl_program, wait_until};
use http::Method;
use serde_json::{Value, json};

use crate::fleet::{Fleet, Member, PATIENCE};
use crate::rest;

/// Asks the API as any client in a pod does, again and again: kubectl with the pod's own account; where this machine
/// has none, a connection has to do.
const ASKER: &str = r#"while true; do
  if [ -e /tools/kubectl ]; then timeout 5 /tools/kubectl get --raw /version | grep gitVersion
  else nc -w 2 kubernetes.default.svc 443 </dev/null
  fi && echo "answered $((n += 1))"
  sleep 0.2
done"#;

#[test]
fn pods_find_the_api_and_miss_no_server() {
    let _machine = MachineLock::take();
    let image = images::busybox("1");
    let tools = tempfile::tempdir().unwrap();
    if has_kubectl() {
        std::fs::copy(kubectl_program(), tools.path().join("kubectl")).unwrap();
    }
    let fleet = Fleet::with_nodes(3, 1);
    let leader = fleet.well(3);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let read = |path: &str| -> Result<Value, String> {
        fleet
            .try_members()?
            .iter()
            .find_map(|member| {
                runtime.block_on(rest(&fleet, member).call(Method::GET, path, &Value::Null)).ok()
            })
            .map(|answer| answer.body)
            .ok_or_else(|| "no server answers".to_owned())
    };
    let places = |count: usize| {
        let mut places = BTreeSet::new();
        wait_until(&format!("pods are sent to {count} servers"), PATIENCE, || {
            places = endpoints(&read("/api/v1/namespaces/default/endpoints/kubernetes")?);
            let slices = read("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")?;
            if places.len() == count && slices_of(&slices) == places {
                Ok(())
            } else {
                Err(format!("{places:?}\n{slices}"))
            }
        });
        places
    };
    let all = places(3);
    assert!(all.iter().all(|place| !place.starts_with("127.")), "{all:?}");

    let pod = json!({
        "metadata": {"name": "asker"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", ASKER],
            "volumeMounts": [{"name": "tools", "mountPath": "/tools"}],
        }], "volumes": [{"name": "tools", "hostPath": {"path": tools.path()}}]},
    });
    let made =
        runtime.block_on(rest(&fleet, &leader).call(Method::POST, "/api/v1/namespaces/default/pods", &pod));
    assert_eq!(made.unwrap().code, 201);
    let answered =
        || -> usize { fleet.balsa(&["logs", "asker"]).map_or(0, |log| log.matches("answered").count()) };
    let answers_more = |than: usize| {
        wait_until("the pod is answered", PATIENCE, || {
            let now = answered();
            if now > than {
                Ok(())
            } else {
                Err(format!("{now} times\n{:?}", fleet.balsa(&["logs", "asker"])))
            }
        });
    };
    answers_more(5);

    let follower = fleet.members().into_iter().find(|member: &Member| member.role == "follower").unwrap();
    fleet.signal(&follower, "-9");
    let left = places(2);
    assert!(left.is_subset(&all));
    answers_more(answered() + 10);

    fleet.restart(&follower.name);
    let leader = fleet.well(3);
    places(3);
    fleet.signal(&leader, "-TERM");
    places(2);
    answers_more(answered() + 10);
    fleet.down();
}

fn endpoints(object: &Value) -> BTreeSet<String> {
    let subsets = object["subsets"].as_array().into_iter().flatten();
    subsets
        .flat_map(|subset| {
            let port = subset["ports"][0]["port"].clone();
            let addresses = subset["addresses"].as_array().cloned().unwrap_or_default();
            addresses
                .into_iter()
                .map(move |address| format!("{}:{port}", address["ip"].as_str().unwrap_or_default()))
        })
        .collect()
}

fn slices_of(list: &Value) -> BTreeSet<String> {
    let slices = list["items"].as_array().into_iter().flatten();
    let ours =
        slices.filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes");
    ours.flat_map(|slice| {
        let port = slice["ports"][0]["port"].clone();
        let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
        endpoints
            .into_iter()
            .map(move |endpoint| format!("{}:{port}", endpoint["addresses"][0].as_str().unwrap_or_default()))
    })
    .collect()
}
