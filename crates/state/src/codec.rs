//! Between our types and the protobuf messages of log entries and table rows.
//!
//! Invariant: what was written once is read for ever, with the same meaning on every server. What a
//! newer release wrote and this one does not know is an error that stops the server ([`NewerError`]);
//! what nobody can read is refused with [`Refusal::Undecodable`] on every server alike.

use std::collections::HashMap;
use std::sync::Arc;

use balsa_model::kind::KindRef;
use balsa_model::{Key, Mutation, Operation, Precondition, Revision};
use bytes::Bytes;
use prost::Message as _;

use crate::refusal::Refusal;

/// The messages generated from `proto/balsa/log/v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub(crate) mod pb {
    include!(concat!(env!("OUT_DIR"), "/balsa.log.v1.rs"));
}

/// Format of entries that this release writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;

/// The kinds that are served, found by their resource.
#[derive(Clone, Debug)]
pub(crate) struct Kinds {
    all: Vec<KindRef>,
    places: HashMap<(&'static str, &'static str), usize>,
}

impl Kinds {
    pub(crate) fn new(all: &[KindRef]) -> Self {
        let resource = |kind: &KindRef| (kind.descriptor().group, kind.descriptor().plural);
        let places = all.iter().enumerate().map(|(place, kind)| (resource(kind), place)).collect();
        Self { all: all.to_vec(), places }
    }

    pub(crate) fn all(&self) -> &[KindRef] {
        &self.all
    }

    pub(crate) fn place(&self, kind: KindRef) -> Option<usize> {
        self.places.get(&(kind.descriptor().group, kind.descriptor().plural)).copied()
    }

    fn by_resource(&self, group: &str, plural: &str) -> Option<(usize, KindRef)> {
        let place = *self.places.get(&(group, plural))?;
        Some((place, self.all[place]))
    }
}

/// Names a proposal, so that proposing it twice applies it once.
pub(crate) type ProposalId = [u8; 16];

/// The log holds something that only a newer release understands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log holds {what}, which a newer release wrote; start that release or a later one")]
pub struct NewerError {
    /// What was met.
    pub what: String,
}

/// What decides over a Mutation in the fold. Unlike the model's [`Mutation`] it owns all its text,
/// because it comes from the log.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) operation: Operation,
    pub(crate) kind: KindRef,
    /// The place of its kind among those served.
    pub(crate) place: usize,
    pub(crate) key: Key,
    pub(crate) object: Bytes,
    pub(crate) precondition: Precondition,
    pub(crate) claims: Vec<pb::Claim>,
    pub(crate) user: Arc<str>,
    pub(crate) proposed_at_ms: i64,
}

/// A decoded entry.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: Option<ProposalId>,
    pub(crate) proposals: Vec<Proposal>,
}

/// Why an entry is not applied.
#[derive(Debug)]
pub(crate) enum EntryError {
    /// Every server says so: it is refused.
    Undecodable(String),
    /// This server must stop.
    Newer(NewerError),
}

fn newer(what: impl Into<String>) -> EntryError {
    EntryError::Newer(NewerError { what: what.into() })
}

/// What [`decode_entry`] reads.
pub(crate) fn encode_entry(id: ProposalId, proposed_at_ms: i64, mutations: &[Mutation]) -> Bytes {
    let entry = pb::Entry {
        format: FORMAT,
        proposal_id: Bytes::copy_from_slice(&id),
        proposed_at_ms,
        mutations: mutations.iter().map(encode_mutation).collect(),
    };
    entry.encode_to_vec().into()
}

/// What the log holds, if this release understands it. `kinds` are those that it serves.
pub(crate) fn decode_entry(payload: Bytes, kinds: &Kinds) -> Result<Entry, EntryError> {
    let entry = pb::Entry::decode(payload).map_err(|error| EntryError::Undecodable(error.to_string()))?;
    match entry.format {
        1..=FORMAT => {}
        0 => return Err(EntryError::Undecodable("it has no format".to_owned())),
        format => return Err(newer(format!("an entry of format {format}"))),
    }
    let id = match entry.proposal_id.len() {
        0 => None,
        _ => Some(
            entry
                .proposal_id
                .as_ref()
                .try_into()
                .map_err(|_| EntryError::Undecodable("its id has not 16 bytes".to_owned()))?,
        ),
    };
    let at = entry.proposed_at_ms;
    let proposals = entry
        .mutations
        .into_iter()
        .map(|mutation| decode_mutation(mutation, at, kinds))
        .collect::<Result<_, _>>()?;
    Ok(Entry { id, proposals })
}

