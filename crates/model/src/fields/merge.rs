//! A configuration merged into an object: structures and maps field by field, lists item by item where
//! items are told apart, everything else as the configuration has it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::Element;
use super::shape::Shape;

/// What cannot be merged, and why.
type Wrong = String;

/// Merges.
///
/// # Errors
/// When items of the configuration cannot be told apart.
pub(super) fn merge(live: &Value, config: &Value, shape: &Shape) -> Result<Value, Wrong> {
    Ok(merged(Some(live), Some(config), shape)?.unwrap_or_else(|| Value::Object(Map::new())))
}

fn merged(live: Option<&Value>, config: Option<&Value>, shape: &Shape) -> Result<Option<Value>, Wrong> {
    let (live, config) = match (live, config) {
        (live, None) => return Ok(live.cloned()),
        (None, Some(config)) if shape.is_leaf(config) => return Ok(Some(config.clone())),
        (live, Some(config)) => (live, config),
    };
    let nothing = Value::Null;
    match (live.unwrap_or(&nothing), config) {
        (_, config) if shape.is_leaf(config) && !config.is_null() => Ok(Some(config.clone())),
        (live, config) if is_empty(live) && is_empty(config) => Ok(Some(config.clone())),
        (Value::Object(_) | Value::Null, Value::Object(_)) | (Value::Object(_), Value::Null)
            if !shape.atomic =>
        {
            fields(live.and_then(Value::as_object), config.as_object(), shape)
        }
        (Value::Array(_) | Value::Null, Value::Array(_)) | (Value::Array(_), Value::Null)
            if !shape.atomic =>
        {
            items(live.and_then(Value::as_array), config.as_array(), shape)
        }
        (_, config) => Ok(Some(config.clone())),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn fields(
    live: Option<&Map<String, Value>>,
    config: Option<&Map<String, Value>>,
    shape: &Shape,
) -> Result<Option<Value>, Wrong> {
    let mut out = Map::new();
    let below = |name: &str| shape.field(name).unwrap_or_else(|| shape.item());
    for (name, before) in live.into_iter().flatten() {
        let wanted = config.and_then(|config| config.get(name));
        if let Some(value) = merged(Some(before), wanted, &below(name))? {
            out.insert(name.clone(), value);
        }
    }
    for (name, wanted) in config.into_iter().flatten() {
        if live.is_none_or(|live| !live.contains_key(name))
            && let Some(value) = merged(None, Some(wanted), &below(name))?
        {
            out.insert(name.clone(), value);
        }
    }
    Ok((!out.is_empty()).then_some(Value::Object(out)))
}

/// The items of one side, in order, and where each is; `None` for one that stands twice.
struct Indexed<'v> {
    order: Vec<(Element, &'v Value)>,
    by_element: BTreeMap<Element, Option<&'v Value>>,
}

fn indexed<'v>(list: Option<&'v Vec<Value>>, shape: &Shape, twice: bool) -> Result<Indexed<'v>, Wrong> {
    let (mut order, mut by_element) = (Vec::new(), BTreeMap::new());
    for (i, item) in list.into_iter().flatten().enumerate() {
        let element = shape.element(item).map_err(|why| format!("element {i}: {why}"))?;
        let again = by_element.contains_key(&element);
        if again && !twice {
            return Err(format!("duplicate entries for key {element}"));
        }
        // What stands twice is left as it is: there is no telling which of them is meant.
        by_element.insert(element.clone(), (!again).then_some(item));
        order.push((element, item));
    }
    Ok(Indexed { order, by_element })
}

/// Merges lists. Items of the configuration stand in its order; those that only the object has keep their
/// place among what they stood with.
fn items(
    live: Option<&Vec<Value>>,
    config: Option<&Vec<Value>>,
    shape: &Shape,
) -> Result<Option<Value>, Wrong> {
    let wanted = indexed(config, shape, false)?;
    let present = indexed(live, shape, true)?;
    let below = shape.item();
    let mut shared = wanted.order.iter().map(|(e, _)| e).filter(|e| present.by_element.contains_key(*e));
    let mut next_shared = shared.next();
    let (mut out, mut done) = (Vec::with_capacity(wanted.order.len().max(present.order.len())), Vec::new());
    let (mut left, mut right) = (0, 0);
    let both = |element: &Element, config: &Value| {
        let live = present.by_element.get(element).copied().flatten();
        merged(live, Some(config), &below)
    };
    while left < present.order.len() || right < wanted.order.len() {
        let (at_left, at_right) = (present.order.get(left), wanted.order.get(right));
        if let (Some((element, _)), Some((other, config))) = (at_left, at_right) {
            if element == other {
                out.extend(both(element, config)?);
                done.push(element);
                (left, right) = (left + 1, right + 1);
                next_shared = shared.next();
                continue;
            }
            // Shared, but another one comes first.
            if wanted.by_element.contains_key(element) && next_shared.is_some_and(|next| next != element) {
                left += 1;
                continue;
            }
        }
        if let Some((element, item)) = at_left {
            if !wanted.by_element.contains_key(element) {
                out.push((*item).clone());
                left += 1;
                continue;
            }
            if done.contains(&element) {
                left += 1;
            }
        }
        if let Some((element, config)) = at_right {
            out.extend(both(element, config)?);
            done.push(element);
            right += 1;
            if next_shared == Some(element) {
                next_shared = shared.next();
            }
        }
    }
    Ok((!out.is_empty()).then_some(Value::Array(out)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn containers(live: &[&str], config: &[&str]) -> Vec<String> {
        let pod = |names: &[&str]| {
            let items: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"spec": {"containers": items}})
        };
        let merged = merge(&pod(live), &pod(config), &Shape::of_kind("core.v1.Pod")).unwrap();
        let items = merged["spec"]["containers"].as_array().unwrap().clone();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_configuration_orders_what_it_names() {
        assert_eq!(containers(&["a", "b", "c"], &["c", "a"]), ["b", "c", "a"]);
        assert_eq!(containers(&["a", "b"], &["b", "x", "a"]), ["b", "x", "a"]);
        assert_eq!(containers(&["x", "a", "y"], &["a", "b"]), ["x", "a", "y", "b"]);
        assert_eq!(containers(&["a", "b"], &["c"]), ["a", "b", "c"]);
        assert_eq!(containers(&[], &["b", "a"]), ["b", "a"]);
    }

    #[test]
    fn structures_merge_and_the_rest_is_replaced() {
        let live = json!({"spec": {"selector": {"a": "1"}, "type": "ClusterIP", "ports": [{"port": 1, "protocol": "TCP", "nodePort": 5}]}});
        let config = json!({"spec": {"selector": {"b": "1"}, "ports": [{"port": 1, "name": "x"}]}});
        assert_eq!(
            merge(&live, &config, &Shape::of_kind("core.v1.Service")).unwrap(),
            json!({"spec": {"selector": {"b": "1"}, "type": "ClusterIP", "ports": [{"port": 1, "protocol": "TCP", "nodePort": 5, "name": "x"}]}})
        );
        let config = json!({"metadata": {"labels": {"a": null}}});
        let live = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        assert_eq!(
            merge(&live, &config, &Shape::of_kind("core.v1.Service")).unwrap(),
            json!({"metadata": {"labels": {"a": null, "b": "2"}}})
        );
    }
}
