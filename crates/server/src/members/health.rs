//! How all servers are: each is asked, all at once, and who does not answer in time is not well.

use balsa_log::Role;
use balsa_model::{KindRef, kinds};
use balsa_proto::peer;

use super::{ASK, Members, NEAR};

/// A server and how it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemberHealth {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) voter: bool,
    /// What it said; `None` when it did not answer.
    pub(crate) said: Option<peer::InspectResponse>,
    /// Entries by which it is behind the leader.
    pub(crate) lag: u64,
    /// Why it is not healthy.
    pub(crate) problem: Option<String>,
}

impl MemberHealth {
    pub(crate) fn is_healthy(&self) -> bool {
        self.problem.is_none()
    }

    /// How people know it.
    pub(crate) fn label(&self) -> String {
        if self.name.is_empty() { self.id.to_string() } else { self.name.clone() }
    }
}

/// How many voters may be lost before writes stop.
pub(crate) fn can_lose(members: &[MemberHealth]) -> usize {
    let voters = members.iter().filter(|member| member.voter);
    let healthy = voters.clone().filter(|member| member.is_healthy()).count();
    healthy.saturating_sub(voters.count() / 2 + 1)
}

/// Names the machine (and there the space of process ids), so that a pid is not taken for one of
/// another machine.
pub fn machine() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let space = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{}/{}", boot.trim(), space.display())
}

impl Members {
    /// How this server is.
    pub(crate) fn inspect(&self) -> peer::InspectResponse {
        let status = self.log().status();
        let check = self.0.state.checks().pop();
        peer::InspectResponse {
            place: Some(self.place()),
            role: role(status.role).to_owned(),
            term: status.term,
            leader_id: status.leader.unwrap_or(0),
            last_index: status.last_index.map_or(0, |index| index.0),
            applied_index: status.applied.map_or(0, |index| index.0),
            revision: self.0.state.revision().0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            machine: machine(),
            stored_bytes: status.log_bytes + status.objects_bytes + status.history_bytes,
            checked_index: check.as_ref().map_or(0, |check| check.index),
            checked_hash: check.map(|check| check.hash).unwrap_or_default(),
            alarms: status.fatal.into_iter().chain(self.doubt()).collect(),
            pods_address: self.0.pods_address.map(|address| address.to_string()).unwrap_or_default(),
            kinds: kinds::all().iter().map(|kind| kind.descriptor().qualified_kind()).collect(),
        }
    }

    /// Whether every server can store objects of these kinds: while a cluster is upgraded, those of the build
    /// before cannot. Of one that does not answer nobody knows.
    pub(crate) async fn all_store(&self, kinds: &[KindRef]) -> bool {
        let wanted: Vec<String> = kinds.iter().map(|kind| kind.descriptor().qualified_kind()).collect();
        let stores = |member: &MemberHealth| {
            member.said.as_ref().is_some_and(|said| wanted.iter().all(|kind| said.kinds.contains(kind)))
        };
        self.health().await.iter().all(stores)
    }

    /// How all servers are, by name.
    pub(crate) async fn health(&self) -> Vec<MemberHealth> {
        let members = self.log().members();
        let asked = members.into_iter().map(|member| async move {
            let said = if member.node_id == self.id().id {
                Ok(self.inspect())
            } else {
                self.ask(member.node_id).await
            };
            let (said, problem) = match said {
                Ok(said) => (Some(said), None),
                Err(problem) => (None, Some(problem)),
            };
            MemberHealth {
                id: member.node_id,
                address: self.transport().address(member.node_id, &member.address),
                name: member.name,
                voter: member.voter,
                said,
                lag: 0,
                problem,
            }
        });
        let mut members = futures::future::join_all(asked).await;
        judge(&mut members);
        members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        members
    }

    pub(super) async fn ask(&self, node: u64) -> Result<peer::InspectResponse, String> {
        let mut client = self.peer(node).map_err(|failure| failure.message)?;
        match tokio::time::timeout(ASK, client.inspect(peer::InspectRequest {})).await {
            Ok(Ok(said)) => Ok(said.into_inner()),
            Ok(Err(status)) => Err(format!("it does not answer: {}", status.message())),
            Err(_) => Err("it does not answer in time".to_owned()),
        }
    }
}

/// Holds what they said against what the leader among them said.
fn judge(members: &mut [MemberHealth]) {
    let leads = |member: &&MemberHealth| member.said.as_ref().is_some_and(|said| said.role == "leader");
    let said = |member: &MemberHealth| member.said.as_ref().map_or((0, 0), |s| (s.term, s.last_index));
    let newest = members.iter().filter(leads).max_by_key(|member| said(member)).map(|m| (m.id, said(m).1));
    for member in members {
        let Some(said) = &member.said else { continue };
        if let Some(alarm) = said.alarms.first() {
            member.problem = Some(alarm.clone());
        }
        let Some((leader, last)) = newest else {
            member.problem.get_or_insert("no server leads".to_owned());
            continue;
        };
        member.lag = last.saturating_sub(said.applied_index);
        if said.leader_id != leader {
            member.problem.get_or_insert("it does not follow the leader".to_owned());
        } else if member.lag > NEAR {
            member.problem.get_or_insert(format!("it is {} entries behind", member.lag));
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Stopped => "stopped",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn member(id: u64, role: &str, applied: u64) -> MemberHealth {
        let said = peer::InspectResponse {
            role: role.to_owned(),
            leader_id: 1,
            last_index: applied,
            applied_index: applied,
            ..peer::InspectResponse::default()
        };
        let name = format!("s{id}");
        MemberHealth { id, name, voter: role != "learner", said: Some(said), ..MemberHealth::default() }
    }

    pub(crate) fn silent(id: u64) -> MemberHealth {
        let problem = Some("it does not answer".to_owned());
        MemberHealth { said: None, problem, ..member(id, "follower", 0) }
    }

    #[test]
    fn what_can_be_lost_follows_from_who_is_well() {
        let mut all = vec![member(1, "leader", 9), member(2, "follower", 9), member(3, "follower", 8)];
        judge(&mut all);
        assert_eq!((can_lose(&all), all[2].lag), (1, 1));
        all[2] = silent(3);
        assert_eq!(can_lose(&all), 0);
        let mut behind = vec![member(1, "leader", 90_000), member(2, "follower", 9)];
        judge(&mut behind);
        assert!(behind[1].problem.as_deref().is_some_and(|why| why.contains("behind")));
        let mut lost = vec![member(2, "follower", 9), silent(1)];
        judge(&mut lost);
        assert_eq!(lost[0].problem.as_deref(), Some("no server leads"));
    }
}
