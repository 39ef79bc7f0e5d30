//! What a cluster has from the start, before anybody has made anything: the list that clients count on, one by one.

use balsa_testkit::{Cluster, Options, has_kubectl, wait_until};
use serde_json::{Value, json};

use crate::PATIENCE;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ROLE: &str = "node-role.kubernetes.io/control-plane";

#[test]
fn a_cluster_has_from_the_start_what_clients_count_on() {
    let mut cluster = Cluster::start(Options::nodes(2));
    namespaces_with_what_each_has(&cluster);
    services_that_lead_to_the_cluster_itself(&cluster);
    roles_and_who_has_them(&cluster);
    classes_and_configuration(&cluster);
    for node in cluster.node_names() {
        a_node_says_what_it_is(&cluster, &node);
    }
    what_is_said_of_a_node_stays(&mut cluster);
    cluster.down();
}

/// What is at a path, sooner or later: controllers make some of it.
#[track_caller]
fn there(cluster: &Cluster, path: &str) -> Value {
    wait_until(&format!("{path} is there"), PATIENCE, || cluster.read(path))
}

fn namespaces_with_what_each_has(cluster: &Cluster) {
    let ca =
        there(cluster, "/api/v1/namespaces/default/configmaps/kube-root-ca.crt")["data"]["ca.crt"].clone();
    assert!(ca.as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"), "{ca}");
    for name in NAMESPACES {
        let place = format!("/api/v1/namespaces/{name}");
        let namespace = there(cluster, &place);
        assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], name);
        assert_eq!(namespace["status"]["phase"], "Active");
        there(cluster, &format!("{place}/serviceaccounts/default"));
        assert_eq!(there(cluster, &format!("{place}/configmaps/kube-root-ca.crt"))["data"]["ca.crt"], ca);
    }
    let all = cluster.read("/api/v1/namespaces").unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), NAMESPACES.len(), "{all}");
}

fn services_that_lead_to_the_cluster_itself(cluster: &Cluster) {
    let default = "/api/v1/namespaces/default";
    let api = there(cluster, &format!("{default}/services/kubernetes"));
    let port = &api["spec"]["ports"][0];
    assert_eq!(
        (&port["name"], &port["port"], &port["targetPort"]),
        (&json!("https"), &json!(443), &json!(port_of(cluster)))
    );
    assert_eq!(api["metadata"]["labels"]["component"], "apiserver");
    let endpoints = &there(cluster, &format!("{default}/endpoints/kubernetes"))["subsets"][0];
    assert_eq!(endpoints["ports"][0]["port"], port_of(cluster));
    let slice = there(cluster, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes");
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "kubernetes");
    assert_eq!(slice["endpoints"][0]["addresses"][0], endpoints["addresses"][0]["ip"]);
    assert_eq!(
        (&slice["ports"][0]["port"], &slice["ports"][0]["name"]),
        (&json!(port_of(cluster)), &json!("https"))
    );

    let dns = there(cluster, "/api/v1/namespaces/kube-system/services/kube-dns");
    assert_eq!(dns["metadata"]["labels"]["k8s-app"], "kube-dns");
    let ports: Vec<_> = dns["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| (&port["name"], &port["port"], &port["protocol"]))
        .collect();
    assert_eq!(json!(ports), json!([["dns", 53, "UDP"], ["dns-tcp", 53, "TCP"], ["metrics", 9153, "TCP"]]));
}

fn port_of(cluster: &Cluster) -> u16 {
    cluster.address().rsplit(':').next().unwrap().parse().unwrap()
}

fn roles_and_who_has_them(cluster: &Cluster) {
    let role = |name: &str| there(cluster, &format!("{RBAC}/clusterroles/{name}"));
    let everything = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]);
    assert_eq!(role("cluster-admin")["rules"], everything);
    for (name, label) in [("admin", "admin"), ("edit", "edit"), ("view", "view")] {
        let selector = &role(name)["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{label}");
        assert_eq!(selector[&label], "true", "{name} is put together");
        wait_until(&format!("{name} has rules"), PATIENCE, || match &role(name)["rules"] {
            Value::Array(rules) if !rules.is_empty() => Ok(()),
            other => Err(other.to_string()),
        });
    }
    for name in [
        "system:discovery",
        "system:basic-user",
        "system:public-info-viewer",
        "system:node",
        "system:kube-scheduler",
    ] {
        assert!(!role(name)["rules"].as_array().unwrap().is_empty(), "{name}");
    }
    for (binding, role, group) in [
        ("cluster-admin", "cluster-admin", "system:masters"),
        ("system:discovery", "system:discovery", "system:authenticated"),
        ("system:basic-user", "system:basic-user", "system:authenticated"),
        ("system:public-info-viewer", "system:public-info-viewer", "system:unauthenticated"),
    ] {
        let found = there(cluster, &format!("{RBAC}/clusterrolebindings/{binding}"));
        assert_eq!(found["roleRef"]["name"], role, "{found}");
        let subjects = found["subjects"].as_array().unwrap();
        assert!(
            subjects.iter().any(|subject| subject["kind"] == "Group" && subject["name"] == group),
            "{found}"
        );
    }
}

