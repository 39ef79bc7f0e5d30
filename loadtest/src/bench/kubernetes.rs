//! Balsa beside a Kubernetes control plane: the same scenarios, through the same client, against both by turns.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::process::Command;

use super::servers::Balsa;
use super::{Bench, tables};
use crate::process::resident;
use crate::scenarios::{list, objects, watch};
use crate::{Api, Cluster, Scenario};

const OURS: &str = "balsa";
const THEIRS: &str = "kubernetes";
/// Pods of the list, after which memory is looked at for the first time.
const PODS: usize = 10_000;
/// ConfigMaps of 2 KiB besides, after which it is looked at again.
const CONFIG_MAPS: usize = 100_000;
/// How many watch, and the connections that they share. A program that is written with client-go has one for all that it
/// watches; a hundred on each are what any server takes.
const WATCHES: [(usize, Option<NonZeroUsize>); 3] =
    [(100, None), (5_000, NonZeroUsize::new(50)), (5_000, None)];

/// A control plane that a script starts.
struct Peer {
    script: PathBuf,
    kubeconfig: PathBuf,
    pids: Vec<u32>,
}

impl Peer {
    async fn start(script: &Path) -> anyhow::Result<Self> {
        says(script, "wipe").await?;
        let kubeconfig = says(script, "up").await?.split_whitespace().last().map(PathBuf::from);
        let status = says(script, "status").await?;
        let pids =
            status.lines().filter_map(|line| line.split_once(" pid ")?.1.split(' ').next()?.parse().ok());
        let kubeconfig =
            kubeconfig.with_context(|| format!("{} up names no kubeconfig", script.display()))?;
        Ok(Self { script: script.to_owned(), kubeconfig, pids: pids.collect() })
    }

    async fn stop(self) -> anyhow::Result<()> {
        says(&self.script, "wipe").await.map(drop)
    }
}

