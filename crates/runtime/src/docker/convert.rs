//! Our types to Docker's and back: pure, and the only place that knows how Docker spells things.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;

use bollard::models as docker;
use jiff::Timestamp;

use crate::{
    AppArmor, ContainerConfig, ContainerEvent, ContainerEventKind, ContainerId, ContainerState,
    ContainerStats, ContainerStatus, ContainerSummary, Error, InterfaceStats, IpcMode, LogDriver, Mount,
    MountKind, NetworkMode, PidMode, Propagation, Result, Seccomp, Version,
};

/// The API since which read-only mounts can be so all the way down, and the kernel since which any can.
const RECURSIVE_READ_ONLY: ((usize, usize), (u32, u32)) = ((1, 44), (5, 12));

pub(super) fn version(
    version: docker::SystemVersion,
    info: docker::SystemInfo,
    spoken: (usize, usize),
) -> Version {
    let kernel = version.kernel_version.unwrap_or_default();
    let (api, since) = RECURSIVE_READ_ONLY;
    Version {
        engine: "docker".to_owned(),
        version: version.version.unwrap_or_default(),
        api_version: version.api_version.unwrap_or_default(),
        os: version.os.unwrap_or_default(),
        architecture: version.arch.unwrap_or_default(),
        recursive_read_only: spoken >= api && kernel_number(&kernel) >= since,
        kernel,
        runtimes: info.runtimes.into_iter().flatten().map(|(name, _)| name).collect(),
        os_image: info.operating_system.unwrap_or_default(),
        simulated: false,
    }
}

