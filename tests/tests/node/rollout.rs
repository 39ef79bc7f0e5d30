//! A rollout that costs no request, of a program that does nothing for it: no preStop hook, and it ends the
//! moment it is asked to. A pod hears of its end when no proxy leads to it any more.
//!
//! `BALSA_ROLLOUTS` says how many times; twice (there and back) unless told.

use std::net::SocketAddr;

use balsa_testkit::{Steady, get, images, wait_until};
use serde_json::{Value, json};

use crate::{Node, PATIENCE, text};

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
    node.delete("deployments", "shop");
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
