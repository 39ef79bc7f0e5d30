//! What pods and containers may do: users, profiles, kernel settings, and what each operating system has.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};

use super::containers::descending;
use super::members::members;
use super::windows;
use crate::field::{FieldErrors, Path};
use crate::kinds::check::{in_range, json, one_of};

const LONGEST_SYSCTL: usize = 253;
/// Longest path that the kernel takes.
const LONGEST_PROFILE: usize = 4095;
const PROFILE_TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const SYSCTL_RULE: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// Checks what holds for a pod as a whole.
pub(super) fn validate_pod(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if let Some(context) = &spec.security_context {
        let path = path.child("securityContext");
        validate_ids(context, &path, errors);
        validate_sysctls(spec, context, &path.child("sysctls"), errors);
        validate_policies(context, &path, errors);
        validate_seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
        windows::validate_options(context.windows_options.as_ref(), &path.child("windowsOptions"), errors);
        validate_app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
    }
    windows::validate_host_process(spec, path, errors);
    validate_host_users(spec, path, errors);
    match spec.os.as_ref().map(|os| os.name.as_str()) {
        Some("linux") => validate_linux(spec, path, errors),
        Some("windows") => validate_windows(spec, path, errors),
        _ => {}
    }
}

fn validate_ids(context: &PodSecurityContext, path: &Path, errors: &mut FieldErrors) {
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
}

fn validate_policies(context: &PodSecurityContext, path: &Path, errors: &mut FieldErrors) {
    for (field, policy, known) in [
        ("fsGroupChangePolicy", &context.fs_group_change_policy, ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &context.supplemental_groups_policy, ["Merge", "Strict"]),
        ("seLinuxChangePolicy", &context.se_linux_change_policy, ["MountOption", "Recursive"]),
    ] {
        if let Some(policy) = policy {
            one_of(errors, &path.child(field), policy, &known);
        }
    }
}

fn validate_sysctls(spec: &PodSpec, context: &PodSecurityContext, path: &Path, errors: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (i, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let (path, name) = (path.index(i).child("name"), sysctl.name.as_str());
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl(name) {
            errors.invalid(&path, name, SYSCTL_RULE);
        } else if !names.insert(name) {
            errors.duplicate(&path, name);
        }
        // What a pod shares with its node is the node's to set.
        let dotted = dotted(name);
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
        } else if spec.host_ipc == Some(true) && is_of_ipc(&dotted) {
            errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let is_edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_segment = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|b| is_edge(*b))
            && bytes.last().is_some_and(|b| is_edge(*b))
            && bytes.iter().all(|b| is_edge(*b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= LONGEST_SYSCTL && name.split(['.', '/']).all(is_segment)
}

/// With a slash as its first separator a name has its dots and slashes swapped.
fn dotted(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    }
}

fn is_of_ipc(name: &str) -> bool {
    name == "kernel.sem" || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| name.starts_with(p))
}

fn validate_seccomp(profile: Option<&SeccompProfile>, path: &Path, errors: &mut FieldErrors) {
    let Some(profile) = profile else { return };
    let (type_path, local) = (path.child("type"), path.child("localhostProfile"));
    if profile.type_.is_empty() {
        errors.required(&type_path, "type is required when seccompProfile is set");
    } else {
        one_of(errors, &type_path, &profile.type_, PROFILE_TYPES);
    }
    match &profile.localhost_profile {
        None if profile.type_ == "Localhost" => {
            errors.required(&local, "must be set when seccomp type is Localhost");
        }
        Some(file) if profile.type_ == "Localhost" => descending(file, &local, errors),
        Some(_) => errors.invalid(&local, json(profile), "can only be set when seccomp type is Localhost"),
        None => {}
    }
}

fn validate_app_armor(profile: Option<&AppArmorProfile>, path: &Path, errors: &mut FieldErrors) {
    let Some(profile) = profile else { return };
    let local = path.child("localhostProfile");
    match profile.type_.as_str() {
        "" => errors.required(&path.child("type"), "type is required when appArmorProfile is set"),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            if name.trim() != name {
                errors.invalid(&local, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&local, "must be set when AppArmor type is Localhost");
            }
            if name.len() > LONGEST_PROFILE {
                errors.too_long(&local, LONGEST_PROFILE);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = &profile.localhost_profile {
                errors.invalid(&local, name.as_str(), "can only be set when AppArmor type is Localhost");
            }
        }
        other => one_of(errors, &path.child("type"), other, PROFILE_TYPES),
    }
}

