//! A cluster lives in the addresses and ports that it is given: its pods, its Services and its node ports.

use std::net::{Ipv4Addr, SocketAddr};

use balsa_testkit::{Cluster, Options, get, images, wait_until};
use serde_json::Value;

use crate::{PATIENCE, ok};

/// Nobody's defaults. What the flag says counts, not what the file says.
const FILE: &str =
    "service-cidr: 10.123.0.0/16\ncluster-cidr: 10.121.0.0/16\nservice-node-port-range: 28500-28509\n";
const SERVICES: (&str, u32) = ("10.122.16.0", 20);
const PODS: (&str, u32) = ("10.121.0.0", 16);
const PORTS: std::ops::RangeInclusive<u16> = 28500..=28509;

const WEB: &str = "apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: IMAGE, imagePullPolicy: Never, command: [sh, -c, echo here > /www/index.html; exec httpd -f -p 8080 -h /www]}
---
apiVersion: v1
kind: Service
metadata: {name: site}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

#[test]
fn a_cluster_lives_in_the_ranges_that_it_is_given() {
    let image = images::busybox("1");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("balsa.yaml");
    std::fs::write(&file, FILE).unwrap();
    let words = ["--config", file.to_str().unwrap(), "--service-cidr", "10.122.16.0/20"];
    let cluster = Cluster::start(Options::nodes(1).with(&words));

    what_every_cluster_has_is_there(&cluster);
    cluster.apply(&WEB.replace("IMAGE", &image));
    ok(&cluster, "wait pod/web --for=condition=Ready --timeout=60s");
    let address = value(&cluster, "pod/web", "{.status.podIP}");
    assert!(is_in(&address, PODS), "the pod has {address}");
    let address = value(&cluster, "service/site", "{.spec.clusterIP}");
    assert!(is_in(&address, SERVICES), "the Service has {address}");
    let port: u16 = value(&cluster, "service/site", "{.spec.ports[0].nodePort}").parse().unwrap();
    assert!(PORTS.contains(&port), "the Service has port {port}");
    all_of_it_leads_to_the_pod(&cluster, &address, port);
    others_are_refused(&cluster);
    the_ranges_are_those_of_the_cluster(&cluster);
    cluster.down();
}

fn what_every_cluster_has_is_there(cluster: &Cluster) {
    // The node may be ready before the leader has made it.
    let there = || cluster.balsa(["get", "service/kubernetes"]).result();
    wait_until("the API has its Service", PATIENCE, there);
    // The first address and the tenth.
    assert_eq!(value(cluster, "service/kubernetes", "{.spec.clusterIP}"), "10.122.16.1");
    let dns = "get svc kube-dns -n kube-system -o jsonpath={.spec.clusterIP}";
    assert_eq!(ok(cluster, dns), "10.122.16.10");
    assert_eq!(value(cluster, "servicecidr/kubernetes", "{.spec.cidrs[0]}"), "10.122.16.0/20");
    let node = value(cluster, "nodes", "{.items[0].spec.podCIDR}");
    assert!(node.ends_with("/24") && is_in(node.trim_end_matches("/24"), PODS), "the node has {node}");
}

fn all_of_it_leads_to_the_pod(cluster: &Cluster, address: &str, port: u16) {
    let node_port = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let told = wait_until("the node's port answers", PATIENCE, || get(node_port, "/"));
    assert_eq!(told, "here\n");
    for host in [address, "site", "site.default.svc.cluster.local"] {
        let url = format!("http://{host}/");
        wait_until(&format!("the pod is reached by {host}"), PATIENCE, || {
            cluster.balsa(["exec", "web", "--", "timeout", "5", "wget", "-q", "-O", "-", &url]).result()
        });
    }
    let told = ok(cluster, "exec web -- cat /etc/resolv.conf");
    assert!(told.contains("nameserver 10.122.16.10"), "{told}");
    let told = ok(cluster, "exec web -- env");
    assert!(told.contains("KUBERNETES_SERVICE_HOST=10.122.16.1\n"), "{told}");
}

fn others_are_refused(cluster: &Cluster) {
    let service = |spec: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: other}}\nspec: {{ports: [{{port: 80, {spec}"
        );
        cluster.balsa_with(["apply", "-f", "-"], &text).fails()
    };
    let said = service("}], clusterIP: 10.96.0.77}");
    assert!(said.contains("The range of valid IPs is 10.122.16.0/20"), "{said}");
    let said = service("nodePort: 30080}], type: NodePort}");
    assert!(said.contains("The range of valid ports is 28500-28509"), "{said}");
}

/// They are written down: a command line that says nothing takes the same.
fn the_ranges_are_those_of_the_cluster(cluster: &Cluster) {
    let kept = std::fs::read_to_string(cluster.data_dir().join("ranges.yaml")).unwrap();
    let kept: Value = serde_yaml_ng::from_str(&kept).unwrap();
    assert_eq!(kept["service-cidr"], "10.122.16.0/20");
    assert_eq!(kept["cluster-cidr"], "10.121.0.0/16");
    assert_eq!(kept["service-node-port-range"], "28500-28509");
}

fn value(cluster: &Cluster, object: &str, path: &str) -> String {
    cluster.value("default", object, path).unwrap()
}

fn is_in(address: &str, (network, length): (&str, u32)) -> bool {
    let bits = |text: &str| u32::from(text.parse::<Ipv4Addr>().unwrap()) >> (32 - length);
    bits(address) == bits(network)
}
