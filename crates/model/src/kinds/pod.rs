//! Pod: containers that share a network and live and die on one node.
//!
//! Invariants: a pod that exists changes little of its spec (`pod_spec::update`); it starts `Pending`;
//! its quality of service follows from its spec and is never anything else.
//!
//! Beside the kind, this file answers what controllers, scheduler and agents ask about pods.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodIP, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::check;
use super::pod_spec::{self, defaults, resize, update};
use crate::field::{FieldErrors, Path};
use crate::kind::{Descriptor, Kind, Pods, Subresource};
use crate::meta::hostname_warning;
use crate::table::{Cell, Column};

pub use super::pod_spec::resize::{
    DEFERRED, IN_PROGRESS, INFEASIBLE, PENDING, Sizes, given_sizes, held_requests, wanted_sizes, with_sizes,
};
pub use super::pod_spec::resources::{
    Requests, ResourceList, is_extended as is_extended_resource, limits as resource_limits, qos_class,
    requests as resource_requests,
};

mod own;
mod row;
mod status;

impl Kind for Pod {
    const DESCRIPTOR: Descriptor = Descriptor {
        returns_deleted: true,
        short_names: &["po"],
        categories: &["all"],
        subresources: &[
            Subresource::Status,
            Subresource::Log,
            Subresource::Exec,
            Subresource::Attach,
            Subresource::PortForward,
            Subresource::Proxy,
            Subresource::Binding,
            Subresource::Eviction,
            Subresource::EphemeralContainers,
            Subresource::Resize,
        ],
        has_generation: true,
        graceful: true,
        field_labels: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        indexed_fields: &["spec.nodeName"],
        columns: &[
            Column::NAME,
            Column::text("Ready"),
            Column::text("Status"),
            Column::text("Restarts"),
            Column::AGE,
            Column::wide("IP"),
            Column::wide("Node"),
            Column::wide("Nominated Node"),
            Column::wide("Readiness Gates"),
        ],
        ..Descriptor::namespaced("", "v1", "Pod", "pods", "pod", "core.v1.Pod")
    };

    fn set_defaults(&mut self) {
        let spec = self.spec.get_or_insert_default();
        defaults::set(spec);
        defaults::set_pod_only(spec);
        if let Some(status) = &mut self.status {
            status.qos_class = Some(qos_class(spec).to_owned());
            agree_on_addresses(status);
        }
    }

    fn prepare_create(&mut self) {
        let conditions = is_gated(self).then(|| {
            vec![PodCondition {
                type_: "PodScheduled".to_owned(),
                status: "False".to_owned(),
                reason: Some("SchedulingGated".to_owned()),
                message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
                ..PodCondition::default()
            }]
        });
        self.status =
            Some(PodStatus { phase: Some("Pending".to_owned()), conditions, ..PodStatus::default() });
        if let Some(spec) = &mut self.spec {
            spec.ephemeral_containers = None;
        }
    }

    fn prepare_update(&mut self, old: &Self) {
        // They have a URL of their own, with rights of their own.
        if let (Some(spec), Some(old)) = (&mut self.spec, &old.spec) {
            spec.ephemeral_containers.clone_from(&old.ephemeral_containers);
        }
    }

    fn prepare_part(&mut self, old: &Self, part: Subresource) {
        if part == Subresource::Status {
            self.metadata.owner_references.clone_from(&old.metadata.owner_references);
            // No pod has claims of devices: that feature is off in this release.
            if let Some(status) = &mut self.status {
                status.resource_claim_statuses = None;
            }
            return;
        }
        let sent = std::mem::replace(self, old.clone());
        // Which pod is meant stays checked.
        self.metadata.uid = sent.metadata.uid;
        self.metadata.resource_version = None;
        let (Some(spec), Some(sent)) = (&mut self.spec, sent.spec) else { return };
        match part {
            Subresource::EphemeralContainers => spec.ephemeral_containers = sent.ephemeral_containers,
            Subresource::Resize => resize::take(spec, sent),
            _ => {}
        }
    }

