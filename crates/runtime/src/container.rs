//! Containers: what is asked for, what is, and what happened to them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::error::Result;

/// The engine's id of a container (names are accepted as well wherever an id is).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// An id as the engine gave it.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for ContainerId {
    fn from(id: String) -> Self {
        Self(id)
    }
}

/// All that a container is made from; sandboxes and app containers alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerConfig {
    /// Unique on the machine; see [`crate::labels::container_name`].
    pub name: String,
    /// Reference or id of a local image.
    pub image: String,
    /// Instead of the image's entrypoint (Kubernetes' `command`). When it is given and `args` is not,
    /// the image's own arguments are not used either.
    pub command: Option<Vec<String>>,
    /// Instead of the image's arguments (Kubernetes' `args`).
    pub args: Option<Vec<String>>,
    /// Name and value, added to the image's.
    pub env: Vec<(String, String)>,
    /// Instead of the image's.
    pub working_dir: Option<String>,
    /// What it is found by.
    pub labels: BTreeMap<String, String>,

    /// Whose network.
    pub network: NetworkMode,
    /// Whose shared memory and semaphores.
    pub ipc: IpcMode,
    /// Whose processes it sees.
    pub pid: PidMode,
    /// Host name; with [`NetworkMode::Container`] it is the other container's and this is not used.
    pub hostname: Option<String>,
    /// Name servers for resolv.conf; like `hostname`, the sandbox's.
    pub dns_servers: Vec<String>,
    /// Search domains for resolv.conf; like `hostname`, the sandbox's.
    pub dns_searches: Vec<String>,
    /// Options for resolv.conf, `ndots:5`; like `hostname`, the sandbox's.
    pub dns_options: Vec<String>,
    /// Name and address, for /etc/hosts; like `hostname`, the sandbox's.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,

    /// What is mounted where.
    pub mounts: Vec<Mount>,
    /// `uid`, `uid:gid` or names of the image; else the image's.
    pub user: Option<String>,
    /// More groups of its processes.
    pub supplemental_groups: Vec<u32>,
    /// Capabilities to have, without `CAP_`; `ALL` is known.
    pub capabilities_add: Vec<String>,
    /// Capabilities not to have.
    pub capabilities_drop: Vec<String>,
    /// All capabilities, devices and no confinement.
    pub privileged: bool,
    /// Nothing but mounts can be written.
    pub read_only_root: bool,
    /// No gain of privileges through setuid files.
    pub no_new_privileges: bool,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// Which AppArmor profile confines it.
    pub apparmor: AppArmor,

    /// One of the engine's runtimes ([`crate::Version::runtimes`]); else its usual one.
    pub runtime: Option<String>,
    /// Shares and limits.
    pub resources: Resources,
    /// The cgroup that it is put under, in the form the engine's cgroup driver takes.
    pub cgroup_parent: Option<String>,
    /// Where the engine keeps its output.
    pub log_driver: LogDriver,
    /// Asks it to end; else the image's, else SIGTERM.
    pub stop_signal: Option<String>,
    /// Its streams are a terminal.
    pub tty: bool,
    /// Its standard input stays open for [`crate::Runtime::attach`].
    pub stdin: bool,
    /// Its standard input ends when the first who attached goes.
    pub stdin_once: bool,
}

/// Whose network a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// Its own, with loopback only; others may plug interfaces in.
    #[default]
    None,
    /// The machine's.
    Host,
    /// That of another container: how a pod's containers share their sandbox's.
    Container(ContainerId),
    /// Its own, joined to a network that the engine keeps.
    Bridge {
        /// The network's name.
        network: String,
        /// A fixed address in it; else the engine picks one.
        address: Option<Ipv4Addr>,
    },
}

/// Whose IPC namespace a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IpcMode {
    /// Its own, to itself.
    #[default]
    Private,
    /// Its own, and others may join: a sandbox's.
    Shareable,
    /// The machine's.
    Host,
    /// That of another, shareable container.
    Container(ContainerId),
}

/// Whose PID namespace a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PidMode {
    /// Its own.
    #[default]
    Own,
    /// The machine's.
    Host,
    /// That of another container (`shareProcessNamespace`).
    Container(ContainerId),
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The absolute path inside.
    pub target: String,
    /// May not be written through.
    pub read_only: bool,
    /// What is there.
    pub kind: MountKind,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A directory or file of the machine, which must exist.
    Bind {
        /// Its absolute path on the machine.
        source: String,
        /// Which later mounts are seen.
        propagation: Propagation,
        /// If it may not be written through, nor may what is mounted below it. Only with
        /// [`Propagation::Private`], and where [`crate::Version::recursive_read_only`] says that it can be had.
        recursive_read_only: bool,
    },
    /// Memory, empty at the start and gone at the end.
    Tmpfs {
        /// At most so many bytes.
        size: Option<u64>,
        /// Permission bits of its root, else 1777.
        mode: Option<u32>,
    },
}

