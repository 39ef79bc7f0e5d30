//! Server-side apply: a configuration is merged into an object, and its applier owns just what it names.

use serde_json::{Map, Value};

use super::compare::{Comparison, compare};
use super::element::Element;
use super::managed::{Entry, Managed, Operation};
use super::merge::merge;
use super::set::Set;
use super::shape::Shape;
use super::update::{Others, before_first_apply, disown, ownable, prune, translated};
use super::{Writer, shown, walk};
use crate::kinds;

/// The manager that takes over what the client-side apply of kubectl wrote.
const KUBECTL: &str = "kubectl";
/// Where that wrote it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object after an apply.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The object, without `managedFields`. Values stand as the configuration has them.
    pub value: Value,
    /// The text of its `managedFields`.
    pub managed: String,
}

/// A field that the configuration wants otherwise than its owner.
#[derive(Clone, Debug)]
pub struct Conflict {
    owner: Entry,
    path: Vec<Element>,
}

impl Conflict {
    /// The owner as messages name it.
    pub fn owner(&self) -> String {
        let Entry { manager, operation, api_version, subresource, .. } = &self.owner;
        let mut text = Value::from(manager.as_str()).to_string();
        if !subresource.is_empty() {
            text.push_str(&format!(" with subresource \"{subresource}\""));
        }
        if *operation == Operation::Update {
            text.push_str(&format!(" using {api_version}"));
        }
        text
    }

    /// The field, `.spec.replicas`.
    pub fn field(&self) -> String {
        shown(&self.path)
    }
}

/// Why a configuration was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields that it wants otherwise.
    #[error("{}", told(.0))]
    Conflicts(Vec<Conflict>),
    /// It is not what the schema says.
    #[error("{0}")]
    Invalid(String),
}

/// Conflicts in Kubernetes' words.
fn told(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.owner(), only.field());
    }
    let mut lines = Vec::new();
    for of_one in conflicts.chunk_by(|a, b| a.owner.is_of(&b.owner)) {
        lines.extend(of_one.first().map(|first| format!("conflicts with {}:", first.owner())));
        lines.extend(of_one.iter().map(|conflict| format!("- {}", conflict.field())));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Applies a configuration to an object. `live` is the object (`None`: it is being created) and `stored`
/// the text of its `managedFields`; `force` takes fields that others own.
///
/// # Errors
/// Conflicts, and a configuration that is no object of the kind.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    stored: &str,
    force: bool,
    writer: &Writer<'_>,
) -> Result<Applied, ApplyError> {
    let shape = Shape::of_kind(writer.kind.descriptor().message);
    walk::validate(config, &shape).map_err(ApplyError::Invalid)?;
    let mut managed = Managed::stored(stored);
    if let Some(live) = live.filter(|_| managed.is_empty()) {
        managed = before_first_apply(live, writer);
    }
    for entry in &mut managed.entries {
        let other = kinds::sibling(writer.kind, &entry.api_version).filter(|kind| *kind != writer.kind);
        let other = other.map(|kind| Shape::of_kind(kind.descriptor().message));
        let set = walk::reconciled(&entry.set(), other.as_ref().unwrap_or(&shape));
        entry.own(set);
    }
    let empty = Value::Object(Map::new());
    let live = live.unwrap_or(&empty);
    let merged = merge(live, config, &shape).map_err(ApplyError::Invalid)?;
    let set = walk::to_set(config, &shape).retained(|top| writer.covers(top));
    let mut mine =
        Entry::new(writer.name(), Operation::Apply, &writer.api_version(), writer.subresource(), set);
    let last = take_entry(&mut managed, &mine);
    let value = match &last {
        Some(last) => pruned(merged, config, &mine, last, &managed, writer),
        None => merged,
    };
    let value = if value.is_null() { empty.clone() } else { value };
    let changes = compare(live, &value, &shape).retained(|top| writer.covers(top));
    let others = Others::of(live, &value, &managed, writer);
    if !force {
        refuse_conflicts(&managed, (&changes, &others), live, &shape, writer)?;
    }
    disown(&mut managed, &changes, &others);
    mine.own(ownable(&mine.set()));
    let same = |last: &Entry| last.api_version == mine.api_version && *last.set() == *mine.set();
    let unchanged = last.as_ref().is_some_and(same) && changes.is_same();
    mine.time = match last {
        Some(last) if unchanged => last.time,
        _ => writer.now.to_string(),
    };
    managed.entries.push(mine);
    let value = if writer.manager == KUBECTL { with_last_applied(value, config) } else { value };
    Ok(Applied { value, managed: managed.write() })
}

