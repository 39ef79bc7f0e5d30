//! What a container or a sandbox is made from: a pure translation of the pod's words into the runtime's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use balsa_model::quantity::Quantity;
use balsa_runtime::{
    AppArmor, ContainerConfig, ContainerId, ImageInfo, IpcMode, Mount, MountKind, NetworkMode, PidMode,
    Propagation, Resources, Seccomp, labels,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SecurityContext, VolumeMount};

use crate::config::AgentConfig;
use crate::node::facts::Machine;
use crate::pod::expand::expand;
use crate::pod::host_ports;
use crate::pod::observed::{Role, spec_hash};
use crate::pod::read_only;
use crate::pod::resize;
use crate::volumes;

/// Why a container cannot be made as it is described: shown as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub String);

/// What a container is made from, beside the pod.
pub(crate) struct Parts<'a> {
    pub config: &'a AgentConfig,
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub role: Role,
    pub attempt: u32,
    pub sandbox: &'a ContainerId,
    /// The container whose processes it sees.
    pub target: Option<&'a ContainerId>,
    pub image: &'a ImageInfo,
    pub env: Vec<(String, String)>,
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// The node, for the order in which containers go when memory runs out.
    pub machine: &'a Machine,
    /// Read-only mounts can be so all the way down.
    pub recursive_read_only: bool,
}