    fn validate_part(&self, old: &Self, part: Subresource, errors: &mut FieldErrors) {
        match (part, &self.spec, &old.spec) {
            (Subresource::Resize, Some(new), Some(old)) => {
                resize::validate(new, old, &Path::new("spec"), errors);
            }
            _ => self.validate_update(old, errors),
        }
    }

    fn validate(&self, errors: &mut FieldErrors) {
        let (path, empty) = (Path::new("spec"), PodSpec::default());
        let spec = self.spec.as_ref().unwrap_or(&empty);
        pod_spec::validate(spec, &path, errors);
        own::validate(self, spec, &path, errors);
        let ips = self.status.iter().filter_map(|status| status.pod_ips.as_ref()).flatten();
        for (i, pod_ip) in ips.enumerate() {
            check::ip(errors, &Path::new("status").child("podIPs").index(i), &pod_ip.ip);
        }
    }

    fn validate_create(&self, errors: &mut FieldErrors) {
        if let Some(spec) = &self.spec {
            own::validate_create(self, spec, &Path::new("spec"), errors);
        }
    }

    fn validate_status(&self, old: &Self, errors: &mut FieldErrors) {
        status::validate(self, old, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut FieldErrors) {
        if let (Some(new), Some(old)) = (&self.spec, &old.spec) {
            update::validate(new, old, &Path::new("spec"), errors);
        }
    }

    fn pods(&self) -> Option<Pods<'_>> {
        Pods::of_pod(self)
    }

    fn warnings_on_create(&self) -> Vec<String> {
        hostname_warning(&self.metadata, "the Pod's hostname")
    }

    fn field(&self, label: &str) -> String {
        let spec = self.spec.as_ref();
        let status = self.status.as_ref();
        let text = match label {
            "spec.nodeName" => spec.and_then(|s| s.node_name.as_deref()),
            "spec.restartPolicy" => spec.and_then(|s| s.restart_policy.as_deref()),
            "spec.schedulerName" => spec.and_then(|s| s.scheduler_name.as_deref()),
            "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.as_deref()),
            "spec.hostNetwork" => {
                Some(if spec.is_some_and(|s| s.host_network == Some(true)) { "true" } else { "false" })
            }
            "status.phase" => Some(phase(self)),
            "status.podIP" | "status.podIPs" => ip(self),
            "status.nominatedNodeName" => status.and_then(|s| s.nominated_node_name.as_deref()),
            _ => None,
        };
        text.unwrap_or_default().to_owned()
    }

    fn row(&self, now: Timestamp) -> Vec<Cell> {
        row::cells(self, now)
    }
}

/// The first of the addresses is the one address of old.
fn agree_on_addresses(status: &mut PodStatus) {
    let ips = status.pod_ips.get_or_insert_default();
    match (status.pod_ip.as_deref().filter(|ip| !ip.is_empty()), ips.first_mut()) {
        (Some(ip), None) => ips.push(PodIP { ip: ip.to_owned() }),
        (Some(ip), Some(first)) if first.ip != ip => ip.clone_into(&mut first.ip),
        (None, Some(first)) => status.pod_ip = Some(first.ip.clone()),
        _ => {}
    }
    if ips.is_empty() {
        status.pod_ips = None;
    }
}

/// Why there is nothing to be had of a container that waits for its first start.
pub fn waiting_to_start(pod: &str, container: &str, reason: &str) -> String {
    let reason = match reason {
        "ErrImagePull" => "image can't be pulled",
        "ImagePullBackOff" => "trying and failing to pull image",
        other => other,
    };
    format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {reason}")
}

/// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`; empty before it is known.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The node it is on, or is to go to.
pub fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Its address, once it has one.
pub fn ip(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let first = status.pod_ips.as_ref().and_then(|ips| ips.first()).map(|ip| ip.ip.as_str());
    first.or(status.pod_ip.as_deref()).filter(|ip| !ip.is_empty())
}

/// One of its conditions.
pub fn condition<'a>(pod: &'a Pod, name: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == name)
}

/// Whether one of its conditions is `True`.
pub fn has_condition(pod: &Pod, name: &str) -> bool {
    condition(pod, name).is_some_and(|c| c.status == "True")
}

/// Whether it may get traffic: its condition `Ready`.
pub fn is_ready(pod: &Pod) -> bool {
    has_condition(pod, "Ready")
}

