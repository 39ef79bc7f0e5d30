//! `balsa.v1.MemberService`: the servers of the cluster, for administrators.

use std::pin::Pin;

use balsa_client::Client;
use balsa_log::Member;
use balsa_model::{Failure, Reason};
use balsa_proto::peer::change_member_request::Change;
use balsa_proto::v1::member_service_server::MemberService;
use balsa_proto::{to_status, v1};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::authorize;
use crate::authorize::{Attributes, Authorized};
use crate::engine::LocalBackend;
use crate::front::Front;
use crate::identity::{Usage, create_token};
use crate::members::{MemberHealth, can_lose};

/// A token that names no life is good for an hour.
const HOUR: u32 = 3600;

pub(super) struct MemberDoor(pub(super) Front);

fn failed(failure: Failure) -> Status {
    to_status(&failure)
}

impl MemberDoor {
    fn authorize<T>(&self, request: &Request<T>, verb: &str) -> Result<Authorized, Status> {
        let (verb, path) = (verb.to_owned(), "/balsa/members".to_owned());
        authorize(&self.0, request, &Attributes { verb, path, ..Attributes::default() })
    }

    /// The id of a member that was named, or given by its id.
    fn find(&self, member: &str) -> Result<u64, Status> {
        find(&self.0.members.log().members(), member).map_err(failed)
    }
}

fn find(known: &[Member], wanted: &str) -> Result<u64, Failure> {
    if let Some(by_id) = known.iter().find(|member| member.node_id.to_string() == wanted) {
        return Ok(by_id.node_id);
    }
    let named: Vec<_> = known.iter().filter(|member| member.name == wanted && !wanted.is_empty()).collect();
    match named[..] {
        [one] => Ok(one.node_id),
        [] => {
            let message = format!("there is no server \"{wanted}\"; `balsa member list` shows them");
            Err(Failure::new(Reason::NotFound, message))
        }
        _ => {
            let each: Vec<_> = named.iter().map(|m| format!("{} at {}", m.node_id, m.address)).collect();
            let message = format!(
                "{} servers are called \"{wanted}\": say which by its id ({})",
                named.len(),
                each.join(", ")
            );
            Err(Failure::new(Reason::Conflict, message))
        }
    }
}

fn message(member: &MemberHealth) -> v1::Member {
    let said = member.said.clone().unwrap_or_default();
    let role = match (said.role.as_str(), member.voter) {
        ("leader", _) => "leader",
        (_, true) => "follower",
        (_, false) => "learner",
    };
    v1::Member {
        id: member.id,
        name: member.label(),
        role: role.to_owned(),
        address: member.address.clone(),
        term: said.term,
        index: said.last_index,
        lag: member.lag,
        version: said.version,
        healthy: member.is_healthy(),
        problem: member.problem.clone().unwrap_or_default(),
        pid: said.pid,
        machine: said.machine,
        applied_index: said.applied_index,
        stored_bytes: said.stored_bytes,
        voter: member.voter,
    }
}

/// What is not as it should be, and what to do about it.
fn advice(members: &[MemberHealth]) -> Vec<String> {
    let voters = || members.iter().filter(|member| member.voter);
    let (answer, quorum) =
        (voters().filter(|member| member.said.is_some()).count(), voters().count() / 2 + 1);
    if answer < quorum {
        return without_quorum(members, answer, quorum);
    }
    let mut advice = Vec::new();
    for member in members {
        let label = member.label();
        match &member.problem {
            Some(problem) if member.voter => advice.push(format!(
                "{label}: {problem}; bring it back, or replace it: add another server (`balsa member add`), then \
                 `balsa member remove {label}`"
            )),
            Some(problem) => advice.push(format!("{label}: {problem}")),
            None => {}
        }
        if let Some(other) = member.said.as_ref().filter(|said| said.version != env!("CARGO_PKG_VERSION")) {
            advice.push(format!("{label} runs version {}, not {}", other.version, env!("CARGO_PKG_VERSION")));
        }
    }
    let voters = voters().count();
    if voters % 2 == 0 {
        advice.push(format!(
            "{voters} servers vote: an even number bears no more losses than one less; {} is better",
            voters + 1
        ));
    }
    advice
}

