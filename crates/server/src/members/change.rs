//! Changes of the members list, as the leader carries them out.

use std::time::Duration;

use balsa_log::{LogError, Member};
use balsa_model::{Failure, Reason};
use balsa_proto::peer::change_member_request::Change;
use balsa_proto::{from_status, peer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::health::MemberHealth;
use super::{Members, log_failed, unavailable};

/// Entries a learner may be behind when it gets a vote.
const CAUGHT_UP: u64 = 200;
/// Between two looks at how far a learner is.
const LOOK: Duration = Duration::from_millis(100);
/// How long a change waits for one that is under way.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is not done, and why.
fn refuse(why: String) -> Failure {
    Failure::new(Reason::Conflict, why)
}

/// Whether `change` leaves a majority of the voters answering.
fn check(members: &[MemberHealth], change: &Change) -> Result<(), Failure> {
    let find = |id: u64| {
        members.iter().find(|m| m.id == id).ok_or_else(|| refuse(format!("server {id} is not a member")))
    };
    match change {
        Change::Promote(id) => {
            let member = find(*id)?;
            if member.voter {
                return Err(refuse(format!("{} has a vote already", member.label())));
            }
            if let Some(problem) = &member.problem {
                return Err(refuse(format!("{} cannot vote yet: {problem}", member.label())));
            }
            if member.lag > CAUGHT_UP {
                let why = format!(
                    "{} is {} entries behind; try again when it has caught up",
                    member.label(),
                    member.lag
                );
                return Err(refuse(why));
            }
            Ok(())
        }
        Change::Remove(id) => removable(members, find(*id)?),
        Change::TransferTo(id) => {
            let member = find(*id)?;
            match &member.problem {
                _ if !member.voter => Err(refuse(format!("{} has no vote", member.label()))),
                Some(problem) => Err(refuse(format!("{} cannot lead: {problem}", member.label()))),
                None => Ok(()),
            }
        }
        Change::Moved(_) => Ok(()),
    }
}

/// Whether no other server has the name.
fn unused(members: &[Member], place: &peer::Place) -> Result<(), Failure> {
    let other = |member: &&Member| member.name == place.name && member.node_id != place.node_id;
    match members.iter().find(other) {
        None => Ok(()),
        Some(other) => Err(refuse(format!(
            "a server is called \"{}\" already (at {}); remove it with `balsa member remove {}`, or choose another --name",
            place.name, other.address, other.node_id
        ))),
    }
}

fn removable(members: &[MemberHealth], gone: &MemberHealth) -> Result<(), Failure> {
    if !gone.voter {
        return Ok(());
    }
    let left: Vec<&MemberHealth> = members.iter().filter(|m| m.voter && m.id != gone.id).collect();
    if left.is_empty() {
        return Err(refuse(format!("{} is the only server with a vote", gone.label())));
    }
    let (healthy, quorum) = (left.iter().filter(|m| m.is_healthy()).count(), left.len() / 2 + 1);
    if healthy >= quorum {
        return Ok(());
    }
    let ill: Vec<String> = left.iter().filter(|m| !m.is_healthy()).map(|m| m.label()).collect();
    Err(refuse(format!(
        "without {} only {healthy} of {} voters would answer, and {quorum} are needed: the cluster would lose its \
         quorum. Bring {} back or remove it first",
        gone.label(),
        left.len(),
        ill.join(", ")
    )))
}

impl Members {
    /// Carries a change out, here or where the leader is.
    ///
    /// # Errors
    /// When it would lose the quorum, or is not to be had now.
    pub(crate) async fn change(&self, change: Change) -> Result<(), Failure> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let outcome = match self.leader() {
                Ok(None) => self.change_here(change.clone()).await,
                Ok(Some(mut leader)) => {
                    let request = peer::ChangeMemberRequest { change: Some(change.clone()) };
                    leader.change_member(request).await.map(|_| ()).map_err(|status| self.unled(&status))
                }
                Err(failure) => Err(failure),
            };
            match outcome {
                // While the leader changes.
                Err(failure) if failure.reason == Reason::ServiceUnavailable && Instant::now() < give_up => {
                    tokio::time::sleep(LOOK).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// What the leader said, or that it says nothing.
    fn unled(&self, status: &Status) -> Failure {
        let failure = from_status(status);
        if !status.details().is_empty() {
            return failure;
        }
        let leader = self.log().leadership().borrow().leader;
        let leader = self.log().members().into_iter().find(|member| Some(member.node_id) == leader);
        let leader =
            leader.map_or(String::new(), |leader| format!(", {} at {},", leader.name, leader.address));
        let why = format!(
            "the leader{leader} does not answer ({}), and no other one is elected; see `balsa status`",
            failure.message
        );
        Failure { message: why, ..failure }
    }

    /// Carries a change out, if this server leads.
    pub(crate) async fn change_here(&self, change: Change) -> Result<(), Failure> {
        if !self.log().leadership().borrow().is_leader {
            return Err(unavailable("this server does not lead".to_owned()));
        }
        // A move is not judged by how servers are: the one that moved is not where it is asked.
        if !matches!(change, Change::Moved(_)) {
            check(&self.health().await, &change)?;
        }
        match change {
            Change::Promote(id) => self.retried(|| self.log().promote(id)).await,
            Change::Remove(id) if id == self.id().id => {
                // The one that follows carries it out: it is asked again, and there it is no longer itself.
                self.log().hand_over().await;
                Err(unavailable("leadership is handed over first".to_owned()))
            }
            Change::Remove(id) => self.retried(|| self.log().remove_member(id)).await,
            Change::TransferTo(id) if id == self.id().id => Ok(()),
            Change::TransferTo(id) => {
                self.log().transfer_leader(id).await.map_err(|error| log_failed(&error))
            }
            Change::Moved(place) => self.moved(place).await,
        }
    }

    /// A member is elsewhere, or called differently. One whose new name is taken keeps the old one, and is told so: that
    /// its address is known matters more.
    async fn moved(&self, mut place: peer::Place) -> Result<(), Failure> {
        let members = self.log().members();
        let Some(listed) = members.iter().find(|member| member.node_id == place.node_id) else {
            return Err(refuse(format!("server {} is not a member of this cluster", place.node_id)));
        };
        let named = unused(&members, &place);
        if named.is_err() {
            place.name.clone_from(&listed.name);
        }
        if place.address != listed.address || place.name != listed.name {
            self.retried(|| self.log().set_place(place.node_id, &place.address, &place.name)).await?;
        }
        named
    }

    /// Again while another change is under way.
    async fn retried<F>(&self, make: impl Fn() -> F) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), LogError>>,
    {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match make().await {
                Err(LogError::Membership(_)) if Instant::now() < give_up => tokio::time::sleep(LOOK).await,
                outcome => return outcome.map_err(|error| log_failed(&error)),
            }
        }
    }
}

/// Takes a server in, and tells how far it is: first without a vote, and with one once it has caught up.
pub(crate) async fn enter(
    members: Members,
    place: peer::Place,
    progress: mpsc::Sender<Result<peer::EnterResponse, Status>>,
) -> Result<(), Failure> {
    let log = members.log();
    let known = log.members();
    unused(&known, &place)?;
    if known.iter().all(|member| member.node_id != place.node_id) {
        members.retried(|| log.admit_learner(place.node_id, &place.address, &place.name)).await?;
    }
    loop {
        let status = log.status();
        if status.members.iter().any(|member| member.node_id == place.node_id && member.voter) {
            let done = peer::EnterResponse { done: true, ..peer::EnterResponse::default() };
            let _ = progress.send(Ok(done)).await;
            return Ok(());
        }
        let Some(matched) = status.matched.get(&place.node_id) else {
            return Err(unavailable("this server does not lead any more".to_owned()));
        };
        let last = status.last_index.map_or(0, |index| index.0);
        let matched = matched.map_or(0, |index| index.0);
        let told = peer::EnterResponse { last_index: last, matched_index: matched, done: false };
        // Nobody waits any more: it stays a learner until it asks again.
        progress.send(Ok(told)).await.map_err(|_| unavailable("the new server has gone".to_owned()))?;
        if matched > 0 && last.saturating_sub(matched) <= CAUGHT_UP {
            members.retried(|| log.promote(place.node_id)).await?;
            continue;
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::tests::{member, silent};
    use super::*;

    #[test]
    fn what_would_lose_the_quorum_is_refused() {
        let three = [member(1, "leader", 9), member(2, "follower", 9), silent(3)];
        assert!(check(&three, &Change::Remove(3)).is_ok(), "the one that is gone");
        let why = check(&three, &Change::Remove(2)).unwrap_err().message;
        assert!(why.contains("only 1 of 2 voters") && why.contains("s3"), "{why}");
        let why = check(&[member(1, "leader", 9)], &Change::Remove(1)).unwrap_err().message;
        assert!(why.contains("only server"), "{why}");
        assert!(check(&three, &Change::Remove(7)).is_err());
        assert!(check(&three, &Change::TransferTo(3)).is_err());
        assert!(check(&three, &Change::TransferTo(2)).is_ok());
    }

    #[test]
    fn only_who_has_caught_up_gets_a_vote() {
        let learner = |lag| MemberHealth { lag, ..member(2, "learner", 9) };
        assert!(check(&[learner(3)], &Change::Promote(2)).is_ok());
        assert!(check(&[learner(CAUGHT_UP + 1)], &Change::Promote(2)).is_err());
        assert!(check(&[member(2, "follower", 9)], &Change::Promote(2)).is_err());
    }
}