/// Whether it will never run again: it succeeded or failed.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether somebody asked for its deletion.
pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether a workload counts it among its replicas: neither over nor on its way out.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_deleting(pod)
}

/// Whether something holds it back from being scheduled.
pub fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()))
}

/// Whether it has been ready for `min_ready_seconds` at `now`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_at(pod, min_ready_seconds).is_some_and(|then| then <= now)
}

/// When it is, or was, available if it stays ready; `None` while it is not ready.
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    if min_ready_seconds <= 0 {
        return Some(Timestamp::MIN);
    }
    let since = ready.last_transition_time.as_ref()?.0;
    since.checked_add(SignedDuration::from_secs(i64::from(min_ready_seconds))).ok()
}

/// Says on a pod that somebody is about to take it away, so that its owner does not count it as a failure of
/// its own. Whether that is new.
pub fn set_disrupted(pod: &mut Pod, reason: &str, message: &str, now: Timestamp) -> bool {
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let known = conditions.iter().position(|condition| condition.type_ == "DisruptionTarget");
    let before = known.map(|at| &conditions[at]).filter(|condition| condition.status == "True");
    if before.is_some_and(|condition| condition.reason.as_deref() == Some(reason)) {
        return false;
    }
    // Another reason is no transition: the time is that of the status.
    let since = before.and_then(|condition| condition.last_transition_time.clone());
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    };
    match known {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    true
}

/// A port of the node itself that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Of the node; empty: any.
    pub address: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Its number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node.
    pub fn collides(&self, other: &Self) -> bool {
        let any = |address: &str| address.is_empty() || address == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || any(&self.address) || any(&other.address))
    }
}

/// The ports of its node that it takes, for its containers and its sidecars. Other init containers have ended
/// before anybody asks for their ports.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let own_network = spec.host_network != Some(true);
    let init = spec.init_containers.iter().flatten();
    let sidecars = init.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter_map(|port| {
        // On the node's own network every port of a container is one of the node.
        let number =
            if own_network { port.host_port? } else { port.host_port.unwrap_or(port.container_port) };
        (number > 0).then(|| HostPort {
            address: port.host_ip.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: number,
        })
    });
    taken.collect()
}

