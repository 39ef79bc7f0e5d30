//! A node's certificate renews itself under an agent that works, and nobody notices when the old one ends. The
//! agent is a process of its own and learns the cluster's addresses from the server.

use std::time::{Duration, Instant};

use balsa_testkit::{Cluster, Options, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);
/// How long certificates are good for.
const LIFE: Duration = Duration::from_secs(40);

#[test]
fn a_certificate_that_ends_is_missed_by_nobody() {
    let life = format!("{}s", LIFE.as_secs());
    let ranges = ["--service-cidr", "10.111.0.0/16", "--cluster-cidr", "10.222.0.0/16"];
    let options = Options::apart(1).with(&["--certificate-life", &life]).with(&ranges);
    let mut cluster = Cluster::start(options);
    let began = Instant::now();
    let certificate = cluster.data_dir().join("nodes").join(cluster.node_name()).join("pki/node.crt");
    let first = std::fs::read_to_string(&certificate).unwrap();

    runs(&cluster, "before");
    let address = cluster.value("default", "pod/before", "{.status.podIP}").unwrap();
    assert!(address.starts_with("10.222."), "as the server says: {address}");
    assert_eq!(shell(&cluster, "before", "echo $KUBERNETES_SERVICE_HOST"), "10.111.0.1\n");

    let second = wait_until("the certificate is renewed", LIFE, || {
        let now = std::fs::read_to_string(&certificate).unwrap_or_default();
        if now == first || now.is_empty() { Err("it is the old one") } else { Ok(now) }
    });
    wait_until("the old one has ended", LIFE, || {
        let left = LIFE.saturating_sub(began.elapsed());
        if left.is_zero() { Ok(()) } else { Err(format!("{left:?} are left")) }
    });
    // Streams, tokens and wishes go on, over old connections and new ones.
    assert_eq!(shell(&cluster, "before", "echo still here"), "still here\n");
    runs(&cluster, "after");
    assert_eq!(cluster.balsa(["logs", "after"]).ok(), "up\n");
    let rows = cluster.balsa(["get", "nodes", "--no-headers"]).ok();
    assert_eq!(rows.split_whitespace().nth(1), Some("Ready"), "{rows}");

    // With what is on disk now an agent starts again, without a token.
    cluster.kill9_agents();
    cluster.restart();
    runs(&cluster, "again");
    assert_ne!(std::fs::read_to_string(&certificate).unwrap(), first);
    assert_ne!(second, first);
    cluster.balsa(["delete", "pods", "--all", "--timeout=60s"]).ok();
    cluster.down();
}

fn shell(cluster: &Cluster, pod: &str, script: &str) -> String {
    cluster.balsa(["exec", pod, "--", "sh", "-c", script]).ok()
}

/// A pod that comes up now.
fn runs(cluster: &Cluster, name: &str) {
    let manifest = format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 1, \
         containers: [{{name: main, image: '{}', imagePullPolicy: Never, command: [sh, -c, 'echo up; sleep 86400']}}]}}}}",
        images::busybox("1")
    );
    wait_until("the pod is taken", PATIENCE, || cluster.balsa_with(["apply", "-f", "-"], &manifest).result());
    cluster.balsa(["wait", &format!("pod/{name}"), "--for=condition=Ready", "--timeout=90s"]).ok();
}
