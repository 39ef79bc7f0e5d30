//! The acts of the story, one function each, told in the words of [`User`].

use std::net::SocketAddr;

use balsa_testkit::{Cluster, Container, Footprint, Steady, containers, docker, get, wait_until};
use serde_json::{Value, json};

use crate::user::{PATIENCE, User};

pub(crate) const NAMESPACE: &str = "story";

/// The application, of an image.
pub(crate) fn manifest(image: &str) -> String {
    include_str!("web.yaml").replace("IMAGE", image)
}

pub(crate) fn an_application_is_applied(user: &dyn User, image: &str) {
    user.apply(&manifest(image));
    user.rolled_out("web");
    user.ready("client");
    // The same again changes nothing.
    let revisions = || {
        let all = ["deployments", "services", "configmaps", "secrets", "pods"];
        let all = all.iter().flat_map(|resource| user.list(resource, "").unwrap());
        let all = all.map(|object| object["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
        all.collect::<Vec<_>>()
    };
    let before = revisions();
    user.apply(&manifest(image));
    assert_eq!(before, revisions());
}

pub(crate) fn its_pods_have_what_the_manifest_says(user: &dyn User) {
    let pods = user.list("pods", "app=web").unwrap();
    assert_eq!(pods.len(), 2, "{pods:?}");
    for pod in &pods {
        let container = &pod["status"]["containerStatuses"][0];
        assert!(pod["status"]["phase"] == "Running" && container["ready"] == true, "{pod}");
    }
    let web = user.a_pod_of("app=web");
    let seen = user.in_pod(&web, "echo $GREETING; cat /etc/web/greeting /run/secret/password; env");
    assert!(seen.starts_with("good morning\ngood morning"), "{seen}");
    assert!(seen.contains("correct horse"), "{seen}");
    assert!(seen.contains("KUBERNETES_SERVICE_HOST="), "{seen}");
    let own = user.in_pod(&web, "test $POD_NAME = $(hostname) && touch /scratch/x && hostname");
    assert_eq!(own.trim(), web);
    // A change of the ConfigMap reaches the volume of a running pod.
    user.merge("configmaps", "web", &json!({"data": {"greeting": "good evening"}}));
    wait_until("the volume follows its ConfigMap", PATIENCE, || {
        let text = user.in_pod("client", "cat /etc/web/greeting");
        if text.trim() == "good evening" { Ok(()) } else { Err(text) }
    });
}

pub(crate) fn it_answers_other_pods_by_name(user: &dyn User) {
    for host in ["web", "web.story", "web.story.svc.cluster.local", "web-headless:8080"] {
        let ask = format!("timeout 5 wget -q -O - http://{host}/");
        wait_until(&format!("{host} answers"), PATIENCE, || {
            let said = user.exec("client", &["sh", "-c", &ask], "")?;
            if said.stdout.contains("good morning from web-") { Ok(()) } else { Err(format!("{said:?}")) }
        });
    }
    let service = user.get("services", "web").unwrap();
    let cluster_ip = service["spec"]["clusterIP"].as_str().unwrap();
    let said = user.in_pod("client", &format!("timeout 5 wget -q -O - http://{cluster_ip}/"));
    assert!(said.contains("image 1"), "{said}");
    // A pod of the service reaches itself through it.
    let script = "for i in 1 2 3 4 5 6; do timeout 5 wget -q -O - http://web/; done";
    let said = user.in_pod(&user.a_pod_of("app=web"), script);
    assert_eq!(said.lines().count(), 6, "{said}");
}

pub(crate) fn it_answers_the_host_by_node_port(user: &dyn User) -> SocketAddr {
    let address = node_port(user, "web");
    let said = wait_until("the node port answers", PATIENCE, || get(address, "/"));
    assert!(said.contains("image 1"), "{said}");
    address
}

/// Where the host finds a Service of type NodePort.
pub(crate) fn node_port(user: &dyn User, service: &str) -> SocketAddr {
    let port = user.get("services", service).unwrap()["spec"]["ports"][0]["nodePort"].clone();
    let nodes = user.list("nodes", "").unwrap();
    let addresses = nodes[0]["status"]["addresses"].as_array().unwrap();
    let inner = addresses.iter().find(|address| address["type"] == "InternalIP").unwrap();
    format!("{}:{port}", inner["address"].as_str().unwrap()).parse().unwrap()
}

pub(crate) fn commands_run_in_it(user: &dyn User) {
    let web = user.a_pod_of("app=web");
    let said = user.logs(&web, false);
    assert!(said.contains("serving"), "{said}");
    let failed = user.exec("client", &["sh", "-c", "echo out; echo err >&2; exit 7"], "").unwrap();
    assert_eq!((failed.code, failed.stdout.as_str()), (7, "out\n"), "{failed:?}");
    assert!(failed.stderr.starts_with("err\n"), "{failed:?}");
    assert_eq!(user.exec("client", &["cat"], "typed by hand").unwrap().stdout, "typed by hand");
    let told = match user.exec("client", &["/bin/nothing"], "") {
        Ok(said) => {
            assert_ne!(said.code, 0, "{said:?}");
            said.stdout + &said.stderr
        }
        Err(told) => told,
    };
    assert!(told.contains("no such file"), "{told}");
}

pub(crate) fn it_is_scaled(user: &dyn User) {
    user.scale("web", 3);
    user.rolled_out("web");
    assert_eq!(user.get("deployments", "web").unwrap()["status"]["readyReplicas"], 3);
    user.until("endpoints", "web", "it has three addresses", |endpoints| {
        let subsets = endpoints["subsets"].as_array();
        let addresses = subsets.into_iter().flatten().filter_map(|subset| subset["addresses"].as_array());
        addresses.map(Vec::len).sum::<usize>() == 3
    });
}

pub(crate) fn a_rollout_and_its_undoing_cost_no_request(user: &dyn User, address: SocketAddr, second: &str) {
    let steady = Steady::start(address, "/", 100);
    user.set_image("web", "web", second);
    user.rolled_out("web");
    only_answers(address, "image 2");
    user.undo("web");
    user.rolled_out("web");
    only_answers(address, "image 1");
    steady.stop().assert_none_failed();
}

/// Endpoints follow the pods by a moment; then nobody old answers any more.
pub(crate) fn only_answers(address: SocketAddr, text: &str) {
    wait_until(&format!("all answers say {text}"), PATIENCE, || {
        let answers: Result<Vec<_>, _> = (0..10).map(|_| get(address, "/")).collect();
        let answers = answers?;
        if answers.iter().all(|answer| answer.contains(text)) { Ok(()) } else { Err(answers.concat()) }
    });
}

pub(crate) fn a_killed_container_comes_back(cluster: &Cluster, user: &dyn User, address: SocketAddr) {
    let pod = is_killed_and_comes_back(cluster, user, NAMESPACE, "web");
    let previous = user.logs(&pod, true);
    assert!(previous.contains("serving"), "{previous}");
    wait_until("the service still answers", PATIENCE, || get(address, "/"));
}

/// Kills the container of one of an application's pods by hand and waits for its successor; its pod. The
/// container and the label `app` have the same name.
pub(crate) fn is_killed_and_comes_back(
    cluster: &Cluster,
    user: &dyn User,
    namespace: &str,
    name: &str,
) -> String {
    // Not one that is about to end anyway.
    let pod = user.a_pod_of(&format!("app={name}"));
    let of_pod = |one: &Container| one.pod == pod && one.name == name && one.running;
    let victim = of_namespace(cluster, namespace).into_iter().find(of_pod).expect("a running container");
    docker(["kill", &victim.id]).ok();
    user.until("pods", &pod, "its container is restarted", |pod| {
        let statuses = pod["status"]["containerStatuses"].as_array();
        let own = statuses.into_iter().flatten().find(|status| status["name"] == name);
        own.is_some_and(|status| status["restartCount"] == 1 && status["ready"] == true)
    });
    let after = of_namespace(cluster, namespace).into_iter().find(of_pod).expect("its successor");
    assert_ne!(after.id, victim.id);
    pod
}

pub(crate) fn a_claim_s_data_outlives_its_pod(user: &dyn User, image: &str) {
    let pod = |name: &str| include_str!("keeper.yaml").replace("IMAGE", image).replace("NAME", name);
    user.apply(&pod("first"));
    user.ready("first");
    assert_eq!(user.get("persistentvolumeclaims", "keepsake").unwrap()["status"]["phase"], "Bound");
    user.in_pod("first", "echo gift > /data/from-goldie");
    user.delete("pods", "first");
    user.apply(&pod("second"));
    user.ready("second");
    assert_eq!(user.in_pod("second", "cat /data/from-goldie"), "gift\n");
}

pub(crate) fn what_is_deleted_is_gone(cluster: &Cluster, user: &dyn User, address: SocketAddr) {
    user.delete_all("deployments");
    user.delete_all("services");
    wait_until("the node port is closed", PATIENCE, || match get(address, "/") {
        Ok(answer) => Err(format!("it still answers: {answer}")),
        Err(_) => Ok(()),
    });
    user.delete("namespaces", NAMESPACE);
    let gone = user.get("namespaces", NAMESPACE).unwrap_err();
    assert!(gone.contains("not found"), "{gone}");
    nothing_is_left(cluster, user, NAMESPACE);
}

/// Neither containers nor volumes of a namespace that was deleted.
pub(crate) fn nothing_is_left(cluster: &Cluster, user: &dyn User, namespace: &str) {
    wait_until("its containers are gone", PATIENCE, || {
        let left: Vec<Container> = of_namespace(cluster, namespace);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    wait_until("its volume is gone", PATIENCE, || {
        let volumes: Vec<Value> = user.list("persistentvolumes", "")?;
        if volumes.is_empty() { Ok(()) } else { Err(format!("{volumes:?}")) }
    });
}

/// Links, mounts, networks, containers and the pods' files: a deletion takes them all, not only `balsa down`.
pub(crate) fn the_machine_is_as_before(cluster: &Cluster, before: &Footprint) {
    wait_until("the pods have left nothing on the machine", PATIENCE, || {
        let mut left = Footprint::take().since(before);
        for node in std::fs::read_dir(cluster.data_dir().join("nodes")).unwrap().flatten() {
            let pods = std::fs::read_dir(node.path().join("pods")).into_iter().flatten().flatten();
            left.extend(pods.map(|pod| pod.path().display().to_string()));
        }
        if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
    });
}

fn of_namespace(cluster: &Cluster, namespace: &str) -> Vec<Container> {
    cluster.node_names().iter().flat_map(|node| containers(node, namespace)).collect()
}