/// Its priority for the scheduler and for eviction.
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kind::kind_of;
    use crate::strategy::{self, Stamp};

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn created(spec: Value) -> Pod {
        let body = json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": "Running"}});
        let stamp = Stamp { now: Timestamp::UNIX_EPOCH, uid: "u".to_owned() };
        let object = strategy::prepare_create(kind_of::<Pod>(), "default", body, &stamp).unwrap();
        object.as_any().downcast_ref::<Pod>().unwrap().clone()
    }

    fn errors(spec: Value) -> Vec<String> {
        let mut errors = FieldErrors::new();
        Kind::validate(&created(spec), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn it_starts_pending() {
        let pod = created(json!({"containers": [{"name": "m", "image": "a:1"}]}));
        let status = serde_json::to_value(pod.status).unwrap();
        assert_eq!(status, json!({"phase": "Pending", "qosClass": "BestEffort"}));
    }

    /// Devices by claims, and resources of the pod as a whole; nothing of it is looked at before it goes.
    #[test]
    fn fields_of_features_that_are_off_are_dropped() {
        let claims = json!({"claims": [{"name": "Nobody's"}], "limits": {"cpu": "1"}});
        let container = json!({"name": "m", "image": "a:1", "resources": claims});
        let spec = json!({"containers": [container], "initContainers": [{"name": "i", "image": "a:1", "resources": claims}],
            "resources": {"limits": {"cpu": "1"}}, "resourceClaims": [{"name": "gpu"}]});
        assert_eq!(errors(spec.clone()), Vec::<String>::new());
        let mut pod = created(spec);
        let spec = serde_json::to_value(pod.spec.as_ref().unwrap()).unwrap();
        assert_eq!((&spec["resourceClaims"], &spec["resources"]), (&Value::Null, &Value::Null));
        let left = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}});
        for of in ["containers", "initContainers"] {
            assert_eq!(spec[of][0]["resources"], left, "{of}");
        }
        let old = pod.clone();
        pod.status = serde_json::from_value(json!({"resourceClaimStatuses": [{"name": "gpu"}]})).unwrap();
        pod.prepare_part(&old, Subresource::Status);
        assert_eq!(pod.status.unwrap().resource_claim_statuses, None);
    }

    #[test]
    fn wrong_specs_are_refused_in_the_words_of_kubernetes() {
        let main = |extra: Value| {
            let mut container = json!({"name": "main", "image": "a:1"});
            container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            json!({"containers": [container]})
        };
        for (spec, wanted) in [
            (json!({}), "spec.containers: Required value"),
            (json!({"containers": [{"name": "a"}]}), "spec.containers[0].image: Required value"),
            (
                json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]}),
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                main(json!({"image": " x "})),
                "spec.containers[0].image: Invalid value: \" x \": must not have leading or trailing whitespace",
            ),
            (
                main(json!({"imagePullPolicy": "Maybe"})),
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ),
            (
                main(
                    json!({"ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]}),
                ),
                "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"",
            ),
            (
                main(json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}}]})),
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: field label not supported: spec.nope",
            ),
            (
                main(json!({"livenessProbe": {}})),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
            (
                main(json!({"livenessProbe": {"httpGet": {"port": 80}, "tcpSocket": {"port": 80}}})),
                "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            ),
            (
                main(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]})),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
        ] {
            assert_eq!(errors(spec), [wanted]);
        }
    }

    #[test]
    fn scheduling_is_checked() {
        let spec = |extra: Value| {
            let mut spec = json!({"containers": [{"name": "m", "image": "a:1"}]});
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            spec
        };
        for (extra, wanted) in [
            (
                json!({"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 5}]}),
                "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            ),
            (
                json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
            ),
            (
                json!({"restartPolicy": "Sometimes"}),
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ),
            (
                json!({"activeDeadlineSeconds": 0}),
                "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            ),
        ] {
            assert_eq!(errors(spec(extra)), [wanted]);
        }
    }

    #[test]
    fn a_disruption_is_told_once() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let since = |pod: &Pod| condition(pod, "DisruptionTarget").unwrap().last_transition_time.clone();
        let mut pod = pod(json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "False",
            "reason": "A", "lastTransitionTime": "1970-01-01T00:00:01Z"}]}}));
        assert!(set_disrupted(&mut pod, "A", "a", at(2)), "it was not to go before");
        assert!(has_condition(&pod, "DisruptionTarget"));
        assert_eq!(since(&pod), Some(Time(at(2))));
        assert!(!set_disrupted(&mut pod, "A", "a", at(3)));
        assert!(set_disrupted(&mut pod, "B", "b", at(4)));
        assert_eq!(condition(&pod, "DisruptionTarget").unwrap().reason.as_deref(), Some("B"));
        assert_eq!(since(&pod), Some(Time(at(2))), "it has been to go since then");
    }

    #[test]
    fn which_ports_of_its_node_it_takes() {
        let ports = |host_network: bool| {
            let container = |name: &str, policy: Option<&str>, port: Value| json!({"name": name, "restartPolicy": policy, "ports": [port]});
            let pod = pod(json!({"spec": {"hostNetwork": host_network,
                "initContainers": [
                    container("side", Some("Always"), json!({"containerPort": 1, "hostPort": 1})),
                    container("init", None, json!({"containerPort": 2, "hostPort": 2}))],
                "containers": [
                    container("a", None, json!({"containerPort": 3, "hostPort": 30})),
                    container("b", None, json!({"containerPort": 4}))]}}));
            host_ports(&pod).iter().map(|taken| taken.port).collect::<Vec<_>>()
        };
        assert_eq!(ports(false), [1, 30]);
        assert_eq!(ports(true), [1, 30, 4]);
    }

    #[test]
    fn it_is_available_after_it_was_ready_for_long_enough() {
        let pod = pod(json!({"status": {"conditions":
            [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}));
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(!is_available(&pod, 10, at("2026-01-01T00:00:09Z")));
        assert!(is_available(&pod, 10, at("2026-01-01T00:00:10Z")));
        assert!(is_available(&pod, 0, at("2026-01-01T00:00:00Z")));
    }
}
