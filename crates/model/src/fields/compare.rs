//! What changed between two versions of an object, path by path.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::element::Element;
use super::set::{Node, Set};
use super::shape::{Form, Shape};

/// What changed. No path is in more than one of the sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Is only in the new version.
    pub added: Set,
    /// Is in both, with different values.
    pub modified: Set,
    /// Is only in the old version.
    pub removed: Set,
}

impl Comparison {
    /// Whether nothing changed.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// What the new version has of its own.
    pub(super) fn taken(&self) -> Cow<'_, Set> {
        match (self.added.is_empty(), self.modified.is_empty()) {
            (true, _) => Cow::Borrowed(&self.modified),
            (_, true) => Cow::Borrowed(&self.added),
            _ => Cow::Owned(self.modified.union(&self.added)),
        }
    }

    /// The part of it whose first step `keep` wants.
    #[must_use]
    pub(super) fn retained(self, keep: impl Fn(&str) -> bool) -> Self {
        Self {
            added: self.added.retained(&keep),
            modified: self.modified.retained(&keep),
            removed: self.removed.retained(&keep),
        }
    }
}

/// Compares two versions.
pub(super) fn compare(old: &Value, new: &Value, shape: &Shape) -> Comparison {
    let mut changes = Changes::default();
    walk(Some(old), Some(new), shape, &mut changes);
    let Changes { added, modified, removed } = changes;
    Comparison { added: added.below(), modified: modified.below(), removed: removed.below() }
}

/// What changed at one path and below it.
#[derive(Default)]
struct Changes {
    added: Mark,
    modified: Mark,
    removed: Mark,
}

/// What a set will say of one path.
#[derive(Default)]
struct Mark {
    member: bool,
    nodes: Vec<Node>,
}

impl Mark {
    fn below(self) -> Set {
        Set::of_nodes(self.nodes)
    }

    fn take(&mut self, element: &Element, mark: Self) {
        if mark.member || !mark.nodes.is_empty() {
            self.nodes.push(Node { element: element.clone(), member: mark.member, below: mark.below() });
        }
    }
}

impl Changes {
    fn take(&mut self, element: &Element, below: Self) {
        self.added.take(element, below.added);
        self.modified.take(element, below.modified);
        self.removed.take(element, below.removed);
    }
}

fn walk(old: Option<&Value>, new: Option<&Value>, shape: &Shape, changes: &mut Changes) {
    if old.is_some() && old == new {
        return;
    }
    if is_leaf(old, new, shape) {
        match (old, new) {
            (None, _) => changes.added.member = true,
            (_, None) => changes.removed.member = true,
            _ => changes.modified.member = true,
        }
        return;
    }
    match (old, new) {
        (Some(Value::Array(_)), _) | (_, Some(Value::Array(_))) => items(old, new, shape, changes),
        _ => fields(old, new, shape, changes),
    }
    if old.is_none() {
        changes.added.member = true;
    } else if new.is_none() {
        changes.removed.member = true;
    }
}

/// Whether a pair of values is compared as a whole. Of what is empty on both sides nothing but whether it
/// is there could have changed.
fn is_leaf(old: Option<&Value>, new: Option<&Value>, shape: &Shape) -> bool {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    let sides = || [old, new].into_iter().flatten();
    if sides().all(empty) {
        return true;
    }
    sides().any(|value| !value.is_null() && shape.is_leaf(value))
}

fn fields(old: Option<&Value>, new: Option<&Value>, shape: &Shape, changes: &mut Changes) {
    let empty = Map::new();
    let [no_fields, no_items] = [Value::Object(Map::new()), Value::Array(Vec::new())];
    let old_map = old.and_then(Value::as_object).unwrap_or(&empty);
    let new_map = new.and_then(Value::as_object).unwrap_or(&empty);
    let mut field = |name: &str, before: Option<&Value>, after: Option<&Value>| {
        let below = shape.field(name).unwrap_or_else(|| shape.item());
        // A structure or list that is always written was there, only with nothing in it.
        let written = |there: Option<&Value>, other: Option<&Value>| match other {
            _ if there.is_none() || !shape.always_has(name) || below.atomic => None,
            Some(Value::Object(_)) => Some(&no_fields),
            Some(Value::Array(_)) => Some(&no_items),
            _ => None,
        };
        let old_value = before.or_else(|| written(old, after));
        let new_value = after.or_else(|| written(new, before));
        if old_value == new_value {
            return;
        }
        let mut inner = Changes::default();
        walk(old_value, new_value, &below, &mut inner);
        changes.take(&Element::field(name), inner);
    };
    for (name, before) in old_map {
        field(name, Some(before), new_map.get(name));
    }
    for (name, after) in new_map.iter().filter(|(name, _)| !old_map.contains_key(*name)) {
        field(name, None, Some(after));
    }
}

