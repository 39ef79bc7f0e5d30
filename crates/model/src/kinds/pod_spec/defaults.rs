//! Defaults of a pod spec. Idempotent, as all defaults.
//!
//! Templates get the same as pods but for what only a pod gets: requests out of limits, host ports out
//! of the host network, service links and the resize policy ([`set_pod_only`]).

use k8s_openapi::api::core::v1::{
    AzureDiskVolumeSource, Container, ContainerPort, ContainerResizePolicy, DownwardAPIVolumeFile,
    EmptyDirVolumeSource, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, PodSecurityContext, PodSpec,
    Probe, ProjectedVolumeSource, ResourceFieldSelector, ResourceRequirements, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::resources::canonical_list;
use crate::kinds::check::{default_number, default_text, default_to};

/// Mode of the files of volumes made from objects, `0644`.
const FILE_MODE: i32 = 0o644;
/// How long a projected token is valid, in seconds.
const TOKEN_SECONDS: i64 = 3600;

/// Defaults that pods and templates share.
pub fn set(spec: &mut PodSpec) {
    drop_what_is_off(spec);
    default_text(&mut spec.dns_policy, "ClusterFirst");
    default_text(&mut spec.restart_policy, "Always");
    default_text(&mut spec.scheduler_name, "default-scheduler");
    default_to(&mut spec.termination_grace_period_seconds, 30);
    default_to(&mut spec.security_context, PodSecurityContext::default());
    mirror_service_account(spec);
    if let Some(overhead) = &mut spec.overhead {
        canonical_list(overhead);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        set_volume(volume);
    }
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        set_container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        set_ephemeral(container);
    }
}

/// Fields of features that are off in this release: nobody would keep to them. As Kubernetes does: a pod is
/// taken without them.
fn drop_what_is_off(spec: &mut PodSpec) {
    // Resources of the pod as a whole.
    spec.resources = None;
    // Devices by claims.
    spec.resource_claims = None;
    let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    let containers = containers.map(|container| &mut container.resources);
    let ephemeral = spec.ephemeral_containers.iter_mut().flatten();
    for resources in containers.chain(ephemeral.map(|container| &mut container.resources)).flatten() {
        resources.claims = None;
    }
}

