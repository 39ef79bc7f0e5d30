//! Field selectors: `metadata.name=x,status.phase!=Failed`.

use std::fmt;
use std::sync::Arc;

use crate::kind::Descriptor;
use crate::object::Object;
use crate::status::Failure;

const NAME: &str = "metadata.name";
const NAMESPACE: &str = "metadata.namespace";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    label: String,
    equal: bool,
    value: String,
}

/// Which fields an object must have. Shared, not copied, when cloned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Arc<[Term]>);

impl FieldSelector {
    /// Selects every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Reads the text form for objects of `kind`. Empty selects everything.
    ///
    /// # Errors
    /// `BadRequest` when the text is no selector, or names a field that the kind does not offer.
    pub fn parse(text: &str, kind: &Descriptor) -> Result<Self, Failure> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let Some((label, equal, value)) = split_term(part) else {
                return Err(Failure::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{part}'"
                )));
            };
            let value = unescape(value)?;
            check_label(label, kind)?;
            terms.push(Term { label: label.to_owned(), equal, value });
        }
        Ok(Self(terms.into()))
    }

    /// The same with other names of the fields.
    #[must_use]
    pub fn relabelled(&self, label: impl Fn(&str) -> &str) -> Self {
        let term = |term: &Term| Term { label: label(&term.label).to_owned(), ..term.clone() };
        Self(self.0.iter().map(term).collect())
    }

    /// A selector of one field.
    pub fn equal(label: &str, value: &str) -> Self {
        Self(Arc::new([Term { label: label.to_owned(), equal: true, value: value.to_owned() }]))
    }

    /// Whether an object is selected. Name and namespace are read off the metadata; anything else
    /// decodes the object, once for all terms.
    pub fn matches(&self, object: &Object) -> bool {
        let known = |term: &Term| match term.label.as_str() {
            NAME => Some(&*object.key().name),
            NAMESPACE => Some(&*object.key().namespace),
            _ => None,
        };
        if self.0.iter().any(|term| known(term).is_some_and(|value| (value == term.value) != term.equal)) {
            return false;
        }
        if self.0.iter().all(|term| known(term).is_some()) {
            return true;
        }
        let Some(typed) = object.decode() else { return false };
        self.matches_with(|label| typed.field(label))
    }

    /// Whether an object whose fields `field` tells is selected.
    pub fn matches_with(&self, mut field: impl FnMut(&str) -> String) -> bool {
        self.0.iter().all(|term| (field(&term.label) == term.value) == term.equal)
    }

    /// Whether every object is selected.
    pub fn selects_all(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that a field must have for an object to be selected.
    pub fn exact(&self, label: &str) -> Option<&str> {
        self.0.iter().find(|term| term.equal && term.label == label).map(|term| term.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let sign = if term.equal { "=" } else { "!=" };
            write!(f, "{comma}{}{sign}{}", term.label, escape(&term.value))?;
        }
        Ok(())
    }
}

fn check_label(label: &str, kind: &Descriptor) -> Result<(), Failure> {
    if label == NAME || label == NAMESPACE || kind.field_labels.contains(&label) {
        return Ok(());
    }
    Err(Failure::bad_request(if kind.field_labels.is_empty() {
        format!("\"{label}\" is not a known field selector: only \"{NAME}\", \"{NAMESPACE}\"")
    } else {
        format!("field label not supported: {label}")
    }))
}

/// Splits at commas that no backslash protects.
fn split_terms(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(part: &str) -> Option<(&str, bool, &str)> {
    part.char_indices().find_map(|(at, _)| {
        let (label, rest) = part.split_at(at);
        [("!=", false), ("==", true), ("=", true)]
            .into_iter()
            .find_map(|(sign, equal)| Some((label, equal, rest.strip_prefix(sign)?)))
    })
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn unescape(value: &str) -> Result<String, Failure> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(Failure::bad_request(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(Failure::bad_request(format!(
                    "invalid field selector: unescaped character in value: {}",
                    u32::from(c)
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Descriptor = Descriptor {
        field_labels: &["spec.nodeName", "status.phase"],
        ..Descriptor::namespaced("", "v1", "Pod", "pods", "pod", "core.v1.Pod")
    };
    const CONFIG_MAP: Descriptor =
        Descriptor::namespaced("", "v1", "ConfigMap", "configmaps", "configmap", "core.v1.ConfigMap");

    #[test]
    fn terms_are_read() {
        let selector =
            FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed,metadata.name==a\\,b", &POD).unwrap();
        assert_eq!(selector.exact("spec.nodeName"), Some("n1"));
        assert_eq!(selector.exact("status.phase"), None);
        assert_eq!(selector.exact("metadata.name"), Some("a,b"));
        assert_eq!(selector.to_string(), "spec.nodeName=n1,status.phase!=Failed,metadata.name=a\\,b");
        let fields = |phase: &'static str| {
            move |label: &str| match label {
                "spec.nodeName" => "n1".to_owned(),
                "status.phase" => phase.to_owned(),
                _ => "a,b".to_owned(),
            }
        };
        assert!(selector.matches_with(fields("Running")));
        assert!(!selector.matches_with(fields("Failed")));
        assert!(FieldSelector::parse("", &POD).unwrap().selects_all());
    }

    #[test]
    fn mistakes_are_told_as_kubernetes_tells_them() {
        let error = |text, kind| FieldSelector::parse(text, kind).unwrap_err().message;
        assert_eq!(error("spec.bogus=1", &POD), "field label not supported: spec.bogus");
        assert_eq!(
            error("data.i=1", &CONFIG_MAP),
            "\"data.i\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(
            error("metadata.name", &POD),
            "invalid selector: 'metadata.name'; can't understand 'metadata.name'"
        );
        assert!(error("metadata.name=a=b", &POD).contains("unescaped character in value: 61"));
        assert!(error("metadata.name=a\\b", &POD).contains("invalid escape sequence: \\b"));
        assert!(FieldSelector::parse("!", &POD).is_err());
        assert!(FieldSelector::parse("a!b!=c", &POD).is_err());
    }
}
