//! Hosts on this machine: each a network namespace with an address and a small disk of its own, all on
//! one bridge that lives in a namespace too, so that the machine's own rules have no say.
//!
//! A host's network is broken by nftables rules in its namespace, towards single other hosts and in one
//! direction; the clients of a run are outside and reach every host always.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;

/// Networks of this process so far: each has a range of its own.
static NETWORKS: AtomicU8 = AtomicU8::new(0);
/// Large enough for RocksDB and a log; small enough to be filled in a moment.
const DISK_MEGABYTES: u64 = 512;

/// The bridge, and what was made for it.
pub(crate) struct Network {
    hub: String,
    outside: String,
    range: u8,
    home: TempDir,
}

/// One host.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    /// Where its disk is mounted.
    pub(crate) disk: PathBuf,
    namespace: String,
}

impl Network {
    pub(crate) fn new() -> Self {
        let nth = NETWORKS.fetch_add(1, Ordering::Relaxed);
        // Another run may be on this machine: 198.18.0.0/15 is there for tests, and the process says which part.
        let range = u8::try_from(std::process::id() % 120).unwrap() * 2 + nth % 2;
        let network = Self {
            hub: format!("rb{range}-hub"),
            outside: format!("rb{range}"),
            range,
            home: tempfile::Builder::new().prefix("robustness-").tempdir().unwrap(),
        };
        let (hub, outside) = (&network.hub, &network.outside);
        network.clear();
        run("ip", &["netns", "add", hub]);
        run("ip", &["-n", hub, "link", "add", "bridge0", "type", "bridge", "forward_delay", "0"]);
        run("ip", &["-n", hub, "link", "set", "bridge0", "up"]);
        run("ip", &["link", "add", outside, "type", "veth", "peer", "name", "clients", "netns", hub]);
        run("ip", &["-n", hub, "link", "set", "clients", "master", "bridge0", "up"]);
        run("ip", &["address", "add", &format!("{}/24", network.address(1)), "dev", outside]);
        run("ip", &["link", "set", outside, "up"]);
        network
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.range, last)
    }

    /// The directory of everything that is kept.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// A new host, `number` from 1 on.
    pub(crate) fn host(&self, number: u8) -> Host {
        let name = format!("s{number}");
        let namespace = format!("rb{}-{name}", self.range);
        let disk = self.home.path().join(&name);
        std::fs::create_dir(&disk).unwrap();
        let host = Host { address: self.address(10 + number), disk, namespace, name };
        let (space, hub, link) = (&host.namespace, &self.hub, &host.name);
        run("ip", &["netns", "add", space]);
        run("ip", &["-n", space, "link", "set", "lo", "up"]);
        run("ip", &["-n", hub, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space]);
        run("ip", &["-n", hub, "link", "set", link, "master", "bridge0", "up"]);
        run("ip", &["-n", space, "address", "add", &format!("{}/24", host.address), "dev", "eth0"]);
        run("ip", &["-n", space, "link", "set", "eth0", "up"]);
        host.nft(
            "table inet faults {
               set from { type ipv4_addr; }
               set to { type ipv4_addr; }
               chain input { type filter hook input priority 0; ip saddr @from drop; }
               chain output { type filter hook output priority 0; ip daddr @to drop; }
             }",
        );
        host.make_disk(&self.home.path().join(format!("{}.image", host.name)));
        host
    }

    fn clear(&self) {
        let listed = output("ip", &["netns", "list"]);
        let ours = format!("rb{}-", self.range);
        for name in listed.lines().filter_map(|line| line.split_whitespace().next()) {
            if name.starts_with(&ours) {
                output("ip", &["netns", "delete", name]);
            }
        }
        output("ip", &["link", "delete", &self.outside]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in std::fs::read_dir(self.home.path()).into_iter().flatten().flatten() {
            if place.path().is_dir() {
                output("umount", &["-l", &place.path().display().to_string()]);
            }
        }
        self.clear();
        if std::thread::panicking() {
            // What was on the hosts' disks is gone with them; their logs lie beside them.
            self.home.disable_cleanup(true);
            eprintln!("--- logs of the servers: {}", self.home.path().display());
            std::fs::read_dir(self.home.path()).into_iter().flatten().flatten().for_each(|file| {
                if file.path().extension().is_some_and(|extension| extension == "image") {
                    std::fs::remove_file(file.path()).ok();
                }
            });
        }
    }
}

impl Host {
    /// A command that runs on this host.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program);
        command
    }

    fn nft(&self, rules: &str) {
        use std::io::Write as _;
        let mut child = self.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "nft -f: {rules}");
    }

    /// Hears nothing of `other` any more; what it says still arrives there.
    pub(crate) fn does_not_hear(&self, other: &Host) {
        self.nft(&format!("add element inet faults from {{ {} }}", other.address));
    }

    /// Nothing passes between the two.
    pub(crate) fn cut_off(&self, other: &Host) {
        self.does_not_hear(other);
        self.nft(&format!("add element inet faults to {{ {} }}", other.address));
    }

    /// The network is whole again.
    pub(crate) fn hears_all(&self) {
        self.nft("flush set inet faults from; flush set inet faults to");
    }

    fn make_disk(&self, image: &Path) {
        let file = std::fs::File::create(image).unwrap();
        file.set_len(DISK_MEGABYTES << 20).unwrap();
        let (image, disk) = (image.display().to_string(), self.disk.display().to_string());
        // No blocks that only root may use: full is full.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", &image]);
        run("mount", &["-o", "loop", &image, &disk]);
    }

    /// Takes all room that the disk has left.
    pub(crate) fn fill_disk(&self) {
        let ballast = self.ballast();
        let room = output("df", &["--output=avail", "-B1024", &self.disk.display().to_string()]);
        let kib: u64 = room.lines().last().and_then(|line| line.trim().parse().ok()).unwrap();
        // What the file system needs to describe so large a file does not fit besides: less, until it does.
        let fits = |kib: u64| {
            let size = format!("{kib}KiB");
            let mut command = Command::new("fallocate");
            command.args(["-l", &size]).arg(&ballast).stderr(Stdio::null());
            command.status().unwrap().success()
        };
        assert!((0..64).any(|less| fits(kib.saturating_sub(less * 16).max(1))), "{kib} KiB are free");
        // The last blocks too.
        Command::new("dd")
            .args(["if=/dev/zero", "bs=4k", "conv=fsync"])
            .arg(format!("of={}", self.disk.join("ballast-2").display()))
            .stderr(Stdio::null())
            .status()
            .unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.disk.join("ballast")
    }

    /// Gives the room back.
    pub(crate) fn free_disk(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
        std::fs::remove_file(self.disk.join("ballast-2")).unwrap();
    }
}

/// Runs a program that has to succeed.
#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {said}", arguments.join(" "));
}

/// What a program prints, whether or not it succeeds.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