/// Defaults of pods alone.
pub fn set_pod_only(spec: &mut PodSpec) {
    default_to(&mut spec.enable_service_links, true);
    let host_network = spec.host_network == Some(true);
    for container in spec.init_containers.iter_mut().flatten() {
        set_requests(container);
        if container.restart_policy.as_deref() == Some("Always") {
            set_resize_policy(container);
        }
    }
    for container in &mut spec.containers {
        set_requests(container);
        set_resize_policy(container);
    }
    if host_network {
        for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
            for port in container.ports.iter_mut().flatten() {
                default_number(&mut port.host_port, port.container_port);
            }
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName` and always says the same.
fn mirror_service_account(spec: &mut PodSpec) {
    if spec.service_account_name.as_deref().is_none_or(str::is_empty) {
        spec.service_account_name = spec.service_account.take().filter(|name| !name.is_empty());
    }
    spec.service_account.clone_from(&spec.service_account_name);
}

fn set_container(container: &mut Container) {
    set_image_policy(container.image.as_deref(), &mut container.image_pull_policy);
    default_text(&mut container.termination_message_path, "/dev/termination-log");
    default_text(&mut container.termination_message_policy, "File");
    set_resources(&mut container.resources);
    set_ports(container.ports.as_mut());
    set_env(container.env.as_mut());
    set_lifecycle(container.lifecycle.as_mut());
    for probe in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe]
        .into_iter()
        .flatten()
    {
        set_probe(probe);
    }
}

fn set_ephemeral(container: &mut EphemeralContainer) {
    set_image_policy(container.image.as_deref(), &mut container.image_pull_policy);
    default_text(&mut container.termination_message_path, "/dev/termination-log");
    default_text(&mut container.termination_message_policy, "File");
    set_resources(&mut container.resources);
    set_env(container.env.as_mut());
}

/// An image without tag or with `latest` may change under its name and is pulled again and again.
fn set_image_policy(image: Option<&str>, policy: &mut Option<String>) {
    if policy.as_deref().is_none_or(str::is_empty) {
        let image = image.unwrap_or_default();
        let name = image.rsplit('/').next().unwrap_or_default();
        let (name, digest) = name.split_once('@').map_or((name, false), |(name, _)| (name, true));
        let moves = match name.split_once(':') {
            Some((_, tag)) => tag == "latest",
            None => !digest,
        };
        *policy = Some(if moves { "Always" } else { "IfNotPresent" }.to_owned());
    }
}

fn set_resources(resources: &mut Option<ResourceRequirements>) {
    let resources = resources.get_or_insert_default();
    for list in [&mut resources.limits, &mut resources.requests].into_iter().flatten() {
        canonical_list(list);
    }
}

fn set_requests(container: &mut Container) {
    let Some(resources) = &mut container.resources else { return };
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    if requests.is_empty() {
        resources.requests = None;
    }
}

fn set_resize_policy(container: &mut Container) {
    let Some(resources) = &container.resources else { return };
    for name in ["cpu", "memory"] {
        let uses = [&resources.requests, &resources.limits]
            .into_iter()
            .flatten()
            .any(|list| list.contains_key(name));
        let known = container.resize_policy.iter().flatten().any(|policy| policy.resource_name == name);
        if uses && !known {
            container.resize_policy.get_or_insert_default().push(ContainerResizePolicy {
                resource_name: name.to_owned(),
                restart_policy: "NotRequired".to_owned(),
            });
        }
    }
}

fn set_ports(ports: Option<&mut Vec<ContainerPort>>) {
    for port in ports.into_iter().flatten() {
        default_text(&mut port.protocol, "TCP");
    }
}

fn set_env(env: Option<&mut Vec<EnvVar>>) {
    for variable in env.into_iter().flatten() {
        if variable.value.as_deref() == Some("") {
            variable.value = None;
        }
        let Some(source) = &mut variable.value_from else { continue };
        if let Some(field) = &mut source.field_ref {
            default_text(&mut field.api_version, "v1");
        }
        set_divisor(source.resource_field_ref.as_mut());
    }
}

fn set_divisor(selector: Option<&mut ResourceFieldSelector>) {
    if let Some(selector) = selector {
        default_to(&mut selector.divisor, Quantity("0".to_owned()));
    }
}

fn set_http_get(get: &mut HTTPGetAction) {
    default_text(&mut get.path, "/");
    default_text(&mut get.scheme, "HTTP");
}

fn set_lifecycle(lifecycle: Option<&mut Lifecycle>) {
    let Some(lifecycle) = lifecycle else { return };
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        if let Some(get) = &mut handler.http_get {
            set_http_get(get);
        }
    }
}

fn set_probe(probe: &mut Probe) {
    default_number(&mut probe.timeout_seconds, 1);
    default_number(&mut probe.period_seconds, 10);
    default_number(&mut probe.success_threshold, 1);
    default_number(&mut probe.failure_threshold, 3);
    if let Some(get) = &mut probe.http_get {
        set_http_get(get);
    }
    if let Some(grpc) = &mut probe.grpc {
        default_to(&mut grpc.service, String::new());
    }
}

fn set_volume(volume: &mut Volume) {
    if !super::volumes::has_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(source) = &mut volume.config_map {
        default_to(&mut source.default_mode, FILE_MODE);
    }
    if let Some(source) = &mut volume.secret {
        default_to(&mut source.default_mode, FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        default_to(&mut source.default_mode, FILE_MODE);
        set_downward_files(source.items.as_mut());
    }
    if let Some(source) = &mut volume.projected {
        set_projected(source);
    }
    if let Some(source) = &mut volume.host_path {
        default_to(&mut source.type_, String::new());
    }
    if let Some(source) = &mut volume.image {
        set_image_policy(source.reference.as_deref(), &mut source.pull_policy);
    }
    if let Some(source) = &mut volume.iscsi {
        default_text(&mut source.iscsi_interface, "default");
    }
    if let Some(source) = &mut volume.rbd {
        default_text(&mut source.pool, "rbd");
        default_text(&mut source.user, "admin");
        default_text(&mut source.keyring, "/etc/ceph/keyring");
    }
    if let Some(source) = &mut volume.azure_disk {
        set_azure_disk(source);
    }
    if let Some(source) = &mut volume.scale_io {
        default_text(&mut source.storage_mode, "ThinProvisioned");
        default_text(&mut source.fs_type, "xfs");
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        default_text(&mut template.spec.volume_mode, "Filesystem");
    }
}

/// Of a disk of Azure: also that of a PersistentVolume.
pub(crate) fn set_azure_disk(disk: &mut AzureDiskVolumeSource) {
    default_to(&mut disk.caching_mode, "ReadWrite");
    default_to(&mut disk.kind, "Shared");
    default_to(&mut disk.fs_type, "ext4");
    default_to(&mut disk.read_only, false);
}

fn set_projected(source: &mut ProjectedVolumeSource) {
    default_to(&mut source.default_mode, FILE_MODE);
    for projection in source.sources.iter_mut().flatten() {
        if let Some(token) = &mut projection.service_account_token {
            default_to(&mut token.expiration_seconds, TOKEN_SECONDS);
        }
        if let Some(files) = &mut projection.downward_api {
            set_downward_files(files.items.as_mut());
        }
    }
}

fn set_downward_files(files: Option<&mut Vec<DownwardAPIVolumeFile>>) {
    for file in files.into_iter().flatten() {
        if let Some(field) = &mut file.field_ref {
            default_text(&mut field.api_version, "v1");
        }
        set_divisor(file.resource_field_ref.as_mut());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn defaulted(spec: Value) -> Value {
        let mut spec: PodSpec = serde_json::from_value(spec).unwrap();
        set(&mut spec);
        set_pod_only(&mut spec);
        let once = serde_json::to_value(&spec).unwrap();
        set(&mut spec);
        set_pod_only(&mut spec);
        assert_eq!(serde_json::to_value(&spec).unwrap(), once, "defaults are idempotent");
        once
    }

    #[test]
    fn a_minimal_pod_gets_what_a_reference_server_gives() {
        let got = defaulted(json!({"containers": [{"name": "main", "image": "registry.test/app:v1"}]}));
        assert_eq!(
            got,
            json!({
                "containers": [{"name": "main", "image": "registry.test/app:v1", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "imagePullPolicy": "IfNotPresent"}],
                "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
                "securityContext": {}, "schedulerName": "default-scheduler", "enableServiceLinks": true,
            })
        );
    }

    #[test]
    fn what_belongs_to_a_feature_that_is_off_is_dropped() {
        let got = defaulted(json!({"containers": [], "resources": {"limits": {"cpu": "1"}}}));
        assert_eq!(got.get("resources"), None);
    }

    #[test]
    fn images_that_move_are_pulled_always() {
        for (image, policy) in [
            ("a", "Always"),
            ("r:5000/a", "Always"),
            ("r:5000/a:latest", "Always"),
            ("a:v1", "IfNotPresent"),
            ("a@sha256:0", "IfNotPresent"),
            ("a:v1@sha256:0", "IfNotPresent"),
        ] {
            let got = defaulted(json!({"containers": [{"name": "m", "image": image}]}));
            assert_eq!(got["containers"][0]["imagePullPolicy"], policy, "{image}");
        }
    }

    #[test]
    fn probes_ports_and_variables() {
        let got = defaulted(json!({"hostNetwork": true, "containers": [{"name": "m", "image": "a:1",
            "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}},
            "env": [{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}]}));
        let container = &got["containers"][0];
        assert_eq!(container["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
        assert_eq!(
            container["livenessProbe"],
            json!({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1,
                "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(
            container["env"],
            json!([{"name": "A"},
                {"name": "B", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}}])
        );
    }

    #[test]
    fn volumes() {
        let got = defaulted(json!({"containers": [], "volumes": [
            {"name": "none"}, {"name": "c", "configMap": {"name": "c"}}, {"name": "h", "hostPath": {"path": "/t"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}));
        assert_eq!(
            got["volumes"],
            json!([{"name": "none", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/t", "type": ""}},
                {"name": "p", "projected": {"defaultMode": 420,
                    "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}])
        );
    }

    #[test]
    fn limits_are_requests_too_and_quantities_become_canonical() {
        let got = defaulted(json!({"containers": [{"name": "m", "image": "a:1",
            "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}}]}));
        let container = &got["containers"][0];
        assert_eq!(container["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
        assert_eq!(container["resizePolicy"].as_array().unwrap().len(), 2);
    }
}
