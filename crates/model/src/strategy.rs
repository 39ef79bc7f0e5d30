//! From a request to a version of an object: the fixed order in which every kind is handled.
//!
//! create: check metadata → drop what clients may not set → defaults → the kind's own preparation.
//! update: keep what the part of the URL does not cover → defaults → the kind's own preparation →
//! generation. delete: remove, mark, or nothing left to do. Validation comes after admission, which
//! may change the object in between.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Map, Value};

use crate::field::FieldErrors;
use crate::kind::{AnyObject, KindRef, Subresource};
use crate::meta;
use crate::object::Object;
use crate::status::Failure;

/// Holds an object until its dependents are gone.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
/// Holds an object until its dependents have lost their reference to it.
pub const ORPHAN_FINALIZER: &str = "orphan";

/// What a proposer stamps into a new object.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Now, in whole seconds.
    pub now: Timestamp,
    /// A fresh UID.
    pub uid: String,
}

/// Which part of an object an update covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All but the status.
    Main,
    /// The status alone.
    Status,
    /// Everything at once: what nodes and controllers of this release write when one write has to do.
    Whole,
    /// What the kind says that this part of it covers.
    Sub(Subresource),
}

/// A new object from a client's body. `value` names no namespace, or that of the URL.
///
/// # Errors
/// `BadRequest` when the body contradicts the URL or sets what only the server may.
pub fn prepare_create(
    kind: KindRef,
    namespace: &str,
    mut value: Value,
    stamp: &Stamp,
) -> Result<Box<dyn AnyObject>, Failure> {
    let descriptor = kind.descriptor();
    if descriptor.has(Subresource::Status)
        && !descriptor.keeps_status
        && let Some(map) = value.as_object_mut()
    {
        map.remove("status");
    }
    let mut object = kind.decode(value)?;
    place(object.meta_mut(), namespace, descriptor.is_namespaced(), |_| {
        "the namespace of the provided object does not match the namespace sent on the request".to_owned()
    })?;
    let meta = object.meta_mut();
    if meta.resource_version.as_deref().is_some_and(|v| !v.is_empty()) {
        return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
    }
    meta.resource_version = None;
    meta.self_link = None;
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.creation_timestamp = Some(Time(stamp.now));
    meta.uid = Some(stamp.uid.clone());
    if descriptor.has_generation {
        meta.generation = Some(1);
    }
    object.prepare_create();
    object.set_defaults();
    Ok(object)
}

/// A new version of `old` from a client's body (an update, or the result of a patch). It says nothing of
/// managedFields.
///
/// # Errors
/// `BadRequest` when the body contradicts the URL.
pub fn prepare_update(old: &Object, mut value: Value, part: Part) -> Result<Box<dyn AnyObject>, Failure> {
    let kind = old.kind();
    let old_value = old.bare_value();
    keep_other_parts(&mut value, &old_value, part, kind.descriptor().has(Subresource::Status));
    let mut object = kind.decode(value)?;
    let old_typed = kind.decode(old_value)?;
    let namespace = &old.key().namespace;
    place(object.meta_mut(), namespace, kind.descriptor().is_namespaced(), |given| {
        format!(
            "the namespace of the object ({given}) does not match the namespace on the request ({namespace})"
        )
    })?;
    keep_system_metadata(object.meta_mut(), old.meta(), part);
    match part {
        Part::Main => object.prepare_update(old_typed.as_ref()),
        Part::Status => object.prepare_part(old_typed.as_ref(), Subresource::Status),
        Part::Sub(subresource) => object.prepare_part(old_typed.as_ref(), subresource),
        Part::Whole => {}
    }
    object.set_defaults();
    if kind.descriptor().has_generation && differs_in_spec(object.as_ref(), old_typed.as_ref()) {
        object.meta_mut().generation = Some(old.meta().generation.unwrap_or(0) + 1);
    }
    Ok(object)
}

