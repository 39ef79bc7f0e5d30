//! Create, update and patch.

use std::sync::{Arc, Mutex};

use balsa_model::field::FieldErrors;
use balsa_model::fields::{self, Said};
use balsa_model::patch::{self, PatchType};
use balsa_model::schema::Checked;
use balsa_model::strategy::{self, Part, Stamp};
use balsa_model::{
    AnyObject, Failure, Key, KindRef, Mutation, Object, Operation, Precondition, Reason, Revision,
};
use balsa_state::Refusal;
use bytes::Bytes;
use serde_json::Value;

use super::{ATTEMPTS, Engine, Target, check_precondition, precondition_of, refused, shown};
use crate::admission::{is_address_collision, picks_addresses};
use crate::authorize::Authorized;
use crate::rest::body::{self, FieldValidation};

/// Letters that `generateName` is completed with, and the longest name that leaves room for them.
const SUFFIX: usize = 5;
const LONGEST_BASE: usize = 63 - SUFFIX;

/// How a patch says that it is about ownership.
const MANAGED_FIELDS: &[u8] = b"managedFields";

/// What a write came to.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object as it is now.
    pub object: Arc<Object>,
    /// Whether it was not there before.
    pub created: bool,
    /// What the client should be told.
    pub warnings: Vec<String>,
}

/// A patch, and what it applies to.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    /// Its language.
    pub kind: PatchType,
    /// Its text.
    pub body: Bytes,
}

/// Judges what comes of a patch, as its client asks.
pub(super) struct Judge {
    validation: FieldValidation,
    /// What is odd about its text.
    oddities: Vec<String>,
    /// What there is to tell of the last version that came of it.
    told: Mutex<Vec<String>>,
}

impl Judge {
    pub(super) fn new(patch: &Patch, validation: FieldValidation) -> Self {
        let oddities = match validation {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Warn | FieldValidation::Strict => patch::oddities(patch.kind, &patch.body),
        };
        Self { validation, oddities, told: Mutex::default() }
    }

    /// The new version, unless it is refused.
    pub(super) fn judge(&self, checked: Checked) -> Result<Value, Failure> {
        let decoded = body::judge_patch(checked, self.oddities.clone(), self.validation)?;
        if let Ok(mut told) = self.told.lock() {
            *told = decoded.warnings;
        }
        Ok(decoded.value)
    }

    /// What the client should be told.
    pub(super) fn told(self) -> Vec<String> {
        self.told.into_inner().unwrap_or_default()
    }
}

/// A version of an object that somebody wants.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// The object.
    pub value: Value,
    /// The text of its managedFields where that is decided; else they follow from what changes.
    pub managed: Option<String>,
}

impl From<Value> for Draft {
    fn from(value: Value) -> Self {
        Self { value, managed: None }
    }
}

impl Engine {
    /// Puts a new object.
    ///
    /// # Errors
    /// `AlreadyExists`, `Invalid`, and what admission says.
    pub async fn create(
        &self,
        who: &Authorized,
        kind: KindRef,
        namespace: &str,
        value: Value,
        dry_run: bool,
    ) -> Result<Written, Failure> {
        let base = generated_base(&value);
        // Only what is picked here can be taken by somebody else in the meantime.
        let attempts = if base.is_some() || picks_addresses(kind) { ATTEMPTS } else { 1 };
        let mut last = Failure::internal("no attempt was made");
        let mut charged = false;
        let mut body = value;
        for left in (0..attempts).rev() {
            let mut value = if left == 0 { std::mem::take(&mut body) } else { body.clone() };
            if let Some(base) = &base {
                let cut = base.len().min(LONGEST_BASE);
                let name = format!("{}{}", base.get(..cut).unwrap_or(base), balsa_rt::random_suffix(SUFFIX));
                value["metadata"]["name"] = name.into();
            }
            match self.create_once(who, kind, namespace, value.into(), dry_run, &mut charged).await {
                // A generated name or a picked address was taken in the meantime.
                Err((failure, true)) => last = failure,
                Err((failure, false)) if failure.reason == Reason::AlreadyExists && base.is_some() => {
                    last = failure
                }
                Err((failure, false)) => return Err(failure),
                Ok(written) => return Ok(written),
            }
        }
        Err(last)
    }

