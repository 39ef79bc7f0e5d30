//! Strategic merge patches: like merge patches, but lists whose items have a merge key are merged
//! item by item, and directives say what else to do:
//!
//! - `$patch: delete | replace | merge` in a map, or in an item of a list;
//! - `$deleteFromPrimitiveList/f`: items to take out of list `f`;
//! - `$setElementOrder/f`: the order that items of list `f` shall have;
//! - `$retainKeys`: the only fields that shall stay.
//!
//! Which lists merge, and by which key, is in the table of list semantics. Order: items of the patch
//! stand as the patch has them; items that only the object has keep their order, and stand before the
//! first item of the patch that came after them in the object.

use serde_json::{Map, Value};

use crate::schema::list::{Semantics, semantics};
use crate::schema::table::{self, Message, Type};
use crate::status::Failure;

pub(super) const PATCH: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const ORDER: &str = "$setElementOrder/";
pub(super) const DELETE: &str = "$deleteFromPrimitiveList/";

type Result<T> = std::result::Result<T, Failure>;
type Tree = Map<String, Value>;

/// Applies a patch to the JSON of an object whose message is `message` (`apps.v1.Deployment`).
///
/// # Errors
/// `BadRequest` or an internal error, as Kubernetes has it, when directives make no sense.
pub fn apply(message: &str, original: &Value, patch: &Value) -> Result<Value> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(Failure::bad_request("strategic merge patches are objects"));
    };
    let message = table::find(message).map(table::MessageId::get);
    merge_map(original.clone(), patch.clone(), message).map(Value::Object)
}

/// What is known about a field: the message of its values, and how its list merges.
pub(super) struct FieldInfo {
    pub(super) message: Option<&'static Message>,
    pub(super) semantics: Option<&'static Semantics>,
}

impl FieldInfo {
    pub(super) fn of(owner: Option<&'static Message>, name: &str) -> Self {
        let Some(owner) = owner else { return Self { message: None, semantics: None } };
        let message = owner.json_field(name).and_then(|field| match field.ty {
            // The values of a map have a message too, but the map itself is merged by its keys.
            Type::Message(id) if field.cardinality != table::Cardinality::Map => Some(id.get()),
            _ => None,
        });
        let semantics = owner.json_owner(name).and_then(|owner| semantics(owner.name, name));
        Self { message, semantics }
    }

    pub(super) fn has_strategy(&self, word: &str) -> bool {
        self.semantics.is_some_and(|s| s.has_strategy(word))
    }

    /// The merge key of the items of a list that merges.
    pub(super) fn merge_key(&self) -> Option<&'static str> {
        self.semantics.and_then(|s| s.patch_merge_key.as_deref())
    }
}

/// An error that Kubernetes answers with 500.
fn server_error(message: String) -> Failure {
    Failure::bad_request(message)
}

fn merge_map(mut original: Tree, mut patch: Tree, message: Option<&'static Message>) -> Result<Tree> {
    if let Some(directive) = patch.shift_remove(PATCH) {
        match directive.as_str() {
            Some("replace") => return Ok(patch),
            Some("delete") => return Ok(Tree::new()),
            Some("merge") => {}
            _ => return Err(unknown_directive(&directive, &patch)),
        }
    }
    retain_keys(&mut original, &mut patch)?;
    set_orders(&mut original, &mut patch, message)?;
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE) {
            let Value::Array(gone) = value else {
                return Err(Failure::bad_request("invalid patch format of primitive list"));
            };
            if let Some(Value::Array(items)) = original.get_mut(list) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if value.is_null() {
            original.shift_remove(&name);
            continue;
        }
        let info = FieldInfo::of(message, &name);
        let merged = match (original.get_mut(&name).map(Value::take), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !info.has_strategy("replace") => {
                Value::Object(merge_map(old, new, info.message)?)
            }
            (Some(Value::Array(old)), Value::Array(new)) if info.has_strategy("merge") => {
                Value::Array(merge_list(old, new, &info)?)
            }
            (_, new) => without_directives(new),
        };
        original.insert(name, merged);
    }
    Ok(original)
}

fn unknown_directive(directive: &Value, patch: &Tree) -> Failure {
    let mut whole = patch.clone();
    whole.insert(PATCH.to_owned(), directive.clone());
    let directive = directive.as_str().map_or_else(|| directive.to_string(), str::to_owned);
    server_error(format!("unknown patch type: {directive} in map: {}", shown(&Value::Object(whole))))
}

/// `$retainKeys`: takes away what is not named; the patch itself may set nothing else.
fn retain_keys(original: &mut Tree, patch: &mut Tree) -> Result<()> {
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
    let wrong = || Failure::bad_request("invalid patch format of retainKeys");
    let keys = keys.as_array().ok_or_else(wrong)?;
    let kept = |name: &str| keys.iter().any(|key| key == name);
    let directive = |name: &str| name.starts_with(ORDER) || name.starts_with(DELETE);
    if patch.iter().any(|(name, value)| !value.is_null() && !directive(name) && !kept(name)) {
        return Err(wrong());
    }
    original.retain(|name, _| kept(name));
    Ok(())
}

