//! Volumes: in memory, from the machine, from objects that change while the pod runs, tokens that the API
//! takes, and claims whose data is kept or goes with them.

use std::path::{Path, PathBuf};

use balsa_testkit::{Output, wait_until};
use http::Method;
use serde_json::{Value, json};

use crate::{Node, PATIENCE, text};

pub(crate) const PODS: &str = include_str!("volumes.yaml");

pub(crate) fn acts(node: &Node) {
    memory_and_the_machine(node);
    objects_and_their_changes(node);
    a_token_that_the_api_takes(node);
    claims_are_bound_on_a_fresh_cluster(node);
    a_claim_lives_as_long_as_its_pod(node);
    volumes_are_made_by_hand(node);
}

fn memory_and_the_machine(node: &Node) {
    node.ready("mounted");
    let mount = node.shell("mounted", "grep ' /memory ' /proc/mounts");
    assert!(mount.starts_with("tmpfs ") && mount.contains("size=8192k"), "{mount}");
    let full = node.run("mounted", "dd if=/dev/zero of=/memory/big bs=1M count=16").fails();
    assert!(full.contains("No space left"), "{full}");
    node.shell("mounted", "rm /memory/big; echo from the pod > /host/word");
    assert_eq!(std::fs::read_to_string(node.shared().join("host/word")).unwrap(), "from the pod\n");
}

fn objects_and_their_changes(node: &Node) {
    let seen =
        node.shell("mounted", "cat /weather/today /present/wrapped/gift /all/weather /all/gift /all/name");
    assert_eq!(seen, "sunnya kitesunnya kitemounted");
    assert_eq!(node.shell("mounted", "stat -L -c %a /present/wrapped/gift"), "400");
    let links = node.shell("mounted", "readlink /weather/today; readlink /weather/..data");
    let links: Vec<&str> = links.lines().collect();
    assert!(links[0] == "..data/today" && links[1].starts_with(".."), "{links:?}");
    let kinds = node.shell("mounted", "grep -E ' /(present|all|myself|weather) ' /proc/mounts");
    let in_memory = |line: &&str| line.starts_with("tmpfs ") && line.contains(" ro,");
    assert_eq!(kinds.lines().filter(in_memory).count(), 3, "all but the ConfigMap, and read only: {kinds}");
    let labels = node.shell("mounted", "cat /myself/labels; echo; cat /myself/cpu");
    assert_eq!(labels, "mood=\"good\"\n250");

    node.patch("configmaps/weather", &json!({"data": {"today": "windy", "tomorrow": "calm"}}));
    node.patch("secrets/present", &json!({"stringData": {"gift": "two kites"}}));
    node.patch("pods/mounted", &json!({"metadata": {"labels": {"mood": "better"}}}));
    let script = "cat /weather/today /weather/tomorrow /present/wrapped/gift /all/weather /myself/labels";
    wait_until("the volumes follow their objects", PATIENCE, || {
        let seen = node.run("mounted", script).result()?;
        if seen == "windycalmtwo kiteswindymood=\"better\"" { Ok(()) } else { Err(seen) }
    });
    assert_ne!(node.shell("mounted", "readlink /weather/..data"), links[1], "all files at once, by one link");
    assert_eq!(
        node.shell("mounted", "cat /alone"),
        "sunny",
        "a part of a volume stays as it was, as documented"
    );
}

fn a_token_that_the_api_takes(node: &Node) {
    let api = format!("https://{}/api/v1/namespaces/node/pods", node.cluster.address());
    let ask = |token: &str| -> Value {
        let header = format!("Authorization: Bearer {token}");
        let said: Output =
            node.cluster.program(Path::new("curl"), ["-sk", "-H", header.as_str(), api.as_str()], &[]);
        serde_json::from_str(&said.ok()).unwrap()
    };
    let token = node.shell("mounted", "cat /var/run/secrets/kubernetes.io/serviceaccount/token");
    let said = ask(&token);
    assert_eq!(said["code"], 403, "{said}");
    assert!(text(&said["message"]).contains("system:serviceaccount:node:default"), "{said}");
    let said = ask(&node.shell("mounted", "cat /all/token"));
    assert_eq!(said["code"], 401, "a token for others is none for the API: {said}");
    let there = node.shell(
        "mounted",
        "cd /var/run/secrets/kubernetes.io/serviceaccount; cat namespace; head -n 1 ca.crt",
    );
    assert_eq!(there, "node-----BEGIN CERTIFICATE-----");
}

/// Where the volume of a claim is on this machine.
fn place(node: &Node, claim: &str) -> (String, PathBuf) {
    let claim = node.get("persistentvolumeclaims", claim).unwrap();
    assert_eq!(claim["status"]["phase"], "Bound", "{claim}");
    let name = text(&claim["spec"]["volumeName"]).to_owned();
    let volume = node.cluster.read(&format!("/api/v1/persistentvolumes/{name}")).unwrap();
    (name, text(&volume["spec"]["local"]["path"]).into())
}

