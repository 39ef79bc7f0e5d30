//! The rules of one bridge: masquerading, DNS, and leave to pass Docker's firewall.
//!
//! nftables rules are in a table of the bridge's own, which is replaced whole in one transaction.
//! Accept rules have to be in the chains that Docker's `iptables` made, and are known by their
//! comment.

use std::process::Command;

use serde_json::{Value, json};

use super::{NetworkReport, NodeNetworkConfig, link};
use crate::error::NetError;
use crate::proxy::{self, nft};

/// Brings all rules of the bridge into the kernel.
pub(super) fn ensure(config: &NodeNetworkConfig) -> Result<NetworkReport, NetError> {
    let mut report = NetworkReport::default();
    match nft::apply(&table_of(config)) {
        Ok(()) => report.nftables = true,
        Err(error) => {
            report.warnings.push(format!("nftables cannot be used, iptables masquerades instead: {error}"));
            if let Some(address) = config.cluster_dns {
                link::add_loopback(&proxy::table_of(&config.cluster), address)?;
                report.dns_on_loopback = Some(address);
            }
        }
    }
    let comment = comment_of(&config.bridge);
    for rule in iptables_rules(config, report.nftables) {
        rule.ensure(&comment, &mut report)?;
    }
    Ok(report)
}

/// Removes all rules of a bridge.
pub(super) fn remove(bridge: &str) -> Result<(), NetError> {
    nft::remove_table(&table_name(bridge))?;
    nft::remove_table(&host_ports_table(bridge))?;
    let comment = comment_of(bridge);
    for table in ["filter", "nat"] {
        let Some(listing) = iptables(&["-t", table, "-S"])? else { return Ok(()) };
        for line in listing.lines().filter(|line| line.contains(&format!("\"{comment}\""))) {
            let words: Vec<String> =
                line.replace(&format!("\"{comment}\""), "\u{1}").split(' ').map(str::to_owned).collect();
            let mut arguments = vec!["-t".to_owned(), table.to_owned(), "-D".to_owned()];
            arguments.extend(words.into_iter().skip(1).map(|word| word.replace('\u{1}', &comment)));
            iptables(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

fn table_name(bridge: &str) -> String {
    bridge.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
}

/// The table of a node's host ports: they are the node's own, unlike services.
pub fn host_ports_table(bridge: &str) -> String {
    format!("{}_host_ports", table_name(bridge))
}

fn comment_of(bridge: &str) -> String {
    format!("balsa {bridge}")
}

/// The table of a bridge, as one transaction that replaces it.
fn table_of(config: &NodeNetworkConfig) -> Vec<Value> {
    let table = table_name(&config.bridge);
    let rule = |chain: &str, expr: Value| json!({"add": {"rule": {"family": "ip", "table": table, "chain": chain, "expr": expr}}});
    let mut commands = vec![
        json!({"add": {"table": {"family": "ip", "name": table}}}),
        json!({"delete": {"table": {"family": "ip", "name": table}}}),
        json!({"add": {"table": {"family": "ip", "name": table}}}),
        nft::base_chain(&table, "postrouting", "nat", "postrouting", 100),
        nft::base_chain(&table, "raw", "filter", "prerouting", -300),
        rule(
            "postrouting",
            json!([
                nft::matches("==", nft::payload("ip", "saddr"), nft::prefix(config.pod_cidr)),
                nft::matches("!=", nft::payload("ip", "daddr"), nft::prefix(config.cluster_cidr)),
                nft::matches("!=", nft::payload("ip", "daddr"), json!({"prefix": {"addr": "224.0.0.0", "len": 4}})),
                {"masquerade": null},
            ]),
        ),
        // route_localnet lets 127.0.0.1 be translated; pods must not reach the host's loopback by it.
        rule(
            "raw",
            json!([
                nft::matches("==", json!({"meta": {"key": "iifname"}}), json!(config.bridge)),
                nft::matches("==", nft::payload("ip", "daddr"), json!({"prefix": {"addr": "127.0.0.0", "len": 8}})),
                {"drop": null},
            ]),
        ),
    ];
    if let Some(address) = config.cluster_dns {
        let lead = |mut expr: Vec<Value>| {
            expr.push(nft::matches("==", nft::payload("ip", "daddr"), json!(address)));
            expr.push(nft::matches(
                "==",
                json!({"meta": {"key": "l4proto"}}),
                json!({"set": ["tcp", "udp"]}),
            ));
            expr.push(nft::matches("==", nft::payload("th", "dport"), json!(53)));
            expr.push(json!({"dnat": {"family": "ip", "addr": config.gateway(), "port": 53}}));
            json!(expr)
        };
        let from_pods = nft::matches("==", json!({"meta": {"key": "iifname"}}), json!(config.bridge));
        // Before the service proxy, whose rules are the machine's and not this node's.
        commands.push(nft::base_chain(&table, "prerouting", "nat", "prerouting", -105));
        commands.push(nft::base_chain(&table, "output", "nat", "output", -105));
        commands.push(rule("prerouting", lead(vec![from_pods])));
        commands.push(rule("output", lead(Vec::new())));
    }
    commands
}

struct IptablesRule {
    table: &'static str,
    chains: &'static [&'static str],
    matches: Vec<String>,
    target: &'static str,
}

fn iptables_rules(config: &NodeNetworkConfig, nftables: bool) -> Vec<IptablesRule> {
    const FORWARD: &[&str] = &["DOCKER-USER", "FORWARD"];
    let forward = |direction: &str| IptablesRule {
        table: "filter",
        chains: FORWARD,
        matches: vec![direction.into(), config.bridge.clone()],
        target: "ACCEPT",
    };
    let mut rules = vec![forward("-i"), forward("-o")];
    if !nftables {
        let (from, to) = (config.pod_cidr.to_string(), config.cluster_cidr.to_string());
        rules.push(IptablesRule {
            table: "nat",
            chains: &["POSTROUTING"],
            matches: vec!["-s".into(), from, "!".into(), "-d".into(), to],
            target: "MASQUERADE",
        });
    }
    rules
}

impl IptablesRule {
    /// Puts the rule at the top of the first of its chains that exists.
    fn ensure(&self, comment: &str, report: &mut NetworkReport) -> Result<(), NetError> {
        let with = |verb: &'static str, chain: &'static str| {
            let mut arguments = vec!["-t", self.table, verb, chain];
            arguments.extend(self.matches.iter().map(String::as_str));
            arguments.extend(["-m", "comment", "--comment", comment, "-j", self.target]);
            arguments
        };
        let Some(listing) = iptables(&["-t", self.table, "-S"])? else {
            report
                .warnings
                .push("there is no iptables: if something drops forwarded traffic, pods are cut off".into());
            return Ok(());
        };
        let exists = |chain: &str| {
            listing.lines().any(|line| matches!(line.split_once(' '), Some(("-N" | "-P", rest)) if rest.split(' ').next() == Some(chain)))
        };
        let Some(chain) = self.chains.iter().find(|chain| exists(chain)) else { return Ok(()) };
        let quoted = format!("\"{comment}\"");
        let there = listing.lines().any(|line| {
            line.starts_with(&format!("-A {chain} "))
                && line.contains(&quoted)
                && line.contains(&format!("{} ", self.matches.join(" ")))
        });
        if !there {
            iptables(&with("-I", chain))?;
        }
        Ok(())
    }
}

/// Runs iptables; `None` when there is no such program.
fn iptables(arguments: &[&str]) -> Result<Option<String>, NetError> {
    let failed = |message: String| NetError::Tool {
        program: "iptables".into(),
        action: format!("run {}", arguments.join(" ")),
        message,
    };
    match Command::new("iptables").arg("-w").args(arguments).output() {
        Ok(output) if output.status.success() => {
            Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
        }
        Ok(output) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error.to_string())),
    }
}
