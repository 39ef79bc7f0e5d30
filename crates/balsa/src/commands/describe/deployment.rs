//! A Deployment, as `kubectl describe` shows it.

use std::sync::Arc;

use balsa_model::Object;
use serde_json::Value;

use super::containers::{OF_TEMPLATE, containers, placement, volumes};
use super::head;
use super::page::{Page, items, number, or_none, pairs, plain, text, time};

const REVISION: &str = "/metadata/annotations/deployment.kubernetes.io~1revision";

pub(super) fn describe(page: &mut Page, object: &Object, replica_sets: &[Arc<Object>]) {
    let deployment = &object.value();
    head::name(page, object);
    page.field(0, "CreationTimestamp", time(deployment, "/metadata/creationTimestamp"));
    head::labels_and_annotations(page, object);
    page.field(0, "Selector", or_none(&pairs(deployment, "/spec/selector/matchLabels").join(",")));
    let of = |field: &str| number(deployment, &format!("/status/{field}"));
    page.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            number(deployment, "/spec/replicas"),
            of("updatedReplicas"),
            of("replicas"),
            of("availableReplicas"),
            of("unavailableReplicas"),
        ),
    );
    page.field(0, "StrategyType", text(deployment, "/spec/strategy/type"));
    page.field(0, "MinReadySeconds", number(deployment, "/spec/minReadySeconds"));
    if let Some(rolling) = deployment.pointer("/spec/strategy/rollingUpdate") {
        let (unavailable, surge) = (plain(&rolling["maxUnavailable"]), plain(&rolling["maxSurge"]));
        page.field(0, "RollingUpdateStrategy", format!("{unavailable} max unavailable, {surge} max surge"));
    }
    template(page, &deployment["spec"]["template"]);
    head::conditions(page, deployment, &[("Type", "type"), ("Status", "status"), ("Reason", "reason")]);
    sets(page, object, deployment, replica_sets);
}

fn template(page: &mut Page, template: &Value) {
    page.line(0, "Pod Template:");
    page.values(2, "Labels", &pairs(template, "/metadata/labels"));
    if template.pointer("/metadata/annotations").is_some() {
        page.values(2, "Annotations", &head::annotations(template));
    }
    page.field_if(2, "Service Account", text(template, "/spec/serviceAccountName"));
    for (heading, list) in [("Init Containers", "/spec/initContainers"), ("Containers", "/spec/containers")] {
        containers(page, OF_TEMPLATE, heading, items(template, list), &[]);
    }
    volumes(page, OF_TEMPLATE, &template["spec"]);
    page.field_if(2, "Priority Class Name", text(template, "/spec/priorityClassName"));
    placement(page, 2, &template["spec"]);
}

/// The ReplicaSets of the Deployment: the newest, and those that still have pods.
fn sets(page: &mut Page, object: &Object, deployment: &Value, replica_sets: &[Arc<Object>]) {
    let own = |set: &&Arc<Object>| {
        set.meta().owner_references.iter().flatten().any(|owner| owner.uid == object.uid())
    };
    let newest = text(deployment, REVISION);
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for set in replica_sets.iter().filter(own) {
        let value = set.value();
        let (created, wanted) = (number(&value, "/status/replicas"), number(&value, "/spec/replicas"));
        let told = format!("{} ({created}/{wanted} replicas created)", set.key().name);
        if text(&value, REVISION) == newest {
            new.push(told);
        } else {
            old.push(told);
        }
    }
    page.field(0, "OldReplicaSets", or_none(&old.join(", ")));
    page.field(0, "NewReplicaSet", or_none(&new.join(", ")));
}
