//! An agent by itself that is asked to stop, as an upgrade of its package does: it ends at once, also while somebody
//! follows a log through it; its containers run on, and the next one takes them up with all that they wrote meanwhile.

use std::time::Duration;

use balsa_testkit::{Cluster, Lines, Options, containers, docker, images, wait_until};

use crate::{NAMESPACE, PATIENCE, PODS, apply, items, put_away, running};

/// Far more than it takes, on a machine that does other things too, and less than any timeout of ours.
const SOON: Duration = Duration::from_secs(8);

#[test]
fn an_agent_that_is_asked_to_stop_leaves_its_containers_running() {
    let image = images::busybox("1");
    let mut cluster = Cluster::start(Options::apart(1));
    apply(&cluster, &image);
    cluster.apply(&COUNTER.replace("IMAGE", &image));
    cluster.balsa(["wait", "pod/counter", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s"]).ok();
    let before = running(&cluster);
    let mut follower = Lines::of(&cluster, "logs -n adoption counter -f");
    follower.until("it counts", |line| line == "3");

    let (status, took) = cluster.ask_agent_to_stop("e2e-1");
    assert!(status.success() && took < SOON, "{status} after {took:?}");
    let (followed, lines) = follower.end();
    assert!(
        !followed.success(),
        "the log goes on, and the follower is told that it does not see it: {lines:?}"
    );
    assert_eq!(running(&cluster), before, "the containers run on");
    let marked = "touch /tmp/meanwhile; until [ -e /tmp/told ]; do sleep 0.1; done";
    let counter = before.iter().find(|one| one.pod == "counter" && one.name == "counter").unwrap();
    docker(["exec", counter.id.as_str(), "sh", "-c", marked]).ok();

    cluster.restart();
    assert_eq!(running(&cluster), before, "none was started anew");
    for pod in items(&cluster, PODS).unwrap() {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
        assert_eq!(pod["status"]["phase"], "Running", "{pod}");
    }
    // All of it, from before, from meanwhile, and from after; once.
    let log = wait_until("it counts on, and is heard", PATIENCE, || {
        let log = cluster.balsa(["logs", "-n", NAMESPACE, "counter"]).result()?;
        let at = log.lines().position(|line| line == "meanwhile").ok_or_else(|| log.clone())?;
        if log.lines().count() > at + 20 { Ok(log) } else { Err(log) }
    });
    let numbers: Vec<u32> = log.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.iter().zip(1..).all(|(told, wanted)| *told == wanted), "{log}");
    // It does all that an agent does: commands, and the ends of pods.
    let said = cluster.balsa(["exec", "-n", NAMESPACE, "counter", "--", "ls", "/tmp"]).ok();
    assert_eq!(said, "meanwhile\ntold\n");
    cluster.balsa(["delete", "pod", "counter", "-n", NAMESPACE, "--timeout=60s"]).ok();
    let left = containers(&cluster.node_name(), NAMESPACE);
    assert!(left.iter().all(|one| one.pod != "counter"), "{left:?}");
    put_away(cluster);
}

const COUNTER: &str = "apiVersion: v1
kind: Pod
metadata: {name: counter, namespace: adoption}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: counter
    image: IMAGE
    imagePullPolicy: Never
    command:
    - sh
    - -c
    - |
      i=0
      while true; do
        i=$((i + 1)); echo $i
        if [ -e /tmp/meanwhile -a ! -e /tmp/told ]; then echo meanwhile; touch /tmp/told; fi
        sleep 0.1
      done
";
