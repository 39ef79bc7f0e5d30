//! A pod spec as a whole.

use k8s_openapi::api::core::v1::PodSpec;

use super::containers::{self, Surroundings};
use super::{scheduling, volumes};
use crate::field::{FieldErrors, Path};
use crate::kinds::check::{in_range, ip, label, required_one_of, subdomain};
use crate::meta;

/// Checks the spec of a pod or of a template.
pub(crate) fn validate(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let around = Surroundings {
        volumes: spec.volumes.as_deref().unwrap_or_default(),
        grace: spec.termination_grace_period_seconds.unwrap_or(30),
    };
    volumes::validate(around.volumes, &path.child("volumes"), errors);
    containers::validate(&spec.containers, &around, &path.child("containers"), errors);
    let init = spec.init_containers.as_deref().unwrap_or_default();
    containers::validate_init(init, &spec.containers, &around, &path.child("initContainers"), errors);
    validate_ephemeral(spec, &around, path, errors);
    validate_policies(spec, path, errors);
    meta::validate_labels(spec.node_selector.as_ref(), &path.child("nodeSelector"), errors);
    validate_host(spec, path, errors);
    scheduling::validate_affinity(spec.affinity.as_ref(), &path.child("affinity"), errors);
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    scheduling::validate_spread(constraints, &path.child("topologySpreadConstraints"), errors);
    validate_names(spec, path, errors);
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    scheduling::validate_tolerations(tolerations, &path.child("tolerations"), errors);
    validate_security(spec, path, errors);
}

fn validate_ephemeral(spec: &PodSpec, around: &Surroundings<'_>, path: &Path, errors: &mut FieldErrors) {
    let Some(ephemeral) = &spec.ephemeral_containers else { return };
    let others: Vec<&str> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| c.name.as_str())
        .collect();
    let path = path.child("ephemeralContainers");
    containers::validate_ephemeral(ephemeral, &others, around, &path, errors);
}

fn validate_policies(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    required_one_of(
        errors,
        &path.child("restartPolicy"),
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
    );
    required_one_of(
        errors,
        &path.child("dnsPolicy"),
        spec.dns_policy.as_deref(),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    if let Some(policy) = &spec.preemption_policy {
        let known = ["PreemptLowerPriority", "Never"];
        required_one_of(errors, &path.child("preemptionPolicy"), Some(policy.as_str()), &known);
    }
    let servers = spec.dns_config.iter().flat_map(|c| c.nameservers.iter().flatten());
    let path = path.child("dnsConfig").child("nameservers");
    let mut count = 0;
    for (i, server) in servers.enumerate() {
        ip(errors, &path.index(i), server);
        count += 1;
    }
    if count > 3 {
        let detail = "must not have more than 3 nameservers";
        errors.invalid(&path, count, detail);
    } else if count == 0 && spec.dns_policy.as_deref() == Some("None") {
        errors.required(&path, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
}

fn validate_host(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if spec.host_network == Some(true) {
        containers::validate_host_network(&spec.containers, &path.child("containers"), errors);
        let init = spec.init_containers.as_deref().unwrap_or_default();
        containers::validate_host_network(init, &path.child("initContainers"), errors);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.child("hostAliases").index(i);
        ip(errors, &path.child("ip"), &alias.ip);
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            subdomain(errors, &path.child("hostnames").index(j), name);
        }
    }
}

fn validate_names(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    for (field, name) in [
        ("serviceAccountName", &spec.service_account_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
    ] {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            subdomain(errors, &path.child(field), name);
        }
    }
    scheduling::validate_node_name(spec.node_name.as_deref(), &path.child("nodeName"), errors);
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|n| !n.is_empty()) {
            label(errors, &path.child(field), name);
        }
    }
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if secret.name.is_empty() {
            errors.required(&path.child("imagePullSecrets").index(i).child("name"), "");
        }
    }
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(i).child("conditionType");
        for wrong in meta::qualified_name(&gate.condition_type) {
            errors.invalid(&path, gate.condition_type.as_str(), wrong);
        }
    }
    let mut gates = std::collections::HashSet::new();
    for (i, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let path = path.child("schedulingGates").index(i);
        for wrong in meta::qualified_name(&gate.name) {
            errors.invalid(&path, gate.name.as_str(), wrong);
        }
        if !gates.insert(gate.name.as_str()) {
            errors.duplicate(&path, gate.name.as_str());
        }
    }
    if let Some(seconds) = spec.active_deadline_seconds {
        in_range(errors, &path.child("activeDeadlineSeconds"), seconds, 1, i64::from(i32::MAX));
    }
}

fn validate_security(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let Some(context) = &spec.security_context else { return };
    let path = path.child("securityContext");
    let ids = [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ];
    for (field, id) in ids {
        if let Some(id) = id {
            in_range(errors, &path.child(field), id, 0, i64::from(i32::MAX));
        }
    }
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        in_range(errors, &path.child("supplementalGroups").index(i), *group, 0, i64::from(i32::MAX));
    }
    let mut names = std::collections::HashSet::new();
    for (i, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = path.child("sysctls").index(i).child("name");
        if sysctl.name.is_empty() {
            errors.required(&path, "");
        } else if !names.insert(sysctl.name.as_str()) {
            errors.duplicate(&path, sysctl.name.as_str());
        }
    }
}
