//! Objects of kinds that have no form of their own: all fields, as a tree.

use balsa_model::Object;
use serde_json::Value;

use super::page::plain;

/// All of an object but its metadata.
pub(super) fn describe(object: &Object) -> String {
    let value = crate::output::presentable(object);
    let mut out = String::new();
    let fields = value.as_object().into_iter().flatten();
    for (name, value) in
        fields.filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"))
    {
        tree(&title(name), value, 0, &mut out);
    }
    out
}

fn tree(name: &str, value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) if fields.is_empty() => out.push_str(&format!("{indent}{name}:  <none>\n")),
        Value::Array(items) if items.is_empty() => out.push_str(&format!("{indent}{name}:  <none>\n")),
        Value::Object(fields) => {
            out.push_str(&format!("{indent}{name}:\n"));
            branches(fields, depth + 1, NAMED_BY_USERS.contains(&name), out);
        }
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            let texts: Vec<String> = items.iter().map(plain).collect();
            out.push_str(&format!("{indent}{name}:  {}\n", texts.join(", ")));
        }
        Value::Array(items) => {
            out.push_str(&format!("{indent}{name}:\n"));
            for item in items {
                element(item, depth + 1, out);
            }
        }
        Value::String(text) if text.contains('\n') => {
            out.push_str(&format!("{indent}{name}:\n"));
            text.lines().for_each(|line| out.push_str(&format!("{indent}  {line}\n")));
        }
        other => out.push_str(&format!("{indent}{name}:  {}\n", plain(other))),
    }
}

/// Fields whose own fields are names that people gave, which stay as they are.
const NAMED_BY_USERS: [&str; 12] = [
    "Labels",
    "Annotations",
    "Match Labels",
    "Selector",
    "Node Selector",
    "Data",
    "String Data",
    "Binary Data",
    "Limits",
    "Requests",
    "Capacity",
    "Allocatable",
];

fn branches(fields: &serde_json::Map<String, Value>, depth: usize, as_they_are: bool, out: &mut String) {
    for (key, value) in fields {
        let own = as_they_are && !value.is_object() && !value.is_array();
        tree(&if own { key.clone() } else { title(key) }, value, depth, out);
    }
}

/// An item of a list: named items under their name, others after a dash.
fn element(item: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let heading = ["name", "type", "ip", "mountPath"].into_iter().find_map(|field| item.get(field)?.as_str());
    match (item, heading) {
        (Value::Object(fields), Some(heading)) => {
            out.push_str(&format!("{indent}{heading}:\n"));
            let rest: serde_json::Map<String, Value> = fields
                .iter()
                .filter(|(_, v)| v.as_str() != Some(heading))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            branches(&rest, depth + 1, false, out);
        }
        (Value::Object(fields), None) => {
            out.push_str(&format!("{indent}-\n"));
            branches(fields, depth + 1, false, out);
        }
        (other, _) => out.push_str(&format!("{indent}- {}\n", plain(other))),
    }
}

/// `podIP` becomes `Pod IP`.
fn title(name: &str) -> String {
    let mut out = String::new();
    let mut before_is_lower = false;
    for (i, character) in name.chars().enumerate() {
        if i == 0 {
            out.extend(character.to_uppercase());
        } else {
            if character.is_uppercase() && before_is_lower {
                out.push(' ');
            }
            out.push(character);
        }
        before_is_lower = character.is_lowercase();
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use balsa_model::{Revision, kinds};
    use serde_json::json;

    fn told(plural: &str, value: &Value) -> String {
        let kind = kinds::by_resource("", plural).unwrap();
        describe(&Object::seal(kind, &Object::canonical(kind, value), Revision(1)).unwrap())
    }

    #[test]
    fn fields_become_a_tree() {
        let value = json!({"metadata": {"name": "web", "namespace": "zoo"},
            "spec": {"containers": [{"name": "c", "image": "i", "args": ["x", "y"]}]},
            "status": {"podIP": "10.0.0.1", "conditions": []}});
        assert_eq!(
            told("pods", &value),
            "Spec:\n  Containers:\n    c:\n      Args:  x, y\n      Image:  i\n\
             Status:\n  Conditions:  <none>\n  Pod IP:  10.0.0.1\n"
        );
    }
}
