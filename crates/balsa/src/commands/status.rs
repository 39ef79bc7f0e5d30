//! `balsa status`: whether the cluster is well, on one screen.

use balsa_client::{Backend as _, ListQuery};
use balsa_model::kind::kind_of;
use balsa_model::selector::Filter;
use balsa_proto::v1;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::connect::{ConnectArgs, Session};
use crate::output::{self, Columns, Printer};

/// Show whether the cluster is well
#[derive(clap::Args)]
#[command(after_help = "Example:\n  balsa status")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let session = args.connect.open()?;
    let listed = session.remote.list_members(v1::ListMembersRequest {}).await?;
    output::print(&super::member::table(&listed))?;
    output::print(&format!("\n{}\n", verdict(&listed)))?;
    for advice in &listed.advice {
        output::print(&format!("  - {advice}\n"))?;
    }
    output::print(&format!("{}\n", storage(&listed)))?;
    output::print("\n")?;
    let nodes = session.remote.list(kind_of::<Node>(), &ListQuery::matching(Filter::everything())).await?;
    let mut printer = Printer::new(kind_of::<Node>(), Columns::default(), true);
    let now = Timestamp::now();
    nodes.items.iter().for_each(|node| printer.add(node, now));
    output::print(&printer.take())?;
    output::print(&format!("\n{}\n", pods(&session).await?))
}

/// Whether the cluster can lose a server now.
fn verdict(listed: &v1::ListMembersResponse) -> String {
    let voters = listed.members.iter().filter(|member| member.voter).count();
    let healthy = listed.members.iter().filter(|member| member.voter && member.healthy).count();
    let of = format!("{healthy} of {voters} servers with a vote are healthy");
    match listed.can_lose {
        _ if listed.leader_id == 0 => format!("NO LEADER: nothing can be written; {of}."),
        0 if voters == 1 => {
            "The cluster cannot lose a server: it has only one. `balsa member add` adds more.".to_owned()
        }
        0 => format!("The cluster CANNOT lose a server now: {of}."),
        1 => format!("The cluster can lose a server now: {of}."),
        more => format!("The cluster can lose {more} servers now: {of}."),
    }
}

/// How much the objects take, and whether that is too much.
fn storage(listed: &v1::ListMembersResponse) -> String {
    if !listed.storage_alarm.is_empty() {
        return format!("READ-ONLY: {}.", listed.storage_alarm);
    }
    let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
    let of = match listed.quota_bytes {
        0 => String::new(),
        quota => format!(" of {} allowed", mebibytes(quota)),
    };
    format!("Objects take {}{of}.", mebibytes(listed.object_bytes))
}

/// `12 pods: 10 Running, 2 Pending`.
async fn pods(session: &Session) -> anyhow::Result<String> {
    let list = session.remote.list(kind_of::<Pod>(), &ListQuery::matching(Filter::everything())).await?;
    let mut phases = std::collections::BTreeMap::new();
    for object in &list.items {
        let phase = object.typed::<Pod>().and_then(|pod| pod.status.as_ref()?.phase.clone());
        *phases.entry(phase.unwrap_or("Unknown".to_owned())).or_insert(0) += 1;
    }
    let parts: Vec<String> = phases.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    Ok(match list.items.len() {
        0 => "no pods".to_owned(),
        count => format!("{count} pods: {}", parts.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_whether_a_server_can_be_lost() {
        let member = |healthy| v1::Member { voter: true, healthy, ..v1::Member::default() };
        let listed = |can_lose, members: Vec<v1::Member>| v1::ListMembersResponse {
            leader_id: 1,
            can_lose,
            members,
            ..Default::default()
        };
        assert!(verdict(&listed(1, vec![member(true); 3])).contains("can lose a server now: 3 of 3"));
        assert!(verdict(&listed(0, vec![member(true), member(true), member(false)])).contains("CANNOT"));
        assert!(verdict(&listed(0, vec![member(true)])).contains("only one"));
    }

    #[test]
    fn a_full_quota_is_told_before_all_else() {
        let mut listed = v1::ListMembersResponse { object_bytes: 3 << 20, ..Default::default() };
        assert_eq!(storage(&listed), "Objects take 3.0 MiB.");
        listed.quota_bytes = 4 << 20;
        assert_eq!(storage(&listed), "Objects take 3.0 MiB of 4.0 MiB allowed.");
        listed.storage_alarm = "too much".to_owned();
        assert_eq!(storage(&listed), "READ-ONLY: too much.");
    }
}
