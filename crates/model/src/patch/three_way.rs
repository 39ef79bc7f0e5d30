//! A strategic merge patch out of three versions of an object: what was applied last, what is wanted
//! now, and what is there. What somebody else set, and nobody here ever did, stays as it is.

use serde_json::{Map, Value, json};

use super::strategic::{DELETE, FieldInfo, ORDER, PATCH, RETAIN_KEYS, same};
use crate::schema::table::{self, Message};

type Tree = Map<String, Value>;

/// The patch that makes `current` what `modified` says: it sets what differs and removes what
/// `last_applied` had and `modified` has no more. An empty object when there is nothing to do.
/// `modified` should have passed [`crate::schema::check`], so that values compare as they are stored.
pub fn three_way(message: &str, last_applied: &Value, modified: &Value, current: &Value) -> Value {
    let empty = Tree::new();
    let map = |value| Value::as_object(value).unwrap_or(&empty);
    let message = table::find(message).map(table::MessageId::get);
    Value::Object(diff_map(map(last_applied), map(modified), map(current), message))
}

fn diff_map(last: &Tree, modified: &Tree, current: &Tree, message: Option<&'static Message>) -> Tree {
    let mut patch = Tree::new();
    for (name, wanted) in modified {
        let info = FieldInfo::of(message, name);
        match (current.get(name), wanted) {
            (Some(there), wanted) if there == wanted => {}
            (Some(Value::Object(there)), Value::Object(wanted)) => {
                let empty = Tree::new();
                let last = last.get(name).and_then(Value::as_object).unwrap_or(&empty);
                let mut inner = diff_map(last, wanted, there, info.message);
                if inner.is_empty() {
                    continue;
                }
                if info.has_strategy("retainKeys") {
                    inner.insert(RETAIN_KEYS.to_owned(), sorted_keys(wanted));
                }
                patch.insert(name.clone(), Value::Object(inner));
            }
            (Some(Value::Array(there)), Value::Array(wanted)) if info.has_strategy("merge") => {
                let last = last.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                diff_list(&mut patch, name, &info, (last, wanted, there));
            }
            (_, wanted) => {
                patch.insert(name.clone(), wanted.clone());
            }
        }
    }
    for name in last.keys().filter(|name| !modified.contains_key(*name) && current.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    patch
}

fn diff_list(
    patch: &mut Tree,
    name: &str,
    info: &FieldInfo,
    (last, wanted, there): (&[Value], &[Value], &[Value]),
) {
    let key = info.merge_key().filter(|key| wanted.iter().chain(there).all(|item| item.get(*key).is_some()));
    let find = |list: &'_ [Value], item: &Value| list.iter().position(|other| same(other, item, key));
    let gone: Vec<&Value> =
        last.iter().filter(|item| find(wanted, item).is_none() && find(there, item).is_some()).collect();
    let mut items = Vec::new();
    for item in wanted {
        match (find(there, item), key) {
            (None, _) => items.push(item.clone()),
            (Some(_), None) => {}
            (Some(at), Some(key)) => {
                let before = find(last, item).map(|at| &last[at]);
                if let Some(change) = diff_item(before, item, &there[at], info, key) {
                    items.push(change);
                }
            }
        }
    }
    let order: Vec<Option<usize>> =
        wanted.iter().map(|item| find(there, item)).filter(Option::is_some).collect();
    if items.is_empty() && gone.is_empty() && order.is_sorted() {
        return;
    }
    match key {
        Some(key) => {
            items.extend(gone.iter().map(|item| json!({key: item[key], PATCH: "delete"})));
            let order: Vec<Value> = wanted.iter().map(|item| json!({key: item[key]})).collect();
            patch.insert(format!("{ORDER}{name}"), order.into());
        }
        None => {
            if !gone.is_empty() {
                patch.insert(format!("{DELETE}{name}"), gone.into_iter().cloned().collect());
            }
            patch.insert(format!("{ORDER}{name}"), wanted.into());
        }
    }
    if !items.is_empty() {
        patch.insert(name.to_owned(), items.into());
    }
}

/// What an item of a list with a merge key needs, with its key; `None`: nothing.
fn diff_item(
    last: Option<&Value>,
    wanted: &Value,
    there: &Value,
    info: &FieldInfo,
    key: &str,
) -> Option<Value> {
    let empty = Tree::new();
    let last = last.and_then(Value::as_object).unwrap_or(&empty);
    let (wanted, there) = (wanted.as_object()?, there.as_object()?);
    let mut change = diff_map(last, wanted, there, info.message);
    if change.is_empty() {
        return None;
    }
    change.insert(key.to_owned(), wanted.get(key)?.clone());
    if info.has_strategy("retainKeys") {
        change.insert(RETAIN_KEYS.to_owned(), sorted_keys(wanted));
    }
    Some(Value::Object(change))
}

fn sorted_keys(map: &Tree) -> Value {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort_unstable();
    json!(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::strategic;

    /// The patch, and what it makes of `current`.
    fn run(last: &Value, modified: &Value, current: &Value) -> (Value, Value) {
        let patch = three_way("apps.v1.Deployment", last, modified, current);
        let result = strategic::apply("apps.v1.Deployment", current, &patch).unwrap();
        (patch, result)
    }

    fn deployment(containers: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": containers}}}})
    }

    #[test]
    fn nothing_to_do_is_an_empty_patch() {
        let wanted = deployment(json!([{"name": "a", "image": "1"}]));
        let mut there = deployment(json!([{"name": "a", "image": "1", "imagePullPolicy": "Always"}]));
        there["spec"]["replicas"] = json!(3);
        assert_eq!(run(&wanted, &wanted, &there).0, json!({}));
    }

    #[test]
    fn own_fields_change_and_go_others_stay() {
        let last =
            json!({"metadata": {"labels": {"a": "1", "b": "1"}}, "spec": {"replicas": 2, "paused": true}});
        let wanted = json!({"metadata": {"labels": {"a": "2"}}, "spec": {"replicas": 2}});
        let there = json!({
            "metadata": {"labels": {"a": "1", "b": "1", "other": "x"}},
            "spec": {"replicas": 5, "paused": true, "revisionHistoryLimit": 10},
        });
        let (patch, result) = run(&last, &wanted, &there);
        assert_eq!(
            patch,
            json!({"metadata": {"labels": {"a": "2", "b": null}}, "spec": {"replicas": 2, "paused": null}})
        );
        assert_eq!(
            result,
            json!({"metadata": {"labels": {"a": "2", "other": "x"}}, "spec": {"replicas": 2, "revisionHistoryLimit": 10}})
        );
    }

    #[test]
    fn lists_with_keys_merge_item_by_item() {
        let last = deployment(json!([{"name": "a", "image": "1"}, {"name": "old", "image": "1"}]));
        let wanted = deployment(json!([{"name": "new", "image": "1"}, {"name": "a", "image": "2"}]));
        let there = deployment(json!([
            {"name": "a", "image": "1", "imagePullPolicy": "Always"},
            {"name": "old", "image": "1"}, {"name": "sidecar", "image": "1"},
        ]));
        let (_, result) = run(&last, &wanted, &there);
        assert_eq!(
            result,
            deployment(json!([
                {"name": "new", "image": "1"}, {"name": "a", "image": "2", "imagePullPolicy": "Always"},
                {"name": "sidecar", "image": "1"},
            ]))
        );
    }

    #[test]
    fn primitive_lists_and_unions() {
        let last = json!({"metadata": {"finalizers": ["a", "b"]}});
        let wanted = json!({
            "metadata": {"finalizers": ["b", "c"]}, "spec": {"strategy": {"type": "Recreate"}},
        });
        let there = json!({
            "metadata": {"finalizers": ["a", "x", "b"]},
            "spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}},
        });
        let (_, result) = run(&last, &wanted, &there);
        assert_eq!(result["metadata"]["finalizers"], json!(["x", "b", "c"]));
        assert_eq!(result["spec"]["strategy"], json!({"type": "Recreate"}));
    }
}