/// What to do when too few answer: members cannot be changed then.
fn without_quorum(members: &[MemberHealth], answer: usize, quorum: usize) -> Vec<String> {
    let silent = members.iter().filter(|member| member.voter && member.said.is_none());
    let mut advice: Vec<String> = silent
        .map(|member| {
            let problem = member.problem.as_deref().unwrap_or("it does not answer");
            format!("{}: {problem}; bring it back", member.label())
        })
        .collect();
    advice.push(format!(
        "{answer} servers with a vote answer, and {quorum} are needed: nothing can be written, and members cannot be \
         changed. If the others are lost for good, stop one that is left and start it with `balsa server \
         --force-new-cluster` (docs/operations.md)"
    ));
    advice
}

#[tonic::async_trait]
impl MemberService for MemberDoor {
    type SaveBackupStream = Pin<Box<dyn Stream<Item = Result<v1::SaveBackupResponse, Status>> + Send>>;

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        self.authorize(&request, "get")?;
        let members = self.0.members.health().await;
        let leads = |member: &&MemberHealth| member.said.as_ref().is_some_and(|said| said.role == "leader");
        let leader = members.iter().filter(leads).max_by_key(|m| m.said.as_ref().map_or(0, |s| s.term));
        let quota = self.0.engine.quota();
        let (object_bytes, quota_bytes) = quota.usage();
        Ok(Response::new(v1::ListMembersResponse {
            storage_alarm: quota.alarm().unwrap_or_default(),
            object_bytes,
            quota_bytes,
            leader_id: leader.map_or(0, |leader| leader.id),
            term: leader.and_then(|leader| leader.said.as_ref()).map_or(0, |said| said.term),
            cluster: self.0.members.id().cluster.clone(),
            can_lose: u32::try_from(can_lose(&members)).unwrap_or(0),
            advice: advice(&members),
            asked_id: self.0.members.id().id,
            members: members.iter().map(message).collect(),
        }))
    }

    async fn add_member(
        &self,
        request: Request<v1::AddMemberRequest>,
    ) -> Result<Response<v1::AddMemberResponse>, Status> {
        let who = self.authorize(&request, "create")?;
        let seconds = match request.into_inner().ttl_seconds {
            0 => HOUR,
            seconds => seconds,
        };
        let fingerprint = self.0.authority.fingerprint().map_err(|e| failed(Failure::internal(e)))?;
        let now = self.0.engine.clock().now();
        let (token, secret) = create_token(&fingerprint, Usage::Servers, now, seconds);
        let client = Client::new(LocalBackend::new(self.0.engine.clone(), who), "balsa");
        client.api().create(&secret).await.map_err(failed)?;
        Ok(Response::new(v1::AddMemberResponse {
            token: token.text,
            expires: token.expires.to_string(),
            servers: self.0.members.servers(),
        }))
    }

    async fn promote_member(
        &self,
        request: Request<v1::PromoteMemberRequest>,
    ) -> Result<Response<v1::PromoteMemberResponse>, Status> {
        self.authorize(&request, "update")?;
        let member = self.find(&request.get_ref().member)?;
        self.0.members.change(Change::Promote(member)).await.map_err(failed)?;
        Ok(Response::new(v1::PromoteMemberResponse {}))
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberResponse>, Status> {
        self.authorize(&request, "delete")?;
        let member = self.find(&request.get_ref().member)?;
        self.0.members.change(Change::Remove(member)).await.map_err(failed)?;
        Ok(Response::new(v1::RemoveMemberResponse {}))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        self.authorize(&request, "update")?;
        let wanted = request.into_inner().member;
        let heir = if wanted.is_empty() {
            let members = self.0.members.health().await;
            let applied = |m: &&MemberHealth| m.said.as_ref().map_or(0, |said| said.applied_index);
            let follows = |m: &&MemberHealth| {
                m.voter && m.is_healthy() && m.said.as_ref().is_some_and(|said| said.role == "follower")
            };
            let heir = members.iter().filter(follows).max_by_key(applied);
            heir.map(|heir| heir.id).ok_or_else(|| {
                failed(Failure::new(Reason::Conflict, "there is no other healthy server with a vote"))
            })?
        } else {
            self.find(&wanted)?
        };
        self.0.members.change(Change::TransferTo(heir)).await.map_err(failed)?;
        let leader = self.0.members.places().into_iter().find(|place| place.node_id == heir);
        let leader = leader.map(|place| place.name).unwrap_or_default();
        Ok(Response::new(v1::TransferLeaderResponse { leader }))
    }

    async fn save_backup(
        &self,
        request: Request<v1::SaveBackupRequest>,
    ) -> Result<Response<Self::SaveBackupStream>, Status> {
        self.authorize(&request, "get")?;
        // Everything acknowledged before the question is in it, whichever server is asked.
        let barrier = self.0.engine.store().read_barrier().await;
        barrier.map_err(|error| failed(crate::engine::read_failed(&error)))?;
        let status = self.0.members.log().status();
        let expected_bytes = status.objects_bytes + status.history_bytes;
        let first = v1::SaveBackupResponse { expected_bytes, chunk: bytes::Bytes::new() };
        let chunks = self.0.members.log().backup().map(|chunk| match chunk {
            Ok(chunk) => Ok(v1::SaveBackupResponse { expected_bytes: 0, chunk }),
            Err(error) => Err(failed(Failure::internal(error))),
        });
        Ok(Response::new(futures::stream::iter([Ok(first)]).chain(chunks).boxed()))
    }

    async fn get_certificates(
        &self,
        request: Request<v1::GetCertificatesRequest>,
    ) -> Result<Response<v1::GetCertificatesResponse>, Status> {
        self.authorize(&request, "get")?;
        let current = self.0.certificates.current();
        let renews = current.renews.unix_timestamp();
        let described = [
            describe("ca", self.0.authority.certificate(), None),
            describe("server", &current.certificate, Some(renews)),
        ];
        let certificates = described.into_iter().collect::<Result<Vec<_>, _>>();
        Ok(Response::new(v1::GetCertificatesResponse {
            server_id: self.0.members.id().id,
            server_name: self.0.members.id().name.clone(),
            certificates: certificates.map_err(failed)?,
        }))
    }
}