fn classes_and_configuration(cluster: &Cluster) {
    for (name, value) in [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)]
    {
        assert_eq!(
            there(cluster, &format!("/apis/scheduling.k8s.io/v1/priorityclasses/{name}"))["value"],
            value
        );
    }
    let flow_control = "/apis/flowcontrol.apiserver.k8s.io/v1";
    for (name, level) in
        [("exempt", "exempt"), ("catch-all", "catch-all"), ("service-accounts", "workload-low")]
    {
        let schema = there(cluster, &format!("{flow_control}/flowschemas/{name}"));
        assert_eq!(schema["spec"]["priorityLevelConfiguration"]["name"], level);
        there(cluster, &format!("{flow_control}/prioritylevelconfigurations/{level}"));
    }
    let classes = cluster.read("/apis/storage.k8s.io/v1/storageclasses").unwrap();
    let classes = classes["items"].as_array().unwrap();
    let is_default = "storageclass.kubernetes.io/is-default-class";
    let defaults = classes.iter().filter(|class| class["metadata"]["annotations"][is_default] == "true");
    assert_eq!(defaults.count(), 1, "{classes:?}");
    let authentication = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let ca = &there(cluster, authentication)["data"]["client-ca-file"];
    assert!(ca.as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"), "{ca}");
}

fn a_node_says_what_it_is(cluster: &Cluster, name: &str) {
    let node = cluster.read(&format!("/api/v1/nodes/{name}")).unwrap();
    let labels = &node["metadata"]["labels"];
    for (label, value) in [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        (ROLE, ""),
        ("node.kubernetes.io/instance-type", "balsa"),
        ("topology.kubernetes.io/region", "default"),
        ("topology.kubernetes.io/zone", "default"),
    ] {
        assert_eq!(labels[label], value, "{label} of {labels}");
    }
    assert!(["amd64", "arm64"].contains(&labels["kubernetes.io/arch"].as_str().unwrap()), "{labels}");
    // A machine alone takes pods.
    assert!(node["spec"]["taints"].as_array().is_none_or(Vec::is_empty), "{}", node["spec"]);
    let status = &node["status"];
    for resource in ["cpu", "memory", "pods", "ephemeral-storage"] {
        for amounts in ["capacity", "allocatable"] {
            assert!(status[amounts][resource].is_string(), "{amounts} of {resource}: {}", status[amounts]);
        }
    }
    let of_type = |list: &str| -> Vec<&str> {
        status[list].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect()
    };
    assert_eq!(of_type("addresses"), ["InternalIP", "Hostname"]);
    assert_eq!(of_type("conditions"), ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]);
    for fact in [
        "kernelVersion",
        "osImage",
        "containerRuntimeVersion",
        "kubeletVersion",
        "machineID",
        "bootID",
        "architecture",
    ] {
        assert!(!status["nodeInfo"][fact].as_str().unwrap().is_empty(), "{fact}: {}", status["nodeInfo"]);
    }
    assert!(!status["images"].as_array().unwrap().is_empty());
    let lease =
        there(cluster, &format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"));
    assert_eq!(lease["spec"]["holderIdentity"], name);
    assert!(lease["spec"]["renewTime"].is_string(), "{lease}");

    let row = |said: String| said.split_whitespace().nth(2).unwrap().to_owned();
    assert_eq!(row(cluster.balsa(["get", "node", name, "--no-headers"]).ok()), "control-plane");
    if has_kubectl() {
        assert_eq!(row(cluster.kubectl(["get", "node", name, "--no-headers"]).ok()), "control-plane");
    } else {
        println!("there is no kubectl here: its column of roles is not looked at");
    }
}

/// Whoever knows better says so; a start of the agent does not take it back.
fn what_is_said_of_a_node_stays(cluster: &mut Cluster) {
    let name = cluster.node_name();
    let path = format!("/api/v1/nodes/{name}");
    let labels = json!({"metadata": {"labels": {
        "topology.kubernetes.io/zone": "attic", "node.kubernetes.io/instance-type": "old-laptop", ROLE: "true",
        "disk": "ssd"}}});
    assert_eq!(cluster.patch(&path, "application/merge-patch+json", &labels).unwrap().code, 200);
    cluster.stop();
    cluster.restart();
    let node = cluster.read(&path).unwrap();
    for (label, value) in [
        ("topology.kubernetes.io/zone", "attic"),
        ("topology.kubernetes.io/region", "default"),
        ("node.kubernetes.io/instance-type", "old-laptop"),
        (ROLE, "true"),
        ("disk", "ssd"),
    ] {
        assert_eq!(node["metadata"]["labels"][label], value, "{label}");
    }
}