fn spec(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

/// Labels that every container of a pod carries.
fn base_labels(config: &AgentConfig, pod: &Pod, name: &str, attempt: u32) -> BTreeMap<String, String> {
    let meta = &pod.metadata;
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let pairs = [
        (labels::POD_NAME, meta.name.clone().unwrap_or_default()),
        (labels::POD_NAMESPACE, meta.namespace.clone().unwrap_or_default()),
        (labels::POD_UID, meta.uid.clone().unwrap_or_default()),
        (labels::CONTAINER_NAME, name.to_owned()),
        (labels::NODE, config.node_name.clone()),
        (labels::CLUSTER, config.cluster.clone()),
        (labels::ATTEMPT, attempt.to_string()),
        (labels::GRACE_PERIOD, grace.to_string()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn engine_name(pod: &Pod, container: &str, attempt: u32) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    labels::container_name(container, &text(&meta.name), &text(&meta.namespace), &text(&meta.uid), attempt)
}

/// The name that the pod's processes see.
pub(crate) fn hostname(pod: &Pod) -> String {
    let own = pod.spec.as_ref().and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let name = own.unwrap_or_else(|| pod.metadata.name.clone().unwrap_or_default());
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The pod's name in DNS under its subdomain, if it has one.
pub(crate) fn fqdn(pod: &Pod, domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|name| !name.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{}.{subdomain}.{namespace}.svc.{domain}", hostname(pod)))
}

/// The sandbox of a pod.
pub(crate) fn sandbox(
    config: &AgentConfig,
    machine: &Machine,
    pod: &Pod,
    image: &str,
    attempt: u32,
) -> ContainerConfig {
    let spec = spec(pod);
    let mut all = base_labels(config, pod, labels::SANDBOX_CONTAINER_NAME, attempt);
    all.insert(labels::KIND.to_owned(), labels::KIND_SANDBOX.to_owned());
    all.extend(host_ports::told(pod).map(|ports| (labels::HOST_PORTS.to_owned(), ports)));
    let host_network = spec.host_network == Some(true);
    let context = spec.security_context.unwrap_or_default();
    let set_fqdn = spec.set_hostname_as_fqdn == Some(true);
    let name = fqdn(pod, &config.cluster_domain).filter(|_| set_fqdn).unwrap_or_else(|| hostname(pod));
    ContainerConfig {
        name: engine_name(pod, labels::SANDBOX_CONTAINER_NAME, attempt),
        image: image.to_owned(),
        labels: all,
        network: if host_network { NetworkMode::Host } else { NetworkMode::None },
        ipc: if spec.host_ipc == Some(true) { IpcMode::Host } else { IpcMode::Shareable },
        pid: if spec.host_pid == Some(true) { PidMode::Host } else { PidMode::Own },
        hostname: (!host_network).then_some(name),
        sysctls: context.sysctls.into_iter().flatten().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
        resources: Resources {
            cpu_shares: Some(2),
            oom_score_adj: Some(machine.oom_floor.max(-998)),
            ..Resources::default()
        },
        no_new_privileges: true,
        ..ContainerConfig::default()
    }
}

/// A container of a pod.
pub(crate) fn container(parts: Parts<'_>) -> Result<ContainerConfig, ConfigError> {
    let spec = spec(parts.pod);
    let own = parts.container.security_context.clone().unwrap_or_default();
    let user = user(&parts, &spec, &own)?;
    let shared = || ContainerId::new(parts.sandbox.as_str());
    let mut all = base_labels(parts.config, parts.pod, &parts.container.name, parts.attempt);
    let type_ = match parts.role {
        Role::App => "app",
        Role::Ephemeral => "ephemeral",
        Role::Init | Role::Sidecar => "init",
    };
    for (name, value) in [
        (labels::KIND, labels::KIND_CONTAINER.to_owned()),
        (labels::SANDBOX, parts.sandbox.as_str().to_owned()),
        (labels::SPEC_HASH, spec_hash(parts.container)),
        (labels::RESOURCES, resize::hash(parts.container)),
        (labels::IMAGE_ID, parts.image.identity(parts.container.image.as_deref().unwrap_or_default())),
        (labels::CONTAINER_TYPE, type_.to_owned()),
    ] {
        all.insert(name.to_owned(), value);
    }
    let lookup =
        |name: &str| parts.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let words = |list: &Option<Vec<String>>| {
        list.as_ref()
            .filter(|list| !list.is_empty())
            .map(|list| list.iter().map(|word| expand(word, lookup)).collect())
    };
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let pod_context = spec.security_context.clone().unwrap_or_default();
    let groups = pod_context.supplemental_groups.iter().flatten().chain(pod_context.fs_group.iter());
    let pid = match (spec.host_pid, spec.share_process_namespace, parts.target) {
        (Some(true), _, _) => PidMode::Host,
        (_, Some(true), _) => PidMode::Container(shared()),
        (_, _, Some(target)) => PidMode::Container(target.clone()),
        _ => PidMode::Own,
    };
    Ok(ContainerConfig {
        name: engine_name(parts.pod, &parts.container.name, parts.attempt),
        image: balsa_runtime::with_default_tag(parts.container.image.as_deref().unwrap_or_default()),
        command: words(&parts.container.command),
        args: words(&parts.container.args),
        working_dir: parts.container.working_dir.clone().filter(|dir| !dir.is_empty()),
        labels: all,
        network: if spec.host_network == Some(true) {
            NetworkMode::Host
        } else {
            NetworkMode::Container(shared())
        },
        ipc: if spec.host_ipc == Some(true) { IpcMode::Host } else { IpcMode::Container(shared()) },
        pid,
        mounts: mounts(&parts)?,
        user,
        supplemental_groups: groups.filter_map(|group| u32::try_from(*group).ok()).collect(),
        capabilities_add: capabilities.add.unwrap_or_default(),
        capabilities_drop: capabilities.drop.unwrap_or_default(),
        privileged: own.privileged == Some(true),
        read_only_root: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false) && own.privileged != Some(true),
        seccomp: seccomp(parts.config, &spec, &own)?,
        apparmor: apparmor(&spec, &own),
        resources: resources(parts.container, parts.machine),
        tty: parts.container.tty == Some(true),
        stdin: parts.container.stdin == Some(true),
        stdin_once: parts.container.stdin_once == Some(true),
        env: parts.env,
        ..ContainerConfig::default()
    })
}

fn user(parts: &Parts<'_>, spec: &PodSpec, own: &SecurityContext) -> Result<Option<String>, ConfigError> {
    let pod = spec.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(pod.run_as_user);
    let group = own.run_as_group.or(pod.run_as_group);
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
        let meta = &parts.pod.metadata;
        let who = format!(
            "(pod: \"{}_{}({})\", container: {})",
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.uid.as_deref().unwrap_or_default(),
            parts.container.name
        );
        let image_user = parts.image.user.split(':').next().unwrap_or_default();
        match (user, parts.image.uid()) {
            (Some(0), _) => {
                return Err(ConfigError(format!("container's runAsUser breaks non-root policy {who}")));
            }
            (Some(_), _) => {}
            (None, Some(0)) => {
                return Err(ConfigError(format!(
                    "container has runAsNonRoot and image will run as root {who}"
                )));
            }
            (None, None) if image_user.is_empty() => {
                return Err(ConfigError(format!(
                    "container has runAsNonRoot and image will run as root {who}"
                )));
            }
            (None, None) => {
                return Err(ConfigError(format!(
                    "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root {who}"
                )));
            }
            (None, Some(_)) => {}
        }
    }
    let image_user =
        || parts.image.user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0").to_owned();
    Ok(match (user, group) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        (None, Some(group)) => Some(format!("{}:{group}", image_user())),
        (None, None) => None,
    })
}

fn seccomp(config: &AgentConfig, spec: &PodSpec, own: &SecurityContext) -> Result<Seccomp, ConfigError> {
    let pod = spec.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    let Some(profile) = own.seccomp_profile.as_ref().or(pod) else { return Ok(Seccomp::RuntimeDefault) };
    match profile.type_.as_str() {
        "Unconfined" => Ok(Seccomp::Unconfined),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            if !crate::files::is_inside(name) {
                return Err(ConfigError(format!("seccomp profile {name:?} must be a relative path")));
            }
            let path = config.data_dir.join("seccomp").join(name);
            let text = std::fs::read_to_string(&path);
            text.map(Seccomp::Profile).map_err(|error| {
                ConfigError(format!("cannot load seccomp profile {}: {error}", path.display()))
            })
        }
        _ => Ok(Seccomp::RuntimeDefault),
    }
}