/// `(6, 1)` of `6.1.0-18-amd64`.
fn kernel_number(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The body of a create request.
pub(super) fn create_body(config: &ContainerConfig) -> Result<docker::ContainerCreateBody> {
    if config.name.is_empty() || config.image.is_empty() {
        return Err(Error::Invalid { message: "a container needs a name and an image".to_owned() });
    }
    let shares_network = matches!(config.network, NetworkMode::Container(_));
    // An entrypoint of its own hides the image's arguments: Docker does so by itself.
    Ok(docker::ContainerCreateBody {
        hostname: config.hostname.clone().filter(|_| !shares_network),
        user: config.user.clone(),
        attach_stdin: Some(false),
        attach_stdout: Some(false),
        attach_stderr: Some(false),
        tty: Some(config.tty),
        open_stdin: Some(config.stdin),
        stdin_once: Some(config.stdin && config.stdin_once),
        env: Some(config.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: config.args.clone(),
        entrypoint: config.command.clone(),
        image: Some(config.image.clone()),
        working_dir: config.working_dir.clone(),
        labels: Some(config.labels.clone().into_iter().collect()),
        stop_signal: config.stop_signal.clone(),
        // An image's health check is not Kubernetes': probes are.
        healthcheck: Some(docker::HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }),
        host_config: Some(host_config(config, shares_network)),
        networking_config: networking_config(&config.network),
        ..Default::default()
    })
}

/// Other shares and limits of a container that is there.
pub(super) fn update(resources: &crate::Resources) -> docker::ContainerUpdateBody {
    let memory = resources.memory.and_then(|bytes| i64::try_from(bytes).ok());
    docker::ContainerUpdateBody {
        cpu_shares: resources.cpu_shares,
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        memory,
        memory_swap: memory,
        ..Default::default()
    }
}

fn host_config(config: &ContainerConfig, shares_network: bool) -> docker::HostConfig {
    let resources = &config.resources;
    let memory = resources.memory.and_then(|bytes| i64::try_from(bytes).ok());
    let own = |list: &[String]| (!shares_network && !list.is_empty()).then(|| list.to_vec());
    docker::HostConfig {
        network_mode: Some(network_mode(&config.network)),
        ipc_mode: Some(ipc_mode(&config.ipc)),
        pid_mode: pid_mode(&config.pid),
        dns: own(&config.dns_servers),
        dns_search: own(&config.dns_searches),
        dns_options: own(&config.dns_options),
        extra_hosts: (!shares_network && !config.extra_hosts.is_empty())
            .then(|| config.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect()),
        sysctls: (!config.sysctls.is_empty()).then(|| config.sysctls.clone().into_iter().collect()),
        mounts: Some(config.mounts.iter().map(mount).collect()),
        group_add: Some(config.supplemental_groups.iter().map(u32::to_string).collect()),
        cap_add: Some(config.capabilities_add.clone()),
        cap_drop: Some(config.capabilities_drop.clone()),
        privileged: Some(config.privileged),
        readonly_rootfs: Some(config.read_only_root),
        security_opt: Some(security_options(config)),
        cpu_shares: resources.cpu_shares,
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpuset_cpus: resources.cpuset.clone(),
        memory,
        // Memory and swap together: the same number means no swap.
        memory_swap: memory,
        pids_limit: resources.pids,
        oom_score_adj: resources.oom_score_adj.map(i64::from),
        cgroup_parent: config.cgroup_parent.clone(),
        runtime: config.runtime.clone(),
        log_config: Some(log_config(&config.log_driver)),
        // Who restarts what is the agent's to decide.
        restart_policy: Some(docker::RestartPolicy {
            name: Some(docker::RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        ..Default::default()
    }
}

fn network_mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(id) => format!("container:{id}"),
        NetworkMode::Bridge { network, .. } => network.clone(),
    }
}

fn networking_config(mode: &NetworkMode) -> Option<docker::NetworkingConfig> {
    let NetworkMode::Bridge { network, address } = mode else { return None };
    let endpoint = docker::EndpointSettings {
        ipam_config: address.map(|address| docker::EndpointIpamConfig {
            ipv4_address: Some(address.to_string()),
            ..Default::default()
        }),
        ..Default::default()
    };
    Some(docker::NetworkingConfig { endpoints_config: Some([(network.clone(), endpoint)].into()) })
}

fn ipc_mode(mode: &IpcMode) -> String {
    match mode {
        IpcMode::Private => "private".to_owned(),
        IpcMode::Shareable => "shareable".to_owned(),
        IpcMode::Host => "host".to_owned(),
        IpcMode::Container(id) => format!("container:{id}"),
    }
}

fn pid_mode(mode: &PidMode) -> Option<String> {
    match mode {
        PidMode::Own => None,
        PidMode::Host => Some("host".to_owned()),
        PidMode::Container(id) => Some(format!("container:{id}")),
    }
}

fn security_options(config: &ContainerConfig) -> Vec<String> {
    let mut options = Vec::new();
    if config.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    match &config.seccomp {
        Seccomp::RuntimeDefault => {}
        Seccomp::Unconfined => options.push("seccomp=unconfined".to_owned()),
        Seccomp::Profile(json) => options.push(format!("seccomp={json}")),
    }
    match &config.apparmor {
        AppArmor::RuntimeDefault => {}
        AppArmor::Unconfined => options.push("apparmor=unconfined".to_owned()),
        AppArmor::Localhost(profile) => options.push(format!("apparmor={profile}")),
    }
    options
}

fn mount(mount: &Mount) -> docker::Mount {
    let mut made = docker::Mount {
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        ..Default::default()
    };
    match &mount.kind {
        MountKind::Bind { source, propagation, recursive_read_only } => {
            let recursive = *recursive_read_only && mount.read_only;
            made.typ = Some(docker::MountType::BIND);
            made.source = Some(source.clone());
            made.bind_options = Some(docker::MountBindOptions {
                propagation: match propagation {
                    Propagation::Private if recursive => {
                        Some(docker::MountBindOptionsPropagationEnum::RPRIVATE)
                    }
                    // The engine's own choice, which is another for what holds its own directory, like `/`:
                    // there it refuses to be told so.
                    Propagation::Private => None,
                    Propagation::HostToContainer => Some(docker::MountBindOptionsPropagationEnum::RSLAVE),
                    Propagation::Bidirectional => Some(docker::MountBindOptionsPropagationEnum::RSHARED),
                },
                // Left to itself, an engine that can does it to every mount.
                read_only_non_recursive: (mount.read_only && !recursive).then_some(true),
                read_only_force_recursive: recursive.then_some(true),
                ..Default::default()
            });
        }
        MountKind::Tmpfs { size, mode } => {
            made.typ = Some(docker::MountType::TMPFS);
            made.tmpfs_options = Some(docker::MountTmpfsOptions {
                size_bytes: size.and_then(|bytes| i64::try_from(bytes).ok()),
                mode: mode.map(i64::from),
                ..Default::default()
            });
        }
    }
    made
}

fn log_config(driver: &LogDriver) -> docker::HostConfigLogConfig {
    match driver {
        LogDriver::None => {
            docker::HostConfigLogConfig { typ: Some("none".to_owned()), config: Some(HashMap::new()) }
        }
        LogDriver::JsonFile { max_size, max_files } => docker::HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(
                [("max-size", max_size.to_string()), ("max-file", max_files.to_string())]
                    .map(|(name, value)| (name.to_owned(), value))
                    .into(),
            ),
        },
    }
}

pub(super) fn container_state(found: docker::ContainerInspectResponse) -> ContainerState {
    let state = found.state.unwrap_or_default();
    let config = found.config.unwrap_or_default();
    let status = state.status.map_or(ContainerStatus::Created, status);
    let ip = found.network_settings.and_then(|settings| settings.networks).and_then(|networks| {
        networks.into_values().find_map(|endpoint| endpoint.ip_address?.parse::<IpAddr>().ok())
    });
    let started_at = state.started_at.as_deref().and_then(time);
    let mut finished_at = state.finished_at.as_deref().and_then(time);
    if status == ContainerStatus::Exited {
        // Docker notes the start of a short-lived process after its end.
        finished_at = finished_at.max(started_at);
    }
    ContainerState {
        id: ContainerId::new(found.id.unwrap_or_default()),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        status,
        pid: state.pid.filter(|pid| *pid > 0 && status.is_alive()).and_then(|pid| u32::try_from(pid).ok()),
        exit_code: state.exit_code.unwrap_or_default() as i32,
        oom_killed: state.oom_killed.unwrap_or_default(),
        error: state.error.unwrap_or_default(),
        created_at: found.created.as_deref().and_then(time),
        started_at,
        finished_at,
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        image: config.image.unwrap_or_default(),
        image_id: found.image.unwrap_or_default(),
        ip,
        tty: config.tty.unwrap_or_default(),
        log_path: found.log_path.filter(|path| !path.is_empty()).map(PathBuf::from),
    }
}

fn status(status: docker::ContainerStateStatusEnum) -> ContainerStatus {
    use docker::ContainerStateStatusEnum as Docker;
    match status {
        Docker::EMPTY | Docker::CREATED => ContainerStatus::Created,
        Docker::RUNNING | Docker::RESTARTING | Docker::STOPPING => ContainerStatus::Running,
        Docker::PAUSED => ContainerStatus::Paused,
        Docker::EXITED => ContainerStatus::Exited,
        Docker::REMOVING | Docker::DEAD => ContainerStatus::Dead,
    }
}

pub(super) fn container_summary(found: docker::ContainerSummary) -> ContainerSummary {
    use docker::ContainerSummaryStateEnum as Docker;
    let status = match found.state {
        None | Some(Docker::EMPTY | Docker::CREATED) => ContainerStatus::Created,
        Some(Docker::RUNNING | Docker::RESTARTING | Docker::STOPPING) => ContainerStatus::Running,
        Some(Docker::PAUSED) => ContainerStatus::Paused,
        Some(Docker::EXITED) => ContainerStatus::Exited,
        Some(Docker::REMOVING | Docker::DEAD) => ContainerStatus::Dead,
    };
    let name = found.names.unwrap_or_default().into_iter().next().unwrap_or_default();
    ContainerSummary {
        id: ContainerId::new(found.id.unwrap_or_default()),
        name: name.trim_start_matches('/').to_owned(),
        status,
        labels: found.labels.unwrap_or_default().into_iter().collect(),
        image: found.image.unwrap_or_default(),
        image_id: found.image_id.unwrap_or_default(),
        created_at: found.created.and_then(|seconds| Timestamp::from_second(seconds).ok()),
    }
}

/// `None` for what is no container's life event.
pub(super) fn event(message: docker::EventMessage) -> Option<ContainerEvent> {
    let actor = message.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let kind = match message.action?.as_str() {
        "create" => ContainerEventKind::Created,
        "start" => ContainerEventKind::Started,
        "die" => {
            let exit_code = attributes.get("exitCode").and_then(|code| code.parse().ok()).unwrap_or_default();
            ContainerEventKind::Died { exit_code }
        }
        "oom" => ContainerEventKind::Oom,
        "destroy" => ContainerEventKind::Destroyed,
        _ => return None,
    };
    let time = Timestamp::from_nanosecond(i128::from(message.time_nano?)).ok()?;
    // Docker mixes labels with `name`, `image` and `exitCode`; ours all have a dot.
    let labels = attributes.into_iter().filter(|(name, _)| name.contains('.')).collect();
    Some(ContainerEvent { id: ContainerId::new(actor.id?), kind, labels, time })
}

/// `None` when the container does not run: Docker then reports at the beginning of time.
pub(super) fn stats(reading: docker::ContainerStatsResponse) -> Option<ContainerStats> {
    let time = reading.read.as_deref().and_then(time)?;
    let cpu = reading.cpu_stats.unwrap_or_default();
    let memory = reading.memory_stats.unwrap_or_default();
    let details = memory.stats.unwrap_or_default();
    // The first name is cgroup v1's, the second v2's.
    let either =
        |v1: &str, v2: &str| details.get(v1).or_else(|| details.get(v2)).copied().unwrap_or_default();
    let usage = memory.usage.unwrap_or_default();
    // Without a limit the kernel says the machine's memory or a number near the greatest there is.
    let limit = memory.limit.filter(|limit| *limit < 1 << 62);
    Some(ContainerStats {
        time: Some(time),
        cpu_nanos: cpu.cpu_usage.and_then(|usage| usage.total_usage).unwrap_or_default(),
        cpu_throttled_periods: cpu
            .throttling_data
            .and_then(|data| data.throttled_periods)
            .unwrap_or_default(),
        memory_usage: usage,
        memory_working_set: usage.saturating_sub(either("total_inactive_file", "inactive_file")),
        memory_rss: either("total_rss", "anon"),
        memory_limit: limit,
        page_faults: either("total_pgfault", "pgfault"),
        major_page_faults: either("total_pgmajfault", "pgmajfault"),
        pids: reading.pids_stats.and_then(|pids| pids.current).unwrap_or_default(),
        interfaces: interfaces(reading.networks.unwrap_or_default()),
    })
}

fn interfaces(networks: HashMap<String, docker::ContainerNetworkStats>) -> Vec<InterfaceStats> {
    let sorted: BTreeMap<_, _> = networks.into_iter().collect();
    sorted
        .into_iter()
        .map(|(name, counters)| InterfaceStats {
            name,
            rx_bytes: counters.rx_bytes.unwrap_or_default(),
            rx_packets: counters.rx_packets.unwrap_or_default(),
            rx_errors: counters.rx_errors.unwrap_or_default(),
            rx_dropped: counters.rx_dropped.unwrap_or_default(),
            tx_bytes: counters.tx_bytes.unwrap_or_default(),
            tx_packets: counters.tx_packets.unwrap_or_default(),
            tx_errors: counters.tx_errors.unwrap_or_default(),
            tx_dropped: counters.tx_dropped.unwrap_or_default(),
        })
        .collect()
}

/// `name=value`, as filters want it.
pub(super) fn label_filter(labels: &[(String, String)]) -> Vec<String> {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// `seconds.nanoseconds`, as Docker takes points in time.
pub(super) fn unix_time(at: Timestamp) -> String {
    format!("{}.{:09}", at.as_second(), at.subsec_nanosecond())
}

/// A time as Docker writes it; the year 1 stands for never.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|time: &Timestamp| time.as_second() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_network_brings_its_own_names() {
        let config = ContainerConfig {
            name: "n".into(),
            image: "i".into(),
            hostname: Some("h".into()),
            dns_servers: vec!["10.96.0.10".into()],
            network: NetworkMode::Container(ContainerId::new("s1")),
            ..ContainerConfig::default()
        };
        let body = create_body(&config).unwrap();
        let host = body.host_config.unwrap();
        assert_eq!((body.hostname, host.dns), (None, None));
        assert_eq!(host.network_mode.as_deref(), Some("container:s1"));
        assert_eq!(host.ipc_mode.as_deref(), Some("private"));
    }

    #[test]
    fn a_mount_is_read_only_as_far_down_as_it_is_asked_to() {
        let made = |read_only, recursive_read_only| {
            let kind = MountKind::Bind {
                source: "/src".into(),
                propagation: Propagation::Private,
                recursive_read_only,
            };
            let options = mount(&Mount { target: "/gift".into(), read_only, kind }).bind_options.unwrap();
            (options.read_only_force_recursive, options.read_only_non_recursive, options.propagation)
        };
        let private = Some(docker::MountBindOptionsPropagationEnum::RPRIVATE);
        assert_eq!(made(true, true), (Some(true), None, private));
        assert_eq!(made(true, false), (None, Some(true), None));
        assert_eq!(made(false, false), (None, None, None));
        assert_eq!(kernel_number("5.12.0-18-amd64"), (5, 12));
        assert!(kernel_number("4.19") < (5, 12) && kernel_number("6.1+") > (5, 12));
    }

    #[test]
    fn what_is_asked_for_reaches_the_engine() {
        let config = ContainerConfig {
            name: "n".into(),
            image: "i".into(),
            no_new_privileges: true,
            seccomp: Seccomp::Unconfined,
            network: NetworkMode::Bridge { network: "b0".into(), address: Some([10, 1, 2, 3].into()) },
            mounts: vec![Mount {
                target: "/gift".into(),
                read_only: true,
                kind: MountKind::Bind {
                    source: "/src".into(),
                    propagation: Propagation::HostToContainer,
                    recursive_read_only: false,
                },
            }],
            resources: crate::Resources { memory: Some(1 << 20), ..Default::default() },
            ..ContainerConfig::default()
        };
        let body = create_body(&config).unwrap();
        let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
        let address = endpoints["b0"].ipam_config.as_ref().unwrap().ipv4_address.clone();
        assert_eq!(address.as_deref(), Some("10.1.2.3"));
        let host = body.host_config.unwrap();
        assert_eq!((host.memory, host.memory_swap), (Some(1 << 20), Some(1 << 20)));
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges", "seccomp=unconfined"]);
        let mount = &host.mounts.unwrap()[0];
        assert_eq!((mount.source.as_deref(), mount.read_only), (Some("/src"), Some(true)));
    }

    #[test]
    fn a_nameless_container_is_refused_here() {
        assert!(matches!(create_body(&ContainerConfig::default()), Err(Error::Invalid { .. })));
    }

    #[test]
    fn deaths_carry_their_code_and_our_labels() {
        let attributes = [("exitCode", "3"), ("image", "i"), ("balsa.dev/node", "n1")];
        let message = docker::EventMessage {
            action: Some("die".into()),
            actor: Some(docker::EventActor {
                id: Some("c1".into()),
                attributes: Some(attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            }),
            time_nano: Some(1_700_000_000_000_000_001),
            ..Default::default()
        };
        let event = event(message).unwrap();
        assert_eq!(event.kind, ContainerEventKind::Died { exit_code: 3 });
        assert_eq!(event.labels.into_keys().collect::<Vec<_>>(), ["balsa.dev/node"]);
        assert_eq!(unix_time(event.time), "1700000000.000000001");
    }

    #[test]
    fn the_year_one_is_never() {
        assert_eq!(time("0001-01-01T00:00:00Z"), None);
        assert!(time("2026-11-22T17:00:00.123456789Z").is_some());
    }
}
