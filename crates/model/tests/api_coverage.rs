//! The table in `docs/api-coverage.md` is made from what discovery says: kind by verb by part.
//!
//! `BALSA_WRITE_DOCS=1 cargo test -p balsa-model --test api_coverage` writes it; without, the test
//! fails when the file says something else.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use balsa_model::discovery::{self, GroupVersion, ResourceInfo};

const BEGIN: &str = "<!-- made by crates/model/tests/api_coverage.rs -->\n";
const END: &str = "<!-- end -->\n";

/// What a collection of objects has when nothing is said.
const USUAL: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Who acts on the objects of a kind. Of what is not named here, objects are stored and validated only.
const ACTORS: &[(&str, &str)] = &[
    ("bindings", "the pod is given its node"),
    ("clusterrolebindings", "authorization"),
    ("certificatesigningrequests", "signers of client and serving certificates"),
    ("clusterroles", "authorization; controller for those put together out of others"),
    ("componentstatuses", "told by the server that is asked, not stored"),
    ("configmaps", "agents mount them"),
    ("controllerrevisions", "stateful set and daemon set controllers"),
    ("cronjobs", "controller"),
    ("daemonsets", "controller"),
    ("deployments", "controller"),
    ("endpoints", "controller, proxy"),
    ("endpointslices", "controller, proxy, DNS"),
    ("events", "written by all parts"),
    ("flowschemas", "servers send requests to levels by them; controller says whether the level is there"),
    ("horizontalpodautoscalers", "controller: use of processors and memory"),
    ("ingressclasses", "ingresses that name none get the default one"),
    ("ipaddresses", "controller: one for each address of a Service"),
    ("jobs", "controller, and one for the time to live after the end"),
    ("leases", "agents, node lifecycle"),
    ("limitranges", "applied to new pods and claims"),
    ("namespaces", "controller: emptied when it is deleted"),
    ("nodes", "agents, node lifecycle, pod ranges"),
    ("persistentvolumeclaims", "bound, provisioned (`local-path`)"),
    ("persistentvolumes", "bound, released, provisioned (`local-path`)"),
    ("poddisruptionbudgets", "controller"),
    ("pods", "scheduler, agents, garbage collection"),
    ("priorityclasses", "scheduler"),
    ("prioritylevelconfigurations", "servers divide their seats and queues by them"),
    ("replicasets", "controller"),
    ("replicationcontrollers", "controller"),
    ("resourcequotas", "enforced when objects are written; controller counts what is used"),
    ("rolebindings", "authorization"),
    ("roles", "authorization"),
    ("runtimeclasses", "admission, scheduler, agents: a runtime of Docker's"),
    ("secrets", "agents mount them; controller: tokens of service accounts"),
    ("serviceaccounts", "controller: a default one in each namespace; tokens"),
    ("servicecidrs", "the range of the server's settings is shown"),
    ("services", "addresses, proxy, DNS"),
    ("statefulsets", "controller"),
    ("storageclasses", "provisioner"),
];

/// Resources of the stable groups of Kubernetes 1.33 that are not served, unless they are by now.
const HOLES: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io/v1 mutatingwebhookconfigurations", "webhooks come with custom resources"),
    ("admissionregistration.k8s.io/v1 validatingadmissionpolicies", "webhooks come with custom resources"),
    (
        "admissionregistration.k8s.io/v1 validatingadmissionpolicybindings",
        "webhooks come with custom resources",
    ),
    (
        "admissionregistration.k8s.io/v1 validatingwebhookconfigurations",
        "webhooks come with custom resources",
    ),
    ("apiextensions.k8s.io/v1 customresourcedefinitions", "custom resources come later"),
    ("apiregistration.k8s.io/v1 apiservices", "aggregation comes with custom resources"),
    ("storage.k8s.io/v1 csistoragecapacities", "the scheduler does not ask drivers"),
];

fn verbs(verbs: &[String]) -> String {
    let have: BTreeSet<&str> = verbs.iter().map(String::as_str).collect();
    let usual: BTreeSet<&str> = USUAL.into_iter().collect();
    let missing: Vec<&str> = usual.difference(&have).copied().collect();
    match (missing.len(), have.is_superset(&usual)) {
        (_, true) => "all".to_owned(),
        (1..=3, _) => format!("all but {}", missing.join(", ")),
        _ => verbs.join(", "),
    }
}

fn row(group: &GroupVersion, resource: &ResourceInfo) -> String {
    let parts = resource.subresources.iter().map(|part| format!("{} ({})", part.name, part.verbs.join(", ")));
    let actor = ACTORS.iter().find(|(plural, _)| *plural == resource.plural).map(|(_, actor)| *actor);
    let actor = match &resource.stored {
        _ if resource.kind.group == "metrics.k8s.io" => "measured by the agents when asked, not stored",
        Some(_) => actor.unwrap_or("stored and validated only"),
        None => actor.unwrap_or("answered, not stored"),
    };
    format!(
        "| {} | {} `{}` | {} | {} | {actor} |\n",
        group.name(),
        resource.kind.kind,
        resource.plural,
        verbs(&resource.verbs),
        parts.collect::<Vec<_>>().join("; "),
    )
}

fn table() -> String {
    let groups = discovery::built_in();
    let mut out = format!(
        "{BEGIN}\n| group | kind | verbs | parts | who acts on it |\n| --- | --- | --- | --- | --- |\n"
    );
    let mut served = BTreeSet::new();
    for group in &groups {
        for resource in &group.resources {
            served.insert(format!("{} {}", group.name(), resource.plural));
            out.push_str(&row(group, resource));
        }
    }
    out.push_str(
        "\nNot served of the stable groups of Kubernetes 1.33:\n\n| resource | why |\n| --- | --- |\n",
    );
    for (resource, why) in HOLES.iter().filter(|(resource, _)| !served.contains(*resource)) {
        out.push_str(&format!("| {resource} | {why} |\n"));
    }
    out.push_str(&format!("\n{END}"));
    out
}

#[test]
fn the_table_says_what_discovery_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/api-coverage.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the table");
    let (present, after) = rest.split_once(END).expect("the end of the table");
    let made = table();
    if std::env::var_os("BALSA_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{made}{after}")).unwrap();
        return;
    }
    assert_eq!(
        format!("{BEGIN}{present}{END}"),
        made,
        "run BALSA_WRITE_DOCS=1 cargo test -p balsa-model --test api_coverage"
    );
}