fn apparmor(spec: &PodSpec, own: &SecurityContext) -> AppArmor {
    let pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    match own.app_armor_profile.as_ref().or(pod) {
        Some(profile) if profile.type_ == "Unconfined" => AppArmor::Unconfined,
        Some(profile) if profile.type_ == "Localhost" => {
            AppArmor::Localhost(profile.localhost_profile.clone().unwrap_or_default())
        }
        _ => AppArmor::RuntimeDefault,
    }
}

/// Shares, limits and the order under memory pressure.
pub(crate) fn resources(container: &Container, machine: &Machine) -> Resources {
    let requirements = container.resources.clone().unwrap_or_default();
    let of = |map: &Option<BTreeMap<String, _>>, name: &str| {
        map.as_ref().and_then(|map| map.get(name)).and_then(Quantity::of)
    };
    let (limit_cpu, limit_memory) = (of(&requirements.limits, "cpu"), of(&requirements.limits, "memory"));
    let request_cpu = of(&requirements.requests, "cpu").or(limit_cpu);
    let request_memory = of(&requirements.requests, "memory").or(limit_memory);
    let shares = request_cpu.map_or(2, |cpu| (cpu.milli().saturating_mul(1024) / 1000).clamp(2, 262_144));
    let quota = limit_cpu.map(|cpu| cpu.milli().saturating_mul(100).max(1000));
    let guaranteed = limit_cpu.is_some()
        && limit_memory.is_some()
        && request_cpu.map(Quantity::milli) == limit_cpu.map(Quantity::milli)
        && request_memory.map(Quantity::value) == limit_memory.map(Quantity::value);
    let best_effort = request_cpu.is_none() && request_memory.is_none();
    let oom_score_adj = if guaranteed {
        -997
    } else if best_effort {
        1000
    } else {
        let asked = i128::from(request_memory.map_or(0, Quantity::value));
        let part = 1000 * asked / i128::from(machine.memory.max(1));
        i32::try_from((1000 - part).clamp(3, 999)).unwrap_or(999)
    };
    Resources {
        cpu_shares: Some(shares),
        cpu_period: quota.map(|_| 100_000),
        cpu_quota: quota,
        memory: limit_memory
            .and_then(|memory| u64::try_from(memory.value()).ok())
            .filter(|memory| *memory > 0),
        oom_score_adj: Some(oom_score_adj.max(machine.oom_floor)),
        ..Resources::default()
    }
}