fn encode_mutation(mutation: &Mutation) -> pb::Mutation {
    let descriptor = mutation.kind.descriptor();
    pb::Mutation {
        operation: encode_operation(mutation.operation).into(),
        group: descriptor.group.to_owned(),
        resource: descriptor.plural.to_owned(),
        namespace: mutation.key.namespace.as_ref().to_owned(),
        name: mutation.key.name.as_ref().to_owned(),
        object: mutation.object.clone(),
        if_revision: mutation.precondition.revision.map_or(0, |revision| revision.0),
        if_uid: mutation.precondition.uid.clone().unwrap_or_default(),
        claims: mutation
            .claims
            .iter()
            .map(|claim| pb::Claim {
                token: claim.token.clone(),
                field: claim.field.to_owned(),
                refusal: claim.refusal.to_owned(),
            })
            .collect(),
        user: mutation.user.as_ref().to_owned(),
    }
}

fn decode_mutation(
    mutation: pb::Mutation,
    proposed_at_ms: i64,
    kinds: &Kinds,
) -> Result<Proposal, EntryError> {
    let operation = decode_operation(mutation.operation)
        .ok_or_else(|| newer(format!("a mutation with operation {}", mutation.operation)))?;
    let (place, kind) = kinds.by_resource(&mutation.group, &mutation.resource).ok_or_else(|| {
        newer(format!(
            "an object of the unknown resource \"{}\" in group \"{}\"",
            mutation.resource, mutation.group
        ))
    })?;
    Ok(Proposal {
        operation,
        kind,
        place,
        key: Key::new(mutation.namespace, mutation.name),
        object: mutation.object,
        precondition: Precondition {
            revision: (mutation.if_revision != 0).then_some(Revision(mutation.if_revision)),
            uid: (!mutation.if_uid.is_empty()).then_some(mutation.if_uid),
        },
        claims: mutation.claims,
        user: mutation.user.into(),
        proposed_at_ms,
    })
}

pub(crate) fn encode_operation(operation: Operation) -> pb::Operation {
    match operation {
        Operation::Create => pb::Operation::Create,
        Operation::Replace => pb::Operation::Replace,
        Operation::Remove => pb::Operation::Remove,
    }
}

pub(crate) fn decode_operation(operation: i32) -> Option<Operation> {
    match pb::Operation::try_from(operation).ok()? {
        pb::Operation::Unspecified => None,
        pb::Operation::Create => Some(Operation::Create),
        pb::Operation::Replace => Some(Operation::Replace),
        pb::Operation::Remove => Some(Operation::Remove),
    }
}

/// One verdict a mutation, in their order.
pub(crate) type Verdicts = Vec<Result<Revision, Refusal>>;

pub(crate) fn encode_reply(verdicts: &[Result<Revision, Refusal>]) -> pb::Reply {
    let verdict = |verdict: &Result<Revision, Refusal>| pb::Verdict {
        verdict: Some(match verdict {
            Ok(revision) => pb::verdict::Verdict::Applied(revision.0),
            Err(refusal) => pb::verdict::Verdict::Refused(encode_refusal(refusal)),
        }),
    };
    pb::Reply { verdicts: verdicts.iter().map(verdict).collect() }
}

/// The verdicts of a reply; `None` when a newer server answered with something unknown.
pub(crate) fn decode_reply(reply: &[u8]) -> Option<Verdicts> {
    let reply = pb::Reply::decode(reply).ok()?;
    reply
        .verdicts
        .into_iter()
        .map(|verdict| {
            Some(match verdict.verdict? {
                pb::verdict::Verdict::Applied(revision) => Ok(Revision(revision)),
                pb::verdict::Verdict::Refused(refusal) => Err(decode_refusal(refusal)?),
            })
        })
        .collect()
}

fn encode_refusal(refusal: &Refusal) -> pb::Refusal {
    use pb::refusal::Refusal as Wire;
    let wire = match refusal.clone() {
        Refusal::AlreadyExists => Wire::AlreadyExists(pb::Nothing {}),
        Refusal::NotFound => Wire::NotFound(pb::Nothing {}),
        Refusal::Conflict { current } => Wire::Conflict(current.0),
        Refusal::UidMismatch { current } => Wire::UidMismatch(current),
        Refusal::Claimed { field, value, refusal } => Wire::Claimed(pb::Claimed { field, value, refusal }),
        Refusal::Undecodable(why) => Wire::Undecodable(why),
    };
    pb::Refusal { refusal: Some(wire) }
}

fn decode_refusal(refusal: pb::Refusal) -> Option<Refusal> {
    use pb::refusal::Refusal as Wire;
    Some(match refusal.refusal? {
        Wire::AlreadyExists(pb::Nothing {}) => Refusal::AlreadyExists,
        Wire::NotFound(pb::Nothing {}) => Refusal::NotFound,
        Wire::Conflict(current) => Refusal::Conflict { current: Revision(current) },
        Wire::UidMismatch(current) => Refusal::UidMismatch { current },
        Wire::Claimed(pb::Claimed { field, value, refusal }) => Refusal::Claimed { field, value, refusal },
        Wire::Undecodable(why) => Refusal::Undecodable(why),
    })
}