/// Users of its own do not go with what a pod shares with its node.
fn validate_host_users(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if spec.host_users != Some(false) {
        return;
    }
    for (field, shared) in
        [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)]
    {
        if shared == Some(true) {
            errors.forbidden(&path.child(field), "when `pod.Spec.HostUsers` is false");
        }
    }
}

/// The security contexts of all containers, with their paths.
fn contexts<'a>(spec: &'a PodSpec, path: &Path) -> impl Iterator<Item = (&'a SecurityContext, Path)> {
    let all = members(spec, path).into_iter();
    all.filter_map(|member| Some((member.context?, member.path.child("securityContext"))))
}

fn validate_linux(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.windows_options.as_ref());
    let of_pod = of_pod.map(|_| path.child("securityContext"));
    let of_containers = contexts(spec, path).filter(|(context, _)| context.windows_options.is_some());
    for path in of_pod.into_iter().chain(of_containers.map(|(_, path)| path)) {
        errors.forbidden(&path.child("windowsOptions"), "windows options cannot be set for a linux pod");
    }
}

fn validate_windows(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let empty = PodSecurityContext::default();
    let context = spec.security_context.as_ref().unwrap_or(&empty);
    let context_path = path.child("securityContext");
    for (path, set) in [
        (context_path.child("appArmorProfile"), context.app_armor_profile.is_some()),
        (context_path.child("seLinuxOptions"), context.se_linux_options.is_some()),
        (path.child("hostUsers"), spec.host_users.is_some()),
        (path.child("hostPID"), spec.host_pid == Some(true)),
        (path.child("hostIPC"), spec.host_ipc == Some(true)),
        (context_path.child("seccompProfile"), context.seccomp_profile.is_some()),
        (context_path.child("fsGroup"), context.fs_group.is_some()),
        (context_path.child("fsGroupChangePolicy"), context.fs_group_change_policy.is_some()),
        (context_path.child("sysctls"), context.sysctls.as_ref().is_some_and(|s| !s.is_empty())),
        (path.child("shareProcessNamespace"), spec.share_process_namespace.is_some()),
        (context_path.child("runAsUser"), context.run_as_user.is_some()),
        (context_path.child("runAsGroup"), context.run_as_group.is_some()),
        (context_path.child("supplementalGroups"), context.supplemental_groups.is_some()),
        (context_path.child("supplementalGroupsPolicy"), context.supplemental_groups_policy.is_some()),
        (context_path.child("seLinuxChangePolicy"), context.se_linux_change_policy.is_some()),
    ] {
        if set {
            errors.forbidden(&path, "cannot be set for a windows pod");
        }
    }
    for (context, path) in contexts(spec, path) {
        validate_windows_container(context, &path, errors);
    }
}

fn validate_windows_container(context: &SecurityContext, path: &Path, errors: &mut FieldErrors) {
    for (field, set) in [
        ("appArmorProfile", context.app_armor_profile.is_some()),
        ("seLinuxOptions", context.se_linux_options.is_some()),
        ("seccompProfile", context.seccomp_profile.is_some()),
        ("capabilities", context.capabilities.is_some()),
        ("readOnlyRootFilesystem", context.read_only_root_filesystem.is_some()),
        ("privileged", context.privileged.is_some()),
        ("allowPrivilegeEscalation", context.allow_privilege_escalation.is_some()),
        ("procMount", context.proc_mount.is_some()),
        ("runAsUser", context.run_as_user.is_some()),
        ("runAsGroup", context.run_as_group.is_some()),
    ] {
        if set {
            errors.forbidden(&path.child(field), "cannot be set for a windows pod");
        }
    }
}

/// Checks what holds for one container.
pub(super) fn validate_container(
    context: Option<&SecurityContext>,
    has_host_users: bool,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(context) = context else { return };
    for (field, id) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        if let Some(id) = id {
            in_range(errors, &path.child(field), id, 0, i64::from(i32::MAX));
        }
    }
    if let Some(mount) = &context.proc_mount {
        let path = path.child("procMount");
        if has_host_users && mount == "Unmasked" {
            errors.invalid(&path, mount.as_str(), "`hostUsers` must be false to use `Unmasked`");
        }
        one_of(errors, &path, mount, &["Default", "Unmasked"]);
    }
    validate_seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    if context.allow_privilege_escalation == Some(false) {
        validate_no_escalation(context, &path.child("allowPrivilegeEscalation"), errors);
    }
    windows::validate_options(context.windows_options.as_ref(), &path.child("windowsOptions"), errors);
    validate_app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