/// What was merged, without what its applier named before (in whichever version) and nobody names any more.
fn pruned(
    merged: Value,
    config: &Value,
    mine: &Entry,
    last: &Entry,
    managed: &Managed,
    writer: &Writer<'_>,
) -> Value {
    let kind = kinds::sibling(writer.kind, &last.api_version).unwrap_or(writer.kind);
    let shape = Shape::of_kind(kind.descriptor().message);
    let mine = if kind == writer.kind {
        mine.set().into_owned()
    } else {
        let config = translated(config, writer.kind, kind);
        walk::to_set(&config, &shape).retained(|top| writer.covers(top))
    };
    if last.set().difference(&mine).is_empty() {
        return merged;
    }
    let of_version = managed
        .entries
        .iter()
        .filter(|entry| kinds::sibling(writer.kind, &entry.api_version).unwrap_or(writer.kind) == kind);
    let owned = of_version.fold(mine, |all, entry| all.union(&entry.set()));
    if kind == writer.kind {
        return prune(&merged, &last.set(), &owned, &shape);
    }
    let merged = translated(&merged, writer.kind, kind);
    translated(&prune(&merged, &last.set(), &owned, &shape), kind, writer.kind)
}

/// Takes out what the same applier had before.
fn take_entry(managed: &mut Managed, mine: &Entry) -> Option<Entry> {
    let at = managed.entries.iter().position(|entry| entry.is_of(mine))?;
    Some(managed.entries.swap_remove(at))
}

fn refuse_conflicts(
    managed: &Managed,
    (changes, others): (&Comparison, &Others),
    live: &Value,
    shape: &Shape,
    writer: &Writer<'_>,
) -> Result<(), ApplyError> {
    let taken = changes.taken();
    let mut owners: Vec<&Entry> = managed.entries.iter().collect();
    owners.sort_by_key(|e| (&e.manager, e.operation, &e.api_version, &e.subresource));
    let mut conflicts = Vec::new();
    for owner in owners {
        let version = others.or(changes, &owner.api_version);
        let foreign = (!std::ptr::eq(version, changes)).then(|| version.taken());
        for path in owner.set().intersection(foreign.as_ref().unwrap_or(&taken)).paths() {
            conflicts.push(Conflict { owner: owner.clone(), path });
        }
    }
    if !conflicts.is_empty() && writer.manager == KUBECTL {
        let allowed = last_applied(live, shape, writer).unwrap_or_default();
        conflicts.retain(|conflict| !allowed.has(&conflict.path));
    }
    if conflicts.is_empty() { Ok(()) } else { Err(ApplyError::Conflicts(conflicts)) }
}

/// What the client-side apply of kubectl wrote and nobody changed since: a server-side apply of kubectl
/// takes that over without being asked twice.
fn last_applied(live: &Value, shape: &Shape, writer: &Writer<'_>) -> Option<Set> {
    let text = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last.get("apiVersion")?.as_str()? != writer.api_version() || walk::validate(&last, shape).is_err() {
        return None;
    }
    let changes = compare(&last, live, shape);
    let gone = changes.taken().union(&changes.removed);
    Some(walk::to_set(&last, shape).difference(&gone))
}

fn annotations(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()
}

/// Keeps the annotation of the client-side apply true, where there is one.
fn with_last_applied(mut value: Value, config: &Value) -> Value {
    let mut shown = config.clone();
    if let Some(annotations) = annotations(&mut shown) {
        annotations.shift_remove(LAST_APPLIED);
    }
    if let Some(annotations) = annotations(&mut value)
        && let Some(last) = annotations.get_mut(LAST_APPLIED)
        && last.as_str().is_some_and(|text| !text.is_empty())
    {
        *last = format!("{shown}\n").into();
    }
    value
}
