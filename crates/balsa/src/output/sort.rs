//! `--sort-by`: objects in the order of what a path selects in them.

use std::sync::Arc;

use balsa_model::Object;
use balsa_model::quantity::Quantity;

use crate::jsonpath::JsonPath;

/// Puts objects in order: those without the field first, amounts by their size, other texts with the
/// numbers in them by their value. Whether any object has the field.
pub(crate) fn sort(items: &mut Vec<Arc<Object>>, path: &JsonPath) -> bool {
    let texts: Vec<Option<String>> =
        items.iter().map(|object| path.texts(&object.value()).into_iter().next()).collect();
    // Of one kind for all, or else a < b < c < a: "2Gi" is more than 3, and comes before it as text.
    let amounts: Option<Vec<Quantity>> =
        texts.iter().flatten().map(|text| Quantity::parse(text).ok()).collect();
    let any = texts.iter().any(Option::is_some);
    let mut keyed: Vec<(Option<String>, Arc<Object>)> = texts.into_iter().zip(items.drain(..)).collect();
    if amounts.is_some() {
        keyed.sort_by_key(|(text, _)| text.as_deref().and_then(|text| Quantity::parse(text).ok()));
    } else {
        keyed.sort_by(|(a, _), (b, _)| a.as_deref().map(pieces).cmp(&b.as_deref().map(pieces)));
    }
    items.extend(keyed.into_iter().map(|(_, object)| object));
    any
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Piece<'a> {
    /// How many digits, and they: without leading zeros the longer number is the larger one.
    Number(usize, &'a str),
    Text(&'a str),
}

/// `web-10` as `web-` and 10.
fn pieces(mut rest: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    while let Some(first) = rest.bytes().next() {
        let digits = first.is_ascii_digit();
        let end = rest.bytes().position(|byte| byte.is_ascii_digit() != digits).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        let number = piece.trim_start_matches('0');
        pieces.push(if digits { Piece::Number(number.len(), number) } else { Piece::Text(piece) });
        rest = after;
    }
    pieces
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use balsa_model::Revision;
    use balsa_model::kind::kind_of;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn sorted(values: &[Option<&str>]) -> (Vec<String>, bool) {
        let kind = kind_of::<ConfigMap>();
        let object = |value: &Option<&str>| {
            let data = value.map_or(json!({}), |value| json!({"x": value}));
            let value = json!({"metadata": {"name": "c", "namespace": "n"}, "data": data});
            Object::seal(kind, &Object::canonical(kind, &value), Revision(1)).unwrap()
        };
        let mut items: Vec<_> = values.iter().map(|value| Arc::new(object(value))).collect();
        let path = JsonPath::parse(".data.x").unwrap();
        let any = sort(&mut items, &path);
        (items.iter().map(|object| path.render(&object.value())).collect(), any)
    }

    #[test]
    fn in_order() {
        for (values, wanted) in [
            (["web-10", "web-9", "app"], ["app", "web-9", "web-10"]),
            (["2Gi", "1500Mi", "3"], ["3", "1500Mi", "2Gi"]),
            (["2Gi", "3", "2a"], ["2Gi", "2a", "3"]),
            (
                ["2026-01-01T00:00:10Z", "2026-01-01T00:00:09Z", "2025-12-31T00:00:00Z"],
                ["2025-12-31T00:00:00Z", "2026-01-01T00:00:09Z", "2026-01-01T00:00:10Z"],
            ),
        ] {
            assert_eq!(sorted(&values.map(Some)).0, wanted);
        }
        assert_eq!(sorted(&[Some("b"), None, Some("a")]), (["", "a", "b"].map(str::to_owned).into(), true));
        assert!(!sorted(&[None]).1);
    }
}
