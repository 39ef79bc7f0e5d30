//! Ownership after a write that is no apply: what it changed is the writer's, and nobody else's.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::compare::{Comparison, compare};
use super::element::Element;
use super::managed::{Entry, Managed, Operation, Said};
use super::set::Set;
use super::shape::Shape;
use super::{Writer, walk};
use crate::kind::KindRef;
use crate::kinds;

/// So many entries of updates are kept; older ones are merged.
const MAX_UPDATERS: usize = 10;
/// The manager of what was merged.
const ANCIENT: &str = "ancient-changes";

/// What the server itself keeps about objects, or what says only which object it is.
static NOBODYS: LazyLock<Set> = LazyLock::new(|| {
    let metadata = || Element::field("metadata");
    let mut set = Set::new();
    for top in ["apiVersion", "kind", "metadata"] {
        set.insert(&[Element::field(top)]);
    }
    for name in [
        "clusterName",
        "creationTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    ] {
        set.insert(&[metadata(), Element::field(name)]);
    }
    set
});

/// What of a set somebody can own.
pub(super) fn ownable(set: &Set) -> Set {
    set.difference(&NOBODYS)
}

/// The text of `managedFields` after an object became `new`. `live` is what it was (`None`: it is being
/// created) and `stored` the text it had; neither value has `managedFields` in it.
pub fn update(live: Option<&Value>, new: &Value, stored: &str, said: Said, writer: &Writer<'_>) -> String {
    // Only a write of the object itself can say who owns what.
    let said = if writer.subresource().is_empty() { said } else { Said::Nothing };
    let base = match &said {
        Said::Nothing => stored,
        Said::Reset | Said::Managed(_) => "",
    };
    let is_update = live.is_some();
    if is_update && base.is_empty() && !matches!(said, Said::Managed(_)) {
        // Nobody kept books so far; the first apply begins to.
        return String::new();
    }
    let shape = Shape::of_kind(writer.kind.descriptor().message);
    let empty = Value::Object(Map::new());
    let changes = compare(live.unwrap_or(&empty), new, &shape).retained(|top| writer.covers(top));
    if changes.is_same() {
        return match said {
            Said::Managed(mut managed) => managed.write(),
            _ => base.to_owned(),
        };
    }
    let mut managed = match said {
        Said::Managed(managed) => managed,
        _ => Managed::stored(base),
    };
    let others = Others::of(live.unwrap_or(&empty), new, &managed, writer);
    disown(&mut managed, &changes, &others);
    take(&mut managed, ownable(&changes.taken()), writer);
    cap(&mut managed);
    managed.write()
}

/// The same changes as the other versions of the kind name them in which somebody owns fields.
#[derive(Default)]
pub(super) struct Others(Vec<(String, Comparison)>);

impl Others {
    pub(super) fn of(live: &Value, new: &Value, managed: &Managed, writer: &Writer<'_>) -> Self {
        let own = writer.api_version();
        let mut others: Vec<(String, Comparison)> = Vec::new();
        for version in managed.entries.iter().map(|entry| &entry.api_version) {
            if *version == own || others.iter().any(|(known, _)| known == version) {
                continue;
            }
            // What is no version of the kind names fields as this one does.
            let Some(kind) = kinds::sibling(writer.kind, version) else { continue };
            let [live, new] = [live, new].map(|value| translated(value, writer.kind, kind));
            let changes = compare(&live, &new, &Shape::of_kind(kind.descriptor().message));
            others.push((version.clone(), changes.retained(|top| writer.covers(top))));
        }
        Self(others)
    }

    /// The changes as `version` names them; `own` are those in the writer's version.
    pub(super) fn or<'a>(&'a self, own: &'a Comparison, version: &str) -> &'a Comparison {
        self.0.iter().find(|(other, _)| other == version).map_or(own, |(_, changes)| changes)
    }
}

/// An object in another version of its kind.
pub(super) fn translated(value: &Value, from: KindRef, to: KindRef) -> Value {
    to.from_stored(from.to_stored(value.clone()))
}

