//! The checks of the baseline level: what is known to lead out of a container.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, SELinuxOptions, SeccompProfile, WindowsSecurityContextOptions,
};

use super::Violation;
use super::subject::{Subject, containers, plural, quoted, quoted_set, setters, uses};
use crate::kinds::pod_spec::annotations::{APP_ARMOR, SECCOMP_OF_CONTAINER, SECCOMP_OF_POD};

/// What Docker gives containers by itself.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Settings of the kernel that are a pod's own and harm nobody else, and the minor version since which they are known
/// as such.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

pub(super) fn apparmor(subject: &Subject<'_>) -> Option<Violation> {
    let is_bad =
        |profile: &AppArmorProfile| !matches!(profile.type_.as_str(), "RuntimeDefault" | "Localhost");
    let of_pod = subject.security().and_then(|s| s.app_armor_profile.as_ref()).filter(|p| is_bad(p));
    let names = subject.names(|security| security.app_armor_profile.as_ref().is_some_and(is_bad));
    let of_containers = subject.containers.iter().filter_map(|c| c.context?.app_armor_profile.as_ref());
    let types: BTreeSet<_> =
        of_pod.into_iter().chain(of_containers.filter(|p| is_bad(p))).map(|p| p.type_.clone()).collect();
    let is_bad =
        |value: &str| !(value.is_empty() || value == "runtime/default" || value.starts_with("localhost/"));
    let annotations = subject.annotations.into_iter().flatten();
    let annotated: Vec<_> = annotations
        .filter(|(key, value)| key.starts_with(APP_ARMOR) && is_bad(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let annotation = (!annotated.is_empty()).then(|| plural("annotation", annotated.len()));
    let setters: Vec<_> = setters(of_pod.is_some(), &names).into_iter().chain(annotation).collect();
    if setters.is_empty() {
        return None;
    }
    let values: Vec<_> = types.into_iter().chain(annotated).collect();
    Some(Violation::new(
        plural("forbidden AppArmor profile", values.len()),
        format!("{} must not set AppArmor profile type to {}", setters.join(" and "), quoted(&values)),
    ))
}

pub(super) fn capabilities(subject: &Subject<'_>) -> Option<Violation> {
    let added = |capability: &&String| !CAPABILITIES.contains(&capability.as_str());
    let names = subject.names(|security| {
        let wanted = security.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        wanted.clone().any(|capability| added(&capability))
    });
    let wanted = subject.containers.iter().filter_map(|container| container.context?.capabilities.as_ref());
    let bad = wanted.flat_map(|capabilities| capabilities.add.iter().flatten()).filter(added);
    (!names.is_empty()).then(|| {
        let bad = quoted_set(bad.map(String::as_str));
        let detail =
            format!("{} must not include {bad} in securityContext.capabilities.add", containers(&names));
        Violation::new("non-default capabilities", detail)
    })
}

pub(super) fn host_namespaces(subject: &Subject<'_>) -> Option<Violation> {
    let spec = subject.spec;
    let shared = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
    let shared = shared.iter().filter(|(_, is_shared)| *is_shared == Some(true));
    let shared: Vec<_> = shared.map(|(name, _)| format!("{name}=true")).collect();
    (!shared.is_empty()).then(|| Violation::new("host namespaces", shared.join(", ")))
}

pub(super) fn host_paths(subject: &Subject<'_>) -> Option<Violation> {
    let volumes = subject.spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some());
    let names: Vec<_> = volumes.map(|volume| &volume.name).collect();
    (!names.is_empty()).then(|| {
        Violation::new("hostPath volumes", format!("{} {}", plural("volume", names.len()), quoted(names)))
    })
}

pub(super) fn host_ports(subject: &Subject<'_>) -> Option<Violation> {
    let names = subject.names_of(|container| {
        container.ports.iter().any(|port| port.host_port.is_some_and(|port| port != 0))
    });
    let ports = subject.containers.iter().flat_map(|container| container.ports);
    // As texts, and in their order.
    let ports: BTreeSet<_> = ports
        .filter_map(|port| port.host_port)
        .filter(|port| *port != 0)
        .map(|port| port.to_string())
        .collect();
    (!names.is_empty()).then(|| {
        let word = plural("hostPort", ports.len());
        let ports = ports.into_iter().collect::<Vec<_>>().join(", ");
        Violation::new("hostPort", format!("{} {} {word} {ports}", containers(&names), uses(names.len())))
    })
}

pub(super) fn privileged(subject: &Subject<'_>) -> Option<Violation> {
    let names = subject.names(|security| security.privileged == Some(true));
    (!names.is_empty()).then(|| {
        let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
        Violation::new("privileged", detail)
    })
}

pub(super) fn proc_mount(subject: &Subject<'_>) -> Option<Violation> {
    let is_bad = |mount: &&String| mount.as_str() != "Default";
    let names = subject.names(|security| security.proc_mount.as_ref().is_some_and(|mount| is_bad(&mount)));
    let mounts = subject.containers.iter().filter_map(|container| container.context?.proc_mount.as_ref());
    (!names.is_empty()).then(|| {
        let bad = quoted_set(mounts.filter(is_bad).map(String::as_str));
        let detail = format!("{} must not set securityContext.procMount to {bad}", containers(&names));
        Violation::new("procMount", detail)
    })
}

pub(super) fn selinux(subject: &Subject<'_>) -> Option<Violation> {
    let is_set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let is_bad_type = |options: &SELinuxOptions| match options.type_.as_deref().unwrap_or_default() {
        "" | "container_t" | "container_init_t" | "container_kvm_t" => false,
        "container_engine_t" => subject.minor < 31,
        _ => true,
    };
    let is_bad = |o: &SELinuxOptions| is_bad_type(o) || is_set(&o.user) || is_set(&o.role);
    let of_pod = subject.security().and_then(|s| s.se_linux_options.as_ref()).filter(|o| is_bad(o));
    let names = subject.names(|security| security.se_linux_options.as_ref().is_some_and(is_bad));
    let setters = setters(of_pod.is_some(), &names)?;
    let of_containers = subject.containers.iter().filter_map(|c| c.context?.se_linux_options.as_ref());
    let bad: Vec<&SELinuxOptions> = of_pod.into_iter().chain(of_containers.filter(|o| is_bad(o))).collect();
    let types: BTreeSet<&str> =
        bad.iter().filter(|o| is_bad_type(o)).filter_map(|o| o.type_.as_deref()).collect();
    let types = (!types.is_empty())
        .then(|| format!("{} {}", plural("type", types.len()), quoted(types.iter().copied())));
    let user = bad.iter().any(|o| is_set(&o.user)).then(|| "user may not be set".to_owned());
    let role = bad.iter().any(|o| is_set(&o.role)).then(|| "role may not be set".to_owned());
    let wrong = types.into_iter().chain(user).chain(role).collect::<Vec<_>>().join("; ");
    let detail = format!("{setters} set forbidden securityContext.seLinuxOptions: {wrong}");
    Some(Violation::new("seLinuxOptions", detail))
}

/// Whether a profile is none that protects.
pub(super) fn is_unconfined(profile: &SeccompProfile) -> bool {
    !matches!(profile.type_.as_str(), "RuntimeDefault" | "Localhost")
}

pub(super) fn seccomp(subject: &Subject<'_>) -> Option<Violation> {
    if subject.minor < 19 {
        return seccomp_annotations(subject);
    }
    let is_pod =
        subject.security().and_then(|security| security.seccomp_profile.as_ref()).is_some_and(is_unconfined);
    let names = subject.names(|security| security.seccomp_profile.as_ref().is_some_and(is_unconfined));
    setters(is_pod, &names).map(|setters| unconfined(subject, &setters))
}

/// That profiles are named which protect nobody.
pub(super) fn unconfined(subject: &Subject<'_>, setters: &str) -> Violation {
    let of_pod = subject.security().and_then(|security| security.seccomp_profile.as_ref());
    let of_containers = subject.containers.iter().filter_map(|c| c.context?.seccomp_profile.as_ref());
    let bad = of_pod.into_iter().chain(of_containers).filter(|profile| is_unconfined(profile));
    let types = quoted_set(bad.map(|profile| profile.type_.as_str()));
    let detail = format!("{setters} must not set securityContext.seccompProfile.type to {types}");
    Violation::new("seccompProfile", detail)
}

fn seccomp_annotations(subject: &Subject<'_>) -> Option<Violation> {
    let is_bad = |value: &str| {
        !matches!(value, "runtime/default" | "docker/default") && !value.starts_with("localhost/")
    };
    let is_meant = |key: &str| {
        let container = key.strip_prefix(SECCOMP_OF_CONTAINER);
        key == SECCOMP_OF_POD
            || container.is_some_and(|name| subject.containers.iter().any(|container| container.name == name))
    };
    let annotations = subject.annotations.into_iter().flatten();
    let bad: Vec<_> = annotations
        .filter(|(key, value)| is_meant(key) && is_bad(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    (!bad.is_empty()).then(|| {
        let detail = format!("forbidden {} {}", plural("annotation", bad.len()), bad.join(", "));
        Violation::new("seccompProfile", detail)
    })
}

pub(super) fn sysctls(subject: &Subject<'_>) -> Option<Violation> {
    let is_safe = |name: &str| SYSCTLS.iter().any(|(safe, since)| *safe == name && *since <= subject.minor);
    let set = subject.security().and_then(|security| security.sysctls.as_ref()).into_iter().flatten();
    let bad: Vec<_> = set.map(|sysctl| sysctl.name.as_str()).filter(|name| !is_safe(name)).collect();
    (!bad.is_empty()).then(|| Violation::new("forbidden sysctls", bad.join(", ")))
}

pub(super) fn windows_host_process(subject: &Subject<'_>) -> Option<Violation> {
    let is_host = |options: &WindowsSecurityContextOptions| options.host_process == Some(true);
    let is_pod =
        subject.security().and_then(|security| security.windows_options.as_ref()).is_some_and(is_host);
    let names = subject.names(|security| security.windows_options.as_ref().is_some_and(is_host));
    let setters = setters(is_pod, &names)?;
    let detail = format!("{setters} must not set securityContext.windowsOptions.hostProcess=true");
    Some(Violation::new("hostProcess", detail))
}