async fn says(script: &Path, word: &str) -> anyhow::Result<String> {
    let output = Command::new(script).arg(word).output().await;
    let output = output.with_context(|| script.display().to_string())?;
    if !output.status.success() {
        bail!("{} {word}: {}", script.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Bench<'_> {
    /// Both, one after the other.
    pub(super) async fn beside_kubernetes(&mut self) -> anyhow::Result<()> {
        let Some(script) = self.options.peer.clone() else {
            bail!("nothing to stand beside: name the script that starts a Kubernetes with --peer")
        };
        let balsa = Balsa::start(self.options, 0).await?;
        self.as_kubernetes(OURS, &balsa.kubeconfig(), &[balsa.pid]).await?;
        balsa.stop().await?;
        let peer = Peer::start(&script).await?;
        self.as_kubernetes(THEIRS, &peer.kubeconfig, &peer.pids).await?;
        peer.stop().await
    }

    /// What is asked of a Kubernetes control plane.
    async fn as_kubernetes(&mut self, server: &str, kubeconfig: &Path, pids: &[u32]) -> anyhow::Result<()> {
        let empty = memory(pids)?;
        let mut scenarios = Vec::new();
        for clients in self.options.clients.clone() {
            let (endpoint, api, load) = (String::new(), Api::Rest, self.load(clients, pids));
            scenarios.push(Scenario::Writes { api, endpoint: endpoint.clone(), load: load.clone() });
            scenarios.push(Scenario::Gets { api, endpoint, stale: false, load: load.clone() });
            scenarios.push(Scenario::Patches { apply: false, load: load.clone() });
            scenarios.push(Scenario::Patches { apply: true, load });
        }
        scenarios.extend(WATCHES.map(|(watchers, connections)| {
            Scenario::Watch(watch::Size { watchers, writes: 20, connections })
        }));
        for scenario in scenarios {
            self.of_peer(server, kubeconfig, scenario, false).await?;
        }
        let listed = Scenario::List(list::Size { pods: PODS, rounds: 20, pid: None });
        self.of_peer(server, kubeconfig, listed, true).await?;
        let listed = memory(pids)?;
        let stored = objects::Size { objects: CONFIG_MAPS / 2, as_pods: false, pid: pids.first().copied() };
        self.of_peer(server, kubeconfig, Scenario::Objects(stored), true).await?;
        let full = memory(pids)?;
        self.note(json!({
            "scenario": "kubernetes memory", "server": server, "empty": empty, "listed": listed, "full": full,
        }));
        Ok(())
    }

    async fn of_peer(
        &mut self,
        server: &str,
        kubeconfig: &Path,
        scenario: Scenario,
        keep: bool,
    ) -> anyhow::Result<()> {
        let namespace = format!("loadtest-{}", self.lines.len());
        let cluster = Cluster { kubeconfig: kubeconfig.to_owned(), namespace, keep };
        let mut line = crate::run(&cluster, scenario).await?;
        // Told apart from what is set against etcd.
        line["scenario"] = format!("kubernetes {}", line["scenario"].as_str().unwrap_or_default()).into();
        line["server"] = server.into();
        self.note(line);
        Ok(())
    }
}

/// Resident memory of all processes of a control plane, in MiB.
fn memory(pids: &[u32]) -> anyhow::Result<f64> {
    let all = pids.iter().map(|pid| resident(*pid)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(all.iter().map(|one| one.all).sum::<u64>() as f64 / 1024.0)
}

/// What both were asked, how many clients asked, where the number stands, and what the ratio is to be.
struct Row {
    what: String,
    fields: Vec<(&'static str, Value)>,
    number: &'static str,
    goal: &'static str,
}

fn rows(lines: &[Value]) -> Vec<Row> {
    let mut clients: Vec<u64> = lines.iter().filter_map(|line| line["clients"].as_u64()).collect();
    clients.sort_unstable();
    clients.dedup();
    let row = |what: &str, scenario: &str, more: &[(&'static str, Value)], number, goal| Row {
        what: what.to_owned(),
        fields: [&[("scenario", format!("kubernetes {scenario}").into())], more].concat(),
        number,
        goal,
    };
    let mut rows = Vec::new();
    for (what, scenario, goal, from) in [
        ("creates of 1 KiB", "writes", "≥ 10", 16),
        ("gets", "gets", "≥ 5", 1),
        ("merge patches", "patches", "", 1),
        ("server-side applies", "applies", "", 1),
    ] {
        rows.extend(clients.iter().map(|count| {
            let what = format!("{what} a second, {count} clients");
            let goal = if *count >= from { goal } else { "" };
            row(&what, scenario, &[("clients", (*count).into())], "/per_second", goal)
        }));
    }
    rows.push(row("list of 10,000 pods of 2 KiB, ms", "list", &[], "/latency_ms/p50", "≤ 1/10"));
    rows.push(row("… of 1 % of them, by a label, ms", "list", &[], "/selected_ms/p50", "≤ 1/10"));
    for (watchers, shared) in WATCHES {
        let on = shared.map_or("a connection each".to_owned(), |count| format!("{count} connections"));
        let what = format!("{watchers} watchers, {on}: a write until the last has it, ms");
        let more = [
            ("watchers", watchers.into()),
            ("connections", shared.map_or(watchers, NonZeroUsize::get).into()),
        ];
        rows.push(row(&what, "watch", &more, "/acknowledged_to_last_ms/p50", "≤ 1/10"));
    }
    for (what, number) in [
        ("resident after the start, MiB", "/empty"),
        ("… with 10,000 pods more", "/listed"),
        ("… and 100,000 ConfigMaps of 2 KiB more", "/full"),
    ] {
        rows.push(row(what, "memory", &[], number, "≤ 1/10"));
    }
    rows
}

/// Both beside each other, where both were measured.
pub(super) fn table(lines: &[Value]) -> String {
    let mut out = String::new();
    for row in rows(lines) {
        let number = |server: &str| {
            let fields = [&row.fields[..], &[("server", server.into())]].concat();
            tables::of(lines, &fields, row.number)
        };
        let (Some(ours), Some(theirs)) = (number(OURS), number(THEIRS)) else { continue };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.2} | {} |",
            row.what,
            rounded(ours),
            rounded(theirs),
            ours / theirs,
            row.goal
        );
    }
    if out.is_empty() {
        return out;
    }
    format!(
        "\n| beside kube-apiserver | Balsa | Kubernetes | ratio | goal |\n| --- | ---: | ---: | ---: | --- |\n{out}"
    )
}

fn rounded(number: f64) -> String {
    if number < 100.0 { format!("{number:.1}") } else { format!("{number:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_did_stands_in_the_table() {
        let line = |server: &str, rate: u64| json!({"scenario": "kubernetes writes", "server": server, "clients": 16, "per_second": rate});
        let alone = json!({"scenario": "kubernetes gets", "server": OURS, "clients": 16, "per_second": 1});
        let table = table(&[line(OURS, 3000), line(THEIRS, 200), alone]);
        assert!(
            table.contains("| creates of 1 KiB a second, 16 clients | 3000 | 200 | 15.00 | ≥ 10 |"),
            "{table}"
        );
        assert_eq!(table.lines().count(), 4, "what one alone did is left out: {table}");
    }
}