/// Takes what changed away from its owners.
pub(super) fn disown(managed: &mut Managed, own: &Comparison, others: &Others) {
    if managed.is_empty() {
        return;
    }
    let gone_of = |changes: &Comparison| {
        let gone = changes.taken().union(&changes.removed);
        let tops: Vec<String> = gone.nodes().iter().map(|node| top_text(&node.element)).collect();
        (gone, tops)
    };
    let mine = gone_of(own);
    managed.entries.retain_mut(|entry| {
        let other;
        let (gone, tops) = match others.or(own, &entry.api_version) {
            same if std::ptr::eq(same, own) => &mine,
            changes => {
                other = gone_of(changes);
                &other
            }
        };
        if !entry.may_own_below(tops) {
            return true;
        }
        let left = entry.set().difference(gone);
        if left != *entry.set() {
            entry.own(left);
        }
        !entry.set().is_empty()
    });
}

/// How a first step stands in FieldsV1.
fn top_text(element: &Element) -> String {
    let mut text = String::from("\"");
    element.write_escaped(&mut text);
    text.push('"');
    text
}

/// Gives the writer what it changed.
fn take(managed: &mut Managed, taken: Set, writer: &Writer<'_>) {
    let is_status = |top: &str| top == "status";
    let parts = match writer.part {
        // One write of what others write in two.
        crate::strategy::Part::Whole if writer.subresource.is_empty() => vec![
            ("", taken.clone().retained(|top| !is_status(top) || !writer.has_status())),
            ("status", taken.retained(|top| is_status(top) && writer.has_status())),
        ],
        _ => vec![(writer.subresource(), taken)],
    };
    for (subresource, set) in parts.into_iter().filter(|(_, set)| !set.is_empty()) {
        let mut entry = Entry::new(writer.name(), Operation::Update, &writer.api_version(), subresource, set);
        entry.time = writer.now.to_string();
        match managed.entries.iter_mut().find(|other| other.is_of(&entry)) {
            Some(before) => {
                before.own(entry.set().union(&before.set()));
                before.time = entry.time;
            }
            None => managed.entries.push(entry),
        }
    }
}

/// Merges the oldest updaters until there are few enough, those of each version by themselves.
fn cap(managed: &mut Managed) {
    let is_update = |entry: &Entry| entry.operation == Operation::Update;
    let mut many = managed.entries.iter().filter(|entry| is_update(entry)).count();
    if many <= MAX_UPDATERS {
        return;
    }
    let (mut updaters, mut kept): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(&mut managed.entries).into_iter().partition(is_update);
    updaters.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    let mut buckets: Vec<Entry> = Vec::new();
    for entry in updaters {
        let bucket = buckets.iter_mut().find(|bucket| bucket.api_version == entry.api_version);
        match bucket {
            _ if many <= MAX_UPDATERS => kept.push(entry),
            None => buckets.push(entry),
            Some(bucket) => {
                bucket.own(bucket.set().union(&entry.set()));
                bucket.manager = ANCIENT.to_owned();
                bucket.subresource.clear();
                bucket.time = entry.time;
                many -= 1;
            }
        }
    }
    kept.append(&mut buckets);
    managed.entries = kept;
}

/// The text for an object that exists, and of which nobody kept books: all of it is owned by whoever was
/// before the first apply.
pub(super) fn before_first_apply(live: &Value, writer: &Writer<'_>) -> Managed {
    let everybody = Writer { manager: "before-first-apply", ..*writer };
    Managed::stored(&update(None, live, "", Said::Nothing, &everybody))
}

/// A value without what `last` has and none of `owned`: see [`super::apply()`].
pub(super) fn prune(merged: &Value, last: &Set, owned: &Set, shape: &Shape) -> Value {
    let named = |set: &Set| walk::with_named_fields(set, shape);
    let last = named(last);
    let whole = named(&walk::to_set(merged, shape));
    let pruned = walk::without(merged, &last, shape);
    // What others own, or the new configuration, comes back …
    let kept = named(&walk::to_set(&pruned, shape)).union(&named(owned));
    let pruned = walk::without(merged, &whole.difference(&kept), shape);
    // … and what was never the applier's.
    let left = named(&walk::to_set(&pruned, shape));
    walk::without(merged, &whole.difference(&left).intersection(&last), shape)
}