/// Which mounts made later cross a bind mount (Kubernetes' `mountPropagation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// None.
    #[default]
    Private,
    /// Those of the machine are seen inside (`HostToContainer`).
    HostToContainer,
    /// Both ways (`Bidirectional`).
    Bidirectional,
}

/// Which system calls are allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The engine's own profile.
    #[default]
    RuntimeDefault,
    /// All.
    Unconfined,
    /// Those of this profile: the JSON itself, not a path.
    Profile(String),
}

/// Which AppArmor profile is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AppArmor {
    /// The engine's own, where the kernel has AppArmor.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One that is loaded on the machine.
    Localhost(String),
}

/// Shares and limits of a container. Nothing given is nothing limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Weight among others, 1024 for one processor asked for.
    pub cpu_shares: Option<i64>,
    /// Microseconds; with `cpu_quota`.
    pub cpu_period: Option<i64>,
    /// Microseconds of processor time in a period.
    pub cpu_quota: Option<i64>,
    /// `0-3,7`.
    pub cpuset: Option<String>,
    /// Bytes; no swap is given beyond it.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub pids: Option<i64>,
    /// From -1000 (never chosen) to 1000 (chosen first) when memory runs out.
    pub oom_score_adj: Option<i32>,
}

/// Where the engine keeps what a container writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogDriver {
    /// Nowhere: [`crate::Runtime::logs`] finds nothing.
    None,
    /// JSON files, rotated.
    JsonFile {
        /// Bytes of one file.
        max_size: u64,
        /// How many files, the current one included.
        max_files: u32,
    },
}

impl Default for LogDriver {
    /// Kubernetes' own defaults: five files of 10 MiB.
    fn default() -> Self {
        Self::JsonFile { max_size: 10 << 20, max_files: 5 }
    }
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ContainerStatus {
    /// Made, never started (or its start failed: see [`ContainerState::error`]).
    #[default]
    Created,
    /// Its process lives.
    Running,
    /// Its process is frozen.
    Paused,
    /// Its process has ended.
    Exited,
    /// Its removal failed half way, or is under way.
    Dead,
}

impl ContainerStatus {
    /// It has a process.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// All about one container, as of now.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerState {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Where in its life.
    pub status: ContainerStatus,
    /// The machine's number of its first process, while it is alive; never given by a simulation.
    pub pid: Option<u32>,
    /// How it ended; 0 while it has not.
    pub exit_code: i32,
    /// The kernel killed it for its memory.
    pub oom_killed: bool,
    /// Why it could not be started, or empty.
    pub error: String,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it was last started.
    pub started_at: Option<Timestamp>,
    /// When it last ended.
    pub finished_at: Option<Timestamp>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The image as it was asked for.
    pub image: String,
    /// The image that it is: `sha256:…`.
    pub image_id: String,
    /// Its address in a network that the engine keeps.
    pub ip: Option<IpAddr>,
    /// Its streams are a terminal.
    pub tty: bool,
    /// The file with its output, when the engine writes one.
    pub log_path: Option<PathBuf>,
}

impl ContainerState {
    /// The network namespace of its first process, to plug interfaces into.
    pub fn netns(&self) -> Option<PathBuf> {
        self.pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")))
    }
}

/// One line of a list of containers.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSummary {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Where in its life.
    pub status: ContainerStatus,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The image as it was asked for.
    pub image: String,
    /// The image that it is: `sha256:…`.
    pub image_id: String,
    /// When it was made, to the second.
    pub created_at: Option<Timestamp>,
}

/// Which containers to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    /// They carry all of these.
    pub labels: Vec<(String, String)>,
    /// Also those that do not run.
    pub all: bool,
}

impl ListFilter {
    /// Running or not, with this label.
    pub fn label(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { labels: vec![(name.into(), value.into())], all: true }
    }

    /// And this label too.
    pub fn and(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((name.into(), value.into()));
        self
    }
}

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerEvent {
    /// To which.
    pub id: ContainerId,
    /// What.
    pub kind: ContainerEventKind,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When.
    pub time: Timestamp,
}

/// What happened to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerEventKind {
    /// It was made.
    Created,
    /// Its process started.
    Started,
    /// Its process ended.
    Died {
        /// With this code.
        exit_code: i32,
    },
    /// The kernel killed one of its processes for memory.
    Oom,
    /// It is gone.
    Destroyed,
}

/// Events as they happen.
pub type EventStream = BoxStream<'static, Result<ContainerEvent>>;
