//! What a user does on one machine, from `balsa up` to `balsa down`, with an unmodified kubectl and
//! real containers: configuration and volumes, services by name and by node port, logs and exec, scaling,
//! a rollout under load and back, a container killed by hand, data that outlives its pod, and nothing
//! left at the end.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use balsa_testkit::{Cluster, Container, Options, Steady, containers, docker, get, images, wait_until};

const NAMESPACE: &str = "story";
/// Enough for a slow machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_user_s_day() {
    let (first, second) = (images::busybox("1"), images::busybox("2"));
    let cluster = Cluster::start(Options::nodes(1));

    an_application_is_applied(&cluster, &first);
    its_pods_have_what_the_manifest_says(&cluster);
    it_answers_other_pods_by_name(&cluster);
    let address = it_answers_the_host_by_node_port(&cluster);
    logs_and_exec_work(&cluster);
    it_is_scaled(&cluster);
    a_rollout_and_its_undoing_cost_no_request(&cluster, address, &second);
    a_killed_container_comes_back(&cluster, address);
    a_claim_s_data_outlives_its_pod(&cluster, &first);
    what_is_deleted_is_gone(&cluster, address);
    cluster.down();
}

fn an_application_is_applied(cluster: &Cluster, image: &str) {
    let manifest = include_str!("story/web.yaml").replace("IMAGE", image);
    let said = cluster.apply(&manifest);
    assert!(said.contains("deployment.apps/web created"), "{said}");
    rolled_out(cluster);
    kubectl(cluster, &["wait", "pod/client", "--for=condition=Ready", "--timeout=120s"]);
    // The same again changes nothing, and kubectl sees it. (It always sends something for a pod with a
    // mounted token and for `stringData`, which is write-only.)
    let before =
        kubectl(cluster, &["get", "deploy,svc,cm,secret,pod", "-o", "jsonpath={..metadata.resourceVersion}"]);
    let said = cluster.apply(&manifest);
    assert_eq!(said.matches(" unchanged").count(), 5, "{said}");
    let after =
        kubectl(cluster, &["get", "deploy,svc,cm,secret,pod", "-o", "jsonpath={..metadata.resourceVersion}"]);
    assert_eq!(before, after, "{said}");
}

fn its_pods_have_what_the_manifest_says(cluster: &Cluster) {
    let rows = kubectl(cluster, &["get", "pods", "-l", "app=web", "--no-headers"]);
    assert_eq!(rows.lines().count(), 2, "{rows}");
    assert!(rows.lines().all(|row| row.contains("1/1") && row.contains("Running")), "{rows}");
    let seen =
        in_pod(cluster, "deploy/web", "echo $GREETING; cat /etc/web/greeting /run/secret/password; env");
    assert!(seen.starts_with("good morning\ngood morning"), "{seen}");
    assert!(seen.contains("correct horse"), "{seen}");
    assert!(seen.contains("KUBERNETES_SERVICE_HOST="), "{seen}");
    let pod = in_pod(cluster, "deploy/web", "test $POD_NAME = $(hostname) && touch /scratch/x && hostname");
    assert!(pod.starts_with("web-"), "{pod}");
    // A change of the ConfigMap reaches the volume of a running pod.
    let changed = r#"{"data":{"greeting":"good evening"}}"#;
    kubectl(cluster, &["patch", "configmap", "web", "--type=merge", "-p", changed]);
    wait_until("the volume follows its ConfigMap", PATIENCE, || {
        let text = in_pod(cluster, "client", "cat /etc/web/greeting");
        if text.trim() == "good evening" { Ok(()) } else { Err(text) }
    });
}

fn it_answers_other_pods_by_name(cluster: &Cluster) {
    for host in ["web", "web.story", "web.story.svc.cluster.local", "web-headless:8080"] {
        let ask = format!("timeout 5 wget -q -O - http://{host}/");
        wait_until(&format!("{host} answers"), PATIENCE, || {
            let said = exec(cluster, "client", &ask).result()?;
            if said.contains("good morning from web-") { Ok(()) } else { Err(said) }
        });
    }
    let cluster_ip = value(cluster, "service/web", "{.spec.clusterIP}");
    let said = in_pod(cluster, "client", &format!("timeout 5 wget -q -O - http://{cluster_ip}/"));
    assert!(said.contains("image 1"), "{said}");
    // A pod of the service reaches itself through it.
    let said =
        in_pod(cluster, "deploy/web", "for i in 1 2 3 4 5 6; do timeout 5 wget -q -O - http://web/; done");
    assert_eq!(said.lines().count(), 6, "{said}");
}

