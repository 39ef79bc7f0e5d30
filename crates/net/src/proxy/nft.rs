//! The small vocabulary of nftables' JSON that our rules need, and the way into the kernel.

use ipnet::Ipv4Net;
use nftables::helper::{self, NftablesError};
use serde_json::{Value, json};

use crate::error::NetError;

/// Applies commands in one transaction, in the namespace of the calling thread.
pub(crate) fn apply(commands: &[Value]) -> Result<(), NetError> {
    run(commands, &[], "apply rules")
}

/// Whether this process may change rules; nothing is changed.
pub(crate) fn check_permitted() -> Result<(), NetError> {
    run(
        &[json!({"add": {"table": {"family": "ip", "name": "balsa_check"}}})],
        &["--check"],
        "check that rules may be changed",
    )
}

/// Removes a table, if it is there.
pub(crate) fn remove_table(table: &str) -> Result<(), NetError> {
    // Adding first makes the deletion succeed when there is none.
    let name = json!({"family": "ip", "name": table});
    match apply(&[json!({"add": {"table": name.clone()}}), json!({"delete": {"table": name}})]) {
        Err(NetError::Tool { message, .. }) if message.contains("No such file") => Ok(()),
        result => result,
    }
}

/// Whether a chain is there and has rules.
pub(crate) fn has_rules(table: &str, chain: &str) -> bool {
    let listed = helper::get_current_ruleset_raw(helper::DEFAULT_NFT, ["list", "chain", "ip", table, chain]);
    listed.is_ok_and(|text| text.contains("\"rule\""))
}

/// A chain on a hook, with policy accept.
pub(crate) fn base_chain(table: &str, name: &str, kind: &str, hook: &str, priority: i32) -> Value {
    json!({"add": {"chain": {
        "family": "ip", "table": table, "name": name,
        "type": kind, "hook": hook, "prio": priority, "policy": "accept",
    }}})
}

/// `left op right`.
pub(crate) fn matches(op: &str, left: Value, right: Value) -> Value {
    json!({"match": {"op": op, "left": left, "right": right}})
}

/// A field of a packet's header.
pub(crate) fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

/// A CIDR.
pub(crate) fn prefix(cidr: Ipv4Net) -> Value {
    json!({"prefix": {"addr": cidr.network(), "len": cidr.prefix_len()}})
}

fn run(commands: &[Value], arguments: &[&str], action: &str) -> Result<(), NetError> {
    let payload = json!({"nftables": commands}).to_string();
    let failed =
        |message: String| NetError::Tool { program: "nft".into(), action: action.to_owned(), message };
    match helper::apply_ruleset_raw(&payload, helper::DEFAULT_NFT, arguments) {
        Ok(_) => Ok(()),
        Err(NftablesError::NftExecution { inner, .. }) => Err(failed(inner.to_string())),
        Err(NftablesError::NftFailed { stderr, .. }) => {
            Err(failed(stderr.lines().next().unwrap_or("it gave no reason").to_owned()))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}