/// A volume with a claim that is made for the pod, and goes with it.
fn a_claim_lives_as_long_as_its_pod(node: &Node) {
    node.ready("scratcher");
    let (volume, place) = place(node, "scratcher-scratch");
    assert_eq!(std::fs::read_to_string(place.join("word")).unwrap(), "for now\n");
    node.delete("pods", "scratcher");
    wait_until("the claim is gone, and its volume", PATIENCE, || {
        let claim = node.get("persistentvolumeclaims", "scratcher-scratch");
        let volume = node.cluster.read(&format!("/api/v1/persistentvolumes/{volume}"));
        if claim.is_err() && volume.is_err() && !place.exists() {
            Ok(())
        } else {
            Err(format!("{claim:?} {volume:?}"))
        }
    });
}

fn claims_are_bound_on_a_fresh_cluster(node: &Node) {
    node.ready("keeper");
    let (passing, its_place) = place(node, "passing");
    let (kept, place) = place(node, "kept");
    assert_eq!(std::fs::read_to_string(place.join("word")).unwrap(), "for ever\n");
    assert!(its_place.join("word").exists());
    node.delete("pods", "keeper");
    node.delete("persistentvolumeclaims", "passing");
    node.delete("persistentvolumeclaims", "kept");
    wait_until("the volume that goes with its claim is gone", PATIENCE, || {
        let (code, _) =
            node.request(Method::GET, &format!("/api/v1/persistentvolumes/{passing}"), &Value::Null);
        if code == 404 && !its_place.exists() {
            Ok(())
        } else {
            Err(format!("{code}, {}", its_place.display()))
        }
    });
    wait_until("the one that is kept is released", PATIENCE, || {
        let volume = node.cluster.read(&format!("/api/v1/persistentvolumes/{kept}"))?;
        if volume["status"]["phase"] == "Released" { Ok(()) } else { Err(volume["status"].to_string()) }
    });
    // Also when the volume's object goes, and when its namespace does: that is looked at in the end.
    let (code, said) =
        node.request(Method::DELETE, &format!("/api/v1/persistentvolumes/{kept}"), &Value::Null);
    assert_eq!(code, 200, "{said}");
    wait_until("the volume's object is gone", PATIENCE, || {
        let (code, said) =
            node.request(Method::GET, &format!("/api/v1/persistentvolumes/{kept}"), &Value::Null);
        if code == 404 { Ok(()) } else { Err(said.to_string()) }
    });
    std::fs::write(node.shared().join("kept"), place.to_string_lossy().as_bytes()).unwrap();
}

/// After everything else is deleted: the data of a volume that is retained, which nobody but its owner removes.
pub(crate) fn what_is_retained_stays(node: &Node) {
    let place = std::fs::read_to_string(node.shared().join("kept")).unwrap();
    assert_eq!(std::fs::read_to_string(Path::new(&place).join("word")).unwrap(), "for ever\n");
    std::fs::remove_dir_all(place).unwrap();
    node.cluster.balsa(["delete", "storageclass", "keeps"]).ok();
}

fn volumes_are_made_by_hand(node: &Node) {
    let chosen = node.cluster.node_names().pop().unwrap();
    std::fs::create_dir(node.shared().join("on-one-node")).unwrap();
    node.apply(&include_str!("by_hand.yaml").replace("NODE", &chosen));
    let pod = node.ready("writer");
    assert_eq!(pod["spec"]["nodeName"], chosen.as_str(), "where its volume is");
    for (claim, volume) in [("mine", "by-hand"), ("everybodys", "on-one-node")] {
        let claim = node.get("persistentvolumeclaims", claim).unwrap();
        assert_eq!(
            (&claim["status"]["phase"], &claim["spec"]["volumeName"]),
            (&json!("Bound"), &json!(volume))
        );
        assert_eq!(
            claim["status"]["capacity"]["storage"], "64Mi",
            "it gets what there is, not what it asked for"
        );
    }
    let left = node.get("persistentvolumeclaims", "too-large").unwrap();
    assert_eq!(left["status"]["phase"], "Pending");
    assert_eq!(std::fs::read_to_string(node.shared().join("by-hand/word")).unwrap(), "by hand\n");
    assert_eq!(std::fs::read_to_string(node.shared().join("on-one-node/word")).unwrap(), "here\n");

    node.delete("pods", "writer");
    node.delete("persistentvolumeclaims", "mine");
    let phase = |expected: &str| {
        wait_until(&format!("the volume is {expected}"), PATIENCE, || {
            let volume = node.cluster.read("/api/v1/persistentvolumes/by-hand")?;
            if volume["status"]["phase"] == expected { Ok(()) } else { Err(volume["status"].to_string()) }
        });
    };
    phase("Released");
    assert_eq!(
        std::fs::read_to_string(node.shared().join("by-hand/word")).unwrap(),
        "by hand\n",
        "it is retained"
    );
    // Its data is somebody's, until somebody says that it may be given away.
    let free = json!({"spec": {"claimRef": null}});
    let path = "/api/v1/persistentvolumes/by-hand";
    assert_eq!(node.cluster.patch(path, "application/merge-patch+json", &free).unwrap().code, 200);
    phase("Available");
    node.apply(&include_str!("by_hand.yaml").replace("NODE", &chosen));
    node.ready("writer");
    phase("Bound");
    node.delete("pods", "writer");
}
