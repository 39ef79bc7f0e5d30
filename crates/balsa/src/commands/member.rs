//! `balsa member`: the servers of the cluster, and how to change which they are.

use balsa_client::remote::RemoteBackend;
use balsa_proto::v1;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::changes::duration;
use crate::connect::ConnectArgs;
use crate::output::{self, Table};

/// Show and change the servers of the cluster
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    balsa member list\n  \
    balsa member add                          # prints what to run on the new machine\n  \
    balsa member remove server-3\n  \
    balsa member transfer-leader server-2")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    List(List),
    Add(Add),
    /// Give a learner that has caught up a vote
    Promote(One),
    /// Take a server out of the cluster, for good
    Remove(One),
    TransferLeader(Transfer),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Show all servers: what they are, how far, and whether they are well
#[derive(clap::Args)]
struct List {
    /// How to show them
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Make a token for one more server, and tell how it is used
///
/// Whoever holds the token gets the cluster's keys: keep it secret.
#[derive(clap::Args)]
struct Add {
    /// How long the token is good for
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    ttl: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(clap::Args)]
struct One {
    /// Its name or its id
    member: String,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Have another server lead
#[derive(clap::Args)]
struct Transfer {
    /// Its name or its id [default: the one that is furthest]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    member: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List(list) => {
            let listed = list.connect.open()?.remote.list_members(v1::ListMembersRequest {}).await?;
            match list.output {
                Format::Json => output::line(serde_json::to_string_pretty(&json(&listed))?),
                Format::Table => output::print(&table(&listed)),
            }
        }
        Command::Add(add) => self::add(add).await,
        Command::Promote(one) => {
            let request = v1::PromoteMemberRequest { member: one.member.clone() };
            one.connect.open()?.remote.promote_member(request).await?;
            output::line(format!("{} votes now", one.member))
        }
        Command::Remove(one) => {
            let request = v1::RemoveMemberRequest { member: one.member.clone() };
            one.connect.open()?.remote.remove_member(request).await?;
            output::line(format!("{} is removed; it ends by itself and is not let in again", one.member))
        }
        Command::TransferLeader(transfer) => {
            let request = v1::TransferLeaderRequest { member: transfer.member.clone().unwrap_or_default() };
            let told = transfer.connect.open()?.remote.transfer_leader(request).await?;
            output::line(format!("{} leads now", told.leader))
        }
    }
}

async fn add(add: Add) -> anyhow::Result<()> {
    let told = token(&add.connect.open()?.remote, &add.ttl).await?;
    output::print(&format!(
        "On the new machine, before {}:\n\n  sudo balsa server --join {} --token {}\n",
        told.expires,
        told.servers.join(","),
        told.token
    ))
}

/// A token for servers.
pub(super) async fn token(remote: &RemoteBackend, ttl: &str) -> anyhow::Result<v1::AddMemberResponse> {
    let life = duration(ttl).map_err(anyhow::Error::msg)?;
    let seconds = life.and_then(|life| u32::try_from(life.as_secs()).ok()).filter(|seconds| *seconds > 0);
    let Some(ttl_seconds) = seconds else {
        anyhow::bail!("--ttl {ttl}: a token must end some time after now, and within 136 years")
    };
    Ok(remote.add_member(v1::AddMemberRequest { ttl_seconds }).await?)
}

/// The process of a server, if it runs on this machine.
fn pid(member: &v1::Member) -> Option<u32> {
    (member.pid != 0 && member.machine == balsa_server::machine()).then_some(member.pid)
}

/// What scripts read: the names are a promise.
fn json(listed: &v1::ListMembersResponse) -> Value {
    let member = |member: &v1::Member| {
        json!({
            "name": member.name,
            "id": member.id,
            "role": member.role,
            "address": format!("https://{}", member.address),
            "pid": pid(member),
            "term": member.term,
            "index": member.index,
            "lag": member.lag,
            "version": member.version,
            "healthy": member.healthy,
            "problem": (!member.problem.is_empty()).then_some(&member.problem),
        })
    };
    listed.members.iter().map(member).collect()
}

/// All servers.
pub(super) fn table(listed: &v1::ListMembersResponse) -> String {
    let mut table =
        Table::new(["NAME", "ID", "ROLE", "ADDRESS", "TERM", "INDEX", "LAG", "VERSION", "HEALTH", "PID"]);
    for member in &listed.members {
        let answers = !member.version.is_empty();
        let number = |number: u64| if answers { number.to_string() } else { "-".to_owned() };
        table.row([
            member.name.clone(),
            member.id.to_string(),
            member.role.clone(),
            member.address.clone(),
            number(member.term),
            number(member.index),
            number(member.lag),
            if answers { member.version.clone() } else { "-".to_owned() },
            if member.healthy { "healthy".to_owned() } else { member.problem.clone() },
            pid(member).map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        ]);
    }
    table.render(true)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn scripts_find_the_names_they_know() {
        let member = v1::Member {
            id: 7,
            name: "server-1".to_owned(),
            role: "leader".to_owned(),
            address: "127.0.0.1:6443".to_owned(),
            machine: balsa_server::machine(),
            pid: 12,
            healthy: true,
            ..v1::Member::default()
        };
        let listed = v1::ListMembersResponse { members: vec![member], ..Default::default() };
        let shown = json(&listed);
        assert_eq!(shown[0]["address"], "https://127.0.0.1:6443");
        for name in ["name", "id", "role", "pid", "term", "index", "lag", "version", "healthy"] {
            assert!(!shown[0][name].is_null(), "{name}");
        }
        assert!(table(&listed).contains("server-1"));
    }
}
