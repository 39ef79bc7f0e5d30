//! The fold: from the rows of a kind and a Mutation to a Change or a refusal.
//!
//! Synchronous, deterministic, without side effects but on the rows it is given; it never panics on
//! what it is given. Every server runs it on the same input and comes to the same rows: nothing here may
//! differ between releases unless an entry in the log switches it on.

use std::collections::HashMap;
use std::sync::Arc;

use balsa_model::{Change, Key, Object, Operation, Revision};

use crate::codec::{Proposal, pb};
use crate::digest::Digest;
use crate::event::{SharedChange, reseal};
use crate::indexed::{FieldValues, field_values};
use crate::refusal::Refusal;
use crate::view::{Row, Rows};

/// What one kind's actor folds into.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) rows: Rows,
    /// Who owns what the cluster has one of. Invariant: exactly the claims of the rows.
    owners: HashMap<String, Key>,
    resource: String,
    /// Invariant: the sum over the rows.
    digest: Digest,
    /// Where the digest's bytes are put together.
    buffer: Vec<u8>,
}

impl Table {
    pub(crate) fn new(rows: Rows) -> Self {
        let owners = rows
            .iter()
            .flat_map(|row| row.claims.iter().map(move |token| (token.clone(), row.object.key().clone())))
            .collect();
        let (resource, mut buffer) = (rows.kind.descriptor().resource(), Vec::new());
        let digest = rows.iter().map(|row| Digest::of_row(&resource, row, &mut buffer)).sum();
        Self { rows, owners, resource, digest, buffer }
    }

    /// Judges a Mutation and carries it out.
    pub(crate) fn fold(
        &mut self,
        proposal: &Proposal,
        revision: Revision,
    ) -> Result<Arc<SharedChange>, Refusal> {
        check_key(&proposal.key)?;
        self.judge(proposal)?;
        match proposal.operation {
            Operation::Create | Operation::Replace => self.put(proposal, revision),
            Operation::Remove => self.remove(proposal, revision),
        }
    }

    /// Of all rows.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    fn digest_of(&mut self, row: &Row) -> Digest {
        Digest::of_row(&self.resource, row, &mut self.buffer)
    }

    fn replaced(&mut self, old: Option<&Row>, new: Option<&Row>) {
        let old = old.map(|row| self.digest_of(row)).unwrap_or_default();
        let new = new.map(|row| self.digest_of(row)).unwrap_or_default();
        self.digest = self.digest.minus(old).plus(new);
    }

    #[cfg(test)]
    pub(crate) fn owners(&self) -> &HashMap<String, Key> {
        &self.owners
    }

    fn judge(&self, proposal: &Proposal) -> Result<(), Refusal> {
        let current = self.rows.get(&proposal.key).map(|row| &row.object);
        let current = match (proposal.operation, current) {
            (Operation::Create, None) => return Ok(()),
            (Operation::Create, Some(_)) => return Err(Refusal::AlreadyExists),
            (_, None) => return Err(Refusal::NotFound),
            (_, Some(current)) => current,
        };
        // The UID first: an object of another UID is another object, whatever its revision.
        if proposal.precondition.uid.as_deref().is_some_and(|uid| uid != current.uid()) {
            return Err(Refusal::UidMismatch { current: current.uid().to_owned() });
        }
        if proposal.precondition.revision.is_some_and(|revision| revision != current.revision()) {
            return Err(Refusal::Conflict { current: current.revision() });
        }
        Ok(())
    }

    fn put(&mut self, proposal: &Proposal, revision: Revision) -> Result<Arc<SharedChange>, Refusal> {
        self.check_claims(proposal)?;
        let object = Arc::new(seal(proposal, revision)?);
        let fields = field_values(&object);
        let claims: Arc<[String]> = if proposal.claims.is_empty() {
            Arc::default()
        } else {
            proposal.claims.iter().map(|claim| claim.token.clone()).collect()
        };
        for token in claims.iter() {
            self.owners.insert(token.clone(), proposal.key.clone());
        }
        let row = Row::new(object.clone(), fields.clone(), claims.clone());
        let old = self.rows.insert(row.clone());
        self.replaced(old.as_deref(), Some(&row));
        for token in old.iter().flat_map(|old| old.claims.iter()).filter(|token| !claims.contains(token)) {
            self.owners.remove(token);
        }
        Ok(self.changed(proposal, revision, old, Some((object, fields)), None))
    }

    fn remove(&mut self, proposal: &Proposal, revision: Revision) -> Result<Arc<SharedChange>, Refusal> {
        let last = if proposal.object.is_empty() {
            self.rows.get(&proposal.key).and_then(|row| reseal(&row.object, revision))
        } else {
            Some(seal(proposal, revision)?)
        };
        let last = last.ok_or_else(|| Refusal::Undecodable("the object that is there".to_owned()))?;
        let old = self.rows.remove(&proposal.key);
        self.replaced(old.as_deref(), None);
        for token in old.iter().flat_map(|old| old.claims.iter()) {
            self.owners.remove(token);
        }
        Ok(self.changed(proposal, revision, old, None, Some(Arc::new(last))))
    }

    fn changed(
        &mut self,
        proposal: &Proposal,
        revision: Revision,
        old: Option<Arc<Row>>,
        new: Option<(Arc<Object>, FieldValues)>,
        last: Option<Arc<Object>>,
    ) -> Arc<SharedChange> {
        self.rows.changed = revision;
        let (old, old_fields) = old.map(|row| (row.object.clone(), row.fields.clone())).unzip();
        let (new, new_fields) = new.unzip();
        let (kind, key, user) = (proposal.kind, proposal.key.clone(), proposal.user.clone());
        let change = Change { revision, kind, key, old, new, user };
        let fields = (old_fields.unwrap_or_default(), new_fields.unwrap_or_default());
        SharedChange::new(change, fields, last, proposal.proposed_at_ms)
    }

    fn check_claims(&self, proposal: &Proposal) -> Result<(), Refusal> {
        let taken =
            |claim: &&pb::Claim| self.owners.get(&claim.token).is_some_and(|key| *key != proposal.key);
        proposal.claims.iter().find(taken).map_or(Ok(()), |claim| {
            let value = claim.token.split_once('/').map_or(claim.token.as_str(), |(_, value)| value);
            Err(Refusal::Claimed {
                field: claim.field.clone(),
                value: value.to_owned(),
                refusal: claim.refusal.clone(),
            })
        })
    }
}

/// Keys become keys of the tables, where a zero byte ends a part.
fn check_key(key: &Key) -> Result<(), Refusal> {
    if key.name.is_empty() || key.name.contains('\0') || key.namespace.contains('\0') {
        return Err(Refusal::Undecodable("a name is empty or holds a zero byte".to_owned()));
    }
    Ok(())
}

fn seal(proposal: &Proposal, revision: Revision) -> Result<Object, Refusal> {
    let object = Object::seal(proposal.kind, &proposal.object, revision)
        .map_err(|error| Refusal::Undecodable(error.to_string()))?;
    if *object.key() != proposal.key {
        return Err(Refusal::Undecodable(format!("it is {}, not {}", object.key(), proposal.key)));
    }
    Ok(object)
}
