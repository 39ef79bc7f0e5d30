//! What a client wants to read: JSON as it is, as a Table, or only the metadata.

use balsa_model::{Descriptor, Failure, Reason};
use http::HeaderMap;
use http::header::ACCEPT;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The object itself.
    Whole,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata`.
    Metadata,
    /// `meta.k8s.io/v1 PartialObjectMetadataList`.
    MetadataList,
}

/// Chooses the first form that the client names and this server has.
pub(super) fn negotiate(headers: &HeaderMap) -> Result<Form, Failure> {
    let accepted: Vec<&str> =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if accepted.is_empty() {
        return Ok(Form::Whole);
    }
    let entries: Vec<&str> = accepted.iter().flat_map(|value| value.split(',')).collect();
    entries.iter().find_map(|entry| form(entry)).ok_or_else(|| {
        if !entries.iter().any(|entry| is_json(entry.split(';').next().unwrap_or_default().trim())) {
            return Failure::generic(Reason::NotAcceptable);
        }
        // The encoding is known; what the client wants to see in it is not.
        let accepted = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
        Failure::new(Reason::NotAcceptable, accepted)
    })
}

/// The same for a list, of which there is no single metadata.
pub(super) fn negotiate_list(headers: &HeaderMap, kind: &Descriptor) -> Result<Form, Failure> {
    let form = negotiate(headers)?;
    if form != Form::Metadata {
        return Ok(form);
    }
    let group = if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or_default() };
    let message = format!(
        "you requested PartialObjectMetadata, but the requested object is a list (*{group}.{}List)",
        kind.kind
    );
    Err(Failure::new(Reason::NotAcceptable, message))
}

fn is_json(media_type: &str) -> bool {
    matches!(media_type, "application/json" | "application/*" | "*/*" | "")
}

fn form(entry: &str) -> Option<Form> {
    let mut parts = entry.split(';').map(str::trim);
    if !is_json(parts.next()?) {
        return None;
    }
    let mut named = None;
    for parameter in parts {
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("as", "Table") => named = Some(Form::Table),
            ("as", "PartialObjectMetadata") => named = Some(Form::Metadata),
            ("as", "PartialObjectMetadataList") => named = Some(Form::MetadataList),
            ("as", _) => return None,
            ("v", version) if version != "v1" => return None,
            ("g", group) if group != "meta.k8s.io" => return None,
            _ => {}
        }
    }
    Some(named.unwrap_or(Form::Whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(accept: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        negotiate(&headers).ok()
    }

    #[test]
    fn what_clients_send() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(negotiated(kubectl), Some(Form::Table));
        assert_eq!(negotiated("application/vnd.kubernetes.protobuf,application/json"), Some(Form::Whole));
        assert_eq!(
            negotiated("application/json;g=meta.k8s.io;v=v1;as=PartialObjectMetadata"),
            Some(Form::Metadata)
        );
        assert_eq!(negotiated("application/json;as=Table;v=v9;g=meta.k8s.io, */*"), Some(Form::Whole));
        assert_eq!(negotiated("text/html"), None);
    }
}
