//! Schemas of the built-in types, and what is done with them to request bodies.
//!
//! - `table`: messages, their fields, JSON names and protobuf numbers;
//! - [`check`](fn@check): drops what is unknown and reports it, refuses wrong types, makes values canonical;
//! - [`parse_json`], [`parse_yaml`], [`parse_yaml_patch`]: bodies to trees, reporting duplicate fields;
//! - `list`: how lists and maps merge.
//!
//! Nothing here recurses deeper than [`MAX_DEPTH`].

mod check;
pub(crate) mod list;
mod mend;
mod parse;
pub(crate) mod scalar;
pub(crate) mod table;
pub(crate) mod unset;

pub use check::{Checked, check};
pub use parse::{duplicates, parse_json, parse_yaml, parse_yaml_patch};

use crate::status::Failure;
use crate::yaml;

/// How deep a body may nest. Kubernetes' own types need about twenty levels; schemas of custom
/// resources more.
pub const MAX_DEPTH: usize = 128;

/// The refusal under `fieldValidation=Strict`; `None` when there is nothing to refuse. Under `Warn`
/// the lists go out as warnings, one each.
pub fn strict_failure(
    kind: &str,
    version: &str,
    unknown: &[String],
    duplicates: &[String],
) -> Option<Failure> {
    if duplicates.is_empty() && unknown.is_empty() {
        return None;
    }
    // JSON's duplicates are an error each, YAML's are one error with a line each.
    let yaml = duplicates.first().is_some_and(|first| first.starts_with("line "));
    let duplicates = if yaml { vec![yaml::strict_error(duplicates)] } else { duplicates.to_vec() };
    let all: Vec<&str> = duplicates.iter().chain(unknown).map(String::as_str).collect();
    let why = format!("strict decoding error: {}", all.join(", "));
    Some(cannot_be_handled(kind, version, &why))
}

/// `Pod in version "v1" cannot be handled as a Pod: …`
pub(crate) fn cannot_be_handled(kind: &str, version: &str, why: &str) -> Failure {
    Failure::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}
