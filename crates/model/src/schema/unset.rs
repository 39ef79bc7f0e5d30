//! Which values mean that a field is not set.
//!
//! Kubernetes keeps most fields by value and leaves them out of its JSON when they are empty, so that
//! `hostNetwork: false` and no `hostNetwork` are one and the same; fields kept by reference
//! (`automountServiceAccountToken: false`) are not like that. Protobuf bodies spell out every field
//! that is kept by value. Both ways must give the same object, else an update that changes nothing
//! would count as a change (and a Deployment would roll out again).

use serde_json::Value;

use super::table::{Cardinality, Field, Message, Type};

/// Numbers and booleans whose zero is the same as nothing, in whatever message they are.
const ZERO_IS_UNSET: &[&str] = &[
    "allowWatchBookmarks",
    "chapAuthDiscovery",
    "chapAuthSession",
    "clusterScope",
    "deprecatedCount",
    "fullyLabeledReplicas",
    "generation",
    "globalDefault",
    "healthCheckNodePort",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "minReadySeconds",
    "nodePort",
    "numberAvailable",
    "numberUnavailable",
    "observedGeneration",
    "paused",
    "periodSeconds",
    "publishNotReadyAddresses",
    "readOnly",
    "readyReplicas",
    "retryAfterSeconds",
    "sizeBytes",
    "sslEnabled",
    "stdin",
    "stdinOnce",
    "successThreshold",
    "tty",
    "unavailableReplicas",
    "unschedulable",
    "updatedNumberScheduled",
    "updatedReplicas",
];

/// The same, where the field's name alone does not say it.
const ZERO_IS_UNSET_IN: &[(&str, &str)] = &[
    ("AWSElasticBlockStoreVolumeSource", "partition"),
    ("ContainerStateTerminated", "signal"),
    ("DeploymentStatus", "availableReplicas"),
    ("DeploymentStatus", "replicas"),
    ("Event", "count"),
    ("GCEPersistentDiskVolumeSource", "partition"),
    ("HorizontalPodAutoscalerStatus", "currentReplicas"),
    ("JobStatus", "active"),
    ("JobStatus", "failed"),
    ("JobStatus", "succeeded"),
    ("Probe", "failureThreshold"),
    ("Probe", "timeoutSeconds"),
    ("ReplicaSetStatus", "availableReplicas"),
    ("ReplicationControllerStatus", "availableReplicas"),
    ("ScaleSpec", "replicas"),
    ("ServiceBackendPort", "number"),
    ("ServicePort", "targetPort"),
    ("StatefulSetStatus", "currentReplicas"),
    ("SubjectAccessReviewStatus", "denied"),
    ("TokenReviewStatus", "authenticated"),
];

/// Texts whose emptiness says something: kept by reference, or always written.
const EMPTY_IS_SET: &[&str] = &[
    "appProtocol",
    "holderIdentity",
    "hostnameOverride",
    "ingressClassName",
    "loadBalancerClass",
    "localhostProfile",
    "managedBy",
    "preferredHolder",
    "propagationPolicy",
    "reportingComponent",
    "reportingInstance",
    "resourceClaimName",
    "runtimeClassName",
    "timeZone",
    "volumeAttributesClassName",
    "volumeMode",
];

/// The same, where the field's name alone does not say it.
const EMPTY_IS_SET_IN: &[(&str, &str)] = &[
    ("Endpoint", "hostname"),
    ("Endpoint", "nodeName"),
    ("Endpoint", "zone"),
    ("HostPathVolumeSource", "type"),
    ("PersistentVolumeClaimSpec", "storageClassName"),
    ("Preconditions", "resourceVersion"),
    ("Preconditions", "uid"),
    ("PodDNSConfigOption", "value"),
    ("WebhookClientConfig", "url"),
];

/// Whether `value` in a field is the same as no value.
pub(crate) fn is_unset(message: &Message, field: &Field, value: &Value) -> bool {
    let named = |list: &[(&str, &str)]| list.contains(&(message.short_name(), field.name));
    // `name` is kept by reference in discovery's ports, by value in those of Endpoints.
    let named_port = message.name == "discovery.v1.EndpointPort" && field.name == "name";
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty() && field.cardinality == Cardinality::List,
        Value::Object(map) => map.is_empty() && field.cardinality == Cardinality::Map,
        Value::String(text) => {
            text.is_empty()
                && field.ty == Type::String
                && !EMPTY_IS_SET.contains(&field.name)
                && !named(EMPTY_IS_SET_IN)
                && !named_port
        }
        Value::Bool(true) => false,
        Value::Bool(false) => ZERO_IS_UNSET.contains(&field.name) || named(ZERO_IS_UNSET_IN),
        Value::Number(number) => {
            number.as_i64() == Some(0) && (ZERO_IS_UNSET.contains(&field.name) || named(ZERO_IS_UNSET_IN))
        }
    }
}
