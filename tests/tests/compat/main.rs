//! Other people's programs on a Balsa cluster, as they come: the official Python and Node clients tell one story
//! (namespace, deployment and service; lists, watches, patches, server-side apply, scale, logs, exec,
//! port-forward, deletion), Helm 3 and Helm 4 a release's life with hooks and tests, and kubernetes_sd discovers what is
//! there to be scraped. scripts/clients.sh installs them; without them the suite fails.
//!
//! They share one cluster and tell their stories at the same time, each in a namespace of its own.
#![allow(clippy::unwrap_used)]

mod clients;
mod controller;
mod discovery;
#[allow(dead_code, reason = "not every suite needs everything that a fleet can do")]
#[path = "../cluster/fleet.rs"]
mod fleet;
mod helm3;
mod monitoring;
mod prometheus;

use balsa_testkit::{Cluster, Options, images};
use clients::Clients;

#[test]
fn every_client_finds_what_it_expects() {
    let clients = Clients::installed();
    let images = ["1", "2"].map(images::busybox);
    let cluster = Cluster::start(Options::nodes(1));
    let failed: Vec<&str> = std::thread::scope(|scope| {
        let tellers = [
            ("Python", scope.spawn(|| python(&cluster, &clients, &images[0]))),
            ("Node", scope.spawn(|| node(&cluster, &clients, &images[0]))),
            ("Helm 3", scope.spawn(|| helm3::tells(&cluster, &clients, &images))),
            ("Helm 4", scope.spawn(|| helm4(&cluster, &clients, &images))),
            ("kubernetes_sd", scope.spawn(|| discovery::tells(&cluster, &clients, &images[0]))),
        ];
        tellers.into_iter().filter_map(|(name, teller)| teller.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "not as they expect: {}", failed.join(", "));
    cluster.down();
}

#[test]
fn monitoring_watches_three_servers() {
    monitoring::watches_three_servers(&Clients::installed());
}

#[test]
fn a_kube_rs_controller_survives_the_leader() {
    controller::survives_the_leader();
}

/// The story's manifest with an image, beside the cluster's data.
fn manifest(cluster: &Cluster, name: &str, image: &str) -> String {
    let home = cluster.data_dir().parent().unwrap().to_owned();
    let path = home.join(name);
    std::fs::write(&path, include_str!("story.yaml").replace("IMAGE", image)).unwrap();
    path.display().to_string()
}

fn python(cluster: &Cluster, clients: &Clients, image: &str) {
    let story = clients.file("story.py");
    let manifest = manifest(cluster, "python.yaml", image);
    let said = cluster.program(&clients.python(), [story.as_str(), "python", &manifest], &[]).ok();
    assert!(said.ends_with("the end\n"), "{said}");
}

fn node(cluster: &Cluster, clients: &Clients, image: &str) {
    let story = clients.file("story.mjs");
    let manifest = manifest(cluster, "node.yaml", image);
    let words = [story.as_str(), "node", &manifest];
    let said = cluster.program("node".as_ref(), words, &[("CLIENTS", clients.home())]).ok();
    assert!(said.ends_with("the end\n"), "{said}");
}

fn helm4(cluster: &Cluster, clients: &Clients, images: &[String; 2]) {
    let (story, chart) = (clients.file("helm4.py"), clients.file("chart"));
    let words = [story.as_str(), &chart, &images[0], &images[1]];
    let said = cluster.program(&clients.python(), words, &[]).ok();
    assert!(said.ends_with("the end\n"), "{said}");
}
