//! Cells that the tables of several kinds share.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as MetaSelector, ObjectMeta, Time};

use crate::selector::LabelSelector;
use crate::table::{Cell, Column, age};

/// What stands where there is nothing.
pub(crate) const NONE: &str = "<none>";
/// What stands where nothing is known.
pub(crate) const UNKNOWN: &str = "<unknown>";

/// The columns about a pod template that `-o wide` adds.
pub(crate) const CONTAINERS: Column = Column::wide("Containers");
/// See [`CONTAINERS`].
pub(crate) const IMAGES: Column = Column::wide("Images");
/// See [`CONTAINERS`].
pub(crate) const SELECTOR: Column = Column::wide("Selector");

/// A text, or `<none>` where it is absent or empty.
pub(crate) fn or_none(text: Option<&str>) -> Cell {
    Cell::text(text.filter(|t| !t.is_empty()).unwrap_or(NONE))
}

/// A text, or an empty cell.
pub(crate) fn or_empty(text: Option<&str>) -> Cell {
    Cell::text(text.unwrap_or_default())
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels(labels: Option<&BTreeMap<String, String>>) -> Cell {
    let pairs: Vec<String> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    or_none(Some(&pairs.join(",")))
}

/// A selector in its text form, or `<none>`.
pub(crate) fn selector(selector: Option<&MetaSelector>) -> Cell {
    or_none(Some(&selector.map(selector_text).unwrap_or_default()))
}

/// A selector in the form that queries use: `app=web,tier in (a,b)`.
pub(crate) fn selector_text(selector: &MetaSelector) -> String {
    LabelSelector::from_meta(selector).map(|s| s.to_string()).unwrap_or_default()
}

/// The names and the images of a template's containers.
pub(crate) fn containers(template: Option<&PodTemplateSpec>) -> [Cell; 2] {
    let containers = || template.and_then(|t| t.spec.as_ref()).into_iter().flat_map(|spec| &spec.containers);
    let names: Vec<&str> = containers().map(|c| c.name.as_str()).collect();
    let images: Vec<&str> = containers().map(|c| c.image.as_deref().unwrap_or_default()).collect();
    [Cell::text(names.join(",")), Cell::text(images.join(","))]
}

/// `RWO,ROX`.
pub(crate) fn access_modes(modes: Option<&Vec<String>>) -> Cell {
    let mut short: Vec<&str> = Vec::new();
    for (mode, text) in [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ] {
        if modes.is_some_and(|modes| modes.iter().any(|m| m == mode)) {
            short.push(text);
        }
    }
    Cell::text(short.join(","))
}

/// How long ago it was, or `<unknown>`.
pub(crate) fn since(time: Option<&Time>, now: Timestamp) -> String {
    time.map_or_else(|| UNKNOWN.to_owned(), |time| age(time.0, now))
}

/// The column of kinds that show when they were made, not how old they are.
pub(crate) const CREATED_AT: Column = Column { name: "Created At", kind: "date", format: "", priority: 0 };

/// When an object was made, as it stands in its metadata.
pub(crate) fn created_at(meta: &ObjectMeta) -> Cell {
    let time = meta.creation_timestamp.as_ref();
    Cell::text(time.map_or_else(|| UNKNOWN.to_owned(), |time| time.0.to_string()))
}
