//! What a container uses, as numbers that only grow (counters) or are now (gauges).

use jiff::Timestamp;

/// One reading of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// When it was read.
    pub time: Option<Timestamp>,
    /// Processor time used since the start, in nanoseconds.
    pub cpu_nanos: u64,
    /// Periods in which it wanted more processor than its limit gives.
    pub cpu_throttled_periods: u64,
    /// Bytes of memory charged to it, page cache included.
    pub memory_usage: u64,
    /// Bytes that cannot be given back under pressure: usage without inactive file pages.
    pub memory_working_set: u64,
    /// Bytes of anonymous memory.
    pub memory_rss: u64,
    /// Its limit; `None` when it may use all there is.
    pub memory_limit: Option<u64>,
    /// Page faults served.
    pub page_faults: u64,
    /// Page faults that had to wait for a disk.
    pub major_page_faults: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Network interfaces, as far as the engine knows them: none in a container that shares another's
    /// network or was plugged from outside ([`network_stats`] reads those).
    pub interfaces: Vec<InterfaceStats>,
}

/// Counters of one network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// Its name inside the container.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Errors while receiving.
    pub rx_errors: u64,
    /// Received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Errors while sending.
    pub tx_errors: u64,
    /// Dropped instead of sent.
    pub tx_dropped: u64,
}

/// The interfaces in the network namespace of process `pid` of this machine, loopback left out.
pub fn network_stats(pid: u32) -> std::io::Result<Vec<InterfaceStats>> {
    Ok(parse_net_dev(&std::fs::read_to_string(format!("/proc/{pid}/net/dev"))?))
}

fn parse_net_dev(text: &str) -> Vec<InterfaceStats> {
    text.lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let n: Vec<u64> = counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let name = name.trim();
            // Eight columns received, eight sent; anything else is the heading.
            if n.len() < 16 || name == "lo" {
                return None;
            }
            Some(InterfaceStats {
                name: name.to_owned(),
                rx_bytes: n[0],
                rx_packets: n[1],
                rx_errors: n[2],
                rx_dropped: n[3],
                tx_bytes: n[8],
                tx_packets: n[9],
                tx_errors: n[10],
                tx_dropped: n[11],
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_table() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
             lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
             eth0: 1500      10    1    2    0     0          0         0     3000      20    3    4    0     0       0          0\n";
        let found = parse_net_dev(text);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].rx_bytes, found[0].tx_bytes), ("eth0", 1500, 3000));
        assert_eq!((found[0].rx_dropped, found[0].tx_errors, found[0].tx_dropped), (2, 3, 4));
    }
}