    /// One attempt; the flag says that another may pick differently. All attempts at one object are charged
    /// to its quotas once: an address that nobody gets must not cost as often as it was asked for.
    pub(super) async fn create_once(
        &self,
        who: &Authorized,
        kind: KindRef,
        namespace: &str,
        draft: Draft,
        dry_run: bool,
        charged: &mut bool,
    ) -> Result<Written, (Failure, bool)> {
        let final_failure = |failure| (failure, false);
        let stamp = Stamp { now: self.clock.now_seconds(), uid: balsa_rt::new_uid() };
        let Draft { mut value, managed } = draft;
        let said = Said::take(&mut value, "");
        let stored = kind.stored();
        let value = kind.to_stored(value);
        let mut object = strategy::prepare_create(stored, namespace, value, &stamp).map_err(final_failure)?;
        check_said(&said, kind, object.meta().name.as_deref()).map_err(final_failure)?;
        // What admission adds is nobody's.
        let managed = managed.unwrap_or_else(|| {
            let new = kind.from_stored(object.to_value());
            fields::update(None, &new, "", said, &self.writer(who, kind, Part::Main.into()))
        });
        let mut warnings = self.admit_create(who, object.as_mut()).await.map_err(final_failure)?;
        // What follows from what admission has set.
        object.set_defaults();
        strategy::validate_create(kind, object.as_ref()).map_err(final_failure)?;
        if !std::mem::replace(charged, true) {
            self.charge(who, object.as_ref(), None, dry_run).await.map_err(final_failure)?;
        }
        warnings.extend(object.warnings_on_create());
        warnings.extend(object.warnings());
        let name = object.meta().name.clone().unwrap_or_default();
        let value = object.to_value();
        let form = (&value, managed.as_str());
        let mutation = self.mutation(who, Operation::Create, object.as_ref(), form, Precondition::default());
        let (bytes, key) = (mutation.object.clone(), mutation.key.clone());
        if dry_run {
            if self.state().get(stored, &mutation.key).is_some() {
                return Err((self.already_exists(kind, &key), false));
            }
            let object =
                Object::stored(stored, bytes, Revision(0)).map_err(|e| (Failure::internal(e), false))?;
            let object = shown(kind, &Arc::new(object)).map_err(final_failure)?;
            return Ok(Written { object, created: true, warnings });
        }
        let admitted = self.admission.admitted(mutation);
        let verdict = self.propose(who, admitted).await.map_err(final_failure)?.into_iter().next();
        let revision = verdict.unwrap_or(Err(Refusal::NotFound)).map_err(|refusal| {
            let again = is_address_collision(&refusal);
            let failure = match refusal {
                Refusal::AlreadyExists => self.already_exists(kind, &key),
                refusal => refused(kind, &name, refusal),
            };
            (failure, again)
        })?;
        let object = self.settled(stored, &key, &bytes, revision).map_err(final_failure)?;
        let object = shown(kind, &object).map_err(final_failure)?;
        Ok(Written { object, created: true, warnings })
    }

    /// Why a new object cannot have its name.
    fn already_exists(&self, kind: KindRef, key: &Key) -> Failure {
        let there = self.state().get(kind.stored(), key);
        if there.is_some_and(|object| object.meta().deletion_timestamp.is_some()) {
            return Failure::being_deleted(kind.descriptor(), &key.name);
        }
        Failure::already_exists(kind.descriptor(), &key.name)
    }

    /// Admission looks at other objects, its namespace first of all. What this server does not know of it may not have
    /// heard of yet: then it is asked once more, with all that was written before.
    async fn admit_create(
        &self,
        who: &Authorized,
        object: &mut dyn AnyObject,
    ) -> Result<Vec<String>, Failure> {
        match self.admission.admit_create(who, object) {
            Err(failure) if matches!(failure.reason, Reason::NotFound | Reason::Forbidden) => {
                self.store.read_barrier().await.map_err(|error| super::read_failed(&error))?;
                self.admission.admit_create(who, object)
            }
            judged => judged,
        }
    }

