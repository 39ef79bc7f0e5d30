//! A machine without nftables: Services are listeners in the agent, names are answered, and who is outside is
//! asked in the machine's name.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use balsa_testkit::{Cluster, Options, get, images, wait_until};

use crate::{Node, PATIENCE, text};

#[test]
fn a_machine_without_nftables_has_services_and_names() {
    let port = TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
    let node = Node::start(Cluster::start(Options::nodes(2).without("nft")), images::busybox("1"));
    node.apply(include_str!("namespace.yaml"));
    node.apply(&include_str!("userspace.yaml").replace("HOST_PORT", &port.to_string()));
    node.ready("client");
    let pods = the_pods(&node);

    each_node_says_that_it_has_listeners(&node);
    a_service_is_reached_by_address_name_and_port(&node, &pods);
    names_lead_to_pods(&node);
    a_port_of_the_machine_leads_to_its_pod(&node, port);
    who_is_outside_sees_the_machine(&node);
    only_who_is_there_is_asked(&node);
    // Which sees to it that neither addresses nor rules are left.
    node.cluster.down();
}

/// The names of the two pods of the Service.
fn the_pods(node: &Node) -> BTreeSet<String> {
    node.cluster
        .balsa([
            "wait",
            "deploy/web",
            "-n",
            "node",
            "--for=jsonpath={.status.readyReplicas}=2",
            "--timeout=120s",
        ])
        .ok();
    let list = node.cluster.read("/api/v1/namespaces/node/pods?labelSelector=app%3Dweb").unwrap();
    list["items"].as_array().unwrap().iter().map(|pod| text(&pod["metadata"]["name"]).to_owned()).collect()
}

fn each_node_says_that_it_has_listeners(node: &Node) {
    for name in node.cluster.node_names() {
        let object = node.cluster.read(&format!("/api/v1/nodes/{name}")).unwrap();
        let way = text(&object["metadata"]["annotations"]["balsa.dev/service-proxy"]);
        assert!(way.starts_with("userspace (") && way.contains("nft"), "and why: {way}");
    }
}

fn a_service_is_reached_by_address_name_and_port(node: &Node, pods: &BTreeSet<String>) {
    let service = node.get("services", "web").unwrap();
    for way in [text(&service["spec"]["clusterIP"]), "web", "web.node.svc.cluster.local"] {
        both_answer(way, pods, || {
            node.run("client", &format!("timeout 5 wget -q -O - http://{way}/")).result()
        });
    }
    let port = &service["spec"]["ports"][0]["nodePort"];
    let machine: SocketAddr = format!("{}:{port}", machine(node)).parse().unwrap();
    both_answer("the node port", pods, || get(machine, "/"));
}

fn both_answer(way: &str, pods: &BTreeSet<String>, ask: impl Fn() -> Result<String, String>) {
    let mut said = BTreeSet::new();
    wait_until(&format!("both pods answer by {way}"), PATIENCE, || {
        said.insert(ask()?.trim().to_owned());
        if said == *pods { Ok(()) } else { Err(format!("{said:?} of {pods:?}")) }
    });
}

fn machine(node: &Node) -> String {
    text(&node.get("pods", "client").unwrap()["status"]["hostIP"]).to_owned()
}

fn names_lead_to_pods(node: &Node) {
    let list = node.cluster.read("/api/v1/namespaces/node/pods?labelSelector=app%3Dweb").unwrap();
    let addresses = list["items"].as_array().unwrap().iter().map(|pod| text(&pod["status"]["podIP"]));
    let said = node.shell("client", "nslookup each.node.svc.cluster.local");
    for address in addresses {
        assert!(said.contains(address), "{address}: {said}");
    }
    let missing = node.run("client", "nslookup missing.node.svc.cluster.local");
    assert!((missing.stdout + &missing.stderr).contains("NXDOMAIN"), "no such name");
    // On either node.
    for pod in &the_pods(node) {
        let said = node.shell(pod, "nslookup kubernetes.default.svc.cluster.local");
        let api = node.cluster.read("/api/v1/namespaces/default/services/kubernetes").unwrap();
        assert!(said.contains(text(&api["spec"]["clusterIP"])), "{said}");
    }
}