#[cfg(test)]
mod tests {
    use balsa_model::kind::{Claim, kind_of};
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn sample() -> Mutation {
        Mutation {
            operation: Operation::Replace,
            kind: kind_of::<ConfigMap>(),
            key: Key::new("n", "x"),
            object: Bytes::from_static(b"{}"),
            precondition: Precondition { revision: Some(Revision(300)), uid: Some("u".to_owned()) },
            claims: vec![Claim { token: "t/v".to_owned(), field: "f", refusal: "r" }],
            user: "me".into(),
        }
    }

    fn kinds() -> Kinds {
        Kinds::new(&[kind_of::<ConfigMap>()])
    }

    /// What a released server may have on disk. It must be read for ever.
    #[test]
    fn the_first_format_is_frozen() {
        let frozen: &[&[u8]] = &[
            b"\x08\x01",
            b"\x12\x10AAAAAAAAAAAAAAAA",
            b"\x18\x07",
            b"\x22\x2f",
            b"\x08\x02",
            b"\x1a\x0aconfigmaps",
            b"\x22\x01n",
            b"\x2a\x01x",
            b"\x32\x02{}",
            b"\x38\xac\x02",
            b"\x42\x01u",
            b"\x4a\x0b\x0a\x03t/v\x12\x01f\x1a\x01r",
            b"\x52\x02me",
        ];
        let encoded = encode_entry([b'A'; 16], 7, &[sample()]);
        assert_eq!(encoded.escape_ascii().to_string(), frozen.concat().escape_ascii().to_string());
        let entry = decode_entry(frozen.concat().into(), &kinds()).unwrap();
        assert_eq!(entry.id, Some([b'A'; 16]));
        let [proposal] = &entry.proposals[..] else { panic!() };
        assert_eq!((proposal.operation, proposal.key.to_string()), (Operation::Replace, "n/x".to_owned()));
        assert_eq!(proposal.precondition, sample().precondition);
        assert_eq!((proposal.claims[0].token.as_str(), proposal.proposed_at_ms), ("t/v", 7));
        assert_eq!((proposal.object.as_ref(), proposal.user.as_ref()), (&b"{}"[..], "me"));
    }

    #[test]
    fn replies_are_frozen() {
        let verdicts = vec![
            Ok(Revision(5)),
            Err(Refusal::AlreadyExists),
            Err(Refusal::NotFound),
            Err(Refusal::Conflict { current: Revision(9) }),
            Err(Refusal::UidMismatch { current: "u".to_owned() }),
            Err(Refusal::Claimed { field: "f".to_owned(), value: "v".to_owned(), refusal: "r".to_owned() }),
            Err(Refusal::Undecodable("w".to_owned())),
        ];
        let frozen = b"\x0a\x02\x08\x05\x0a\x04\x12\x02\x0a\x00\x0a\x04\x12\x02\x12\x00\x0a\x04\x12\x02\x18\x09\
            \x0a\x05\x12\x03\x22\x01u\x0a\x0d\x12\x0b\x2a\x09\x0a\x01f\x12\x01v\x1a\x01r\x0a\x05\x12\x03\x32\x01w";
        let encoded = encode_reply(&verdicts).encode_to_vec();
        assert_eq!(encoded.escape_ascii().to_string(), frozen.escape_ascii().to_string());
        assert_eq!(decode_reply(frozen), Some(verdicts));
    }

    #[test]
    fn what_is_newer_is_told_from_what_is_broken() {
        let newer = |entry: &pb::Entry| match decode_entry(entry.encode_to_vec().into(), &kinds()) {
            Err(EntryError::Newer(newer)) => newer.what,
            other => panic!("{other:?}"),
        };
        let entry = || pb::Entry::decode(encode_entry([1; 16], 7, &[sample()])).unwrap();
        assert_eq!(newer(&pb::Entry { format: 9, ..entry() }), "an entry of format 9");
        let mut unknown = entry();
        unknown.mutations[0].operation = 77;
        assert_eq!(newer(&unknown), "a mutation with operation 77");
        let mut unknown = entry();
        unknown.mutations[0].resource = "widgets".to_owned();
        assert_eq!(newer(&unknown), "an object of the unknown resource \"widgets\" in group \"\"");
        let broken = pb::Entry { proposal_id: Bytes::from_static(b"short"), ..entry() };
        let broken = decode_entry(broken.encode_to_vec().into(), &kinds());
        assert!(matches!(broken, Err(EntryError::Undecodable(_))));
    }
}
