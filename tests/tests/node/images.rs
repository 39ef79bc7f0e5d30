//! Images: what each pull policy means, credentials, progress, and what is told when there is no image.

use balsa_testkit::{docker, images, wait_until};
use serde_json::{Value, json};

use crate::registry::Registry;
use crate::{NAMESPACE, Node, PATIENCE, pod, status, text};

/// What a pod of these acts does.
const SCRIPT: &str = "cat /etc/tag; exec sleep 86400";
/// Bytes a second that make a pull take about ten of them.
const SLOW: usize = 400 << 10;

pub(crate) fn acts(node: &Node) {
    let mut registry = Registry::start();
    let slow = registry.slowly(SLOW);
    let (second, third) = (images::busybox("2"), images::busybox("3"));
    let kite = registry.push(&third, &registry.name("toys/kite:1"));
    registry.push(&second, &registry.name("toys/moving:1"));
    let big = large_image(node);
    registry.push(&big, &format!("{slow}/toys/big:1"));
    docker(["rmi", &big]).ok();
    // In the registry it is the second one, and here the first.
    docker(["tag", &images::busybox("1"), &registry.name("toys/moving:1")]).ok();

    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "registry", "namespace": NAMESPACE},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": registry.credentials()}});
    node.apply(&secret.to_string());
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller", "namespace": NAMESPACE},
        "imagePullSecrets": [{"name": "registry"}]});
    node.apply(&account.to_string());

    let with = |policy: &str| json!({"imagePullPolicy": policy, "imagePullSecrets": [{"name": "registry"}]});
    node.apply(&pod("slowly", &format!("{slow}/toys/big:1"), SCRIPT, &with("IfNotPresent")));
    node.apply(&pod(
        "stranger",
        &registry.name("toys/kite:1"),
        SCRIPT,
        &json!({"imagePullPolicy": "IfNotPresent"}),
    ));
    node.apply(&pod("wrong-tag", &registry.name("toys/kite:none"), SCRIPT, &with("IfNotPresent")));
    node.apply(&pod("never", "balsa-test/nobody-has-this:1", SCRIPT, &with("Never")));
    node.apply(&pod("as-it-is", &registry.name("toys/moving:1"), SCRIPT, &with("IfNotPresent")));

    what_is_here_is_not_pulled(node);
    what_is_not_to_be_pulled_is_not(node);
    strangers_and_wrong_tags_wait(node);
    node.apply(&pod("always", &registry.name("toys/moving:1"), SCRIPT, &with("Always")));
    let account = json!({"imagePullPolicy": "IfNotPresent", "serviceAccountName": "puller"});
    node.apply(&pod("known", &registry.name("toys/kite:1"), SCRIPT, &account));
    what_always_means(node);
    who_has_credentials_pulls(node, &registry, &kite);
    a_slow_pull_tells_how_far_it_is(node);
    for name in ["slowly", "stranger", "wrong-tag", "never", "as-it-is", "always", "known"] {
        node.delete("pods", name);
    }
}

/// The busybox with four megabytes on top that nothing makes smaller.
fn large_image(node: &Node) -> String {
    let file = node.shared().join("noise");
    let mut noise = std::fs::File::open("/dev/urandom").unwrap();
    let mut bytes = vec![0; 4 << 20];
    std::io::Read::read_exact(&mut noise, &mut bytes).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let name = "balsa-test/big:1";
    let container = docker(["create", &images::busybox("1"), "true"]).ok();
    let container = container.trim();
    docker(["cp", &file.display().to_string(), &format!("{container}:/noise")]).ok();
    docker(["commit", container, name]).ok();
    docker(["rm", container]).ok();
    name.to_owned()
}

fn what_is_here_is_not_pulled(node: &Node) {
    node.ready("as-it-is");
    assert_eq!(node.shell("as-it-is", "cat /etc/tag"), "1");
    node.event("as-it-is", "already present on machine");
    assert!(!node.events("as-it-is").iter().any(|event| event.starts_with("Pulling")));
}

fn what_is_not_to_be_pulled_is_not(node: &Node) {
    let pod = node.waits("never", "ErrImageNeverPull");
    let why = text(&status(&pod)["state"]["waiting"]["message"]);
    assert!(why.contains("is not present with pull policy of Never"), "{why}");
    assert!(!node.events("never").iter().any(|event| event.starts_with("Pulling")));
}

/// First what is wrong, then a longer and longer wait.
fn strangers_and_wrong_tags_wait(node: &Node) {
    for (name, part) in [("stranger", "no basic auth credentials"), ("wrong-tag", "not found")] {
        node.event(name, "Pulling: Pulling image");
        node.event(name, "Failed: Failed to pull image");
        node.event(name, "Failed: Error: ErrImagePull");
        let told = node.events(name).into_iter().filter(|event| event.starts_with("Failed: Failed to pull"));
        let told: Vec<String> = told.collect();
        assert!(told.iter().any(|event| event.contains(part)), "{told:?}");
        let pod = node.waits(name, "ImagePullBackOff");
        assert_eq!(pod["status"]["phase"], "Pending");
        node.event(name, "BackOff: Back-off pulling image");
    }
}

fn what_always_means(node: &Node) {
    node.ready("always");
    assert_eq!(node.shell("always", "cat /etc/tag"), "2", "what the registry has now");
    assert_eq!(node.shell("as-it-is", "cat /etc/tag"), "1", "nobody else is touched");
}

fn who_has_credentials_pulls(node: &Node, registry: &Registry, digest: &str) {
    let pod = node.ready("known");
    assert_eq!(pod["spec"]["imagePullSecrets"][0]["name"], "registry", "its service account's");
    assert_eq!(node.shell("known", "cat /etc/tag"), "3");
    let image = registry.name("toys/kite:1");
    let pulled = node.event("known", "Successfully pulled image");
    assert!(pulled.contains(&image) && pulled.contains("Image size: "), "{pulled}");
    assert_eq!(status(&pod)["image"], image.as_str());
    let id = text(&status(&pod)["imageID"]);
    assert_eq!(id, format!("{}@{digest}", registry.name("toys/kite")));
    let local = node.ready("as-it-is");
    let local = text(&status(&local)["imageID"]);
    assert!(local.starts_with("sha256:"), "no registry has it under that name: {local}");
    // The one without finds it here now: that is what IfNotPresent says.
    wait_until("the image is here for everybody", PATIENCE, || {
        let pod: Value = node.get("pods", "stranger")?;
        if status(&pod)["ready"] == true { Ok(()) } else { Err(pod["status"].to_string()) }
    });
}

fn a_slow_pull_tells_how_far_it_is(node: &Node) {
    let told = node.event("slowly", " layers, ");
    // Of four megabytes, and not all of them yet.
    assert!(told.starts_with("Pulling: Pulling image ") && told.contains(" of 4.0 MiB"), "{told}");
    node.ready("slowly");
    let events = node.events("slowly");
    assert!(events.iter().any(|event| event.starts_with("Pulled: Successfully pulled image")), "{events:?}");
    assert_eq!(node.shell("slowly", "wc -c < /noise"), (4 << 20).to_string());
}