/// Checks an object that is about to be created, as `kind` has it: the kind that it is stored as, or a
/// face of that.
///
/// # Errors
/// `Invalid`, with every field that is wrong.
pub fn validate_create(kind: KindRef, object: &dyn AnyObject) -> Result<(), Failure> {
    let mut errors = FieldErrors::new();
    meta::validate(object.meta(), kind.descriptor(), &mut errors);
    let shown = shown(kind, object)?;
    let object = shown.as_deref().unwrap_or(object);
    object.validate(&mut errors);
    object.validate_create(&mut errors);
    refuse(kind, object, errors)
}

/// A stored object as a face of its kind has it; `None` where `kind` is no face.
fn shown(kind: KindRef, object: &dyn AnyObject) -> Result<Option<Box<dyn AnyObject>>, Failure> {
    match kind.face() {
        Some(_) => kind.decode(kind.from_stored(object.to_value())).map(Some),
        None => Ok(None),
    }
}

/// Checks a new version of a part of an object against the old one, as `kind` has them.
///
/// # Errors
/// `Invalid`, with every field that is wrong.
pub fn validate_update(
    kind: KindRef,
    object: &dyn AnyObject,
    old: &Object,
    part: Part,
) -> Result<(), Failure> {
    let mut errors = FieldErrors::new();
    meta::validate(object.meta(), kind.descriptor(), &mut errors);
    meta::validate_update(object.meta(), old.meta(), &mut errors);
    // Kubernetes looks at the metadata of an update for every kind and again with the kind itself; the
    // causes show both.
    let found = errors.clone();
    let shown_new = shown(kind, object)?;
    let object = shown_new.as_deref().unwrap_or(object);
    object.validate(&mut errors);
    if let Some(old) = old.decode() {
        let shown_old = shown(kind, old.as_ref())?;
        let old = shown_old.as_deref().unwrap_or(old.as_ref());
        if matches!(part, Part::Status | Part::Whole) {
            object.validate_status(old, &mut errors);
        }
        match part {
            Part::Sub(subresource) => object.validate_part(old, subresource, &mut errors),
            _ => object.validate_update(old, &mut errors),
        }
    }
    errors.extend(found);
    refuse(kind, object, errors)
}

fn refuse(kind: KindRef, object: &dyn AnyObject, errors: FieldErrors) -> Result<(), Failure> {
    let name = object.meta().name.as_deref().unwrap_or_default();
    Failure::invalid(kind.descriptor(), name, errors).map_or(Ok(()), Err)
}

/// What dependents become when an object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They go after it.
    #[default]
    Background,
    /// They go before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// What a client asked for when it deleted.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds between now and the end; `None`: the object's own.
    pub grace_period_seconds: Option<i64>,
    /// What dependents become; `None`: the kind's default, background.
    pub propagation: Option<Propagation>,
}

/// What a deletion does to an object.
pub enum Deletion {
    /// It goes now.
    Remove,
    /// It stays, marked; the value is its new version.
    Mark(Box<dyn AnyObject>),
    /// It is marked already and nothing changes.
    Unchanged,
}

/// Decides what a deletion does.
///
/// # Errors
/// `BadRequest` when the object does not decode.
pub fn prepare_delete(old: &Object, options: &DeleteOptions, now: Timestamp) -> Result<Deletion, Failure> {
    let mut object = old.kind().decode(old.bare_value())?;
    let before = object.meta().clone();
    apply_propagation(object.meta_mut(), options.propagation);
    let grace = grace_period(old, object.as_ref(), options);
    let itself = object.holds_deletion();
    let held = itself || object.meta().finalizers.as_ref().is_some_and(|f| !f.is_empty());
    if grace == 0 && !held {
        return Ok(Deletion::Remove);
    }
    let counts = old.kind().descriptor().has_generation;
    let meta = object.meta_mut();
    match before.deletion_grace_period_seconds.filter(|_| before.deletion_timestamp.is_some()) {
        // A second deletion may only shorten the wait.
        Some(already) if grace >= already => {}
        // What holds its own deletion has no time to wait for.
        None if itself && before.deletion_timestamp.is_some() => {}
        previous => {
            let end = now.saturating_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
            meta.deletion_timestamp = Some(Time(end));
            meta.deletion_grace_period_seconds = Some(grace).filter(|_| !itself);
            if counts && previous.is_none() {
                meta.generation = Some(before.generation.unwrap_or(0) + 1);
            }
            object.mark_deleting();
        }
    }
    if *object.meta() == before { Ok(Deletion::Unchanged) } else { Ok(Deletion::Mark(object)) }
}

