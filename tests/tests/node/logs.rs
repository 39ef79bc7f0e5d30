//! Logs: after the container is gone, of the life before, and followed while their files rotate.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use balsa_testkit::{balsa, docker};

use crate::{NAMESPACE, Node, status};

pub(crate) const PODS: &str = include_str!("logs.yaml");

pub(crate) fn acts(node: &Node) {
    a_log_outlives_its_container(node);
    the_life_before_is_told_of(node);
    a_follower_misses_nothing_when_files_rotate(node);
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

/// Thirteen megabytes: the node's file rotates at ten, and so does Docker's own.
fn a_follower_misses_nothing_when_files_rotate(node: &Node) {
    node.ready("talkative");
    let mut follower = Command::new(balsa())
        .args(["logs", "-n", NAMESPACE, "talkative", "--follow"])
        .env("KUBECONFIG", node.cluster.kubeconfig())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    node.shell("talkative", "touch /tmp/go");
    let (began, mut next) = (Instant::now(), 0_u32);
    for line in lines {
        let line = line.unwrap();
        assert!(began.elapsed() < Duration::from_secs(120), "too slow: line {next}");
        if line == "the end" {
            break;
        }
        let number = line.split(' ').nth(1).and_then(|number| number.parse().ok());
        assert_eq!(number, Some(next), "the line after {next} is missing, or not whole");
        next += 1;
    }
    assert_eq!(next, 13_000);
    assert!(follower.wait().unwrap().success(), "it ends with the container");
    let files = std::fs::read_dir(node.cluster.data_dir().join("nodes")).unwrap().flatten();
    let rotated = files.flat_map(|of_node| {
        let pods = std::fs::read_dir(of_node.path().join("logs")).unwrap().flatten();
        pods.filter(|pod| pod.file_name().to_string_lossy().starts_with("node_talkative_"))
    });
    let rotated: Vec<_> = rotated.map(|pod| pod.path().join("main/0.log.1")).collect();
    assert!(rotated.len() == 1 && rotated[0].exists(), "{rotated:?}");
}
