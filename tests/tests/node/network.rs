//! Services and names as a pod meets them: named ports, one client at one pod, only who is ready, oneself;
//! addresses, ports and host names from the node's resolver; a port of the machine.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};

use balsa_testkit::{get, wait_until};
use serde_json::{Value, json};

use crate::{Node, PATIENCE, pod, text};

pub(crate) const PODS: &str = include_str!("network.yaml");

pub(crate) fn acts(node: &Node) {
    for pod in ["each-0", "each-1", "named"] {
        node.ready(pod);
    }
    ports_have_names(node);
    a_client_stays_with_its_pod(node);
    a_pod_reaches_itself(node);
    endpoints_may_be_written_by_hand(node);
    only_who_is_ready_is_asked(node);
    load_balancers_are_told_where_pods_are(node);
    names_are_answered(node);
    its_resolver_is_configured_as_kubernetes_does(node);
    nodes_of_a_machine_share_its_ports(node);
    who_asks_for_a_port_that_is_taken_is_refused(node);
    the_node_says_how_services_are_reached(node);
}

/// What `url` answers in a pod, asked so many times.
fn asked(node: &Node, from: &str, url: &str, times: usize) -> BTreeSet<String> {
    let script = format!(
        "for i in $(busybox seq {times}); do timeout 5 wget -q -O - http://{url} || echo refused; done"
    );
    node.run(from, &script).stdout.lines().map(str::to_owned).collect()
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

#[track_caller]
fn answers(node: &Node, from: &str, url: &str, times: usize, expected: &[&str]) {
    wait_until(&format!("{from} asks {url} and gets {expected:?}"), PATIENCE, || {
        let said = asked(node, from, url, times);
        if said == set(expected) { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

fn ports_have_names(node: &Node) {
    // Each answers, so both are asked, and across the nodes.
    answers(node, "named", "many-ports/", 12, &["each-0", "each-1"]);
    answers(node, "named", "many-ports:81/", 12, &["admin of each-0", "admin of each-1"]);
}

fn a_client_stays_with_its_pod(node: &Node) {
    wait_until("one client gets answers from one pod", PATIENCE, || {
        let said = asked(node, "named", "loyal/", 12);
        if said.len() == 1 && !said.contains("refused") { Ok(()) } else { Err(format!("{said:?}")) }
    });
}

fn a_pod_reaches_itself(node: &Node) {
    answers(node, "each-0", "itself/", 3, &["each-0"]);
}

/// A Service without a selector leads where somebody says, in the older form of it, too.
fn endpoints_may_be_written_by_hand(node: &Node) {
    let address = text(&node.get("pods", "each-1").unwrap()["status"]["podIP"]).to_owned();
    node.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: by-hand, namespace: node}}, spec: {{ports: [{{port: 80}}]}}}}\n---\n\
         {{apiVersion: v1, kind: Endpoints, metadata: {{name: by-hand, namespace: node}}, subsets: [{{addresses: [{{ip: {address}}}], \
         ports: [{{port: 8080}}]}}]}}\n"
    ));
    answers(node, "named", "by-hand/", 3, &["each-1"]);
    node.delete("endpoints", "by-hand");
    answers(node, "named", "by-hand/", 1, &["refused"]);
}

fn only_who_is_ready_is_asked(node: &Node) {
    node.shell("each-0", "rm /tmp/ready");
    answers(node, "named", "many-ports/", 8, &["each-1"]);
    answers(node, "named", "itself/", 2, &["refused"]);
    answers(node, "named", "nobody/", 2, &["refused"]);
    node.shell("each-0", "touch /tmp/ready");
    answers(node, "named", "many-ports/", 12, &["each-0", "each-1"]);
}

