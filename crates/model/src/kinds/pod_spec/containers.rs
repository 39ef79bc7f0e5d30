//! Containers: names, images, ports, mounts; init containers and ephemeral ones.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerResizePolicy, EphemeralContainer, ResourceRequirements, Volume,
    VolumeDevice, VolumeMount,
};

use super::probes::{Which, validate_lifecycle, validate_probe};
use super::{env, resources, security};
use crate::field::{FieldErrors, Path};
use crate::kinds::check::{invalid_each, json, label, one_of, port, port_name, required_one_of};

/// What containers are checked against.
pub(super) struct Surroundings<'a> {
    /// The pod's volumes.
    pub(super) volumes: &'a [Volume],
    /// Seconds that the pod gets to stop.
    pub(super) grace: i64,
    /// Whether its users are the node's.
    pub(super) host_users: bool,
    /// What is done when a container of it ends.
    pub(super) restart_policy: &'a str,
}

/// Checks the containers of a pod.
pub(super) fn validate(
    containers: &[Container],
    around: &Surroundings<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if containers.is_empty() {
        errors.required(path, "");
    }
    let mut names = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        validate_common(container, around, &path, errors);
        if !names.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), container.name.as_str());
        }
        validate_hooks(container, around, &path, errors);
        if container.restart_policy.is_some() {
            errors.forbidden(&path.child("restartPolicy"), "may not be set for non-init containers");
        }
    }
    validate_host_ports(containers, path, errors);
}

/// Checks the containers that run before the others.
pub(super) fn validate_init(
    containers: &[Container],
    regular: &[Container],
    around: &Surroundings<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut names: HashSet<&str> = regular.iter().map(|c| c.name.as_str()).collect();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        validate_common(container, around, &path, errors);
        if !container.name.is_empty() && !names.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), container.name.as_str());
        }
        validate_host_ports(std::slice::from_ref(container), &path, errors);
        if let Some(policy) = &container.restart_policy {
            one_of(errors, &path.child("restartPolicy"), policy, &["Always"]);
        }
        if container.restart_policy.as_deref() == Some("Always") {
            validate_hooks(container, around, &path, errors);
            continue;
        }
        for (field, set) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if set {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.forbidden(&path.child(field), detail);
            }
        }
    }
}

/// Checks the containers that somebody added to a running pod.
pub(super) fn validate_ephemeral(
    containers: &[EphemeralContainer],
    others: &[&str],
    around: &Surroundings<'_>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut names: HashSet<&str> = others.iter().copied().collect();
    for (i, container) in containers.iter().enumerate() {
        let path = path.index(i);
        // The two have the same fields, but for the target.
        if let Ok(common) = serde_json::from_value(json(container)) {
            validate_common(&common, around, &path, errors);
        }
        if !names.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), container.name.as_str());
        }
        if let Some(target) = container.target_container_name.as_deref().filter(|t| !t.is_empty())
            && !others.contains(&target)
        {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        validate_is_guest(container, &path, errors);
    }
}

/// Nobody may rely on a container that was added to look at the others.
fn validate_is_guest(container: &EphemeralContainer, path: &Path, errors: &mut FieldErrors) {
    const GUESTS: &str = "cannot be set for an Ephemeral Container";
    let uses = container.resources.as_ref().is_some_and(|r| *r != ResourceRequirements::default());
    for (field, set) in [
        ("ports", container.ports.as_ref().is_some_and(|ports| !ports.is_empty())),
        ("resources", uses),
        ("resizePolicy", container.resize_policy.as_ref().is_some_and(|list| !list.is_empty())),
        ("restartPolicy", container.restart_policy.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ] {
        if set {
            errors.forbidden(&path.child(field), GUESTS);
        }
    }
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.child("volumeMounts").index(i);
        for (field, text) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if text.as_ref().is_some_and(|text| !text.is_empty()) {
                errors.forbidden(&path.child(field), GUESTS);
            }
        }
    }
}

