//! What the machine is and has, from `/proc` and its neighbours.

use std::collections::BTreeMap;
use std::path::Path;

use balsa_model::quantity::Quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use nix::sys::statvfs::statvfs;

use crate::config::AgentConfig;

/// Bytes of memory that are left when there is too little.
const MEMORY_LOW: i64 = 100 << 20;
/// The part of disk and process ids that is left when there is too little: one in ten.
const PART_LOW: i64 = 10;
/// Bytes of disk that are enough, however small a part of it they are.
const DISK_ENOUGH: i64 = 10 << 30;

/// What the machine is and has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    /// Processors, in thousandths.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of disk.
    pub storage: i64,
    /// The lowest `oom_score_adj` that may be given: lower than one's own takes a capability, which the
    /// runtime of a confined machine lacks as the agent does.
    pub oom_floor: i32,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// The firmware's id of the machine.
    pub system_uuid: String,
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(text: &str, name: &str) -> Option<i64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<i64>().ok()? * 1024)
}

fn oom_floor(status: &str, own: &str) -> i32 {
    /// The bit of CAP_SYS_RESOURCE.
    const SYS_RESOURCE: u64 = 1 << 24;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    if effective & SYS_RESOURCE != 0 { -1000 } else { own.parse().unwrap_or(0) }
}

fn disk(path: &Path) -> (i64, i64) {
    let Ok(stat) = statvfs(path) else { return (0, 0) };
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.fragment_size())).unwrap_or(i64::MAX);
    (bytes(stat.blocks()), bytes(stat.blocks_available()))
}

/// Percent of a disk that are in use.
pub(crate) fn disk_used(path: &Path) -> u8 {
    let (total, free) = disk(path);
    let used = i128::from(total - free) * 100 / i128::from(total.max(1));
    u8::try_from(used).unwrap_or(0)
}

impl Machine {
    /// Looks at the machine; the configuration may say less than it has.
    pub(crate) fn look(config: &AgentConfig) -> Self {
        let announced = |name: &str| config.capacity.get(name).and_then(|text| Quantity::parse(text).ok());
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cpu = i64::try_from(processors).unwrap_or(1) * 1000;
        let memory = meminfo(&read("/proc/meminfo"), "MemTotal").unwrap_or(0);
        Self {
            cpu_milli: announced("cpu").map_or(cpu, Quantity::milli),
            memory: announced("memory").map_or(memory, Quantity::value),
            storage: announced("ephemeral-storage").map_or_else(|| disk(&config.data_dir).0, Quantity::value),
            oom_floor: oom_floor(&read("/proc/self/status"), &read("/proc/self/oom_score_adj")),
            machine_id: read("/etc/machine-id"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            system_uuid: read("/sys/class/dmi/id/product_uuid"),
        }
    }

    /// As a Node's capacity says it.
    pub(crate) fn capacity(&self, config: &AgentConfig) -> BTreeMap<String, ApiQuantity> {
        let mut capacity: BTreeMap<String, ApiQuantity> =
            config.capacity.iter().map(|(name, text)| (name.clone(), ApiQuantity(text.clone()))).collect();
        let found = [
            ("cpu", Quantity::from_milli(self.cpu_milli).to_api()),
            ("memory", ApiQuantity(format!("{}Ki", self.memory / 1024))),
            ("ephemeral-storage", ApiQuantity(format!("{}Ki", self.storage / 1024))),
            ("pods", ApiQuantity(config.max_pods.to_string())),
        ];
        for (name, amount) in found {
            capacity.entry(name.to_owned()).or_insert(amount);
        }
        capacity
    }
}

/// Whether a disk is nearly full. A tenth of a large one is plenty.
fn is_short(total: i64, free: i64) -> bool {
    total > 0 && free < (total / PART_LOW).min(DISK_ENOUGH)
}

/// What there is too little of, now.
pub(crate) fn pressure(data_dir: &Path) -> Pressure {
    let available = meminfo(&read("/proc/meminfo"), "MemAvailable");
    let (total, free) = disk(data_dir);
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let used = read("/proc/loadavg")
        .split(' ')
        .nth(3)
        .and_then(|tasks| tasks.split_once('/'))
        .and_then(|(_, n)| number(n));
    let most = number(&read("/proc/sys/kernel/pid_max"));
    Pressure {
        memory: available.is_some_and(|available| available < MEMORY_LOW),
        disk: is_short(total, free),
        pids: matches!((used, most), (Some(used), Some(most)) if most - used < most / PART_LOW),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_table() {
        let text = "MemTotal:       24576000 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_576_000 * 1024));
        assert_eq!(meminfo(text, "MemAvailable"), Some(1 << 20));
        assert_eq!(meminfo(text, "Swap"), None);
    }

    #[test]
    fn a_large_disk_is_not_full_with_room_for_many_images() {
        assert!(is_short(100 << 30, 9 << 30) && !is_short(100 << 30, 11 << 30));
        assert!(is_short(50 << 30, 4 << 30) && !is_short(50 << 30, 6 << 30));
        assert!(is_short(1 << 40, 9 << 30) && !is_short(1 << 40, 20 << 30));
    }

    #[test]
    fn a_confined_machine_cannot_protect_anybody() {
        assert_eq!(oom_floor("CapEff:\t000001ffffffffff", "0"), -1000);
        assert_eq!(oom_floor("CapEff:\t000001fffeffffff", "5"), 5);
    }

    #[test]
    fn the_configuration_may_say_less_than_there_is() {
        let mut config = AgentConfig::new("n", "/", std::net::Ipv4Addr::LOCALHOST.into());
        config.capacity.insert("cpu".to_owned(), "500m".to_owned());
        let machine = Machine::look(&config);
        assert_eq!(machine.cpu_milli, 500);
        let capacity = machine.capacity(&config);
        assert_eq!(capacity["cpu"].0, "500m");
        assert_eq!(capacity["pods"].0, "110");
    }
}