fn a_port_of_the_machine_leads_to_its_pod(node: &Node, port: u16) {
    let machine: SocketAddr = format!("{}:{port}", machine(node)).parse().unwrap();
    wait_until("the machine's port leads to the pod", PATIENCE, || {
        let said = get(machine, "/")?;
        if said.trim() == "client" { Ok(()) } else { Err(said) }
    });
}

/// It knows no way back to a pod, so an answer comes only when it was the machine that asked.
fn who_is_outside_sees_the_machine(node: &Node) {
    let _outside = Outside::begin(node.shared());
    let script = format!("timeout 5 wget -q -O - http://{}:7000/cgi-bin/who", Outside::ADDRESS);
    let said = wait_until("who is outside answers", PATIENCE, || node.run("client", &script).result());
    assert_eq!(said.trim(), Outside::GATEWAY);
}

/// A machine outside of the cluster, beside this one: a namespace of its own with a server that tells who asks.
struct Outside {
    name: String,
    server: Option<Child>,
}

impl Outside {
    const GATEWAY: &str = "198.18.77.1";
    const ADDRESS: &str = "198.18.77.2";

    fn begin(folder: &Path) -> Self {
        let script = folder.join("cgi-bin/who");
        std::fs::create_dir(folder.join("cgi-bin")).unwrap();
        std::fs::write(&script, "#!/bin/sh\necho; echo $REMOTE_ADDR\n").unwrap();
        std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        let mut outside = Self { name: format!("balsa-out-{}", std::process::id()), server: None };
        let (name, address, gateway) = (&outside.name, Self::ADDRESS, Self::GATEWAY);
        // One that was killed left its link here.
        Command::new("ip").args(["link", "del", "out77"]).stderr(Stdio::null()).status().ok();
        ip(&format!("netns add {name}"));
        ip(&format!("link add out77 type veth peer name eth0 netns {name}"));
        ip(&format!("addr add {gateway}/30 dev out77"));
        ip("link set out77 up");
        ip(&format!("-n {name} addr add {address}/30 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        let mut server = Command::new("ip");
        server.args(["netns", "exec", name, "busybox", "httpd", "-f", "-p"]);
        server.arg(format!("{address}:7000")).arg("-h").arg(folder);
        outside.server = Some(server.spawn().unwrap());
        outside
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().ok();
            server.wait().ok();
        }
        Command::new("ip").args(["netns", "del", &self.name]).status().ok();
        Command::new("ip").args(["link", "del", "out77"]).status().ok();
    }
}

#[track_caller]
fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Without pods behind it a Service refuses at once, and its listeners are gone with it.
fn only_who_is_there_is_asked(node: &Node) {
    let service = node.get("services", "web").unwrap();
    let machine: SocketAddr =
        format!("{}:{}", machine(node), service["spec"]["ports"][0]["nodePort"]).parse().unwrap();
    node.cluster.balsa(["scale", "deploy/web", "-n", "node", "--replicas=0"]).ok();
    wait_until("nobody listens", PATIENCE, || match get(machine, "/") {
        Err(refused) if refused.contains("refused") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let refused = node.run("client", "timeout 5 wget -q -O - http://web/").fails();
    assert!(refused.contains("refused"), "{refused}");
    node.delete("services", "web");
    let address = text(&service["spec"]["clusterIP"]).to_owned();
    wait_until("its address is gone from the machine", PATIENCE, || {
        let shown = Command::new("ip").args(["-o", "addr", "show", "dev", "lo"]).output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        if shown.contains(&address) { Err(shown) } else { Ok(()) }
    });
}