fn describe(name: &str, pem: &str, renews: Option<i64>) -> Result<v1::Certificate, Failure> {
    let malformed = |error: &dyn std::fmt::Display| Failure::internal(format!("certificate {name}: {error}"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| malformed(&e))?;
    let certificate = pem.parse_x509().map_err(|e| malformed(&e))?;
    let time =
        |seconds: i64| jiff::Timestamp::from_second(seconds).map(|t| t.to_string()).unwrap_or_default();
    let validity = certificate.validity();
    Ok(v1::Certificate {
        name: name.to_owned(),
        subject: certificate.subject().to_string(),
        not_before: time(validity.not_before.timestamp()),
        not_after: time(validity.not_after.timestamp()),
        renews: renews.map(time).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_says_what_to_do() {
        let said = Some(balsa_proto::peer::InspectResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        });
        let well = MemberHealth { voter: true, name: "a".to_owned(), said, ..MemberHealth::default() };
        let problem = Some("it does not answer".to_owned());
        let ill = MemberHealth { problem, said: None, ..well.clone() };
        assert!(advice(std::slice::from_ref(&well)).is_empty());
        let told = advice(&[well.clone(), well.clone(), ill.clone()]);
        assert!(told[0].contains("balsa member remove a"), "{told:?}");
        // Without a majority nobody can be removed; least of all the one that is left.
        let told = advice(&[well.clone(), ill.clone(), ill]).join("\n");
        assert!(told.contains("--force-new-cluster") && !told.contains("member remove"), "{told}");
        assert!(advice(&[well.clone(), well])[0].contains("even number"));
    }

    fn known(node_id: u64, name: &str) -> Member {
        Member { node_id, address: format!("h{node_id}:6443"), name: name.to_owned(), voter: true }
    }

    #[test]
    fn a_name_that_several_have_names_none() {
        let servers = [known(1_000_001, "a"), known(1_000_002, "b"), known(1_000_003, "b")];
        assert_eq!(find(&servers, "a").unwrap(), 1_000_001);
        assert_eq!(find(&servers, "1000003").unwrap(), 1_000_003);
        let why = find(&servers, "b").unwrap_err();
        assert_eq!(why.reason, Reason::Conflict);
        assert!(
            why.message.contains("1000002 at h1000002:6443, 1000003 at h1000003:6443"),
            "{}",
            why.message
        );
        assert_eq!(find(&servers, "").unwrap_err().reason, Reason::NotFound);
    }
}