/// The file in which a container leaves its last words.
pub(crate) fn message_file(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(format!("{attempt}.message"))
}

fn bind(source: &Path, target: &str) -> Mount {
    let source = source.to_string_lossy().into_owned();
    let kind = MountKind::Bind { source, propagation: Propagation::Private, recursive_read_only: false };
    Mount { target: target.to_owned(), read_only: false, kind }
}

fn mounts(parts: &Parts<'_>) -> Result<Vec<Mount>, ConfigError> {
    let mut mounts = Vec::new();
    for mount in parts.container.volume_mounts.iter().flatten() {
        mounts.push(volume_mount(parts, mount)?);
    }
    let uid = parts.pod.metadata.uid.as_deref().unwrap_or_default();
    let pod_dir = parts.config.pod_dir(uid);
    let message = parts.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    let own = [
        (pod_dir.join("etc-hosts"), "/etc/hosts"),
        (pod_dir.join("resolv.conf"), "/etc/resolv.conf"),
        (message_file(&pod_dir, &parts.container.name, parts.attempt), message),
    ];
    for (source, target) in own {
        if !mounts.iter().any(|mount| mount.target == target) && source.exists() {
            mounts.push(bind(&source, target));
        }
    }
    Ok(mounts)
}

fn volume_mount(parts: &Parts<'_>, mount: &VolumeMount) -> Result<Mount, ConfigError> {
    let missing = || {
        ConfigError(format!("volume \"{}\" of container {} is not there", mount.name, parts.container.name))
    };
    let volume = parts.volumes.get(&mount.name).ok_or_else(missing)?;
    let part = volumes::mounted_part(mount, &parts.env);
    let source = volumes::sub_path(volume, &part).map_err(|error| {
        ConfigError(format!("failed to prepare subPath for volumeMount \"{}\": {error}", mount.name))
    })?;
    let mut all = parts.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let described = all.find(|volume| volume.name == mount.name);
    let claim = described.and_then(|volume| volume.persistent_volume_claim.as_ref());
    let read_only = mount.read_only == Some(true)
        || claim.and_then(|claim| claim.read_only) == Some(true)
        || described.is_some_and(volumes::is_read_only);
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::Private,
    };
    let target = if mount.mount_path.starts_with('/') {
        mount.mount_path.clone()
    } else {
        format!("/{}", mount.mount_path)
    };
    let recursive_read_only =
        read_only::is_recursive(mount, parts.recursive_read_only).map_err(ConfigError)?;
    let source = source.to_string_lossy().into_owned();
    let kind = MountKind::Bind { source, propagation, recursive_read_only };
    Ok(Mount { target, read_only, kind })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::*;

    fn made(spec: Value, image: &ImageInfo) -> Result<ContainerConfig, ConfigError> {
        let mut config = AgentConfig::new("n1", "/nonexistent", "192.0.2.1".parse().unwrap());
        config.cluster = "c".to_owned();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec,
        }))
        .unwrap();
        let sandbox = ContainerId::new("sandbox");
        let volumes = [("here".to_owned(), std::env::temp_dir())].into();
        container(Parts {
            config: &config,
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            role: Role::App,
            attempt: 3,
            sandbox: &sandbox,
            target: None,
            image,
            env: vec![("WHO".into(), "moon".into())],
            volumes: &volumes,
            machine: &Machine { memory: 1 << 30, ..Machine::default() },
            recursive_read_only: false,
        })
    }

    #[test]
    fn a_pods_words_become_the_runtimes() {
        let config = made(
            json!({
                "hostPID": true,
                "securityContext": {"runAsUser": 5, "fsGroup": 7, "supplementalGroups": [8]},
                "containers": [{
                    "name": "c", "image": "i", "command": ["sh", "$(WHO)"], "args": ["$$(WHO)"],
                    "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}},
                    "securityContext": {"runAsGroup": 6, "readOnlyRootFilesystem": true,
                        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}},
                }],
            }),
            &ImageInfo { id: "sha256:1".into(), ..ImageInfo::default() },
        )
        .unwrap();
        assert_eq!(config.name, "k8s_c_p_n_u_3");
        assert_eq!(config.command.as_deref(), Some(&["sh".to_owned(), "moon".to_owned()][..]));
        assert_eq!(config.args.as_deref(), Some(&["$(WHO)".to_owned()][..]));
        assert_eq!(config.user.as_deref(), Some("5:6"));
        assert_eq!(config.supplemental_groups, [8, 7]);
        assert_eq!(config.pid, PidMode::Host);
        assert_eq!(config.network, NetworkMode::Container(ContainerId::new("sandbox")));
        assert_eq!((config.resources.cpu_shares, config.resources.cpu_quota), (Some(256), Some(50_000)));
        assert_eq!((config.resources.memory, config.resources.oom_score_adj), (Some(64 << 20), Some(938)));
        assert!(config.read_only_root && !config.privileged);
        assert_eq!(config.labels[labels::ATTEMPT], "3");
        assert_eq!(config.labels[labels::IMAGE_ID], "sha256:1");
    }

    #[test]
    fn root_is_refused_where_it_is_not_wanted() {
        let spec =
            json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c", "image": "i"}]});
        let image = |user: &str| ImageInfo { user: user.to_owned(), ..ImageInfo::default() };
        assert!(made(spec.clone(), &image("")).unwrap_err().to_string().contains("image will run as root"));
        assert!(made(spec.clone(), &image("0")).is_err());
        assert!(
            made(spec.clone(), &image("web")).unwrap_err().to_string().contains("non-numeric user (web)")
        );
        assert!(made(spec, &image("1000:1000")).is_ok());
    }

    #[test]
    fn what_comes_from_objects_can_only_be_read() {
        let mounts = |volume: Value, mount: Value| {
            let mut described = json!({"name": "here"});
            described.as_object_mut().unwrap().extend(volume.as_object().unwrap().clone());
            let mut shown = json!({"name": "here", "mountPath": "/here"});
            shown.as_object_mut().unwrap().extend(mount.as_object().unwrap().clone());
            let spec = json!({"volumes": [described], "containers": [{"name": "c", "image": "i", "volumeMounts": [shown]}]});
            made(spec, &ImageInfo::default()).map(|config| config.mounts[0].read_only)
        };
        for (volume, read_only) in [
            (json!({"secret": {"secretName": "s"}}), true),
            (json!({"configMap": {"name": "c"}}), true),
            (json!({"projected": {}}), true),
            (json!({"downwardAPI": {}}), true),
            (json!({"emptyDir": {}}), false),
            (json!({"persistentVolumeClaim": {"claimName": "c", "readOnly": true}}), true),
        ] {
            assert_eq!(mounts(volume.clone(), json!({})).unwrap(), read_only, "{volume}");
        }
        let recursive = json!({"readOnly": true, "recursiveReadOnly": "Enabled"});
        let refused = mounts(json!({"emptyDir": {}}), recursive).unwrap_err().to_string();
        assert!(refused.ends_with("not supported by the runtime"), "{refused}");
    }

    #[test]
    fn a_volume_that_is_not_there_is_an_error() {
        let spec = json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]});
        assert!(made(spec, &ImageInfo::default()).is_err());
    }
}
