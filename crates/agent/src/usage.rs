//! What the node and its containers use: the kubelet's summary (`/stats/summary`) and the numbers of it that
//! metrics servers read (`/metrics/resource`).
//!
//! Nothing is measured while nobody asks. Rates need two readings: the one before is kept, and where there
//! is none a second one is taken a moment later. Two who ask within moments get the same answer.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use balsa_rt::Clock;
use balsa_runtime::{ContainerId, ContainerStats, ListFilter, Runtime, labels};
use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// For how long an answer is good enough.
const FRESH: Duration = Duration::from_secs(5);
/// The shortest and the longest time over which a rate is taken.
const WINDOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));
/// Containers that are read at a time.
const AT_ONCE: usize = 8;
/// Nanoseconds of a tick of `/proc/stat`: Linux counts in hundredths of a second there.
const TICK: u64 = 10_000_000;

/// Whose a container is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
}

/// All counters at one time.
#[derive(Clone, Debug)]
struct Reading {
    at: Timestamp,
    node_cpu: u64,
    node_memory: (u64, u64),
    containers: HashMap<ContainerId, (Owner, ContainerStats)>,
}

/// Two readings, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    before: Arc<Reading>,
    now: Arc<Reading>,
}

/// Takes the readings.
pub(crate) struct Meter {
    runtime: Arc<dyn Runtime>,
    node: String,
    clock: Clock,
    last: Mutex<Option<Measured>>,
}

impl Meter {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, node: &str, clock: Clock) -> Self {
        Self { runtime, node: node.to_owned(), clock, last: Mutex::new(None) }
    }

    /// What is used now.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub(crate) async fn measure(&self) -> Result<Measured, balsa_runtime::Error> {
        let mut last = self.last.lock().await;
        let age = |reading: &Reading| {
            Duration::try_from(self.clock.now().duration_since(reading.at)).unwrap_or_default()
        };
        if let Some(measured) = last.as_ref().filter(|measured| age(&measured.now) < FRESH) {
            return Ok(measured.clone());
        }
        let known = last.take().map(|measured| measured.now);
        let before = match known.filter(|reading| age(reading) <= WINDOW.1) {
            Some(reading) => reading,
            None => {
                let first = Arc::new(self.read().await?);
                tokio::time::sleep(WINDOW.0).await;
                first
            }
        };
        let measured = Measured { before, now: Arc::new(self.read().await?) };
        *last = Some(measured.clone());
        Ok(measured)
    }

    async fn read(&self) -> Result<Reading, balsa_runtime::Error> {
        let own = ListFilter::label(labels::NODE, self.node.as_str());
        let own = ListFilter { all: false, ..own.and(labels::KIND, labels::KIND_CONTAINER) };
        let running = self.runtime.list(&own).await?;
        let read = |summary: balsa_runtime::ContainerSummary| async move {
            let label = |name: &str| summary.labels.get(name).cloned().unwrap_or_default();
            let owner = Owner {
                namespace: label(labels::POD_NAMESPACE),
                pod: label(labels::POD_NAME),
                uid: label(labels::POD_UID),
                container: label(labels::CONTAINER_NAME),
            };
            // One that has just ended has no numbers any more.
            let stats = self.runtime.stats(&summary.id).await.ok()?;
            Some((summary.id, (owner, stats)))
        };
        let containers = futures::stream::iter(running).map(read).buffer_unordered(AT_ONCE);
        let containers = containers.filter_map(std::future::ready).collect().await;
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Ok(Reading {
            at: self.clock.now(),
            node_cpu: busy(&file("/proc/stat")),
            node_memory: memory(&file("/proc/meminfo")),
            containers,
        })
    }

    /// The kubelet's summary.
    pub(crate) fn summary(&self, measured: &Measured) -> Value {
        let Measured { before, now } = measured;
        let seconds = now.at.duration_since(before.at).as_secs_f64();
        let (total, available) = now.node_memory;
        let used = total.saturating_sub(available);
        let mut pods: Vec<Value> = Vec::new();
        for (pod, containers) in by_pod(measured) {
            let of = |field: fn(&Used) -> u64| containers.iter().map(|(_, used)| field(used)).sum::<u64>();
            let shown: Vec<Value> = containers
                .iter()
                .map(|(name, used)| {
                    json!({"name": name, "cpu": cpu(now.at, used.rate, used.cpu), "memory": {
                        "time": now.at.to_string(), "usageBytes": used.usage, "workingSetBytes": used.memory,
                        "rssBytes": used.rss,
                    }})
                })
                .collect();
            pods.push(json!({
                "podRef": {"name": pod.pod, "namespace": pod.namespace, "uid": pod.uid},
                "cpu": cpu(now.at, of(|used| used.rate), of(|used| used.cpu)),
                "memory": {"time": now.at.to_string(), "workingSetBytes": of(|used| used.memory)},
                "containers": shown,
            }));
        }
        json!({
            // Over how long rates were taken; the kubelet does not tell.
            "windowSeconds": seconds,
            "node": {
                "nodeName": self.node,
                "cpu": cpu(now.at, rate(before.node_cpu, now.node_cpu, seconds), now.node_cpu),
                "memory": {"time": now.at.to_string(), "availableBytes": available, "usageBytes": used,
                    "workingSetBytes": used},
            },
            "pods": pods,
        })
    }
}