/// The items of a list by what tells them apart; of one that stands twice all.
fn indexed<'v>(list: Option<&'v Value>, shape: &Shape) -> Vec<(Element, Vec<&'v Value>)> {
    let mut found: Vec<(Element, Vec<&Value>)> = Vec::new();
    for item in list.and_then(Value::as_array).into_iter().flatten() {
        let Ok(element) = shape.element(item) else { continue };
        found.push((element, vec![item]));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found.dedup_by(|again, first| {
        let same = again.0 == first.0;
        if same {
            first.1.append(&mut again.1);
        }
        same
    });
    found
}

fn items(old: Option<&Value>, new: Option<&Value>, shape: &Shape, changes: &mut Changes) {
    let below = if matches!(shape.form, Form::List(..)) { shape.item() } else { *shape };
    let (before, after) = (indexed(old, shape), indexed(new, shape));
    let find = |list: &[(Element, Vec<&Value>)], element: &Element| {
        list.binary_search_by(|(at, _)| at.cmp(element)).ok()
    };
    let mut item = |element: &Element, old: &[&Value], new: &[&Value]| {
        let mut inner = Changes::default();
        match (old, new) {
            ([] | [_], [] | [_]) => walk(old.first().copied(), new.first().copied(), &below, &mut inner),
            ([_, _, ..], [_, _, ..]) => inner.modified.member = old != new,
            // What stood twice was owned as a whole; what is left of it is new.
            ([_, _, ..], _) => {
                if let Some(new) = new.first() {
                    walk(None, Some(new), &below, &mut inner);
                }
                inner.removed.member = true;
            }
            _ => {
                if let Some(old) = old.first() {
                    walk(Some(old), None, &below, &mut inner);
                }
                inner.added.member = true;
            }
        }
        changes.take(element, inner);
    };
    for (element, old) in &before {
        let new = find(&after, element).and_then(|at| after.get(at)).map_or(&[][..], |(_, new)| new);
        item(element, old, new);
    }
    for (element, new) in after.iter().filter(|(element, _)| find(&before, element).is_none()) {
        item(element, &[], new);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn changes(kind: &str, old: &Value, new: &Value) -> [String; 3] {
        let Comparison { added, modified, removed } = compare(old, new, &Shape::of_kind(kind));
        [added.to_string(), modified.to_string(), removed.to_string()]
    }

    #[test]
    fn a_new_object_is_all_added() {
        let new = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"containers": [{"name": "c", "args": ["x"], "resources": {}}]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        }});
        assert_eq!(
            changes("apps.v1.Deployment", &json!({}), &new),
            [
                r#"{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:selector":{},"f:strategy":{"f:rollingUpdate":{".":{},"f:maxSurge":{}},"f:type":{}},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:args":{},"f:name":{},"f:resources":{}}}}}}}"#,
                "{}",
                "{}"
            ]
        );
    }

    #[test]
    fn items_are_matched_by_their_keys() {
        let pod = |containers: Value| json!({"spec": {"containers": containers}});
        assert_eq!(
            changes(
                "core.v1.Pod",
                &pod(json!([{"name": "a", "image": "1"}, {"name": "b"}, {"name": "c"}])),
                &pod(json!([{"name": "c"}, {"name": "a", "image": "2"}, {"name": "d"}])),
            ),
            [
                r#"{"f:spec":{"f:containers":{"k:{\"name\":\"d\"}":{".":{},"f:name":{}}}}}"#,
                r#"{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{"f:image":{}}}}}"#,
                r#"{"f:spec":{"f:containers":{"k:{\"name\":\"b\"}":{".":{},"f:name":{}}}}}"#,
            ]
        );
        let twice = pod(json!([{"name": "a", "image": "1"}, {"name": "a", "image": "2"}]));
        let once = pod(json!([{"name": "a", "image": "1"}]));
        let [added, _, removed] = changes("core.v1.Pod", &twice, &once);
        assert!(added.contains("f:image"), "{added}");
        assert_eq!(removed, r#"{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{}}}}"#);
    }

    #[test]
    fn what_is_whole_changes_as_a_whole() {
        let service = |selector: Value| json!({"spec": {"selector": selector, "externalIPs": ["1"]}});
        assert_eq!(
            changes("core.v1.Service", &service(json!({"a": "1"})), &service(json!({"b": "1"}))),
            ["{}", r#"{"f:spec":{"f:selector":{}}}"#, "{}"].map(str::to_owned)
        );
        assert_eq!(
            changes("core.v1.ConfigMap", &json!({"data": {"a": "1"}}), &json!({})),
            ["{}", "{}", r#"{"f:data":{".":{},"f:a":{}}}"#].map(str::to_owned)
        );
    }
}