fn validate_no_escalation(context: &SecurityContext, path: &Path, errors: &mut FieldErrors) {
    if context.privileged == Some(true) {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid(path, false, detail);
    }
    let mut added = context.capabilities.iter().flat_map(|c| c.add.iter().flatten());
    if added.any(|name| name == "CAP_SYS_ADMIN") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.invalid(path, false, detail);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(more: Value) -> Vec<String> {
        let mut spec = json!({"containers": []});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let mut errors = FieldErrors::new();
        validate_pod(&spec, &Path::new("spec"), &mut errors);
        errors.into_vec().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn kernel_settings_have_names_and_owners() {
        let of = |names: &[&str]| {
            let sysctls: Vec<Value> = names.iter().map(|name| json!({"name": name, "value": "1"})).collect();
            json!({"sysctls": sysctls})
        };
        assert!(wrong(json!({"securityContext": of(&["net.ipv4.ip_forward", "kernel/sem"])})).is_empty());
        let path = "spec.securityContext.sysctls";
        assert_eq!(
            wrong(json!({"securityContext": of(&["", "a..b", "kernel.sem", "kernel.sem"])})),
            [
                format!("{path}[0].name: Required value"),
                format!("{path}[1].name: Invalid value: \"a..b\": {SYSCTL_RULE}"),
                format!("{path}[3].name: Duplicate value: \"kernel.sem\""),
            ]
        );
        let shared = of(&["net/ipv4/ip_forward", "kernel.shmmax"]);
        assert_eq!(
            wrong(json!({"hostNetwork": true, "hostIPC": true, "securityContext": shared})),
            [
                format!(
                    "{path}[0].name: Invalid value: \"net/ipv4/ip_forward\": may not be specified when 'hostNetwork' is true"
                ),
                format!(
                    "{path}[1].name: Invalid value: \"kernel.shmmax\": may not be specified when 'hostIPC' is true"
                ),
            ]
        );
    }

    #[test]
    fn policies_are_known_ones() {
        let context = json!({"fsGroupChangePolicy": "Never", "supplementalGroupsPolicy": "None"});
        assert_eq!(
            wrong(json!({"securityContext": context})),
            [
                "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"Always\", \"OnRootMismatch\"",
                "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"None\": supported values: \"Merge\", \"Strict\"",
            ]
        );
    }

    #[test]
    fn profiles_are_files_only_when_local() {
        let context = json!({"seccompProfile": {"type": "Localhost"},
            "appArmorProfile": {"type": "Localhost", "localhostProfile": " a"}});
        assert_eq!(
            wrong(json!({"securityContext": context})),
            [
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
                "spec.securityContext.appArmorProfile.localhostProfile: Invalid value: \" a\": must not be padded with whitespace",
            ]
        );
        let context = json!({"seccompProfile": {"type": "", "localhostProfile": "x"},
            "appArmorProfile": {"type": "Unconfined", "localhostProfile": "x"}});
        let found = wrong(json!({"securityContext": context}));
        assert_eq!(
            found[0],
            "spec.securityContext.seccompProfile.type: Required value: type is required when seccompProfile is set"
        );
        assert!(found[1].ends_with("can only be set when seccomp type is Localhost"));
        assert!(found[2].ends_with("can only be set when AppArmor type is Localhost"));
    }

    #[test]
    fn systems_have_options_of_their_own() {
        let container = |context: Value| json!([{"name": "a", "securityContext": context}]);
        assert_eq!(
            wrong(json!({"os": {"name": "linux"}, "containers": container(json!({"windowsOptions": {}}))})),
            [
                "spec.containers[0].securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"
            ]
        );
        assert_eq!(
            wrong(json!({"os": {"name": "windows"}, "hostPID": true, "securityContext": {"fsGroup": 1},
                "initContainers": container(json!({"privileged": false}))})),
            [
                "spec.hostPID: Forbidden: cannot be set for a windows pod",
                "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
                "spec.initContainers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
            ]
        );
    }

    #[test]
    fn own_users_share_nothing() {
        assert_eq!(
            wrong(json!({"hostUsers": false, "hostNetwork": true, "hostPID": true})),
            [
                "spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
                "spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false",
            ]
        );
    }
}