fn it_answers_the_host_by_node_port(cluster: &Cluster) -> SocketAddr {
    let port = value(cluster, "service/web", "{.spec.ports[0].nodePort}");
    let node = "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
    let host = cluster.value("", "nodes", node).unwrap();
    let address: SocketAddr = format!("{host}:{port}").parse().unwrap();
    let said = wait_until("the node port answers", PATIENCE, || get(address, "/"));
    assert!(said.contains("image 1"), "{said}");
    address
}

fn logs_and_exec_work(cluster: &Cluster) {
    let said = kubectl(cluster, &["logs", "deploy/web"]);
    assert!(said.contains("serving"), "{said}");
    let said = kubectl(cluster, &["logs", "-l", "app=web", "--tail=1", "--prefix"]);
    assert_eq!(said.lines().count(), 2, "{said}");

    let failed = exec(cluster, "client", "echo out; echo err >&2; exit 7");
    assert_eq!((failed.code, failed.stdout.as_str()), (7, "out\n"), "{failed}");
    assert!(failed.stderr.starts_with("err\n"), "{failed}");
    let typed = cluster.kubectl_with(["-n", NAMESPACE, "exec", "-i", "client", "--", "cat"], "typed by hand");
    assert_eq!(typed.ok(), "typed by hand");
    let missing = cluster.kubectl(["-n", NAMESPACE, "exec", "client", "--", "/bin/nothing"]);
    assert!(missing.code != 0 && missing.to_string().contains("no such file"), "{missing}");
}

fn it_is_scaled(cluster: &Cluster) {
    let said = kubectl(cluster, &["scale", "deployment/web", "--replicas=3"]);
    assert!(said.contains("scaled"), "{said}");
    rolled_out(cluster);
    assert_eq!(value(cluster, "deployment/web", "{.status.readyReplicas}"), "3");
    wait_until("the service has three endpoints", PATIENCE, || {
        let addresses = cluster.value(NAMESPACE, "endpoints/web", "{.subsets[*].addresses[*].ip}")?;
        if addresses.split(' ').count() == 3 { Ok(()) } else { Err(addresses) }
    });
}

fn a_rollout_and_its_undoing_cost_no_request(cluster: &Cluster, address: SocketAddr, second: &str) {
    let steady = Steady::start(address, "/", 100);
    kubectl(cluster, &["set", "image", "deployment/web", &format!("web={second}")]);
    rolled_out(cluster);
    only_answers(address, "image 2");
    let history = kubectl(cluster, &["rollout", "history", "deployment/web"]);
    assert!(history.lines().any(|row| row.starts_with('2')), "{history}");
    kubectl(cluster, &["rollout", "undo", "deployment/web"]);
    rolled_out(cluster);
    only_answers(address, "image 1");
    let tally = steady.stop();
    assert!(
        tally.failed.is_empty(),
        "{} failed of {}: {:?}",
        tally.failed.len(),
        tally.answered,
        tally.failed
    );
    assert!(tally.answered > 200, "only {} requests: that was no load", tally.answered);
}

/// Endpoints follow the pods by a moment; then nobody old answers any more.
fn only_answers(address: SocketAddr, image: &str) {
    wait_until(&format!("all pods are of {image}"), PATIENCE, || {
        let answers: Result<Vec<_>, _> = (0..10).map(|_| get(address, "/")).collect();
        let answers = answers?;
        if answers.iter().all(|answer| answer.contains(image)) { Ok(()) } else { Err(answers.concat()) }
    });
}

