//! Logs: after the container is gone, of the life before, and followed while their files rotate.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use balsa_testkit::{Lines, balsa, docker, has_kubectl, kubectl_programs, wait_until};

use crate::{NAMESPACE, Node, PATIENCE, status};

pub(crate) const PODS: &str = include_str!("logs.yaml");

pub(crate) fn acts(node: &Node) {
    a_log_outlives_its_container(node);
    the_life_before_is_told_of(node);
    a_follower_misses_nothing_when_files_rotate(node);
    flags_choose_what_is_told(node);
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

/// What `balsa logs` and `kubectl logs` are asked alike.
type Ask<'a> = Box<dyn Fn(&str) -> String + 'a>;

fn flags_choose_what_is_told(node: &Node) {
    node.ready("duet");
    let ours: Ask<'_> = Box::new(|line| log(node, &line.split(' ').collect::<Vec<_>>()));
    let mut asks = vec![("balsa", ours)];
    let follow = "logs -n node duet -c main -f";
    let mut followers = vec![("balsa".to_owned(), Lines::of(&node.cluster, follow))];
    for program in kubectl_programs() {
        followers.push((program.display().to_string(), Lines::of_program(&program, &node.cluster, follow)));
    }
    if has_kubectl() {
        let words = |line: &str| format!("logs -n {NAMESPACE} {line}");
        let theirs: Ask<'_> = Box::new(move |line| node.cluster.kubectl(words(line).split(' ')).ok());
        asks.push(("kubectl", theirs));
    } else {
        println!("there is no kubectl here: its logs are not looked at");
    }
    for (tool, follower) in &mut followers {
        follower.until(&format!("{tool} tells what is there"), |line| line == "old 3");
    }
    for (tool, ask) in &asks {
        one_of_several_containers(tool, ask);
        lines_of_some_time(tool, ask);
        the_life_before(tool, ask);
    }
    // What is old enough is not told, and what comes now is.
    for (tool, ask) in &asks {
        wait_until(&format!("{tool}: nothing is new"), PATIENCE, || {
            let said = ask("duet -c main --since=2s");
            if said.is_empty() { Ok(()) } else { Err(said) }
        });
    }
    node.shell("duet", "touch /tmp/go");
    for (tool, ask) in &asks {
        let said = wait_until(&format!("{tool}: something is new"), PATIENCE, || {
            let said = ask("duet -c main --since=2s");
            if said.is_empty() { Err("nothing") } else { Ok(said) }
        });
        assert!(said.lines().all(|line| line.starts_with("new ")), "{tool}: {said}");
        assert!(ask("duet -c main --since=1h").starts_with("old 1\nold 2\nold 3\nnew 1\n"), "{tool}");
    }
    for (tool, follower) in &mut followers {
        follower.until(&format!("{tool} tells what comes"), |line| line == "new 3");
    }
    node.shell("duet", "touch /tmp/end");
    for (tool, follower) in followers {
        let (status, lines) = follower.end();
        assert!(status.success(), "{tool} ends with the container: {status}");
        assert_eq!(lines[..4], ["old 1", "old 2", "old 3", "new 1"], "{tool}");
        assert_eq!(lines.last().unwrap(), "the end", "{tool}");
        assert!(
            lines[3..lines.len() - 1].iter().zip(1..).all(|(line, n)| *line == format!("new {n}")),
            "{tool}: {lines:?}"
        );
    }
}

fn one_of_several_containers(tool: &str, ask: &Ask<'_>) {
    let old = "old 1\nold 2\nold 3\n";
    assert_eq!(ask("duet -c side"), "a word aside\n", "{tool}");
    assert_eq!(ask("duet side"), "a word aside\n", "{tool}");
    assert_eq!(ask("duet"), old, "{tool}: the first one, where none is named");
    // kubectl takes the containers in whatever order its map has them.
    let said = ask("duet --all-containers");
    let aside = "a word aside\n";
    assert!(said == format!("{old}{aside}") || said == format!("{aside}{old}"), "{tool}: {said}");
    let said = ask("-l part=duet -c side --prefix");
    assert_eq!(said, "[pod/duet/side] a word aside\n", "{tool}");
}

fn lines_of_some_time(tool: &str, ask: &Ask<'_>) {
    assert_eq!(ask("duet -c main --tail=1"), "old 3\n", "{tool}");
    assert_eq!(ask("duet -c main --tail=0"), "", "{tool}");
    assert_eq!(ask("duet -c main --tail=-1 --limit-bytes=8"), "old 1\nol", "{tool}");
    let said = ask("duet -c main --timestamps --tail=2");
    let (time, text) = said.split_once(' ').unwrap();
    assert!(text.starts_with("old 2\n20") && text.ends_with("Z old 3\n"), "{tool}: {said}");
    // The first line is two seconds older; kubectl asks by whole seconds.
    assert_eq!(ask(&format!("duet -c main --since-time={time}")), "old 2\nold 3\n", "{tool}");
}

fn the_life_before(tool: &str, ask: &Ask<'_>) {
    let said = ask("twice -c main --previous");
    let mut before: Vec<&str> = said.lines().collect();
    before.sort_unstable();
    assert_eq!(before, ["its complaint", "the first life"], "{tool}");
    assert_eq!(ask("twice -c main"), "the second life\n", "{tool}");
    assert_eq!(ask("twice --previous --tail=1").lines().count(), 1, "{tool}");
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
