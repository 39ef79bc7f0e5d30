//! From measured lines to Markdown: medians over the rounds, ratios, and the machine they are of.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Where tables stand in a file: between a line with the first and a line with the second.
const BEGIN: &str = "<!-- measured by `make bench` -->";
const END: &str = "<!-- end of what is measured -->";
/// Writes of the measure of the disk.
const SYNCS: usize = 200;

/// What the machine is, in a paragraph.
pub(super) fn machine(work_dir: &Path, etcd: &Path) -> anyhow::Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let (processor, memory) = (read("/proc/cpuinfo"), field(&read("/proc/meminfo"), "MemTotal"));
    let memory: f64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0.0);
    let version = Command::new(etcd).arg("--version").output();
    let version =
        version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    Ok(format!(
        "{} threads of {}, {:.0} GiB, Linux {}; one appended KiB is on disk after {:.2} ms (median of {SYNCS} \
         fdatasyncs); etcd {}; load average before the run {}.",
        std::thread::available_parallelism()?,
        field(&processor, "model name"),
        memory / 1024.0 / 1024.0,
        read("/proc/sys/kernel/osrelease").trim(),
        sync_time(work_dir)?,
        field(&version, "etcd Version"),
        load(),
    ))
}

/// The load averages.
pub(super) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn sync_time(work_dir: &Path) -> anyhow::Result<f64> {
    let path = work_dir.join("sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&[b'x'; 1024])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    std::fs::remove_file(path)?;
    Ok(median(times))
}

/// Puts the tables into a file, or prints them.
pub(super) fn publish(machine: &str, lines: &[Value], update: Option<&Path>) -> anyhow::Result<()> {
    let tables = format!("{machine}\n{}{}", writes(lines), others(lines));
    let Some(path) = update else {
        println!("{tables}");
        return Ok(());
    };
    let old = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    std::fs::write(path, replaced(&old, &tables).with_context(|| path.display().to_string())?)?;
    Ok(())
}

fn replaced(old: &str, tables: &str) -> anyhow::Result<String> {
    let parts = old.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let Some((head, tail)) = parts else { bail!("it has no place between \"{BEGIN}\" and \"{END}\"") };
    Ok(format!("{head}{BEGIN}\n{tables}{END}{tail}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of a number over the lines in which `fields` stand so.
fn of(lines: &[Value], fields: &[(&str, Value)], number: &str) -> Option<f64> {
    let fits = |line: &&Value| fields.iter().all(|(field, value)| line[*field] == *value);
    let values: Vec<f64> =
        lines.iter().filter(fits).filter_map(|line| line.pointer(number)?.as_f64()).collect();
    (!values.is_empty()).then(|| median(values))
}

fn writes(lines: &[Value]) -> String {
    let mut clients: Vec<u64> = lines.iter().filter_map(|line| line["clients"].as_u64()).collect();
    clients.sort_unstable();
    clients.dedup();
    let mut out = String::new();
    for (api, title, shared) in [("rest", "REST", false), ("grpc", "gRPC", true)] {
        if clients.is_empty() {
            break;
        }
        let _ = writeln!(
            out,
            "\n| clients | {title} creates/s | etcd puts/s | ratio | {title} p50, p99 ms | etcd p50, p99 ms | server µs/write | etcd µs/put |\n\
             | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        );
        for count in &clients {
            let ours = [("api", Value::from(api)), ("clients", (*count).into())];
            let theirs = [("api", "etcd".into()), ("clients", (*count).into()), ("shared", shared.into())];
            let [a, b] = [&ours[..], &theirs[..]]
                .map(|which| move |number: &str| of(lines, which, number).unwrap_or(f64::NAN));
            let _ = writeln!(
                out,
                "| {count} | {:.0} | {:.0} | {:.2} | {:.1}, {:.1} | {:.1}, {:.1} | {:.0} | {:.0} |",
                a("/per_second"),
                b("/per_second"),
                a("/per_second") / b("/per_second"),
                a("/latency_ms/p50"),
                a("/latency_ms/p99"),
                b("/latency_ms/p50"),
                b("/latency_ms/p99"),
                a("/server_us_per_write"),
                b("/server_us_per_write"),
            );
        }
    }
    out
}

fn others(lines: &[Value]) -> String {
    let of = |scenario: &str, number: &str| of(lines, &[("scenario", scenario.into())], number);
    let objects = |kind: &str| {
        let fields = [("scenario", Value::from("objects")), ("kind", kind.into())];
        self::of(lines, &fields, "/bytes_per_object").map(|bytes| format!("{:.1} KiB", bytes / 1024.0))
    };
    let pair = |scenario: &str, times: &str| {
        let [p50, p99] = ["p50", "p99"].map(|p| of(scenario, &format!("/{times}/{p}")));
        Some(format!("{:.1} ms, {:.1} ms", p50?, p99?))
    };
    let ratio =
        || Some(of("pod-start", "/created_to_running_ms/p50")? / of("pod-start", "/docker_run_ms/p50")?);
    let rows = [
        ("LIST of 10,000 pods, MB/s", of("list", "/mb_per_second").map(|rate| format!("{rate:.0}")), ""),
        ("… its size", of("list", "/bytes").map(|bytes| format!("{:.1} MB", bytes / 1e6)), ""),
        ("… time for the whole list: median, p99", pair("list", "latency_ms"), ""),
        (
            "… what the server's memory grows by meanwhile, at most",
            of("list", "/peak_extra_mib").map(|mib| format!("{mib:.1} MiB")),
            "not with the list",
        ),
        (
            "1,000 watchers, acknowledged write to the last of them: median, p99",
            pair("watch", "acknowledged_to_last_ms"),
            "",
        ),
        (
            "resident, idle with the demo: server and agent",
            of("idle", "/resident_mib").map(|mib| format!("{mib:.0} MiB")),
            "< 80 MiB",
        ),
        (
            "… without the pages of the program file",
            of("idle", "/own_mib").map(|mib| format!("{mib:.0} MiB")),
            "",
        ),
        ("resident for each ConfigMap of 2 KiB", objects("configmaps"), ""),
        ("resident for each pod of 2 KiB", objects("pods"), ""),
        ("pod created to Running: median, p99 of 50", pair("pod-start", "created_to_running_ms"), ""),
        ("… `docker run` of the same image: median, p99", pair("pod-start", "docker_run_ms"), ""),
        ("… ratio of the medians", ratio().map(|ratio| format!("{ratio:.2}")), ""),
        (
            "`balsa up` on an empty directory to node Ready",
            of("start", "/seconds").map(|s| format!("{s:.2} s")),
            "< 3 s",
        ),
    ];
    let mut out = "\n| what | median of the rounds | goal |\n| --- | ---: | --- |\n".to_owned();
    for (what, measured, goal) in rows {
        if let Some(measured) = measured {
            let _ = writeln!(out, "| {what} | {measured} | {goal} |");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn medians_and_ratios() {
        let line = |api: &str, rate: u64| {
            json!({
                "scenario": "writes", "api": api, "clients": 64, "shared": false, "per_second": rate,
                "server_us_per_write": 9, "latency_ms": {"p50": 1.0, "p99": 2.0},
            })
        };
        let lines = [line("rest", 300), line("rest", 100), line("rest", 200), line("etcd", 100)];
        let table = writes(&lines);
        assert!(table.contains("| 64 | 200 | 100 | 2.00 | 1.0, 2.0 | 1.0, 2.0 | 9 | 9 |"), "{table}");
        assert!(others(&[json!({"scenario": "start", "seconds": 1.234})]).contains("| 1.23 s | < 3 s |"));
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let old = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(replaced(&old, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(replaced("a", "new").is_err());
    }
}