    /// An object that was just written: as the state has it if it is that far, else made once more.
    fn settled(
        &self,
        kind: KindRef,
        key: &Key,
        bytes: &[u8],
        revision: Revision,
    ) -> Result<Arc<Object>, Failure> {
        let known = self.state().get(kind, key).filter(|object| object.revision() == revision);
        known.map_or_else(|| Object::seal(kind, bytes, revision).map(Arc::new).map_err(Failure::internal), Ok)
    }

    /// Puts another version of a part of an object. A resourceVersion or UID in `value` is a
    /// precondition.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `Invalid`, and what admission says.
    pub async fn update(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        part: Part,
        value: Value,
        dry_run: bool,
    ) -> Result<Written, Failure> {
        // Before anything else is looked at, as Kubernetes has it: a body for another object is no conflict.
        check_name(&value, &key.name)?;
        let precondition = precondition_of(&value)?;
        let is_there = || self.state().get(kind.stored(), key).is_some();
        if kind.descriptor().create_on_update && part == Part::Main && !is_there() {
            self.store.read_barrier().await.map_err(|error| super::read_failed(&error))?;
            if !is_there() {
                return self.create_by_update(who, kind, key, value, &precondition, dry_run).await;
            }
        }
        self.change(who, kind, key, part.into(), &precondition, dry_run, |_| Ok(value.clone().into())).await
    }

