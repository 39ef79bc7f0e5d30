//! Containers are what their pod says: arguments, environment, limits, who they are and what they may, in
//! what order they start and how they end.

use std::time::{Duration, Instant};

use balsa_testkit::{docker, wait_until};
use serde_json::Value;

use crate::{Node, PATIENCE, status, text};

/// The pods of these acts.
pub(crate) const PODS: &str = include_str!("containers.yaml");

pub(crate) fn acts(node: &Node) {
    its_words_arrive(node);
    its_containers_share_network_and_memory(node);
    it_gets_what_it_may_have(node);
    it_carries_the_labels_that_others_look_for(node);
    it_is_who_it_says(node);
    slow_ones_are_waited_for_and_failing_ones_start_again(node);
    a_step_that_fails_is_not_done_twice(node);
    it_ends_in_good_order(node);
    hooks_are_requests_and_sleeps_too(node);
    it_is_asked_by_grpc(node);
}

fn its_words_arrive(node: &Node) {
    let pod = node.ready("described");
    assert_eq!(node.shell("described", "cat /scratch/order"), "one\ntwo", "init containers in their order");
    let seen = node.shell("described", "cat /scratch/arguments");
    assert_eq!(seen, "good morning,$(GREETING),$(NOBODY)", "$$ is a dollar sign, an unknown name stays");
    assert_eq!(node.shell("described", "pwd"), "/scratch");
    let names = ["LONGER", "MY_COLOUR", "MY_SIZE", "PASSWORD", "COLOUR", "PASS", "LABEL", "NODE", "MEMORY"];
    let script: String = names.iter().map(|name| format!("echo \"${name}\"; ")).collect();
    let seen = node.shell("described", &script);
    let expected = [
        "good morning, purple kite",
        "purple",
        "large",
        "correct horse",
        "purple",
        "correct horse",
        "described",
        text(&pod["spec"]["nodeName"]),
        "64",
    ];
    assert_eq!(seen.lines().collect::<Vec<_>>(), expected);
    for kind in ["SandboxChanged", "Failed"] {
        assert!(!node.events("described").iter().any(|event| event.starts_with(kind)));
    }
}

fn its_containers_share_network_and_memory(node: &Node) {
    assert_eq!(node.shell("described", "wget -q -O - http://127.0.0.1:7000/"), "beside");
    assert_eq!(node.shell("described", "cat /dev/shm/from-beside"), "hello", "one IPC namespace");
    let sandbox = node.container("described", "POD");
    let image = docker(["inspect", "-f", "{{.Config.Image}}", &sandbox.id]).ok();
    assert_eq!(image.trim(), "balsa/pause:1", "made here, never pulled");
}

fn it_gets_what_it_may_have(node: &Node) {
    let id = node.container("described", "main").id;
    let format =
        "{{.HostConfig.Memory}} {{.HostConfig.CpuQuota}} {{.HostConfig.CpuPeriod}} {{.HostConfig.CpuShares}}";
    let limits = docker(["inspect", "-f", format, &id]).ok();
    assert_eq!(limits.trim(), format!("{} 25000 100000 102", 64 << 20));
}

fn it_carries_the_labels_that_others_look_for(node: &Node) {
    let pod = node.get("pods", "described").unwrap();
    for name in ["main", "POD"] {
        let id = node.container("described", name).id;
        let labels = docker(["inspect", "-f", "{{json .Config.Labels}}", &id]).ok();
        let labels: Value = serde_json::from_str(&labels).unwrap();
        for (label, expected) in [
            ("io.kubernetes.pod.name", "described"),
            ("io.kubernetes.pod.namespace", crate::NAMESPACE),
            ("io.kubernetes.pod.uid", text(&pod["metadata"]["uid"])),
            ("io.kubernetes.container.name", name),
            ("balsa.dev/node", text(&pod["spec"]["nodeName"])),
        ] {
            assert_eq!(labels[label], expected, "{label} of {labels}");
        }
    }
}

