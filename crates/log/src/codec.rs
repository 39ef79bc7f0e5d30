//! Between openraft's types and the protobuf messages of disk and wire.
//!
//! What is missing or unknown is refused, never filled in: servers that read one entry differently
//! are worse than a server that stops.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::vote::RaftLeaderId as _;
use prost::Message as _;

use crate::types::{
    Entry, EntryPayload, LogId, Membership, Payload, Place, SnapshotMeta, StoredMembership, Term, Vote,
};

/// The messages generated from `proto/balsa/raft/v1`.
#[expect(unreachable_pub, reason = "generated")]
pub(crate) mod pb {
    tonic::include_proto!("balsa.raft.v1");
}

/// Format of entries and snapshot headers that this release writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;

/// Bytes that do not say what they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("format {found} is newer than {FORMAT}")]
    Newer { found: u32 },
    #[error("it carries something that this release does not know")]
    UnknownPayload,
    #[error("the members contradict themselves: {0}")]
    Membership(String),
    #[error("not protobuf: {0}")]
    Decode(#[from] prost::DecodeError),
}

pub(crate) fn log_id(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn read_log_id(id: &pb::LogId) -> LogId {
    LogId::new(Term::new(id.term), id.index)
}

pub(crate) fn vote(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node_id: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn read_vote(vote: &pb::Vote) -> Vote {
    let leader_id = openraft::vote::leader_id_std::LeaderId::new(vote.term, vote.node_id);
    Vote { leader_id, committed: vote.committed }
}

pub(crate) fn require_vote(vote: Option<&pb::Vote>) -> Result<Vote, CodecError> {
    vote.map(read_vote).ok_or(CodecError::Missing("vote"))
}

pub(crate) fn membership(membership: &Membership) -> pb::Membership {
    pb::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|set| pb::VoterSet { node_ids: set.iter().copied().collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, place)| pb::Member {
                node_id: *id,
                address: place.address.clone(),
                name: place.name.clone(),
            })
            .collect(),
    }
}

pub(crate) fn read_membership(membership: &pb::Membership) -> Result<Membership, CodecError> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.iter().map(|set| set.node_ids.iter().copied().collect()).collect();
    let place = |member: &pb::Member| (member.node_id, Place::new(&member.address, &member.name));
    let members: BTreeMap<u64, Place> = membership.members.iter().map(place).collect();
    Membership::new(configs, members).map_err(|error| CodecError::Membership(error.to_string()))
}

pub(crate) fn stored_membership(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id),
        membership: Some(membership(stored.membership())),
    }
}

pub(crate) fn read_stored_membership(
    stored: Option<&pb::StoredMembership>,
) -> Result<StoredMembership, CodecError> {
    let Some(stored) = stored else { return Ok(StoredMembership::default()) };
    let members = stored.membership.as_ref().ok_or(CodecError::Missing("membership"))?;
    Ok(StoredMembership::new(stored.log_id.as_ref().map(read_log_id), read_membership(members)?))
}

pub(crate) fn entry(entry: &Entry) -> pb::Entry {
    use pb::entry::Payload as Wire;
    let payload = match &entry.payload {
        EntryPayload::Blank => Wire::Blank(pb::Blank {}),
        EntryPayload::Normal(Payload(bytes)) => Wire::Normal(bytes.clone()),
        EntryPayload::Membership(members) => Wire::Membership(membership(members)),
    };
    pb::Entry { format: FORMAT, log_id: Some(log_id(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn read_entry(entry: pb::Entry) -> Result<Entry, CodecError> {
    use pb::entry::Payload as Wire;
    check_format(entry.format)?;
    let log_id = entry.log_id.as_ref().map(read_log_id).ok_or(CodecError::Missing("log id"))?;
    let payload = match entry.payload.ok_or(CodecError::UnknownPayload)? {
        Wire::Blank(pb::Blank {}) => EntryPayload::Blank,
        Wire::Normal(bytes) => EntryPayload::Normal(Payload(bytes)),
        Wire::Membership(members) => EntryPayload::Membership(read_membership(&members)?),
    };
    Ok(Entry { log_id, payload })
}

/// Decodes without copying the payload out of `bytes`.
pub(crate) fn decode_entry(bytes: Bytes) -> Result<Entry, CodecError> {
    read_entry(pb::Entry::decode(bytes)?)
}

pub(crate) fn snapshot_header(meta: &SnapshotMeta) -> pb::SnapshotHeader {
    pb::SnapshotHeader {
        format: FORMAT,
        last_log_id: meta.last_log_id.as_ref().map(log_id),
        membership: Some(stored_membership(&meta.last_membership)),
    }
}

pub(crate) fn read_snapshot_header(bytes: &[u8]) -> Result<SnapshotMeta, CodecError> {
    let header = pb::SnapshotHeader::decode(bytes)?;
    check_format(header.format)?;
    Ok(SnapshotMeta {
        last_log_id: header.last_log_id.as_ref().map(read_log_id),
        last_membership: read_stored_membership(header.membership.as_ref())?,
    })
}

fn check_format(found: u32) -> Result<(), CodecError> {
    match found {
        1..=FORMAT => Ok(()),
        0 => Err(CodecError::Missing("format")),
        _ => Err(CodecError::Newer { found }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> Entry {
        Entry {
            log_id: LogId::new(Term::new(3), 9),
            payload: EntryPayload::Normal(Payload(Bytes::from_static(b"abc"))),
        }
    }

    /// Bytes that a released server may have on disk. They must decode for ever.
    #[test]
    fn the_first_format_is_frozen() {
        let frozen = [0x08, 0x01, 0x12, 0x04, 0x08, 0x03, 0x10, 0x09, 0x22, 0x03, b'a', b'b', b'c'];
        assert_eq!(entry(&sample()).encode_to_vec(), frozen);
        let read = decode_entry(Bytes::copy_from_slice(&frozen)).unwrap();
        assert_eq!(read, sample());
    }

    #[test]
    fn what_a_newer_release_wrote_is_refused() {
        let newer = pb::Entry { format: FORMAT + 1, ..entry(&sample()) };
        assert_eq!(read_entry(newer), Err(CodecError::Newer { found: FORMAT + 1 }));
        let unknown = pb::Entry { payload: None, ..entry(&sample()) };
        assert_eq!(read_entry(unknown), Err(CodecError::UnknownPayload));
    }

    #[test]
    fn members_go_there_and_back() {
        let nodes: BTreeMap<u64, Place> =
            (1..=3).map(|id| (id, Place::new(format!("h{id}:1"), format!("n{id}")))).collect();
        let joint = Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([1])], nodes).unwrap();
        assert_eq!(read_membership(&membership(&joint)).unwrap(), joint);
        let stored = StoredMembership::new(Some(LogId::new(Term::new(1), 1)), joint);
        assert_eq!(read_stored_membership(Some(&stored_membership(&stored))).unwrap(), stored);
    }
}