    /// Puts a new object where an update found none. A version that the client named is that of an object
    /// which is gone; a UID can be met by none.
    async fn create_by_update(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        mut value: Value,
        precondition: &Precondition,
        dry_run: bool,
    ) -> Result<Written, Failure> {
        if let Some(uid) = &precondition.uid {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
            return Err(Failure::conflict(kind.descriptor(), &key.name, why));
        }
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("resourceVersion");
        }
        self.create(who, kind, &key.namespace, value, dry_run).await
    }

    /// Changes a part of an object by a patch.
    ///
    /// # Errors
    /// As [`Self::update`], and when the patch does not apply.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    pub(crate) async fn patch(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        part: Part,
        patch: &Patch,
        validation: FieldValidation,
        dry_run: bool,
    ) -> Result<Written, Failure> {
        let judge = Judge::new(patch, validation);
        let apply = |old: &Object| {
            // Most patches have nothing to do with managedFields.
            let concerned = patch.body.windows(MANAGED_FIELDS.len()).any(|window| window == MANAGED_FIELDS);
            let present = kind.from_stored(if concerned { old.value() } else { old.bare_value() });
            let checked = patch::apply(patch.kind, kind, &present, &patch.body)?;
            // What a patch says of the version is judged on its result; of the UID, that it may not change.
            let revision = precondition_of(&checked.value)?.revision;
            check_precondition(old, &Precondition { revision, uid: None })?;
            judge.judge(checked).map(Draft::from)
        };
        let nothing = Precondition::default();
        let mut written = self.change(who, kind, key, part.into(), &nothing, dry_run, apply).await?;
        written.warnings.extend(judge.told());
        Ok(written)
    }

    /// Reads, changes and writes an object, again when somebody else was faster and the client did not
    /// name a version.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    pub(super) async fn change(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        target: Target,
        precondition: &Precondition,
        dry_run: bool,
        new_version: impl Fn(&Object) -> Result<Draft, Failure>,
    ) -> Result<Written, Failure> {
        let mut last = Failure::internal("no attempt was made");
        for attempt in 0..ATTEMPTS {
            let fresh = attempt > 0;
            let old = self.find_for_write(kind, key, fresh).await?;
            let attempted = match meant(&old, precondition, &new_version) {
                Ok(draft) => self.replace_once(who, kind, &old, target, draft, dry_run).await,
                Err(failure) => Attempt::Judged(Err(failure)),
            };
            match attempted {
                Attempt::Proposed(Err(refusal)) => last = refused(kind, &key.name, refusal),
                Attempt::Proposed(Ok(written)) => return shown_written(kind, written),
                Attempt::Failed(failure) => return Err(failure),
                Attempt::Judged(judged) if fresh || self.is_newest(&old).await? => {
                    return judged.and_then(|written| shown_written(kind, written));
                }
                Attempt::Judged(judged) => last = judged.err().unwrap_or(last),
            }
        }
        Err(last)
    }

    /// Whether an object as this server had it is the newest. What is decided without asking the log, on a server
    /// that may be behind, is true only then.
    pub(super) async fn is_newest(&self, object: &Object) -> Result<bool, Failure> {
        self.store.read_barrier().await.map_err(|error| super::read_failed(&error))?;
        let now = self.state().get(object.kind(), object.key());
        Ok(now.is_some_and(|now| now.revision() == object.revision()))
    }

    async fn find_for_write(&self, kind: KindRef, key: &Key, fresh: bool) -> Result<Arc<Object>, Failure> {
        if !fresh && let Some(old) = self.state().get(kind.stored(), key) {
            return Ok(old);
        }
        self.store.read_barrier().await.map_err(|error| super::read_failed(&error))?;
        let found = self.state().get(kind.stored(), key);
        found.ok_or_else(|| Failure::not_found(kind.descriptor(), &key.name))
    }

    /// Puts a draft in the place of `old`. The draft is of the kind that is served, what is answered of the
    /// one that is stored.
    async fn replace_once(
        &self,
        who: &Authorized,
        served: KindRef,
        old: &Arc<Object>,
        target: Target,
        draft: Draft,
        dry_run: bool,
    ) -> Attempt {
        let next = match self.next_version(who, served, old, target, draft, dry_run).await {
            Ok(Next::Changed(next)) => next,
            Ok(Next::Same(written)) => return Attempt::Judged(Ok(written)),
            Err(failure) => return Attempt::Judged(Err(failure)),
        };
        let Changed { mutation, bytes, warnings } = next;
        let kind = old.kind();
        let written = |object| Written { object, created: false, warnings };
        // What goes with this version was never stored in its last form: it keeps the version it had.
        let unstored = || Object::seal(kind, &bytes, old.revision()).map(Arc::new).map_err(Failure::internal);
        if dry_run {
            return Attempt::Judged(unstored().map(written));
        }
        let finished = mutation.operation == Operation::Remove;
        let verdict = match self.propose(who, self.admission.admitted(mutation)).await {
            Ok(verdicts) => verdicts.into_iter().next().unwrap_or(Err(Refusal::NotFound)),
            Err(failure) => return Attempt::Failed(failure),
        };
        let object = match verdict {
            Err(refusal) => return Attempt::Proposed(Err(refusal)),
            Ok(_) if finished => unstored(),
            Ok(revision) => self.settled(kind, old.key(), &bytes, revision),
        };
        object.map_or_else(Attempt::Failed, |object| Attempt::Proposed(Ok(written(object))))
    }

    /// What a draft makes of an object, judged by everything but the log.
    async fn next_version(
        &self,
        who: &Authorized,
        served: KindRef,
        old: &Arc<Object>,
        target: Target,
        draft: Draft,
        dry_run: bool,
    ) -> Result<Next, Failure> {
        let Draft { mut value, managed } = draft;
        let said = Said::take(&mut value, old.managed_fields());
        check_said(&said, served, Some(&old.key().name))?;
        let mut object = strategy::prepare_update(old, served.to_stored(value), target.part)?;
        let before = without_version(old.bare_value());
        let managed = managed.unwrap_or_else(|| {
            let writer = self.writer(who, served, target);
            let new = served.from_stored(object.to_value());
            let other_form = served.face().map(|_| served.from_stored(before.clone()));
            let live = other_form.as_ref().unwrap_or(&before);
            fields::update(Some(live), &new, old.managed_fields(), said, &writer)
        });
        let now = self.clock.now_seconds();
        let mut warnings = self.admission.admit_update(who, object.as_mut(), old, target.part, now)?;
        strategy::validate_update(served, object.as_ref(), old, target.part)?;
        // The cluster's own parts do not read them.
        if !matches!(target.part, Part::Status | Part::Whole) {
            warnings.extend(object.warnings());
        }
        let value = object.to_value();
        // A new version that says the same as the old one gets no revision.
        if value == before && fields::same_but_times(&managed, old.managed_fields()) {
            return Ok(Next::Same(Written { object: old.clone(), created: false, warnings }));
        }
        if target.part != Part::Status {
            self.charge(who, object.as_ref(), Some(old.as_ref()), dry_run).await?;
        }
        let finished = strategy::is_finished(object.as_ref());
        let operation = if finished { Operation::Remove } else { Operation::Replace };
        let precondition = Precondition { revision: Some(old.revision()), uid: Some(old.uid().to_owned()) };
        let form = (&value, managed.as_str());
        let mut mutation = self.mutation(who, operation, object.as_ref(), form, precondition);
        let bytes = mutation.object.clone();
        if finished {
            mutation.object = Bytes::new();
            mutation.claims = Vec::new();
        }
        Ok(Next::Changed(Changed { mutation, bytes, warnings }))
    }
}