fn it_is_who_it_says(node: &Node) {
    node.ready("confined");
    let seen =
        node.shell("confined", "id -u; id -g; id -G; grep -E '^(CapBnd|NoNewPrivs)' /proc/self/status");
    let seen: Vec<String> =
        seen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let mut groups: Vec<&str> = seen[2].split(' ').collect();
    groups.sort_unstable();
    assert_eq!((seen[0].as_str(), seen[1].as_str(), groups), ("1000", "2000", vec!["2000", "3000", "4000"]));
    assert_eq!(seen[3], "CapBnd: 0000000000000400", "CAP_NET_BIND_SERVICE and nothing else");
    assert_eq!(seen[4], "NoNewPrivs: 1");
    let refused = node.run("confined", "touch /somewhere").fails();
    assert!(refused.contains("Read-only file system"), "{refused}");
    let seen = node.shell("confined", "touch /scratch/mine && stat -c '%u %g' /scratch/mine");
    assert_eq!(seen, "1000 3000", "the volume is its group's");

    // Whether it also starts is this machine's to say: one that has not got all capabilities gives none away.
    wait_until("Docker is asked for a privileged container", PATIENCE, || {
        let of_pod = ["label=io.kubernetes.pod.name=privileged", "label=io.kubernetes.container.name=main"];
        let ids = docker(["ps", "-aq", "--filter", of_pod[0], "--filter", of_pod[1]]).result()?;
        let id = ids.lines().next().ok_or("no container yet")?;
        let told = docker(["inspect", "-f", "{{.HostConfig.Privileged}}", id]).result()?;
        if told.trim() == "true" { Ok(()) } else { Err(told) }
    });

    let pod = node.waits("not-as-root", "CreateContainerConfigError");
    let why = text(&status(&pod)["state"]["waiting"]["message"]);
    assert!(why.starts_with("container has runAsNonRoot and image will run as root"), "{why}");
}

fn slow_ones_are_waited_for_and_failing_ones_start_again(node: &Node) {
    let pod = node.ready("slow-to-start");
    assert_eq!(status(&pod)["restartCount"], 0, "no probe ended it before it was up");
    let pod = node.pod("crashing", "waits to be started again", |pod| {
        status(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff" && status(pod)["restartCount"] != 0
    });
    let last = &status(&pod)["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], text(&last["message"])), (&3.into(), "it was me\n"));
    node.event("crashing", "BackOff: Back-off restarting failed container main");
    let path = "/api/v1/namespaces/node/events?fieldSelector=involvedObject.name%3Dcrashing";
    wait_until("what happens again is counted", PATIENCE, || {
        let events = node.cluster.read(path)?["items"].clone();
        let counted = |event: &Value| event["count"].as_i64() >= Some(2);
        if events.as_array().is_some_and(|all| all.iter().any(counted)) {
            Ok(())
        } else {
            Err(events.to_string())
        }
    });
}

/// What may not start again does not, be it before the work itself.
fn a_step_that_fails_is_not_done_twice(node: &Node) {
    let pod = node.pod("tries-once", "has failed", |pod| pod["status"]["phase"] == "Failed");
    assert_eq!(pod["status"]["initContainerStatuses"][0]["restartCount"], 0, "{}", pod["status"]);
    assert_eq!(std::fs::read_to_string(node.shared().join("tries")).unwrap(), "tried\n");
}

fn it_ends_in_good_order(node: &Node) {
    node.ready("polite");
    node.ready("deaf");
    let began = Instant::now();
    node.delete("pods", "polite");
    assert!(began.elapsed() < Duration::from_secs(25), "it did not wait for its whole grace period");
    let order = std::fs::read_to_string(node.shared().join("order")).unwrap();
    assert_eq!(order, "started\nhook\nasked\n");
    node.delete("pods", "deaf");
    assert!(node.containers("deaf").is_empty(), "it was killed, as it did not listen");
}

fn hooks_are_requests_and_sleeps_too(node: &Node) {
    node.ready("hooked");
    let hooks = node.shared().join("hooks");
    assert_eq!(
        std::fs::read_to_string(&hooks).unwrap(),
        "first\nsecond\n",
        "each after its container's start"
    );
    let began = Instant::now();
    node.delete("pods", "hooked");
    assert!(began.elapsed() >= Duration::from_secs(3), "the sleep was slept");
    assert!(began.elapsed() < Duration::from_secs(25), "and not the whole grace period");
    assert_eq!(std::fs::read_to_string(&hooks).unwrap(), "first\nsecond\nends\nasked\n");
    node.event("unheard", "FailedPostStartHook: ");
}

fn it_is_asked_by_grpc(node: &Node) {
    node.event(
        "asked-by-grpc",
        "Unhealthy: Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")",
    );
    let kite = node.shared().join("kite");
    std::fs::write(&kite, "flies").unwrap();
    let pod = node.ready("asked-by-grpc");
    assert_eq!(status(&pod)["restartCount"], 0, "{pod}");
    std::fs::remove_file(&kite).unwrap();
    node.pod("asked-by-grpc", "is not ready any more", |pod| status(pod)["ready"] == false);
    node.pod("unknown-to-grpc", "is started again", |pod| status(pod)["restartCount"] != 0);
    node.event("unknown-to-grpc", "Liveness probe failed: health rpc failed");
}