/// The numbers of the summary that metrics servers read, as Prometheus has them.
pub(crate) fn text(measured: &Measured) -> String {
    let now = &measured.now;
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let mut out = String::new();
    let mut put = |name: &str, kind: &str, lines: &[(String, f64)]| {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for (labels, value) in lines {
            let _ = writeln!(out, "{name}{labels} {value} {}", now.at.as_millisecond());
        }
    };
    let (total, available) = now.node_memory;
    put("node_cpu_usage_seconds_total", "counter", &[(String::new(), seconds(now.node_cpu))]);
    put("node_memory_working_set_bytes", "gauge", &[(String::new(), total.saturating_sub(available) as f64)]);
    let (mut cpu, mut memory) = (Vec::new(), Vec::new());
    for (pod, containers) in by_pod(measured) {
        for (name, used) in containers {
            let labels = format!("{{container={name:?},namespace={:?},pod={:?}}}", pod.namespace, pod.pod);
            cpu.push((labels.clone(), seconds(used.cpu)));
            memory.push((labels, used.memory as f64));
        }
    }
    put("container_cpu_usage_seconds_total", "counter", &cpu);
    put("container_memory_working_set_bytes", "gauge", &memory);
    out
}

/// What a container uses.
struct Used {
    /// Nanoseconds of processor a second.
    rate: u64,
    /// Nanoseconds of processor so far.
    cpu: u64,
    memory: u64,
    usage: u64,
    rss: u64,
}

/// The containers that are in both readings, pod by pod; the container of an owner is left out.
fn by_pod(measured: &Measured) -> Vec<(Owner, Vec<(String, Used)>)> {
    let Measured { before, now } = measured;
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let mut all: Vec<(&Owner, Used)> = Vec::new();
    for (id, (owner, stats)) in &now.containers {
        let Some((_, old)) = before.containers.get(id) else { continue };
        let between = match (old.time, stats.time) {
            (Some(old), Some(new)) if new > old => new.duration_since(old).as_secs_f64(),
            _ => seconds,
        };
        all.push((
            owner,
            Used {
                rate: rate(old.cpu_nanos, stats.cpu_nanos, between),
                cpu: stats.cpu_nanos,
                memory: stats.memory_working_set,
                usage: stats.memory_usage,
                rss: stats.memory_rss,
            },
        ));
    }
    all.sort_by(|a, b| a.0.cmp(b.0));
    let mut pods: Vec<(Owner, Vec<(String, Used)>)> = Vec::new();
    for (owner, used) in all {
        let pod = Owner { container: String::new(), ..owner.clone() };
        let container = (owner.container.clone(), used);
        match pods.last_mut().filter(|(last, _)| *last == pod) {
            Some((_, containers)) => containers.push(container),
            None => pods.push((pod, vec![container])),
        }
    }
    pods
}

fn cpu(at: Timestamp, rate: u64, total: u64) -> Value {
    json!({"time": at.to_string(), "usageNanoCores": rate, "usageCoreNanoSeconds": total})
}

/// How fast a counter grows in a second. One that has gone back counts from nothing.
fn rate(before: u64, now: u64, seconds: f64) -> u64 {
    if seconds <= 0.0 { 0 } else { (now.saturating_sub(before) as f64 / seconds) as u64 }
}

/// Nanoseconds for which the processors have worked, out of `/proc/stat`.
fn busy(text: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with("cpu ")).unwrap_or_default();
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    ticks.iter().sum::<u64>().saturating_sub(idle) * TICK
}

/// Bytes of memory in all, and of that to be had, out of `/proc/meminfo`.
fn memory(text: &str) -> (u64, u64) {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0) * 1024
    };
    (bytes("MemTotal"), bytes("MemAvailable"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_kernels_tables() {
        assert_eq!(busy("cpu  100 0 50 1000 10 5 5 0 0 0\ncpu0 1 1 1 1\n"), 160 * TICK);
        assert_eq!(memory("MemTotal:  4 kB\nMemFree: 1 kB\nMemAvailable: 3 kB\n"), (4096, 3072));
    }

    #[test]
    fn rates_between_readings() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let owner = |container: &str| Owner {
            namespace: "n".to_owned(),
            pod: "p".to_owned(),
            uid: "u".to_owned(),
            container: container.to_owned(),
        };
        let reading = |second: i64, containers: &[(&str, u64)]| {
            let stats = |cpu: u64| ContainerStats {
                cpu_nanos: cpu,
                memory_working_set: 7,
                ..ContainerStats::default()
            };
            let one = |(name, cpu): &(&str, u64)| (ContainerId::new(*name), (owner(name), stats(*cpu)));
            Arc::new(Reading {
                at: at(second),
                node_cpu: 0,
                node_memory: (10, 4),
                containers: containers.iter().map(one).collect(),
            })
        };
        let before = reading(10, &[("a", 1_000), ("b", 5_000)]);
        let measured = Measured { before, now: reading(20, &[("a", 11_000), ("b", 5_000), ("new", 9)]) };
        let pods = by_pod(&measured);
        assert_eq!(pods.len(), 1);
        let used: Vec<_> =
            pods[0].1.iter().map(|(name, used)| (name.as_str(), used.rate, used.memory)).collect();
        assert_eq!(used, [("a", 1_000, 7), ("b", 0, 7)]);
        let text = text(&measured);
        assert!(
            text.contains(
                "container_memory_working_set_bytes{container=\"a\",namespace=\"n\",pod=\"p\"} 7 20000"
            ),
            "{text}"
        );
        assert!(text.contains("node_memory_working_set_bytes 6 20000"), "{text}");
    }
}
