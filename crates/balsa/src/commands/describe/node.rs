//! A node, as `kubectl describe` shows it.

use std::sync::Arc;

use balsa_model::kinds::pod_spec::resources::{Requests, limits, requests};
use balsa_model::quantity::Quantity;
use balsa_model::{Object, table};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::head;
use super::page::{Page, items, or_none, plain, text, time};

const ROLE: &str = "node-role.kubernetes.io/";

pub(super) fn describe(page: &mut Page, object: &Object, pods: &[Arc<Object>]) {
    let node = &object.value();
    head::name(page, object);
    let labels = object.meta().labels.iter().flatten();
    let roles: Vec<&str> = labels.filter_map(|(label, _)| label.strip_prefix(ROLE)).collect();
    page.field(0, "Roles", or_none(&roles.join(",")));
    head::labels_and_annotations(page, object);
    page.field(0, "CreationTimestamp", time(node, "/metadata/creationTimestamp"));
    let taint = |taint: &Value| {
        let value = text(taint, "/value");
        let equals = if value.is_empty() { "" } else { "=" };
        format!("{}{equals}{value}:{}", text(taint, "/key"), text(taint, "/effect"))
    };
    let taints: Vec<String> = items(node, "/spec/taints").iter().map(taint).collect();
    page.values(0, "Taints", &taints);
    page.field(0, "Unschedulable", node.pointer("/spec/unschedulable").map_or("false".to_owned(), plain));
    head::conditions(
        page,
        node,
        &[
            ("Type", "type"),
            ("Status", "status"),
            ("LastHeartbeatTime", "lastHeartbeatTime"),
            ("LastTransitionTime", "lastTransitionTime"),
            ("Reason", "reason"),
            ("Message", "message"),
        ],
    );
    page.line(0, "Addresses:");
    for address in items(node, "/status/addresses") {
        page.field(2, text(address, "/type"), text(address, "/address"));
    }
    page.amounts(0, "Capacity", &node["status"]["capacity"]);
    page.amounts(0, "Allocatable", &node["status"]["allocatable"]);
    system(page, node);
    page.field_if(0, "PodCIDR", text(node, "/spec/podCIDR"));
    let ranges: Vec<String> = items(node, "/spec/podCIDRs").iter().map(plain).collect();
    page.field_if(0, "PodCIDRs", &ranges.join(","));
    running(page, node, pods);
}

fn system(page: &mut Page, node: &Value) {
    page.line(0, "System Info:");
    for (name, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        page.field(2, name, text(node, &format!("/status/nodeInfo/{field}")));
    }
}

/// The pods that have not ended, and what all of them may take of the node.
fn running(page: &mut Page, node: &Value, pods: &[Arc<Object>]) {
    let there = node["status"]["allocatable"].clone();
    let there = Requests::of(&serde_json::from_value(there).unwrap_or_default());
    let (mut rows, mut asked, mut allowed) = (Vec::new(), Requests::default(), Requests::default());
    for object in pods {
        let ended = matches!(text(&object.value(), "/status/phase"), "Succeeded" | "Failed");
        let pod = object.typed::<Pod>().filter(|_| !ended);
        let Some(spec) = pod.as_ref().and_then(|pod| pod.spec.as_ref()) else { continue };
        let (own_asked, own_allowed) = (requests(spec), limits(spec));
        let created = object.meta().creation_timestamp.as_ref();
        rows.push(vec![
            object.key().namespace.to_string(),
            object.key().name.to_string(),
            cpu(own_asked.cpu_milli, there.cpu_milli),
            cpu(own_allowed.cpu_milli, there.cpu_milli),
            bytes(own_asked.memory, there.memory),
            bytes(own_allowed.memory, there.memory),
            created.map_or_else(String::new, |time| table::age(time.0, Timestamp::now())),
        ]);
        asked.add(&own_asked);
        allowed.add(&own_allowed);
    }
    page.field(0, "Non-terminated Pods", format!("({} in total)", rows.len()));
    let headings =
        ["Namespace", "Name", "CPU Requests", "CPU Limits", "Memory Requests", "Memory Limits", "Age"];
    page.table(&headings, &rows);
    allocated(page, &there, &asked, &allowed);
}

fn allocated(page: &mut Page, there: &Requests, asked: &Requests, allowed: &Requests) {
    page.line(0, "Allocated resources:");
    page.line(2, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    let row = |name: &str, asked: String, allowed: String| vec![name.to_owned(), asked, allowed];
    let rows = [
        row("cpu", cpu(asked.cpu_milli, there.cpu_milli), cpu(allowed.cpu_milli, there.cpu_milli)),
        row("memory", bytes(asked.memory, there.memory), bytes(allowed.memory, there.memory)),
        row(
            "ephemeral-storage",
            bytes(asked.ephemeral_storage, there.ephemeral_storage),
            bytes(allowed.ephemeral_storage, there.ephemeral_storage),
        ),
    ];
    page.table(&["Resource", "Requests", "Limits"], &rows);
}

fn cpu(part: i64, whole: i64) -> String {
    format!("{} ({}%)", Quantity::from_milli(part), percent(part, whole))
}

fn bytes(part: i64, whole: i64) -> String {
    format!("{} ({}%)", Quantity::from_bytes(part), percent(part, whole))
}

fn percent(part: i64, whole: i64) -> i128 {
    if whole == 0 { 0 } else { i128::from(part) * 100 / i128::from(whole) }
}