/// `$setElementOrder`: merges the lists that it is about, and puts them into that order.
fn set_orders(original: &mut Tree, patch: &mut Tree, message: Option<&'static Message>) -> Result<()> {
    let names: Vec<String> = patch.keys().filter_map(|k| k.strip_prefix(ORDER)).map(str::to_owned).collect();
    for name in names {
        let wrong = || Failure::bad_request("invalid patch format of setElementOrder list");
        let Some(Value::Array(order)) = patch.shift_remove(&format!("{ORDER}{name}")) else {
            return Err(wrong());
        };
        let info = FieldInfo::of(message, &name);
        let key = info.merge_key();
        let gone = match patch.shift_remove(&format!("{DELETE}{name}")) {
            Some(Value::Array(gone)) => gone,
            _ => Vec::new(),
        };
        let items = patch.shift_remove(&name);
        let mut before = match original.get(&name) {
            Some(Value::Array(items)) => items.clone(),
            None | Some(Value::Null) => Vec::new(),
            Some(_) => return Err(wrong()),
        };
        before.retain(|item| !gone.contains(item));
        let merged = match items {
            // A null removes the list; there is nothing left to order.
            Some(Value::Null) => {
                original.shift_remove(&name);
                continue;
            }
            Some(Value::Array(items)) => {
                check_order(&items, &order, key)?;
                merge_list(before.clone(), items, &info)?
            }
            Some(_) => return Err(wrong()),
            None if before.is_empty() => continue,
            None => before.clone(),
        };
        original.insert(name, Value::Array(ordered(merged, &order, &before, key)));
    }
    Ok(())
}

/// The items of a patch must stand in the order that the patch itself demands.
fn check_order(items: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    let mut rest = order.iter();
    for item in items.iter().filter(|item| item.get(PATCH).is_none()) {
        if !rest.any(|at| same(at, item, key)) {
            return Err(server_error(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                shown(&Value::Array(items.to_vec())),
                shown(&Value::Array(order.to_vec()))
            )));
        }
    }
    Ok(())
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, info: &FieldInfo) -> Result<Vec<Value>> {
    let all_maps = |items: &[Value]| items.iter().all(Value::is_object);
    let Some(key) = info.merge_key().filter(|_| all_maps(&original) && all_maps(&patch)) else {
        let mut merged = original.clone();
        for item in &patch {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(ordered(merged, &patch, &original, None));
    };
    let mut merged = original.clone();
    let (patch, replaces) = obey_item_directives(&mut merged, patch, key)?;
    if replaces {
        return Ok(patch.into_iter().map(without_directives).collect());
    }
    for item in &patch {
        require_key(item, key)?;
        let found = merged.iter_mut().find(|old| same(old, item, Some(key)));
        match (found, item) {
            (Some(old), Value::Object(new)) => {
                let Value::Object(before) = old.take() else { continue };
                *old = Value::Object(merge_map(before, new.clone(), info.message)?);
            }
            _ => merged.push(without_directives(item.clone())),
        }
    }
    Ok(ordered(merged, &patch, &original, Some(key)))
}

/// Takes the items with `$patch` out of a patch list: deletes what they delete, and says whether the
/// rest replaces the list.
fn obey_item_directives(
    original: &mut Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, bool)> {
    let (mut rest, mut replaces) = (Vec::with_capacity(patch.len()), false);
    for mut item in patch {
        let directive = item.as_object_mut().and_then(|map| map.shift_remove(PATCH));
        match directive.as_ref().map(|d| d.as_str().unwrap_or_default()) {
            None | Some("merge") => rest.push(item),
            Some("replace") => replaces = true,
            Some("delete") => {
                if item.get(key).is_none()
                    && let Some(map) = item.as_object_mut()
                {
                    map.insert(PATCH.to_owned(), "delete".into());
                }
                require_key(&item, key)?;
                original.retain(|old| !same(old, &item, Some(key)));
            }
            Some(_) => {
                let empty = Tree::new();
                let directive = directive.unwrap_or_default();
                return Err(unknown_directive(&directive, item.as_object().unwrap_or(&empty)));
            }
        }
    }
    Ok((rest, replaces))
}

fn require_key(item: &Value, key: &str) -> Result<()> {
    if item.get(key).is_some() {
        return Ok(());
    }
    Err(server_error(format!("map: {} does not contain declared merge key: {key}", shown(item))))
}

/// Whether two items are one and the same: by merge key, or by value.
pub(super) fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

/// Puts a merged list into order: items that `wanted` names stand as there; the others keep their
/// order in `before`, each before the first wanted item that came after it there.
fn ordered(merged: Vec<Value>, wanted: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|at| same(at, item, key));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(wanted, item).is_some());
    named.sort_by_key(|item| place(wanted, item));
    others.sort_by_key(|item| place(before, item).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        let at = place(before, &item);
        while let Some(at) = at
            && others.peek().is_some_and(|other| place(before, other).is_some_and(|other| other < at))
        {
            out.extend(others.next());
        }
        out.push(item);
    }
    out.extend(others);
    out
}

/// A part of a patch that meets nothing to merge with: its directives have nothing left to say.
fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) if map.get(PATCH).is_some_and(|d| d == "delete") => Value::Object(Tree::new()),
        Value::Object(map) => {
            let plain = |name: &str| {
                name != PATCH && name != RETAIN_KEYS && !name.starts_with(ORDER) && !name.starts_with(DELETE)
            };
            let fields = map.into_iter().filter(|(name, value)| plain(name) && !value.is_null());
            Value::Object(fields.map(|(name, value)| (name, without_directives(value))).collect())
        }
        Value::Array(items) => {
            let gone = |item: &Value| {
                item.get(PATCH).is_some_and(|directive| directive == "delete" || directive == "replace")
            };
            Value::Array(items.into_iter().filter(|item| !gone(item)).map(without_directives).collect())
        }
        other => other,
    }
}

/// A value as Go prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut fields: Vec<String> =
                map.iter().map(|(name, v)| format!("{name}:{}", shown(v))).collect();
            fields.sort_unstable();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