/// Whether a new version of an object that is being deleted has nothing left to wait for.
pub fn is_finished(object: &dyn AnyObject) -> bool {
    let meta = object.meta();
    meta.deletion_timestamp.is_some()
        && meta.finalizers.as_ref().is_none_or(Vec::is_empty)
        && !object.holds_deletion()
        && (!object.kind().descriptor().graceful || meta.deletion_grace_period_seconds.unwrap_or(0) == 0)
}

fn apply_propagation(meta: &mut ObjectMeta, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND_FINALIZER),
        Propagation::Orphan => Some(ORPHAN_FINALIZER),
    };
    let mut finalizers = meta.finalizers.take().unwrap_or_default();
    finalizers.retain(|f| Some(f.as_str()) == wanted || (f != FOREGROUND_FINALIZER && f != ORPHAN_FINALIZER));
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|f| f == wanted)
    {
        finalizers.push(wanted.to_owned());
    }
    meta.finalizers = (!finalizers.is_empty()).then_some(finalizers);
}

/// Seconds until the end. Pods wait for their node to stop them; one that no node has goes at once.
fn grace_period(old: &Object, object: &dyn AnyObject, options: &DeleteOptions) -> i64 {
    if !old.kind().descriptor().graceful {
        return 0;
    }
    let phase = object.field("status.phase");
    if object.field("spec.nodeName").is_empty() || phase == "Succeeded" || phase == "Failed" {
        return 0;
    }
    let own = || {
        old.bare_value().pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30)
    };
    let seconds = options.grace_period_seconds.unwrap_or_else(own);
    // As short as can be, but not by force.
    if seconds < 0 { 1 } else { seconds }
}

/// Puts an object into the namespace of the URL; `refusal` says what is wrong with another.
fn place(
    meta: &mut ObjectMeta,
    namespace: &str,
    namespaced: bool,
    refusal: impl Fn(&str) -> String,
) -> Result<(), Failure> {
    let given = meta.namespace.as_deref().unwrap_or_default();
    if !namespaced {
        meta.namespace = None;
    } else if given.is_empty() {
        meta.namespace = Some(namespace.to_owned());
    } else if given != namespace {
        return Err(Failure::bad_request(refusal(given)));
    }
    Ok(())
}

fn keep_other_parts(value: &mut Value, old: &Value, part: Part, has_status: bool) {
    let Some(map) = value.as_object_mut() else { return };
    match part {
        Part::Whole | Part::Sub(_) => {}
        Part::Main if !has_status => {}
        Part::Main => match old.get("status") {
            Some(status) => {
                map.insert("status".to_owned(), status.clone());
            }
            None => {
                map.remove("status");
            }
        },
        Part::Status => {
            let status = map.remove("status");
            let sent = map.remove("metadata").unwrap_or_default();
            *value = old.clone();
            if let Some(map) = value.as_object_mut() {
                if let Some(meta) = map.get_mut("metadata").and_then(Value::as_object_mut) {
                    take_metadata(meta, &sent);
                }
                match status {
                    Some(status) => map.insert("status".to_owned(), status),
                    None => map.remove("status"),
                };
            }
        }
    }
}

/// Names and versions are still checked; whoever reports a status may also label the object, hold it and
/// give it owners, unless its kind says otherwise.
fn take_metadata(meta: &mut Map<String, Value>, sent: &Value) {
    let sent = |field: &str| sent.get(field).filter(|value| !value.is_null()).cloned();
    for field in ["name", "namespace", "uid"] {
        if let Some(text) = sent(field) {
            meta.insert(field.to_owned(), text);
        }
    }
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        meta.remove(field);
        meta.extend(sent(field).map(|value| (field.to_owned(), value)));
    }
}

