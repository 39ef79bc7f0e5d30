//! What an object has: the set of its paths, and whether it is what its schema says.

use serde_json::Value;

use super::element::Element;
use super::set::{Node, Set};
use super::shape::{Form, Scalar, Shape};
use crate::schema::MAX_DEPTH;

/// The paths of all that stands in a configuration: what its applier owns.
pub(super) fn to_set(value: &Value, shape: &Shape) -> Set {
    match value {
        Value::Object(map) if !shape.is_leaf(value) => {
            let nodes = map.iter().map(|(name, value)| {
                let below = shape.field(name).unwrap_or_else(|| shape.item());
                let set = to_set(value, &below);
                // A field that ends here, is empty, or is a key of a map and not of a structure.
                let empty = value.is_null() || value.as_object().is_some_and(|map| map.is_empty());
                let ends = is_end(value, &below);
                Node {
                    element: Element::field(name),
                    member: ends || empty || !shape.names(name),
                    below: set,
                }
            });
            Set::of_nodes(nodes.collect())
        }
        Value::Array(items) if !shape.is_leaf(value) => {
            let below = shape.item();
            let mut nodes: Vec<Node> = Vec::with_capacity(items.len());
            for item in items {
                let Ok(element) = shape.element(item) else { continue };
                match nodes.iter_mut().find(|node| node.element == element) {
                    // What stands twice is owned as a whole.
                    Some(again) => again.below = Set::new(),
                    None => nodes.push(Node { element, member: true, below: to_set(item, &below) }),
                }
            }
            Set::of_nodes(nodes)
        }
        _ => Set::new(),
    }
}

/// Whether a value is owned as a whole at its own path.
fn is_end(value: &Value, shape: &Shape) -> bool {
    if shape.atomic {
        return true;
    }
    match shape.form {
        Form::Scalar(_) => true,
        Form::Deduced | Form::Custom => !value.is_object(),
        // What should have parts and has none is null, which sets nothing of its own.
        Form::Struct(..) | Form::Map(_) | Form::List(..) => false,
    }
}

/// Refuses a configuration that is not what the schema says, in Kubernetes' words. Lists whose items
/// are told apart may not have one twice.
///
/// # Errors
/// The path, and what is wrong there.
pub(super) fn validate(value: &Value, shape: &Shape) -> Result<(), String> {
    let mut errors = Vec::new();
    check(value, shape, &mut Vec::new(), &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn check(value: &Value, shape: &Shape, path: &mut Vec<Element>, errors: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    if path.len() >= MAX_DEPTH {
        return errors.push(told(path, "nested too deeply"));
    }
    match shape.form {
        Form::Scalar(scalar) => {
            if let Some(wanted) = mismatch(scalar, value) {
                errors.push(told(path, &format!("expected {wanted}, got {value}")));
            }
        }
        Form::Struct(..) | Form::Map(_) | Form::Custom => match value {
            Value::Object(map) => {
                for (name, value) in map {
                    path.push(Element::field(name));
                    match shape.field(name) {
                        Some(shape) => check(value, &shape, path, errors),
                        None => errors.push(told(path, "field not declared in schema")),
                    }
                    path.pop();
                }
            }
            _ => errors.push(told(path, &format!("expected map, got {value}"))),
        },
        Form::List(..) => match value {
            Value::Array(items) => check_items(items, shape, path, errors),
            _ => errors.push(told(path, &format!("expected list, got {value}"))),
        },
        Form::Deduced => {}
    }
}

fn check_items(items: &[Value], shape: &Shape, path: &mut Vec<Element>, errors: &mut Vec<String>) {
    let below = shape.item();
    let mut seen: Vec<Element> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let element = if shape.atomic {
            Element::Index(i64::try_from(i).unwrap_or(i64::MAX))
        } else {
            match shape.element(item) {
                Ok(element) => element,
                Err(why) => return errors.push(told(path, &format!("element {i}: {why}"))),
            }
        };
        if !shape.atomic && seen.contains(&element) {
            errors.push(told(path, &format!("duplicate entries for key {element}")));
        }
        path.push(element);
        check(item, &below, path, errors);
        seen.extend(path.pop().filter(|_| !shape.atomic));
    }
}

fn mismatch(scalar: Scalar, value: &Value) -> Option<&'static str> {
    match scalar {
        Scalar::Number if !value.is_number() => Some("numeric (int or float)"),
        Scalar::Text if !value.is_string() => Some("string"),
        Scalar::Bool if !value.is_boolean() => Some("boolean"),
        Scalar::Any if value.is_object() || value.is_array() => Some("any scalar"),
        _ => None,
    }
}

fn told(path: &[Element], what: &str) -> String {
    if path.is_empty() { what.to_owned() } else { format!("{}: {what}", super::shown(path)) }
}

/// The set with all structures' fields on the way to its members in it, too: whoever owns
/// `spec.template.spec.nodeName` owns `spec` then, but not the item of a list or the key of a map.
pub(super) fn with_named_fields(set: &Set, shape: &Shape) -> Set {
    let nodes = set.nodes().iter().map(|node| {
        let named = match &node.element {
            Element::Field(name) => !node.below.is_empty() && shape.names(name),
            _ => false,
        };
        Node {
            element: node.element.clone(),
            member: node.member || named,
            below: with_named_fields(&node.below, &shape.step(&node.element)),
        }
    });
    Set::of_nodes(nodes.collect())
}

/// The set as this release would have written it: of what is owned as a whole now, whoever owned a part owns
/// all.
pub(super) fn reconciled(set: &Set, shape: &Shape) -> Set {
    let nodes = set.nodes().iter().map(|node| {
        let below = shape.step(&node.element);
        let whole = below.atomic && !node.below.is_empty();
        Node {
            element: node.element.clone(),
            member: node.member || whole,
            below: if whole { Set::new() } else { reconciled(&node.below, &below) },
        }
    });
    Set::of_nodes(nodes.collect())
}

/// A value without what is in a set: fields, items of lists. What is owned as a whole goes as a whole.
pub(super) fn without(value: &Value, gone: &Set, shape: &Shape) -> Value {
    if gone.is_empty() {
        return value.clone();
    }
    match value {
        Value::Object(map) if !shape.is_leaf(value) => {
            let mut left = serde_json::Map::with_capacity(map.len());
            for (name, value) in map {
                let node = gone.node(&Element::field(name));
                match node {
                    Some(node) if node.member => {}
                    Some(node) => {
                        let below = shape.field(name).unwrap_or_else(|| shape.item());
                        left.insert(name.clone(), without(value, &node.below, &below));
                    }
                    None => drop(left.insert(name.clone(), value.clone())),
                }
            }
            if left.is_empty() { Value::Null } else { Value::Object(left) }
        }
        Value::Array(items) if !shape.is_leaf(value) => {
            let below = shape.item();
            let mut left = Vec::with_capacity(items.len());
            for item in items {
                match shape.element(item).ok().and_then(|element| gone.node(&element)) {
                    Some(node) if node.member => {}
                    Some(node) => left.push(without(item, &node.below, &below)),
                    None => left.push(item.clone()),
                }
            }
            if left.is_empty() { Value::Null } else { Value::Array(left) }
        }
        Value::Object(_) | Value::Array(_) => Value::Null,
        scalar => scalar.clone(),
    }
}