fn validate_hooks(container: &Container, around: &Surroundings<'_>, path: &Path, errors: &mut FieldErrors) {
    validate_lifecycle(container.lifecycle.as_ref(), around.grace, &path.child("lifecycle"), errors);
    let probes = [
        ("livenessProbe", &container.liveness_probe, Which::LivenessOrStartup),
        ("readinessProbe", &container.readiness_probe, Which::Readiness),
        ("startupProbe", &container.startup_probe, Which::LivenessOrStartup),
    ];
    for (field, probe, which) in probes {
        validate_probe(probe.as_ref(), which, around.grace, &path.child(field), errors);
    }
}

fn validate_common(container: &Container, around: &Surroundings<'_>, path: &Path, errors: &mut FieldErrors) {
    if container.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        label(errors, &path.child("name"), &container.name);
    }
    if container.image.as_deref().is_none_or(str::is_empty) {
        errors.required(&path.child("image"), "");
    }
    required_one_of(
        errors,
        &path.child("terminationMessagePolicy"),
        container.termination_message_policy.as_deref(),
        &["FallbackToLogsOnError", "File"],
    );
    let ports = container.ports.as_deref().unwrap_or_default();
    validate_ports(ports, &path.child("ports"), errors);
    env::validate_env(container.env.as_ref(), &path.child("env"), errors);
    env::validate_env_from(container.env_from.as_ref(), &path.child("envFrom"), errors);
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let privileged = container.security_context.as_ref().and_then(|c| c.privileged) == Some(true);
    let mounts_path = path.child("volumeMounts");
    validate_mounts(mounts, devices, around.volumes, &mounts_path, errors);
    for mount in mounts {
        validate_propagation(mount, privileged, &mounts_path, errors);
    }
    validate_devices(devices, mounts, around.volumes, &path.child("volumeDevices"), errors);
    required_one_of(
        errors,
        &path.child("imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
    );
    resources::validate(container.resources.as_ref(), &path.child("resources"), errors);
    let policies = container.resize_policy.as_deref().unwrap_or_default();
    validate_resize_policies(policies, around.restart_policy, &path.child("resizePolicy"), errors);
    let context = container.security_context.as_ref();
    security::validate_container(context, around.host_users, &path.child("securityContext"), errors);
}

