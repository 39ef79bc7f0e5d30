//! Delete, and delete many.

use std::sync::Arc;

use balsa_model::selector::Filter;
use balsa_model::strategy::{self, DeleteOptions, Deletion};
use balsa_model::{Failure, Key, KindRef, Mutation, Object, Operation, Precondition, Reason};
use balsa_state::Refusal;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{ATTEMPTS, Engine, refused, shown};
use crate::authorize::Authorized;

/// What a deletion came to.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The object as it is now, or as it was last.
    pub object: Arc<Object>,
    /// Whether it is gone, or only marked.
    pub gone: bool,
}

/// Holds an object against what the deletion wanted to meet.
fn check_wanted(old: &Object, precondition: &Precondition) -> Result<(), Failure> {
    let why = if let Some(uid) = precondition.uid.as_deref().filter(|uid| *uid != old.uid()) {
        format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            old.uid()
        )
    } else if let Some(revision) = precondition.revision.filter(|revision| *revision != old.revision()) {
        format!(
            "the ResourceVersion in the precondition ({revision}) does not match the ResourceVersion in record ({}). The object might have been modified",
            old.revision()
        )
    } else {
        return Ok(());
    };
    // Of all refusals this one names the kind, not the resource.
    let (kind, name) = (old.kind().descriptor(), &old.key().name);
    let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified_kind());
    let mut failure = Failure::new(Reason::Conflict, message).about(kind, name);
    failure.kind = kind.kind.to_owned();
    Err(failure)
}

/// How an object that could have waited is shown when it goes at once: marked, with no time left.
fn last_form(old: &Arc<Object>, now: Timestamp) -> Result<Arc<Object>, Failure> {
    if !old.kind().descriptor().graceful {
        return Ok(old.clone());
    }
    let mut object = old.kind().decode(old.bare_value())?;
    let meta = object.meta_mut();
    meta.deletion_timestamp.get_or_insert(Time(now));
    meta.deletion_grace_period_seconds = Some(0);
    let bytes = Object::canonical_with(old.kind(), &object.to_value(), old.managed_fields());
    Object::seal(old.kind(), &bytes, old.revision()).map(Arc::new).map_err(Failure::internal)
}

impl Engine {
    /// Deletes an object, or marks it when something must happen first.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when the precondition does not hold, and what admission says.
    pub async fn delete(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        options: &DeleteOptions,
        precondition: &Precondition,
        dry_run: bool,
    ) -> Result<Deleted, Failure> {
        let mut last = Failure::internal("no attempt was made");
        for attempt in 0..ATTEMPTS {
            let old = match self.state().get(kind.stored(), key) {
                Some(old) if attempt == 0 => old,
                _ => {
                    self.store.read_barrier().await.map_err(|error| super::read_failed(&error))?;
                    self.state()
                        .get(kind.stored(), key)
                        .ok_or_else(|| Failure::not_found(kind.descriptor(), &key.name))?
                }
            };
            let judged = check_wanted(&old, precondition).and_then(|()| self.admission.admit_delete(&old));
            if let Err(failure) = judged {
                // This server may only be behind.
                if attempt > 0 || self.is_newest(&old).await? {
                    return Err(failure);
                }
                last = failure;
                continue;
            }
            match self.delete_once(who, &old, options, dry_run).await? {
                // Marked before, says what this server has.
                Ok(deleted)
                    if attempt == 0
                        && !deleted.gone
                        && Arc::ptr_eq(&deleted.object, &old)
                        && !self.is_newest(&old).await? => {}
                Ok(Deleted { object, gone }) => return Ok(Deleted { object: shown(kind, &object)?, gone }),
                Err(refusal) => last = refused(kind, &key.name, refusal),
            }
        }
        Err(last)
    }

    async fn delete_once(
        &self,
        who: &Authorized,
        old: &Arc<Object>,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Result<Deleted, Refusal>, Failure> {
        let kind = old.kind();
        let precondition = Precondition { revision: Some(old.revision()), uid: Some(old.uid().to_owned()) };
        let deletion = strategy::prepare_delete(old, options, self.clock.now_seconds())?;
        let mut gone_object = old.clone();
        let (mutation, gone) = match &deletion {
            Deletion::Unchanged => return Ok(Ok(Deleted { object: old.clone(), gone: false })),
            Deletion::Mark(object) => {
                let value = object.to_value();
                if dry_run {
                    let bytes = Object::canonical_with(kind, &value, old.managed_fields());
                    let marked = Object::seal(kind, &bytes, old.revision()).map_err(Failure::internal)?;
                    return Ok(Ok(Deleted { object: Arc::new(marked), gone: false }));
                }
                let form = (&value, old.managed_fields());
                (self.mutation(who, Operation::Replace, object.as_ref(), form, precondition), false)
            }
            Deletion::Remove => {
                gone_object = last_form(old, self.clock.now_seconds())?;
                let mutation = Mutation {
                    operation: Operation::Remove,
                    kind,
                    key: old.key().clone(),
                    object: bytes::Bytes::new(),
                    precondition,
                    claims: Vec::new(),
                    user: who.name().clone(),
                };
                (mutation, true)
            }
        };
        if dry_run {
            return Ok(Ok(Deleted { object: gone_object, gone }));
        }
        let bytes = mutation.object.clone();
        let verdicts = self.propose(who, self.admission.admitted(mutation)).await?;
        Ok(match verdicts.into_iter().next().unwrap_or(Err(Refusal::NotFound)) {
            Ok(_) if gone => Ok(Deleted { object: gone_object, gone }),
            Ok(revision) => {
                let object = Object::seal(kind, &bytes, revision).map_err(Failure::internal)?;
                Ok(Deleted { object: Arc::new(object), gone })
            }
            Err(refusal) => Err(refusal),
        })
    }

    /// Deletes all objects that match; those that were there.
    ///
    /// # Errors
    /// What a single deletion says, but for `NotFound`; the ones before it are deleted.
    pub async fn delete_collection(
        &self,
        who: &Authorized,
        kind: KindRef,
        filter: &Filter,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Vec<Arc<Object>>, Failure> {
        self.store.read_barrier().await.map_err(|error| super::read_failed(&error))?;
        let view = self.state().view(kind.stored());
        let filter = filter.clone().of_stored(kind);
        let matching: Vec<Arc<Object>> = view.select(&filter, None).cloned().collect();
        for object in &matching {
            let precondition = Precondition { uid: Some(object.uid().to_owned()), ..Precondition::default() };
            match self.delete(who, kind, object.key(), options, &precondition, dry_run).await {
                Err(failure) if !matches!(failure.reason, Reason::NotFound | Reason::Conflict) => {
                    return Err(failure);
                }
                _ => {}
            }
        }
        matching.iter().map(|object| shown(kind, object)).collect()
    }
}
