//! A rollout that costs no request, of a program that does nothing for it: no preStop hook, and it ends the
//! moment it is asked to. A pod hears of its end when no proxy leads to it any more.
//!
//! `BALSA_ROLLOUTS` says how many times; twice (there and back) unless told.

use std::net::SocketAddr;

use balsa_testkit::{Steady, get, has_kubectl, images, wait_until};
use serde_json::{Value, json};

use crate::{NAMESPACE, Node, PATIENCE, text};

pub(crate) fn act(node: &Node) {
    let rollouts: usize = std::env::var("BALSA_ROLLOUTS").map_or(2, |text| text.parse().unwrap());
    let all = [images::busybox("1"), images::busybox("2")];
    node.apply(include_str!("rollout.yaml"));
    rolled_out(node, 1);
    let address = address(node);
    wait_until("it answers", PATIENCE, || get(address, "/"));
    let steady = Steady::start(address, "/", 100);
    for rollout in 1..=rollouts {
        let image = &all[rollout % all.len()];
        let patch =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "shop", "image": image}]}}}});
        let path = "/apis/apps/v1/namespaces/node/deployments/shop";
        let kind = "application/strategic-merge-patch+json";
        assert_eq!(node.cluster.patch(path, kind, &patch).unwrap().code, 200);
        rolled_out(node, rollout + 1);
        let tag = image.rsplit(':').next().unwrap();
        wait_until("all answers are the new image's", PATIENCE, || {
            let said: Vec<String> = (0..10).map(|_| get(address, "/")).collect::<Result<_, _>>()?;
            let all_new = said.iter().all(|answer| answer.trim() == format!("image {tag}"));
            if all_new { Ok(()) } else { Err(said.concat()) }
        });
    }
    let tally = steady.stop();
    println!("{rollouts} rollouts, {} answers, {} failures", tally.answered, tally.failed.len());
    tally.assert_none_failed();
    if has_kubectl() {
        restarted(node, rollouts + 2);
    } else {
        println!("there is no kubectl here: nothing is restarted");
    }
    node.delete("deployments", "shop");
}

/// `kubectl rollout restart`: other pods of the same template but for the time, each with containers of its own.
fn restarted(node: &Node, generation: usize) {
    const AT: &str = "kubectl.kubernetes.io/restartedAt";
    let kubectl =
        |line: &str| node.cluster.kubectl(["-n", NAMESPACE].into_iter().chain(line.split(' '))).ok();
    let before = wait_until("those of the last rollout are gone", PATIENCE, || match pods(node)? {
        before if before.len() == 3 => Ok(before),
        more => Err(format!("{more:?}")),
    });
    assert!(before.iter().all(|pod| pod["metadata"]["annotations"][AT].is_null()), "{before:?}");
    assert_eq!(kubectl("rollout restart deployment/shop").trim(), "deployment.apps/shop restarted");
    let said = kubectl("rollout status deployment/shop --timeout=120s");
    assert!(said.ends_with("deployment \"shop\" successfully rolled out\n"), "{said}");
    rolled_out(node, generation);
    let template = &node.get("deployments", "shop").unwrap()["spec"]["template"]["metadata"]["annotations"];
    assert!(text(&template[AT]).starts_with("20"), "{template}");
    let names = |pods: &[Value]| -> Vec<String> {
        pods.iter().map(|pod| text(&pod["metadata"]["name"]).to_owned()).collect()
    };
    let old = names(&before);
    let after = wait_until("the old pods are gone", PATIENCE, || match pods(node)? {
        after if after.len() == 3 && names(&after).iter().all(|name| !old.contains(name)) => Ok(after),
        after => Err(names(&after).join(", ")),
    });
    for pod in &after {
        assert_eq!(pod["metadata"]["annotations"][AT], template[AT], "{pod}");
        assert!(node.container(text(&pod["metadata"]["name"]), "shop").running);
    }
    wait_until("their containers are gone, too", PATIENCE, || {
        let left: Vec<_> = old.iter().flat_map(|pod| node.containers(pod)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

fn pods(node: &Node) -> Result<Vec<Value>, String> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dshop");
    Ok(node.cluster.read(&path)?["items"].as_array().cloned().unwrap_or_default())
}

fn address(node: &Node) -> SocketAddr {
    let service = node.get("services", "shop").unwrap();
    let name = &node.cluster.node_names()[0];
    let of_node = node.cluster.read(&format!("/api/v1/nodes/{name}")).unwrap();
    let addresses = of_node["status"]["addresses"].as_array().unwrap();
    let inner = addresses.iter().find(|address| address["type"] == "InternalIP").unwrap();
    format!("{}:{}", text(&inner["address"]), service["spec"]["ports"][0]["nodePort"]).parse().unwrap()
}

/// All replicas are of that generation, and no other is left.
fn rolled_out(node: &Node, generation: usize) {
    wait_until("the rollout is complete", PATIENCE, || {
        let deployment: Value = node.get("deployments", "shop")?;
        let status = &deployment["status"];
        let is_new =
            deployment["metadata"]["generation"] == generation && status["observedGeneration"] == generation;
        let complete =
            ["replicas", "updatedReplicas", "readyReplicas"].iter().all(|count| status[count] == 3);
        if is_new && complete { Ok(()) } else { Err(deployment.to_string()) }
    });
}
