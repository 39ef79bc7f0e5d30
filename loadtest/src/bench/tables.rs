//! From measured lines to Markdown: medians over the rounds, ratios, and the machine they are of.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::kubernetes;

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
    let tables = format!("{machine}\n{}{}{}", against_etcd(lines), kubernetes::table(lines), others(lines));
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
pub(super) fn of(lines: &[Value], fields: &[(&str, Value)], number: &str) -> Option<f64> {
    let fits = |line: &&Value| fields.iter().all(|(field, value)| line[*field] == *value);
    let values: Vec<f64> =
        lines.iter().filter(fits).filter_map(|line| line.pointer(number)?.as_f64()).collect();
    (!values.is_empty()).then(|| median(values))
}

/// What is set against etcd: in words, what the lines of ours and of etcd's have in common, how they differ,
/// and the least ratio that we want with so many clients.
struct Comparison {
    what: &'static str,
    common: Vec<(&'static str, Value)>,
    api: &'static str,
    shared: Option<bool>,
    goal: fn(u64) -> Option<f64>,
}

fn comparisons() -> Vec<Comparison> {
    let none = |_| None;
    let as_many: fn(u64) -> Option<f64> = |clients| (clients == 64).then_some(1.0);
    let twice: fn(u64) -> Option<f64> = |_| Some(2.0);
    let thrice: fn(u64) -> Option<f64> = |_| Some(3.0);
    let twice_from_64: fn(u64) -> Option<f64> = |clients| match clients {
        1 => Some(1.0),
        64.. => Some(2.0),
        _ => None,
    };
    let (rest, grpc, streams) = (("rest", Some(false)), ("grpc", Some(true)), ("pipeline", Some(true)));
    let row = |what, (api, shared), goal, common: &[(&'static str, Value)]| Comparison {
        what,
        common: common.to_vec(),
        api,
        shared,
        goal,
    };
    let writes = ("scenario", Value::from("writes"));
    let gets = |stale: bool| [("scenario", Value::from("gets")), ("stale", stale.into())];
    let fanout = |apart: bool| [("scenario", Value::from("fanout")), ("apart", apart.into())];
    let (alone, three) = (("servers", Value::Null), ("servers", Value::from(3)));
    let one = |stale| [&gets(stale)[..], std::slice::from_ref(&alone)].concat();
    let of_three =
        |place: &str, stale| [&gets(stale)[..], &[three.clone(), ("place", place.into())]].concat();
    vec![
        row("REST creates", rest, as_many, &[writes.clone(), alone.clone()]),
        row("gRPC creates, a call each", grpc, twice_from_64, &[writes.clone(), alone.clone()]),
        row("gRPC creates, calls in streams", streams, twice_from_64, &[writes.clone(), alone.clone()]),
        row("REST gets, linearizable", rest, twice, &one(false)),
        row("REST gets, serializable", rest, twice, &one(true)),
        row("gRPC gets, a call each, linearizable", grpc, twice, &one(false)),
        row("gRPC gets, a call each, serializable", grpc, twice, &one(true)),
        row("gRPC gets, calls in streams, linearizable", streams, twice, &one(false)),
        row("gRPC gets, calls in streams, serializable", streams, twice, &one(true)),
        row("watches of one kind, events", ("grpc", None), thrice, &fanout(false)),
        row("… an event once for all watches of a stream", ("shared", None), thrice, &fanout(false)),
        row("watches of an object each, events", ("grpc", None), thrice, &fanout(true)),
        row("three servers: REST creates", rest, none, &[writes.clone(), three.clone()]),
        row(
            "three servers: gRPC creates, a call each",
            grpc,
            twice_from_64,
            &[writes.clone(), three.clone()],
        ),
        row("… gRPC creates, calls in streams", streams, twice_from_64, &[writes, three.clone()]),
        row(
            "… gRPC gets from the leader, a call each, linearizable",
            ("grpc", None),
            twice,
            &of_three("leader", false),
        ),
        row("… calls in streams", ("pipeline", None), twice, &of_three("leader", false)),
        row(
            "… from a follower, a call each, linearizable",
            ("grpc", None),
            twice,
            &of_three("follower", false),
        ),
        row("… calls in streams", ("pipeline", None), twice, &of_three("follower", false)),
        row(
            "… from a follower, a call each, serializable",
            ("grpc", None),
            twice,
            &of_three("follower", true),
        ),
        row("… calls in streams", ("pipeline", None), twice, &of_three("follower", true)),
    ]
}

fn against_etcd(lines: &[Value]) -> String {
    let mut clients: Vec<u64> = lines.iter().filter_map(|line| line["clients"].as_u64()).collect();
    clients.sort_unstable();
    clients.dedup();
    let mut rows = String::new();
    for comparison in comparisons() {
        for count in &clients {
            rows.extend(row(lines, &comparison, *count));
        }
    }
    if rows.is_empty() {
        return rows;
    }
    format!(
        "\n| what | clients | Balsa/s | etcd/s | ratio | goal | Balsa p50, p99 ms | etcd p50, p99 ms | Balsa µs each | etcd µs each |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n{rows}"
    )
}

/// One comparison with so many clients, where it was measured.
fn row(lines: &[Value], comparison: &Comparison, clients: u64) -> Option<String> {
    let shared = comparison.shared.map_or(Value::Null, Value::from);
    let with = |more: &[(&'static str, Value)]| {
        [&comparison.common[..], &[("clients", clients.into())], more].concat()
    };
    let (ours, theirs) =
        (with(&[("api", comparison.api.into())]), with(&[("api", "etcd".into()), ("shared", shared)]));
    let rates = (of(lines, &ours, "/per_second")?, of(lines, &theirs, "/per_second")?);
    let pair = |which: &[(&str, Value)]| {
        let [p50, p99] =
            ["p50", "p99"].map(|p| of(lines, which, &format!("/latency_ms/{p}")).unwrap_or(f64::NAN));
        format!("{p50:.1}, {p99:.1}")
    };
    let time = |which: &[(&str, Value)]| of(lines, which, "/server_us").unwrap_or(f64::NAN);
    Some(format!(
        "| {} | {clients} | {:.0} | {:.0} | {:.2} | {} | {} | {} | {:.0} | {:.0} |\n",
        comparison.what,
        rates.0,
        rates.1,
        rates.0 / rates.1,
        (comparison.goal)(clients).map(|goal| format!("≥ {goal}")).unwrap_or_default(),
        pair(&ours),
        pair(&theirs),
        time(&ours),
        time(&theirs),
    ))
}

/// Numbers that do not stand beside anybody else's.
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
            "resident with 100,000 ConfigMaps of 2 KiB, after a start with them",
            of("many", "/resident_mib").map(|mib| format!("{mib:.0} MiB")),
            "",
        ),
        (
            "… `kill -9` and `balsa up` again: to the first answer",
            of("many", "/restart_seconds").map(|s| format!("{s:.2} s")),
            "< 3 s",
        ),
        (
            "… another server joins: from its start to its vote",
            of("many", "/join_seconds").map(|s| format!("{s:.2} s")),
            "",
        ),
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
                "server_us": 9, "latency_ms": {"p50": 1.0, "p99": 2.0},
            })
        };
        let mut of_three = line("rest", 700);
        of_three["servers"] = 3.into();
        let lines = [line("rest", 300), line("rest", 100), line("rest", 200), line("etcd", 100), of_three];
        let table = against_etcd(&lines);
        let row = "| REST creates | 64 | 200 | 100 | 2.00 | ≥ 1 | 1.0, 2.0 | 1.0, 2.0 | 9 | 9 |";
        assert!(table.contains(row), "{table}");
        assert_eq!(table.lines().count(), 4, "what was not measured of both is left out: {table}");
        assert!(others(&[json!({"scenario": "start", "seconds": 1.234})]).contains("| 1.23 s | < 3 s |"));
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let old = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(replaced(&old, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(replaced("a", "new").is_err());
    }
}
