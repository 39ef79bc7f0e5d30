//! Brings rules into the kernel, and forgets flows that lead nowhere.
//!
//! Invariant: `programmed` is what the table holds, or `None` when that is not known; then the
//! table is replaced whole. State is disposable: a new process starts with `None`.

use std::process::Command;
use std::time::Instant;

use super::input::ProxyInput;
use super::rules::{StaleFlow, rules, stale_udp};
use super::ruleset::{RuleSet, diff};
use super::{Synced, nft};
use crate::error::NetError;
use crate::lease::Lease;
use crate::metrics;
use crate::netns::Netns;

/// The kernel's side of the proxy.
pub(super) struct Kernel {
    table: String,
    netns: Netns,
    lease: Option<Lease>,
    programmed: Option<(ProxyInput, RuleSet)>,
}

impl Kernel {
    pub(super) fn new(table: &str, netns: Netns) -> Self {
        Self { table: table.to_owned(), netns, lease: None, programmed: None }
    }

    pub(super) async fn sync(&mut self, input: &ProxyInput) -> Result<Synced, NetError> {
        if !self.is_ours().await? {
            return Ok(Synced::Standby);
        }
        if self.programmed.as_ref().is_some_and(|(programmed, _)| programmed == input) {
            if self.is_there().await? {
                return Ok(Synced::Unchanged);
            }
            tracing::warn!(table = self.table, "somebody removed the service rules; making them anew");
            self.programmed = None;
        }
        let started = Instant::now();
        let wanted = rules(&self.table, input);
        let known = self.programmed.take();
        let commands = match &known {
            Some((_, rules)) => diff(rules, &wanted),
            None => wanted.full(),
        };
        let count = commands.len();
        let stale = known.map(|(old, _)| stale_udp(&old, input)).unwrap_or_default();
        let applied = self.netns.run(move || apply(&commands, &stale)).await;
        if applied.is_err() {
            metrics::proxy_failed();
        }
        applied?;
        metrics::proxy_synced(started.elapsed());
        self.programmed = Some((input.clone(), wanted));
        Ok(if count == 0 { Synced::Unchanged } else { Synced::Changed(count) })
    }

    pub(super) async fn remove(&mut self) -> Result<(), NetError> {
        if !self.is_ours().await? {
            return Ok(());
        }
        self.programmed = None;
        let table = self.table.clone();
        self.netns.run(move || nft::remove_table(&table)).await?;
        self.lease = None;
        Ok(())
    }

    /// Whether the way into the rules still is in the kernel.
    async fn is_there(&self) -> Result<bool, NetError> {
        let table = self.table.clone();
        self.netns.run(move || Ok(nft::has_rules(&table, "prerouting"))).await
    }

    /// Whether this process programs the namespace's table; takes the lease if it is free.
    async fn is_ours(&mut self) -> Result<bool, NetError> {
        if self.lease.is_none() {
            self.lease = Lease::take(&self.netns, &format!("proxy/{}", self.table)).await?;
        }
        Ok(self.lease.is_some())
    }
}

fn apply(commands: &[serde_json::Value], stale: &[StaleFlow]) -> Result<(), NetError> {
    if !commands.is_empty() {
        nft::apply(commands)?;
    }
    for flow in stale {
        forget(flow);
    }
    Ok(())
}

/// Forgets a UDP flow. Without the `conntrack` program it ends by itself after its timeout, which
/// is worth a warning and not a failed sync: the rules are right.
fn forget(flow: &StaleFlow) {
    let mut command = Command::new("conntrack");
    command.args(["-D", "-p", "udp", "--orig-port-dst", &flow.port.to_string()]);
    if let Some(destination) = flow.destination {
        command.args(["--orig-dst", &destination.to_string()]);
    }
    if let Some(endpoint) = flow.endpoint {
        command.args(["--dst-nat", &endpoint.to_string()]);
    }
    match command.output() {
        // Exit code 1 with this line is its way to say that there was none.
        Ok(output)
            if output.status.success()
                || String::from_utf8_lossy(&output.stderr).contains("0 flow entries") => {}
        Ok(output) => {
            let message = String::from_utf8_lossy(&output.stderr);
            tracing::warn!(?flow, message = message.trim(), "cannot forget a UDP flow");
        }
        Err(error) => {
            tracing::warn!(?flow, %error, "cannot run conntrack; an old UDP flow ends by its timeout")
        }
    }
}
