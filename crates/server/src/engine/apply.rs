//! Server-side apply.

use balsa_model::fields::{self, ApplyError};
use balsa_model::strategy::Part;
use balsa_model::{Failure, Key, KindRef, Object, Precondition, Reason, schema};
use serde_json::{Value, json};

use super::write::{Draft, Written, nameless, wrong_name};
use super::{ATTEMPTS, Engine, Target, precondition_of, scale};
use crate::authorize::Authorized;

/// What one manager wants of an object.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    /// The part of the object that it has an opinion on.
    pub value: Value,
    /// Whether it may take fields that others own.
    pub force: bool,
    /// Whether an object that is not there may be created.
    pub may_create: Result<(), Failure>,
}

impl Engine {
    /// Merges a configuration into an object, or creates it; the manager of `who` owns what it names.
    ///
    /// # Errors
    /// `Conflict` when others own fields that it wants otherwise, `BadRequest` when it is no object of the
    /// kind, and as an update.
    pub(crate) async fn apply(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        part: Part,
        config: &Configuration,
        dry_run: bool,
    ) -> Result<Written, Failure> {
        check_type(kind, &config.value)?;
        let precondition = precondition_of(&config.value)?;
        let mut last = Failure::internal("no attempt was made");
        let mut charged = false;
        for _ in 0..ATTEMPTS {
            match self.apply_to_present(who, kind, key, part.into(), config, &precondition, dry_run).await {
                Err(failure) if failure.reason == Reason::NotFound && part == Part::Main => {}
                outcome => return outcome,
            }
            match self.apply_to_nothing(who, kind, key, config, &precondition, dry_run, &mut charged).await {
                // Somebody was faster, or has the address that was picked.
                Err((failure, again)) if again || failure.reason == Reason::AlreadyExists => last = failure,
                outcome => return outcome.map_err(|(failure, _)| failure),
            }
        }
        Err(last)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    async fn apply_to_present(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        target: Target,
        config: &Configuration,
        precondition: &Precondition,
        dry_run: bool,
    ) -> Result<Written, Failure> {
        let merge = |old: &Object| {
            let writer = self.writer(who, kind, target);
            let live = kind.from_stored(old.bare_value());
            let applied =
                fields::apply(Some(&live), &config.value, old.managed_fields(), config.force, &writer)
                    .map_err(|error| refused(&config.value, error))?;
            let value = schema::check(kind.descriptor().message, applied.value)?.value;
            Ok(Draft { value, managed: Some(applied.managed) })
        };
        self.change(who, kind, key, target, precondition, dry_run, merge).await
    }

    /// The flag says that another attempt may pick differently.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    async fn apply_to_nothing(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        config: &Configuration,
        precondition: &Precondition,
        dry_run: bool,
        charged: &mut bool,
    ) -> Result<Written, (Failure, bool)> {
        let draft = || {
            config.may_create.clone()?;
            if let Some(uid) = &precondition.uid {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                );
                return Err(Failure::conflict(kind.descriptor(), &key.name, why));
            }
            let writer = self.writer(who, kind, Part::Main.into());
            let applied = fields::apply(None, &config.value, "", config.force, &writer)
                .map_err(|error| refused(&config.value, error))?;
            match config.value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default() {
                "" => return Err(nameless(&key.name)),
                name if *name != *key.name => return Err(wrong_name(name, &key.name)),
                _ => {}
            }
            let mut value = schema::check(kind.descriptor().message, applied.value)?.value;
            // The version that it names is that of an object which is gone.
            if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.shift_remove("resourceVersion");
            }
            Ok(Draft { value, managed: Some(applied.managed) })
        };
        let draft = draft().map_err(|failure| (failure, false))?;
        self.create_once(who, kind, &key.namespace, draft, dry_run, charged).await
    }

    /// Applies a Scale: the manager owns the replicas of the object.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub(crate) async fn apply_scale(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        config: &Configuration,
        dry_run: bool,
    ) -> Result<Written, Failure> {
        scale::check_type(&config.value, key)?;
        let precondition = precondition_of(&config.value)?;
        let descriptor = kind.descriptor();
        let mut value = json!({
            "apiVersion": descriptor.api_version(), "kind": descriptor.kind, "metadata": {"name": &*key.name},
        });
        if let Some(replicas) = config.value.pointer("/spec/replicas") {
            value["spec"] = json!({"replicas": replicas});
        }
        let config = Configuration { value, ..config.clone() };
        self.apply_to_present(who, kind, key, scale::TARGET, &config, &precondition, dry_run).await
    }
}

/// Only an object of the kind can be merged, and only the server says who owns what.
fn check_type(kind: KindRef, config: &Value) -> Result<(), Failure> {
    let text = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
    let descriptor = kind.descriptor();
    if text("apiVersion") != descriptor.api_version() {
        return Err(Failure::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {}",
            text("apiVersion"),
            descriptor.api_version()
        )));
    }
    if text("kind") != descriptor.kind {
        return Err(Failure::bad_request(format!("invalid object type: {}", type_of(config))));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|managed| !managed.is_null()) {
        return Err(Failure::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}

/// What a configuration says it is: `apps/v1, Kind=Deployment`.
fn type_of(config: &Value) -> String {
    let text = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    format!("{group}/{version}, Kind={}", text("kind"))
}

pub(super) fn refused(config: &Value, error: ApplyError) -> Failure {
    match error {
        ApplyError::Conflicts(conflicts) => {
            let message = ApplyError::Conflicts(conflicts.clone()).to_string();
            conflicts.iter().fold(Failure::new(Reason::Conflict, message), |failure, conflict| {
                let why = format!("conflict with {}", conflict.owner());
                failure.cause("FieldManagerConflict", why, conflict.field())
            })
        }
        ApplyError::Invalid(why) => {
            let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
            Failure::bad_request(format!(
                "failed to create typed patch object ({namespace}/{name}; {}): {why}",
                type_of(config)
            ))
        }
    }
}