/// The reference server's refusals name the list where they mean one of it.
fn validate_resize_policies(
    policies: &[ContainerResizePolicy],
    restart_policy: &str,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut seen = HashSet::new();
    for (i, policy) in policies.iter().enumerate() {
        let (resource, restart) = (policy.resource_name.as_str(), policy.restart_policy.as_str());
        if !seen.insert(resource) {
            errors.duplicate(&path.index(i), resource);
        }
        required_one_of(errors, path, Some(resource), &["cpu", "memory"]);
        required_one_of(errors, path, Some(restart), &["NotRequired", "RestartContainer"]);
        if restart_policy == "Never" && restart != "NotRequired" {
            errors.invalid(path, restart, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}

fn validate_ports(ports: &[ContainerPort], path: &Path, errors: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (i, item) in ports.iter().enumerate() {
        let path = path.index(i);
        if let Some(name) = item.name.as_deref().filter(|n| !n.is_empty()) {
            let wrong = port_name(name);
            if !wrong.is_empty() {
                invalid_each(errors, &path.child("name"), name, wrong);
            } else if !names.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        if item.container_port == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            port(errors, &path.child("containerPort"), item.container_port);
        }
        if let Some(host_port) = item.host_port.filter(|p| *p != 0) {
            port(errors, &path.child("hostPort"), host_port);
        }
        let protocol = item.protocol.as_deref();
        required_one_of(errors, &path.child("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
    }
}

/// Two containers of a pod cannot have the same port of their node.
fn validate_host_ports(containers: &[Container], path: &Path, errors: &mut FieldErrors) {
    let mut taken = HashSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let Some(host_port) = port.host_port.filter(|p| *p != 0) else { continue };
            let protocol = port.protocol.as_deref().unwrap_or_default();
            let claim = format!("{protocol}/{}/{host_port}", port.host_ip.as_deref().unwrap_or_default());
            if taken.contains(&claim) {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                errors.duplicate(&path, claim.as_str());
            }
            taken.insert(claim);
        }
    }
}

/// In the host's network a container's port is the node's.
pub(super) fn validate_host_network(containers: &[Container], path: &Path, errors: &mut FieldErrors) {
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if host_port != port.container_port {
                let path = path.index(i).child("ports").index(j).child("hostPort");
                errors.invalid(&path, host_port, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn validate_mounts(
    mounts: &[VolumeMount],
    devices: &[VolumeDevice],
    volumes: &[Volume],
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut places = HashSet::new();
    for (i, mount) in mounts.iter().enumerate() {
        let item = path.index(i);
        if mount.name.is_empty() {
            errors.required(&item.child("name"), "");
        }
        if !volumes.iter().any(|v| v.name == mount.name) {
            errors.not_found(&item.child("name"), mount.name.as_str());
        }
        let place = mount.mount_path.as_str();
        if place.is_empty() {
            errors.required(&item.child("mountPath"), "");
        }
        if !places.insert(place) {
            errors.invalid(&item.child("mountPath"), place, "must be unique");
        }
        if devices.iter().any(|d| d.name == mount.name) {
            let detail = "must not already exist in volumeDevices";
            errors.invalid(&item.child("name"), mount.name.as_str(), detail);
        }
        if devices.iter().any(|d| d.device_path == place) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(&item.child("mountPath"), place, detail);
        }
        let is_image = |v: &Volume| v.name == mount.name && v.image.is_some();
        validate_sub_paths(mount, volumes.iter().any(is_image), path, &item, errors);
    }
}

/// The reference server says of one mount that it is all of them.
fn validate_propagation(mount: &VolumeMount, privileged: bool, path: &Path, errors: &mut FieldErrors) {
    let propagation = mount.mount_propagation.as_deref();
    let propagation_path = path.child("mountPropagation");
    if let Some(propagation) = propagation {
        one_of(errors, &propagation_path, propagation, &["Bidirectional", "HostToContainer", "None"]);
    }
    if propagation == Some("Bidirectional") && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(&propagation_path, detail);
    }
    let path = path.child("recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                errors.forbidden(&path, "may only be specified when readOnly is true");
            }
            if propagation.is_some_and(|propagation| propagation != "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.forbidden(&path, detail);
            }
        }
        Some(other) => one_of(errors, &path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn validate_sub_paths(
    mount: &VolumeMount,
    of_image: bool,
    path: &Path,
    item: &Path,
    errors: &mut FieldErrors,
) {
    let sub_path = mount.sub_path.as_deref().unwrap_or_default();
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    for (field, text) in [("subPath", sub_path), ("subPathExpr", expression)] {
        if of_image && !text.is_empty() {
            errors.invalid(&item.child(field), text, "not allowed in image volume sources");
        }
    }
    if !sub_path.is_empty() {
        descending(sub_path, &path.child("subPath"), errors);
    }
    if !expression.is_empty() {
        if !sub_path.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&item.child("subPathExpr"), expression, detail);
        }
        descending(expression, &path.child("subPathExpr"), errors);
    }
}

/// Refuses paths that could lead out of where they start.
pub(super) fn descending(text: &str, path: &Path, errors: &mut FieldErrors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    no_backsteps(text, path, errors);
}

/// Refuses `..` as a part of a path.
pub(crate) fn no_backsteps(text: &str, path: &Path, errors: &mut FieldErrors) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

fn validate_devices(
    devices: &[VolumeDevice],
    mounts: &[VolumeMount],
    volumes: &[Volume],
    path: &Path,
    errors: &mut FieldErrors,
) {
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    for (i, device) in devices.iter().enumerate() {
        let item = path.index(i);
        let (name, place) = (device.name.as_str(), device.device_path.as_str());
        if name.is_empty() {
            errors.required(&item.child("name"), "");
        }
        if !names.insert(name) {
            errors.invalid(&item.child("name"), name, "must be unique");
        }
        match volumes.iter().find(|v| v.name == name) {
            None => errors.not_found(&item.child("name"), name),
            Some(v) if v.persistent_volume_claim.is_none() && v.ephemeral.is_none() => {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&item.child("name"), name, detail);
            }
            Some(_) => {}
        }
        if place.is_empty() {
            errors.required(&item.child("devicePath"), "");
        }
        if !places.insert(place) {
            errors.invalid(&item.child("devicePath"), place, "must be unique");
        }
        if place.split('/').any(|part| part == "..") {
            errors.invalid(&item.child("devicePath"), place, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|m| m.name == name) {
            errors.invalid(&item.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| m.mount_path == place) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.invalid(&item.child("devicePath"), place, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const AROUND: Surroundings<'_> =
        Surroundings { volumes: &[], grace: 30, host_users: true, restart_policy: "Never" };

    fn texts(errors: FieldErrors) -> Vec<String> {
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    fn wrong(more: Value) -> Vec<String> {
        let mut container = json!({"name": "a", "image": "i", "terminationMessagePolicy": "File",
            "imagePullPolicy": "Always"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let volume = json!({"name": "v", "image": {"reference": "r"}});
        let volumes: [Volume; 1] = [serde_json::from_value(volume).unwrap()];
        let mut errors = FieldErrors::new();
        let container = serde_json::from_value(container).unwrap();
        let around = Surroundings { volumes: &volumes, ..AROUND };
        validate(&[container], &around, &Path::new("c"), &mut errors);
        texts(errors)
    }

    #[test]
    fn resources_are_resized_in_one_way() {
        let policy = |resource, restart| json!({"resourceName": resource, "restartPolicy": restart});
        let policies = [policy("cpu", "NotRequired"), policy("cpu", "RestartContainer"), policy("gpu", "")];
        assert_eq!(
            wrong(json!({"resizePolicy": policies})),
            [
                "c[0].resizePolicy[1]: Duplicate value: \"cpu\"",
                "c[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when `restartPolicy` is 'Never'",
                "c[0].resizePolicy: Unsupported value: \"gpu\": supported values: \"cpu\", \"memory\"",
                "c[0].resizePolicy: Required value",
                "c[0].resizePolicy: Invalid value: \"\": must be 'NotRequired' when `restartPolicy` is 'Never'",
            ]
        );
    }

    #[test]
    fn mounts_reach_the_node_from_privileged_containers_only() {
        let mount = json!({"name": "v", "mountPath": "/m", "subPath": "s", "mountPropagation": "Bidirectional",
            "recursiveReadOnly": "Enabled"});
        assert_eq!(
            wrong(json!({"volumeMounts": [mount]})),
            [
                "c[0].volumeMounts[0].subPath: Invalid value: \"s\": not allowed in image volume sources",
                "c[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
                "c[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
                "c[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified",
            ]
        );
    }

    #[test]
    fn guests_serve_nobody() {
        let guest = json!({"name": "g", "image": "i", "terminationMessagePolicy": "File",
            "imagePullPolicy": "Always", "targetContainerName": "x", "resources": {},
            "ports": [{"containerPort": 80, "protocol": "TCP"}], "lifecycle": {}});
        let guest: EphemeralContainer = serde_json::from_value(guest).unwrap();
        let mut errors = FieldErrors::new();
        validate_ephemeral(&[guest], &["g"], &AROUND, &Path::new("e"), &mut errors);
        assert_eq!(
            texts(errors),
            [
                "e[0].name: Duplicate value: \"g\"",
                "e[0].targetContainerName: Not found: \"x\"",
                "e[0].ports: Forbidden: cannot be set for an Ephemeral Container",
                "e[0].lifecycle: Forbidden: cannot be set for an Ephemeral Container",
            ]
        );
    }
}
