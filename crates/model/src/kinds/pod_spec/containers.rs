//! Containers: names, images, ports, mounts; init containers and ephemeral ones.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EphemeralContainer, SecurityContext, Volume, VolumeDevice, VolumeMount,
};

use super::probes::{Which, validate_lifecycle, validate_probe};
use super::{env, resources};
use crate::field::{FieldErrors, Path};
use crate::kinds::check::{in_range, invalid_each, label, one_of, port, port_name, required_one_of};

/// What containers are checked against.
pub(super) struct Surroundings<'a> {
    /// The pod's volumes.
    pub(super) volumes: &'a [Volume],
    /// Seconds that the pod gets to stop.
    pub(super) grace: i64,
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
        if container.name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !names.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), container.name.as_str());
        } else {
            label(errors, &path.child("name"), &container.name);
        }
        if container.image.as_deref().is_none_or(str::is_empty) {
            errors.required(&path.child("image"), "");
        }
        if let Some(target) = container.target_container_name.as_deref().filter(|t| !t.is_empty())
            && !others.contains(&target)
        {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        env::validate_env(container.env.as_ref(), &path.child("env"), errors);
        env::validate_env_from(container.env_from.as_ref(), &path.child("envFrom"), errors);
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        validate_mounts(mounts, &[], around.volumes, &path.child("volumeMounts"), errors);
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
    validate_mounts(mounts, devices, around.volumes, &path.child("volumeMounts"), errors);
    validate_devices(devices, mounts, around.volumes, &path.child("volumeDevices"), errors);
    required_one_of(
        errors,
        &path.child("imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
    );
    resources::validate(container.resources.as_ref(), &path.child("resources"), errors);
    validate_security(container.security_context.as_ref(), &path.child("securityContext"), errors);
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
            if port.host_port.unwrap_or(0) != port.container_port {
                let path = path.index(i).child("ports").index(j).child("containerPort");
                let detail = "must match `hostPort` when `hostNetwork` is true";
                errors.invalid(&path, port.container_port, detail);
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
        validate_sub_paths(mount, path, &item, errors);
        if let Some(propagation) = &mount.mount_propagation {
            let known = ["Bidirectional", "HostToContainer", "None"];
            one_of(errors, &item.child("mountPropagation"), propagation, &known);
        }
    }
}

fn validate_sub_paths(mount: &VolumeMount, path: &Path, item: &Path, errors: &mut FieldErrors) {
    let sub_path = mount.sub_path.as_deref().unwrap_or_default();
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
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
        no_backsteps(place, &item.child("devicePath"), errors);
        if mounts.iter().any(|m| m.name == name) {
            errors.invalid(&item.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| m.mount_path == place) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.invalid(&item.child("devicePath"), place, detail);
        }
    }
}

fn validate_security(context: Option<&SecurityContext>, path: &Path, errors: &mut FieldErrors) {
    let Some(context) = context else { return };
    for (field, id) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        if let Some(id) = id {
            in_range(errors, &path.child(field), id, 0, i64::from(i32::MAX));
        }
    }
    if context.allow_privilege_escalation == Some(false) {
        let path = path.child("allowPrivilegeEscalation");
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(&path, false, detail);
        }
        let added = context.capabilities.iter().flat_map(|c| c.add.iter().flatten());
        if added.into_iter().any(|name| name == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(&path, false, detail);
        }
    }
    if let Some(mount) = &context.proc_mount {
        one_of(errors, &path.child("procMount"), mount, &["Default", "Unmasked"]);
    }
}
