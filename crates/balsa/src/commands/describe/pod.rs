//! A pod, as `kubectl describe` shows it.

use balsa_model::Object;
use jiff::Timestamp;
use serde_json::Value;

use super::containers::{OF_POD, containers, placement, volumes};
use super::head;
use super::page::{Page, items, number, or_none, text, time};

pub(super) fn describe(page: &mut Page, object: &Object) {
    let pod = &object.value();
    head::name(page, object);
    page.field(0, "Priority", number(pod, "/spec/priority"));
    page.field_if(0, "Priority Class Name", text(pod, "/spec/priorityClassName"));
    page.field_if(0, "Runtime Class Name", text(pod, "/spec/runtimeClassName"));
    page.field_if(0, "Service Account", text(pod, "/spec/serviceAccountName"));
    match text(pod, "/spec/nodeName") {
        "" => page.field(0, "Node", "<none>"),
        node => page.field(0, "Node", format!("{node}/{}", text(pod, "/status/hostIP"))),
    }
    page.field_if(0, "Start Time", &time(pod, "/status/startTime"));
    head::labels_and_annotations(page, object);
    status(page, object, pod);
    head::controlled_by(page, object);
    page.field_if(0, "Nominated Node Name", text(pod, "/status/nominatedNodeName"));
    for (heading, list, statuses) in [
        ("Init Containers", "/spec/initContainers", "/status/initContainerStatuses"),
        ("Containers", "/spec/containers", "/status/containerStatuses"),
        ("Ephemeral Containers", "/spec/ephemeralContainers", "/status/ephemeralContainerStatuses"),
    ] {
        containers(page, OF_POD, heading, items(pod, list), items(pod, statuses));
    }
    if !items(pod, "/status/conditions").is_empty() {
        page.line(0, "Conditions:");
        page.line(2, "Type\tStatus");
    }
    for condition in items(pod, "/status/conditions") {
        page.line(2, format!("{} \t{}", text(condition, "/type"), text(condition, "/status")));
    }
    let spec = &pod["spec"];
    volumes(page, OF_POD, spec);
    page.field(0, "QoS Class", text(pod, "/status/qosClass"));
    placement(page, 0, spec);
}

fn status(page: &mut Page, object: &Object, pod: &Value) {
    match &object.meta().deletion_timestamp {
        Some(time) => {
            let lasts = balsa_model::table::age(time.0, Timestamp::now());
            page.field(0, "Status", format!("Terminating (lasts {lasts})"));
            let grace = object.meta().deletion_grace_period_seconds.unwrap_or_default();
            page.field(0, "Termination Grace Period", format!("{grace}s"));
        }
        None => page.field(0, "Status", text(pod, "/status/phase")),
    }
    page.field_if(0, "Reason", text(pod, "/status/reason"));
    page.field_if(0, "Message", text(pod, "/status/message"));
    page.field(0, "IP", text(pod, "/status/podIP"));
    match items(pod, "/status/podIPs") {
        [] => page.field(0, "IPs", "<none>"),
        addresses => {
            page.line(0, "IPs:");
            addresses.iter().for_each(|address| page.field(2, "IP", or_none(text(address, "/ip"))));
        }
    }
}