/// Whoever balances load asks each node whether it has pods of a Service that wants to be reached without a detour.
fn load_balancers_are_told_where_pods_are(node: &Node) {
    node.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: balanced, namespace: node}, spec: {type: LoadBalancer, \
         externalTrafficPolicy: Local, selector: {app: each}, ports: [{port: 80, targetPort: http}]}}\n",
    );
    let service = node.get("services", "balanced").unwrap();
    let port = u16::try_from(service["spec"]["healthCheckNodePort"].as_u64().unwrap()).unwrap();
    let machine = text(&node.get("pods", "each-0").unwrap()["status"]["hostIP"]).to_owned();
    let machine: SocketAddr = format!("{machine}:{port}").parse().unwrap();
    let told = |what: &str, is_so: &dyn Fn(&Result<String, String>) -> bool| {
        wait_until(what, PATIENCE, || {
            let said = get(machine, "/");
            if is_so(&said) { Ok(()) } else { Err(format!("{said:?}")) }
        });
    };
    told("both pods are on this machine", &|said| {
        let said: Value = said.as_ref().map_or(Value::Null, |body| serde_json::from_str(body).unwrap());
        said == json!({"service": {"namespace": "node", "name": "balanced"}, "localEndpoints": 2, "serviceProxyHealthy": true})
    });
    for pod in ["each-0", "each-1"] {
        node.shell(pod, "rm /tmp/ready");
    }
    told("none is ready", &|said| {
        said.as_ref().is_err_and(|head| head.contains(" 503 ") && head.contains("-endpoint-weight: 0"))
    });
    for pod in ["each-0", "each-1"] {
        node.shell(pod, "touch /tmp/ready");
    }
    told("they are again", &Result::is_ok);
    node.delete("services", "balanced");
    told("nobody answers for a Service that is gone", &|said| {
        said.as_ref().is_err_and(|error| error.contains("refused"))
    });
    answers(node, "named", "many-ports/", 12, &["each-0", "each-1"]);
}

/// What the resolver says, from a pod.
#[track_caller]
fn looked_up(node: &Node, what: &str, expected: &[&str]) {
    wait_until(&format!("{what} leads to {expected:?}"), PATIENCE, || {
        let said = node.run("named", &format!("nslookup {what}")).stdout;
        if expected.iter().all(|part| said.contains(part)) { Ok(()) } else { Err(said) }
    });
}

fn names_are_answered(node: &Node) {
    let address = |name: &str| text(&node.get("pods", name).unwrap()["status"]["podIP"]).to_owned();
    let (first, second, captain) = (address("each-0"), address("each-1"), address("named"));
    let service = node.get("services", "many-ports").unwrap();
    looked_up(node, "many-ports.node.svc.cluster.local", &[text(&service["spec"]["clusterIP"])]);
    looked_up(node, "each.node.svc.cluster.local", &[&first, &second]);
    looked_up(node, "each-1.each.node.svc.cluster.local", &[&second]);
    looked_up(node, "captain.crew.node.svc.cluster.local", &[&captain]);
    let expected = ["8080", "each-0.each.node.svc.cluster.local", "each-1.each.node.svc.cluster.local"];
    looked_up(node, "-type=srv _http._tcp.each.node.svc.cluster.local", &expected);
    looked_up(node, "-type=srv _admin._tcp.many-ports.node.svc.cluster.local", &["81 many-ports.node"]);
    looked_up(node, "-type=srv _talk._udp.crew.node.svc.cluster.local", &["7777 captain.crew.node"]);
    let missing = node.run("named", "nslookup missing.node.svc.cluster.local");
    assert!((missing.stdout + &missing.stderr).contains("NXDOMAIN"), "no such name");
    assert_eq!(node.shell("named", "hostname"), "captain");
    let hosts = node.shell("named", "cat /etc/hosts");
    assert!(hosts.contains(&format!("{captain}\tcaptain.crew.node.svc.cluster.local\tcaptain")), "{hosts}");
}