/// What came of one attempt to change an object.
enum Attempt {
    /// The log has judged it.
    Proposed(Result<Written, Refusal>),
    /// It was judged here, on an object that may be old.
    Judged(Result<Written, Failure>),
    /// The log could not be asked, or has not answered.
    Failed(Failure),
}

/// The next version of an object.
enum Next {
    Same(Written),
    Changed(Changed),
}

/// A version that differs from the one before.
struct Changed {
    mutation: Mutation,
    /// The object, also where the mutation removes it.
    bytes: Bytes,
    warnings: Vec<String>,
}

/// What a client wants an object to be, if it is the one that was meant.
fn meant(
    old: &Object,
    precondition: &Precondition,
    new_version: impl Fn(&Object) -> Result<Draft, Failure>,
) -> Result<Draft, Failure> {
    check_precondition(old, precondition)?;
    let draft = new_version(old)?;
    check_name(&draft.value, &old.key().name)?;
    Ok(draft)
}

/// That a body says that it is of the object on the URL.
fn check_name(value: &Value, on_url: &str) -> Result<(), Failure> {
    match value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default() {
        "" => Err(nameless(on_url)),
        name if name != on_url => Err(wrong_name(name, on_url)),
        _ => Ok(()),
    }
}

/// What was written, as the kind shows it that it was written as.
fn shown_written(kind: KindRef, written: Written) -> Result<Written, Failure> {
    Ok(Written { object: shown(kind, &written.object)?, ..written })
}

/// That a body does not say which object it is.
pub(super) fn nameless(on_url: &str) -> Failure {
    Failure::bad_request(format!(
        "the name of the object ({on_url} based on URL) was undeterminable: name must be provided"
    ))
}

/// That a body names another object than the URL.
pub(super) fn wrong_name(name: &str, on_url: &str) -> Failure {
    Failure::bad_request(format!(
        "the name of the object ({name}) does not match the name on the URL ({on_url})"
    ))
}

/// The `generateName` of an object that has no name.
fn generated_base(value: &Value) -> Option<String> {
    let text = |field| value.pointer(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    if text("/metadata/name").is_some() { None } else { text("/metadata/generateName").map(str::to_owned) }
}

/// The JSON of an object without its version.
fn without_version(mut value: Value) -> Value {
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.shift_remove("resourceVersion");
    }
    value
}

/// Refuses what a client says of ownership when nobody could own it like that.
fn check_said(said: &Said, kind: KindRef, name: Option<&str>) -> Result<(), Failure> {
    let Said::Managed(managed) = said else { return Ok(()) };
    let mut errors = FieldErrors::new();
    fields::validate(managed, &mut errors);
    Failure::invalid(kind.descriptor(), name.unwrap_or_default(), errors).map_or(Ok(()), Err)
}
