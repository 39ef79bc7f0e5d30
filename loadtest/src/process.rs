//! What the kernel knows about a process.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

/// The kernel counts processor time in hundredths of a second, whatever the machine.
const TICK: Duration = Duration::from_millis(10);

fn read(pid: u32, file: &str) -> anyhow::Result<String> {
    let path = Path::new("/proc").join(pid.to_string()).join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Processor time that a process has used.
pub(crate) fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = read(pid, "stat")?;
    // After the name, which may hold anything: state is the first field, user and system time the 12th
    // and 13th.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<u32>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(TICK * (user + system)),
        _ => bail!("/proc/{pid}/stat is not as expected"),
    }
}

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resident {
    /// All of it.
    pub(crate) all: u64,
    /// What is the process's own, without the pages of program files.
    pub(crate) own: u64,
}

/// Resident memory of a process.
pub(crate) fn resident(pid: u32) -> anyhow::Result<Resident> {
    let status = read(pid, "status")?;
    Ok(Resident { all: field(&status, "VmRSS"), own: field(&status, "RssAnon") })
}

/// The most that a process has had resident at a time, in KiB, since [`forget_peak`].
pub(crate) fn peak(pid: u32) -> anyhow::Result<u64> {
    Ok(field(&read(pid, "status")?, "VmHWM"))
}

/// Begins a new peak of a process, which is what it has resident now.
pub(crate) fn forget_peak(pid: u32) -> anyhow::Result<u64> {
    // In the kernel's words: 5 resets the peak resident set size.
    let path = Path::new("/proc").join(pid.to_string()).join("clear_refs");
    std::fs::write(&path, "5").with_context(|| path.display().to_string())?;
    Ok(resident(pid)?.all)
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_process_is_known() {
        let pid = std::process::id();
        processor_time(pid).unwrap();
        let resident = resident(pid).unwrap();
        assert!(resident.own > 0 && resident.all > resident.own, "{resident:?}");
    }
}