/// Clients may leave out, and may not change, what the server keeps about an object.
fn keep_system_metadata(meta: &mut ObjectMeta, old: &ObjectMeta, part: Part) {
    if meta.uid.as_deref().is_none_or(str::is_empty) {
        meta.uid.clone_from(&old.uid);
    }
    if meta.name.as_deref().is_none_or(str::is_empty) {
        meta.name.clone_from(&old.name);
    }
    meta.resource_version = None;
    meta.self_link = None;
    meta.creation_timestamp.clone_from(&old.creation_timestamp);
    meta.generation = old.generation;
    // Nobody but a deletion decides that something ends, and when: validation refuses a client who says otherwise.
    // The cluster's own parts only write what they have read.
    if part == Part::Whole || old.deletion_timestamp.is_some() || meta.deletion_timestamp.is_none() {
        meta.deletion_timestamp.clone_from(&old.deletion_timestamp);
    }
    if part == Part::Whole || meta.deletion_grace_period_seconds.is_none() {
        meta.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    }
}

fn differs_in_spec(new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
    let spec = |object: &dyn AnyObject| {
        let mut value = object.to_value();
        if let Some(map) = value.as_object_mut() {
            map.remove("metadata");
            map.remove("status");
        }
        value
    };
    spec(new) != spec(old)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::api::flowcontrol::v1::FlowSchema;
    use serde_json::json;

    use super::*;
    use crate::Revision;
    use crate::kind::kind_of;

    #[test]
    fn whoever_writes_a_status_writes_metadata() {
        let meta = |more: Value| {
            let mut meta = json!({"name": "x", "namespace": "n", "uid": "u", "generateName": "g-"});
            meta.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"metadata": meta, "spec": {}})
        };
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "o"}]);
        let sent = json!({"labels": {"a": "b"}, "finalizers": ["a.test/f"], "ownerReferences": owner});
        let written = |kind: KindRef, old: Value| {
            let bytes = Object::canonical(kind, &meta(old));
            let old = Object::seal(kind, &bytes, Revision(1)).unwrap();
            let new = prepare_update(&old, meta(sent.clone()), Part::Status).unwrap();
            let new = new.to_value()["metadata"].clone();
            ["labels", "finalizers", "ownerReferences", "annotations"].map(|f| !new[f].is_null())
        };
        let before = json!({"annotations": {"c": "d"}});
        assert_eq!(written(kind_of::<ReplicaSet>(), before.clone()), [true, true, true, false]);
        assert_eq!(written(kind_of::<Deployment>(), before.clone()), [false, true, true, false]);
        assert_eq!(written(kind_of::<Pod>(), before.clone()), [true, true, false, false]);
        assert_eq!(written(kind_of::<FlowSchema>(), before), [false, false, false, true]);
    }

    #[test]
    fn statuses_are_judged_when_they_are_written() {
        let kind = kind_of::<ReplicaSet>();
        let value = |labels: Value, ready: i32| {
            json!({"metadata": {"name": "r", "namespace": "n", "uid": "u", "resourceVersion": "1",
                    "creationTimestamp": "2026-11-28T00:00:00Z", "labels": labels},
                "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
                    "spec": {"containers": [{"name": "m", "image": "i:1"}]}}},
                "status": {"replicas": 1, "readyReplicas": ready}})
        };
        // An old release wrote what cannot be.
        let mut before = kind.decode(value(json!({}), 7)).unwrap();
        before.set_defaults();
        let before = Object::canonical(kind, &before.to_value());
        let old = Object::seal(kind, &before, Revision(1)).unwrap();
        let judged = |labels: Value, ready: i32, part: Part| {
            let new = prepare_update(&old, value(labels, ready), part).unwrap();
            validate_update(kind, new.as_ref(), &old, part)
        };
        judged(json!({"new": "label"}), 7, Part::Main).unwrap();
        for part in [Part::Status, Part::Whole] {
            let refused = judged(json!({}), 8, part).unwrap_err();
            assert_eq!(refused.causes[0].field, "status.readyReplicas", "{part:?}");
            judged(json!({}), 1, part).unwrap();
        }
    }
}