fn a_killed_container_comes_back(cluster: &Cluster, address: SocketAddr) {
    let victim = web_container(cluster).expect("a container of the deployment");
    docker(["kill", &victim.id]).ok();
    let pod = format!("pod/{}", victim.pod);
    wait_until("the container is restarted", PATIENCE, || {
        let status = cluster.value(NAMESPACE, &pod, "{.status.containerStatuses[0]}")?;
        let again = status.contains(r#""restartCount":1"#) && status.contains(r#""ready":true"#);
        if again { Ok(()) } else { Err(status) }
    });
    let after = web_container_of(cluster, &victim.pod).expect("its successor");
    assert_ne!(after.id, victim.id);
    let previous = kubectl(cluster, &["logs", &victim.pod, "--previous"]);
    assert!(previous.contains("serving"), "{previous}");
    wait_until("the service still answers", PATIENCE, || get(address, "/"));
}

fn a_claim_s_data_outlives_its_pod(cluster: &Cluster, image: &str) {
    let pod = |name: &str| include_str!("story/keeper.yaml").replace("IMAGE", image).replace("NAME", name);
    cluster.apply(&pod("first"));
    kubectl(cluster, &["wait", "pod/first", "--for=condition=Ready", "--timeout=120s"]);
    assert_eq!(value(cluster, "pvc/keepsake", "{.status.phase}"), "Bound");
    in_pod(cluster, "first", "echo gift > /data/from-goldie");
    kubectl(cluster, &["delete", "pod", "first", "--timeout=120s"]);
    cluster.apply(&pod("second"));
    kubectl(cluster, &["wait", "pod/second", "--for=condition=Ready", "--timeout=120s"]);
    assert_eq!(in_pod(cluster, "second", "cat /data/from-goldie"), "gift\n");
}

fn what_is_deleted_is_gone(cluster: &Cluster, address: SocketAddr) {
    kubectl(cluster, &["delete", "deployment,service", "--all", "--timeout=120s"]);
    wait_until("the node port is closed", PATIENCE, || match get(address, "/") {
        Ok(answer) => Err(format!("it still answers: {answer}")),
        Err(_) => Ok(()),
    });
    cluster.kubectl(["delete", "namespace", NAMESPACE, "--timeout=180s"]).ok();
    assert!(cluster.kubectl(["get", "namespace", NAMESPACE]).fails().contains("not found"));
    wait_until("its containers are gone", PATIENCE, || {
        let left: Vec<Container> = of_namespace(cluster);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    wait_until("its volume is gone", PATIENCE, || {
        let volumes = cluster.kubectl(["get", "pv", "-o", "name"]).result()?;
        if volumes.is_empty() { Ok(()) } else { Err(volumes) }
    });
}

/// kubectl in the story's namespace; it has to succeed.
#[track_caller]
fn kubectl(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.kubectl(["-n", NAMESPACE].iter().chain(arguments)).ok()
}

fn exec(cluster: &Cluster, pod: &str, script: &str) -> balsa_testkit::Output {
    cluster.kubectl(["-n", NAMESPACE, "exec", pod, "--", "sh", "-c", script])
}

#[track_caller]
fn in_pod(cluster: &Cluster, pod: &str, script: &str) -> String {
    exec(cluster, pod, script).ok()
}

#[track_caller]
fn value(cluster: &Cluster, object: &str, path: &str) -> String {
    cluster.value(NAMESPACE, object, path).unwrap()
}

#[track_caller]
fn rolled_out(cluster: &Cluster) {
    let said = kubectl(cluster, &["rollout", "status", "deployment/web", "--timeout=180s"]);
    assert!(said.contains("successfully rolled out"), "{said}");
}

fn of_namespace(cluster: &Cluster) -> Vec<Container> {
    cluster.node_names().iter().flat_map(|node| containers(node, NAMESPACE)).collect()
}

fn web_container(cluster: &Cluster) -> Option<Container> {
    of_namespace(cluster).into_iter().find(|container| container.name == "web" && container.running)
}

fn web_container_of(cluster: &Cluster, pod: &str) -> Option<Container> {
    let of_pod = |container: &Container| container.pod == pod && container.name == "web" && container.running;
    of_namespace(cluster).into_iter().find(of_pod)
}
