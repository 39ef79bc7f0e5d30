//! Logs: after the container is gone, and of the life before.

use balsa_testkit::docker;

use crate::{NAMESPACE, Node, status};

pub(crate) const PODS: &str = include_str!("logs.yaml");

pub(crate) fn acts(node: &Node) {
    a_log_outlives_its_container(node);
    the_life_before_is_told_of(node);
}

fn log(node: &Node, arguments: &[&str]) -> String {
    node.cluster.balsa([&["logs", "-n", NAMESPACE], arguments].concat()).ok()
}

fn a_log_outlives_its_container(node: &Node) {
    node.pod("said", "has said everything", |pod| pod["status"]["phase"] == "Succeeded");
    assert_eq!(log(node, &["said"]), "word 1\nword 2\nword 3\n");
    for container in node.containers("said") {
        docker(["rm", "-f", &container.id]).ok();
    }
    assert_eq!(log(node, &["said", "--tail=2"]), "word 2\nword 3\n", "its container is gone");
}

fn the_life_before_is_told_of(node: &Node) {
    node.pod("twice", "lives again", |pod| status(pod)["restartCount"] == 1 && status(pod)["ready"] == true);
    assert_eq!(log(node, &["twice"]), "the second life\n");
    let before = log(node, &["twice", "--previous"]);
    let mut before: Vec<&str> = before.lines().collect();
    before.sort_unstable();
    assert_eq!(before, ["its complaint", "the first life"]);
    let said = node.cluster.balsa(["logs", "-n", NAMESPACE, "slow-to-start", "--previous"]).fails();
    assert!(
        said.contains("previous terminated container \"main\" in pod \"slow-to-start\" not found"),
        "{said}"
    );
}