fn its_resolver_is_configured_as_kubernetes_does(node: &Node) {
    let text = node.shell("named", "cat /etc/resolv.conf");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.contains(&"options ndots:5"), "{text}");
    let search = lines.iter().find(|line| line.starts_with("search ")).expect(&text);
    assert!(search.starts_with("search node.svc.cluster.local svc.cluster.local cluster.local"), "{text}");
    let servers: Vec<_> = lines.iter().filter(|line| line.starts_with("nameserver ")).collect();
    assert!(servers.len() == 1 && servers[0].ends_with(".0.10"), "the cluster's, and no other: {text}");
}

/// A port of the machine goes to one pod, on whichever of the machine's nodes.
fn nodes_of_a_machine_share_its_ports(node: &Node) {
    let port = TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
    let more = json!({"ports": [{"containerPort": 8080, "hostPort": port}]});
    let script = "hostname > /www/index.html; exec httpd -f -p 8080 -h /www";
    node.apply(&pod("at-the-port", "IMAGE", script, &more));
    let first = node.ready("at-the-port");
    let machine: SocketAddr = format!("{}:{port}", text(&first["status"]["hostIP"])).parse().unwrap();
    wait_until("the machine's port leads to the pod", PATIENCE, || {
        let said = get(machine, "/")?;
        if said.trim() == "at-the-port" { Ok(()) } else { Err(said) }
    });
    node.apply(&pod("too-late", "IMAGE", script, &more));
    let second = node.pod("too-late", "has no node", |pod| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "PodScheduled" && c["status"] == "False")
    });
    let said: Vec<&Value> = second["status"]["conditions"].as_array().unwrap().iter().collect();
    let why = "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.";
    assert!(said.iter().any(|condition| text(&condition["message"]).starts_with(why)), "{said:?}");
    node.delete("pods", "at-the-port");
    node.ready("too-late");
    wait_until("the port goes to the one that waited", PATIENCE, || {
        let said = get(machine, "/")?;
        if said.trim() == "too-late" { Ok(()) } else { Err(said) }
    });
    node.delete("pods", "too-late");
}

/// Pods that name their node are seen by no scheduler: their agents refuse what cannot be, on either node.
fn who_asks_for_a_port_that_is_taken_is_refused(node: &Node) {
    let port = TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
    let apply = |name: &str, on: &str| {
        let more = json!({"nodeName": on, "ports": [{"containerPort": 8080, "hostPort": port}]});
        node.apply(&pod(name, "IMAGE", "hostname > /www/index.html; exec httpd -f -p 8080 -h /www", &more));
    };
    let nodes = node.cluster.node_names();
    apply("has-it", &nodes[0]);
    let first = node.ready("has-it");
    for (name, on) in [("beside-it", &nodes[0]), ("next-door", &nodes[1])] {
        apply(name, on);
        let refused = node.pod(name, "is refused", |pod| pod["status"]["phase"] == "Failed");
        let why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        assert_eq!(refused["status"]["reason"], "NodePorts");
        assert_eq!(refused["status"]["message"], format!("Pod was rejected: {why}"));
        node.event(name, &format!("NodePorts: {why}"));
        assert!(node.containers(name).is_empty(), "it has never begun");
    }
    let machine: SocketAddr = format!("{}:{port}", text(&first["status"]["hostIP"])).parse().unwrap();
    wait_until("the port leads to who has it", PATIENCE, || {
        let said = get(machine, "/")?;
        if said.trim() == "has-it" { Ok(()) } else { Err(said) }
    });
    node.delete("pods", "has-it");
    apply("comes-after", &nodes[1]);
    node.ready("comes-after");
    for name in ["comes-after", "beside-it", "next-door"] {
        node.delete("pods", name);
    }
}

fn the_node_says_how_services_are_reached(node: &Node) {
    for name in node.cluster.node_names() {
        let object = node.cluster.read(&format!("/api/v1/nodes/{name}")).unwrap();
        assert_eq!(object["metadata"]["annotations"]["balsa.dev/service-proxy"], "nftables", "{name}");
        let shown = node.cluster.balsa(["get", "node", &name, "-o", "yaml"]).ok();
        assert!(shown.contains("balsa.dev/service-proxy: nftables"), "{shown}");
    }
}
