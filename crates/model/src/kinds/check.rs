//! Checks of plain values that several kinds share, with the wordings of Kubernetes' validation.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde_json::Value;

use crate::field::{CauseKind, FieldErrors, Path};
use crate::meta;

/// A value as messages show it.
pub(crate) fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Refuses a value that is none of `known`. Unlike `FieldErrors::not_supported` it keeps their order:
/// messages name some lists in the order in which the API declares them.
pub(crate) fn one_of(errors: &mut FieldErrors, path: &Path, value: &str, known: &[&str]) {
    if known.contains(&value) {
        return;
    }
    let list: Vec<String> = known.iter().map(|k| format!("\"{k}\"")).collect();
    let detail = format!("supported values: {}", list.join(", "));
    errors.push(CauseKind::NotSupported, path, Value::from(value).to_string(), detail);
}

/// Like [`one_of`], for a field that must be there.
pub(crate) fn required_one_of(errors: &mut FieldErrors, path: &Path, value: Option<&str>, known: &[&str]) {
    match value {
        None | Some("") => errors.required(path, ""),
        Some(value) => one_of(errors, path, value, known),
    }
}

/// Refuses numbers below zero.
pub(crate) fn non_negative(errors: &mut FieldErrors, path: &Path, value: impl Into<i64>) {
    let value = value.into();
    if value < 0 {
        errors.invalid(path, value, "must be greater than or equal to 0");
    }
}

/// Refuses numbers below zero where the field is set.
pub(crate) fn optional_non_negative(errors: &mut FieldErrors, path: &Path, value: Option<impl Into<i64>>) {
    if let Some(value) = value {
        non_negative(errors, path, value);
    }
}

/// Refuses numbers outside of `low..=high`.
pub(crate) fn in_range(errors: &mut FieldErrors, path: &Path, value: impl Into<i64>, low: i64, high: i64) {
    let value = value.into();
    if !(low..=high).contains(&value) {
        errors.invalid(path, value, format!("must be between {low} and {high}, inclusive"));
    }
}

/// Refuses what is no port number.
pub(crate) fn port(errors: &mut FieldErrors, path: &Path, value: i32) {
    in_range(errors, path, value, 1, 65_535);
}

/// Refuses what is neither a port number nor a port's name.
pub(crate) fn port_or_name(errors: &mut FieldErrors, path: &Path, value: &IntOrString) {
    match value {
        IntOrString::Int(number) => port(errors, path, *number),
        IntOrString::String(name) => invalid_each(errors, path, name, port_name(name)),
    }
}

/// What is wrong with `text` as the name of a port.
pub(crate) fn port_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 15 {
        wrong.push("must be no more than 15 characters".to_owned());
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter or number (a-z, 0-9)".to_owned());
    }
    if text.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

/// One `Invalid` for each thing that is wrong with `value`.
pub(crate) fn invalid_each(errors: &mut FieldErrors, path: &Path, value: &str, wrong: Vec<String>) {
    for wrong in wrong {
        errors.invalid(path, value, wrong);
    }
}

/// Refuses what is no RFC 1123 subdomain.
pub(crate) fn subdomain(errors: &mut FieldErrors, path: &Path, value: &str) {
    invalid_each(errors, path, value, meta::dns1123_subdomain(value));
}

/// Refuses what is no RFC 1123 label.
pub(crate) fn label(errors: &mut FieldErrors, path: &Path, value: &str) {
    invalid_each(errors, path, value, meta::dns1123_label(value));
}

/// Refuses what is no key of a label.
pub(crate) fn label_key(errors: &mut FieldErrors, path: &Path, value: &str) {
    invalid_each(errors, path, value, meta::qualified_name(value));
}

/// The address that `text` writes; refuses anything else.
pub(crate) fn ip(errors: &mut FieldErrors, path: &Path, text: &str) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        errors.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    address
}

/// Checks one address of a load balancer's status: an IP address, a name, or both.
pub(crate) fn balancer_address(
    errors: &mut FieldErrors,
    path: &Path,
    address: Option<&str>,
    name: Option<&str>,
) {
    if let Some(address) = address.filter(|text| !text.is_empty()) {
        ip(errors, &path.child("ip"), address);
    }
    if let Some(name) = name.filter(|text| !text.is_empty()) {
        let path = path.child("hostname");
        subdomain(errors, &path, name);
        if name.parse::<IpAddr>().is_ok() {
            errors.invalid(&path, name, "must be a DNS name, not an IP address");
        }
    }
}

/// Whether `text` is `address/bits`.
pub(crate) fn is_cidr(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    })
}

/// The number before the `%` of a percentage.
pub(crate) fn percent(text: &str) -> Option<i64> {
    let digits = text.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Refuses what is neither a number from zero on nor a percentage.
pub(crate) fn count_or_percent(errors: &mut FieldErrors, path: &Path, value: &IntOrString) {
    match value {
        IntOrString::Int(number) => non_negative(errors, path, *number),
        IntOrString::String(text) if percent(text).is_none() => errors.invalid(
            path,
            text.as_str(),
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
        ),
        IntOrString::String(_) => {}
    }
}

/// Refuses percentages over 100.
pub(crate) fn at_most_100_percent(errors: &mut FieldErrors, path: &Path, value: &IntOrString) {
    if let IntOrString::String(text) = value
        && percent(text).is_some_and(|p| p > 100)
    {
        errors.invalid(path, text.as_str(), "must not be greater than 100%");
    }
}

/// The number that `value` means of `total`; percentages are rounded up or down.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let product = percent(text)?.checked_mul(i64::from(total))?;
            let part = if round_up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(part).ok()
        }
    }
}

/// Sets `field` to `value` when it is open.
pub(crate) fn default_to<T>(field: &mut Option<T>, value: impl Into<T>) {
    if field.is_none() {
        *field = Some(value.into());
    }
}

/// Sets a text to `value` when it is open or empty, which mean the same in the API.
pub(crate) fn default_text(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(value.to_owned());
    }
}

/// Sets a number to `value` when it is open or zero.
pub(crate) fn default_number(field: &mut Option<i32>, value: i32) {
    if field.is_none_or(|number| number == 0) {
        *field = Some(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_names() {
        assert!(port_name("http-2").is_empty());
        assert_eq!(port_name("waytoolongportname"), ["must be no more than 15 characters"]);
        assert_eq!(port_name("-a").len(), 1);
        assert_eq!(port_name("a--b").len(), 1);
        assert_eq!(port_name("NOT_OK").len(), 2);
    }

    #[test]
    fn percentages_are_scaled() {
        assert_eq!(scaled(&IntOrString::String("25%".to_owned()), 3, true), Some(1));
        assert_eq!(scaled(&IntOrString::String("25%".to_owned()), 3, false), Some(0));
        assert_eq!(scaled(&IntOrString::Int(7), 3, false), Some(7));
        assert_eq!(scaled(&IntOrString::String("x".to_owned()), 3, false), None);
    }

    #[test]
    fn cidrs() {
        assert!(is_cidr("10.0.0.0/8") && is_cidr("fd00::/64"));
        assert!(!is_cidr("10.0.0.0/33") && !is_cidr("10.0.0.0") && !is_cidr("x/8"));
    }
}
