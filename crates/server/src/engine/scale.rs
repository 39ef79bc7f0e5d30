//! The `scale` subresource: `autoscaling/v1 Scale` of whatever has replicas.

use balsa_model::field::{FieldErrors, Path};
use balsa_model::fields::ApplyError;
use balsa_model::strategy::Part;
use balsa_model::{Descriptor, Failure, Key, KindRef, Object, Precondition, Subresource, patch, schema};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::write::{Judge, Patch, Written};
use super::{Engine, Target, check_precondition, precondition_of};
use crate::authorize::Authorized;
use crate::rest::body::FieldValidation;

/// What refusals say a Scale is. It is no kind: it has no objects of its own.
pub(crate) const SCALE: Descriptor =
    Descriptor::namespaced("autoscaling", "v1", "Scale", "scales", "scale", "autoscaling.v1.Scale");

/// What a Scale sets.
pub(super) const TARGET: Target = Target { part: Part::Main, subresource: "scale" };

/// The Scale of an object.
///
/// # Errors
/// `NotFound` when its kind has none.
pub(crate) fn scale_of(object: &Object) -> Result<Scale, Failure> {
    let descriptor = object.kind().descriptor();
    let typed = object.decode().filter(|_| descriptor.has(Subresource::Scale));
    let scale = typed.and_then(|typed| typed.scale());
    let scale = scale.ok_or_else(|| Failure::not_found(descriptor, &object.key().name))?;
    let meta = object.meta();
    Ok(Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: Some(object.revision().to_string()),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: Some(scale.replicas) }),
        status: Some(scale.status),
    })
}

/// Checks what is to be applied as a Scale. A field that nobody knows cannot be owned.
pub(super) fn check_type(config: &Value, key: &Key) -> Result<(), Failure> {
    let text = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != SCALE.api_version() || kind != SCALE.kind {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        return Err(Failure::bad_request(format!("invalid object type: {group}/{version}, Kind={kind}")));
    }
    let checked = schema::check(SCALE.message, config.clone())?;
    if let [unknown, ..] = checked.unknown.as_slice() {
        let field = unknown.split('"').nth(1).unwrap_or_default();
        let why = format!(".{field}: field not declared in schema");
        return Err(super::apply::refused(config, ApplyError::Invalid(why)));
    }
    let replicas = checked.value.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    check_scale(config, i32::try_from(replicas).unwrap_or(-1), key)
}

/// Checks a Scale by itself.
fn check_scale(wanted: &Value, replicas: i32, key: &Key) -> Result<(), Failure> {
    let name = wanted.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if !name.is_empty() && *name != *key.name {
        return Err(super::write::wrong_name(name, &key.name));
    }
    if replicas >= 0 {
        return Ok(());
    }
    let mut errors = FieldErrors::new();
    errors.invalid(&Path::new("spec").child("replicas"), replicas, "must be greater than or equal to 0");
    Failure::invalid(&SCALE, &key.name, errors).map_or(Ok(()), Err)
}

impl Engine {
    /// Sets the replicas. `new_scale` makes the wanted Scale, as JSON, from the present one.
    ///
    /// # Errors
    /// As an update, and `BadRequest` when the Scale is malformed.
    pub async fn update_scale(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        dry_run: bool,
        new_scale: impl Fn(&Value) -> Result<Value, Failure>,
    ) -> Result<Written, Failure> {
        let change = |old: &Object| {
            let present = serde_json::to_value(scale_of(old)?).map_err(Failure::internal)?;
            let wanted = new_scale(&present)?;
            check_precondition(old, &precondition_of(&wanted)?)?;
            let replicas = wanted.pointer("/spec/replicas").map_or(Some(0), Value::as_i64);
            let replicas = replicas
                .and_then(|n| i32::try_from(n).ok())
                .ok_or_else(|| Failure::bad_request("Scale: spec.replicas: must be a 32-bit integer"))?;
            check_scale(&wanted, replicas, key)?;
            let mut object =
                old.decode().ok_or_else(|| Failure::internal("stored object does not decode"))?;
            object.set_replicas(replicas);
            Ok(object.to_value().into())
        };
        self.change(who, kind, key, TARGET, &Precondition::default(), dry_run, change).await
    }

    /// Changes the replicas by a patch of the Scale.
    ///
    /// # Errors
    /// As [`Self::update_scale`], and when the patch does not apply.
    pub(crate) async fn patch_scale(
        &self,
        who: &Authorized,
        kind: KindRef,
        key: &Key,
        patch: &Patch,
        validation: FieldValidation,
        dry_run: bool,
    ) -> Result<Written, Failure> {
        let judge = Judge::new(patch, validation);
        let change =
            |present: &Value| judge.judge(patch::apply_to(patch.kind, SCALE.message, present, &patch.body)?);
        let mut written = self.update_scale(who, kind, key, dry_run, change).await?;
        written.warnings.extend(judge.told());
        Ok(written)
    }
}
