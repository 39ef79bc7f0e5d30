//! Two clusters of two nodes each on one machine: neither notices the other, pods of one reach each other
//! across its nodes by address, service and name, and taking one away leaves the other as it was. The last one takes
//! the image of its sandboxes along.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use balsa_testkit::{Cluster, Footprint, Options, Steady, docker, get, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn two_clusters_share_a_machine() {
    let image = images::busybox("1");
    // Of somebody else, whatever they are called.
    let others = ["balsa/pause:of-somebody-else", "somebody/else:1"];
    for name in others {
        docker(["tag", image.as_str(), name]).ok();
    }
    let first = Cluster::start(Options::nodes(2));
    an_application_on_each_node(&first, &image);
    let before = Footprint::take();
    let second = first.beside(Options::nodes(2));
    an_application_on_each_node(&second, &image);

    their_addresses_are_their_own(&first, &second);
    for cluster in [&first, &second] {
        pods_reach_each_other_across_nodes(cluster);
        names_lead_to_services_on_every_node(cluster);
    }
    let address = node_port(&first);
    assert_ne!(address, node_port(&second));
    wait_until("the first answers", PATIENCE, || get(address, "/"));

    let steady = Steady::start(address, "/", 50);
    // `down` itself sees to it that nothing of the second is left.
    let kept = Kept::of(&first);
    second.down();
    assert_eq!(before.since(&Footprint::take()), [""; 0], "the second took something of the first with it");
    assert!(is_here(PAUSE), "the first one's pods are made of it");
    kept.is_still_so(&first);
    pods_reach_each_other_across_nodes(&first);
    names_lead_to_services_on_every_node(&first);
    let tally = steady.stop();
    assert!(tally.failed.is_empty() && tally.answered > 20, "{tally:?}");
    first.down();
    the_pause_image_goes_with_the_last_cluster(&image, &others);
}

/// What every sandbox runs. Balsa makes it, so Balsa takes it away.
const PAUSE: &str = "balsa/pause:1";

fn is_here(image: &str) -> bool {
    docker(["image", "inspect", image]).code == 0
}

/// Containers of somebody else's, who is not at home in these suites, would keep it: then that is so.
fn the_pause_image_goes_with_the_last_cluster(image: &str, others: &[&str]) {
    let users = docker(["ps", "-aq", "--filter", &format!("ancestor={PAUSE}")]).ok();
    assert!(!is_here(PAUSE) || !users.is_empty(), "nobody needs {PAUSE} any more");
    for other in others.iter().chain([&image]) {
        assert!(is_here(other), "{other} was not Balsa's to remove");
    }
    for name in others {
        docker(["rmi", name]).ok();
    }
}

/// What must not change when another cluster goes.
#[derive(Debug, PartialEq)]
struct Kept {
    restarts: String,
    addresses: String,
}

impl Kept {
    fn of(cluster: &Cluster) -> Self {
        Self {
            restarts: every_pod(cluster, ".status.containerStatuses[0].restartCount").join(" "),
            addresses: every_pod(cluster, ".status.podIP").join(" "),
        }
    }

    #[track_caller]
    fn is_still_so(&self, cluster: &Cluster) {
        assert_eq!(*self, Self::of(cluster));
    }
}

fn an_application_on_each_node(cluster: &Cluster, image: &str) {
    let first_node = cluster.node_names().remove(0);
    cluster.apply(&include_str!("web.yaml").replace("IMAGE", image));
    cluster.balsa(["wait", "deploy/web", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=180s"]).ok();
    let mut nodes = every_pod(cluster, ".spec.nodeName");
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes.len(), 2, "a pod on each node");
    assert!(nodes.contains(&first_node), "{nodes:?}");
}

fn their_addresses_are_their_own(first: &Cluster, second: &Cluster) {
    assert_eq!(first.node_names(), second.node_names(), "nodes have the same names, to make it hard");
    let addresses = |cluster: &Cluster| {
        let mut all = every_pod(cluster, ".status.podIP");
        all.push(cluster.value("default", "service/web", "{.spec.clusterIP}").unwrap());
        all.push(cluster.value("default", "service/kubernetes", "{.spec.clusterIP}").unwrap());
        all.push(cluster.value("default", "service/web", "{.spec.ports[0].nodePort}").unwrap());
        all
    };
    let (ours, theirs) = (addresses(first), addresses(second));
    assert!(ours.iter().all(|address| !theirs.contains(address)), "{ours:?} {theirs:?}");
}

fn pods_reach_each_other_across_nodes(cluster: &Cluster) {
    let addresses = every_pod(cluster, ".status.podIP");
    for from in every_pod(cluster, ".metadata.name") {
        for to in &addresses {
            let said = ask(cluster, &from, &format!("http://{to}:8080/"));
            assert!(said.starts_with("I am web-"), "{from} asks {to}: {said}");
        }
    }
}

/// From each node both pods answer, so the service reaches across nodes, and so does its name.
fn names_lead_to_services_on_every_node(cluster: &Cluster) {
    let pods = every_pod(cluster, ".metadata.name");
    for from in &pods {
        for name in ["web", "web.default.svc.cluster.local"] {
            for to in &pods {
                wait_until(&format!("{from} reaches {to} by {name}"), PATIENCE, || {
                    let said = ask(cluster, from, &format!("http://{name}/"));
                    if said.trim() == format!("I am {to}") { Ok(()) } else { Err(said) }
                });
            }
        }
        // Which address of a headless service comes first is the client's to decide: all are told.
        let told = cluster.balsa(["exec", from, "--", "nslookup", "each.default.svc.cluster.local"]);
        let addresses = every_pod(cluster, ".status.podIP");
        assert!(addresses.iter().all(|address| told.stdout.contains(address)), "{told}");
    }
}

fn node_port(cluster: &Cluster) -> SocketAddr {
    let port = cluster.value("default", "service/web", "{.spec.ports[0].nodePort}").unwrap();
    format!("127.0.0.1:{port}").parse().unwrap()
}

fn every_pod(cluster: &Cluster, field: &str) -> Vec<String> {
    let path = format!("{{.items[*]{field}}}");
    let found = cluster.value("default", "pods", &path).unwrap();
    found.split_whitespace().map(str::to_owned).collect()
}

fn ask(cluster: &Cluster, pod: &str, url: &str) -> String {
    cluster.balsa(["exec", pod, "--", "timeout", "5", "wget", "-q", "-O", "-", url]).stdout
}
