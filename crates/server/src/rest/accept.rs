//! What a client wants to read: JSON as it is, as a Table, or only the metadata.

use balsa_model::{Failure, Reason};
use http::HeaderMap;
use http::header::ACCEPT;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The object itself.
    Whole,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata`, or a list of them.
    Metadata,
}

/// Chooses the first form that the client names and this server has.
pub(super) fn negotiate(headers: &HeaderMap) -> Result<Form, Failure> {
    let accepted: Vec<&str> =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if accepted.is_empty() {
        return Ok(Form::Whole);
    }
    let entries = accepted.iter().flat_map(|value| value.split(','));
    entries.filter_map(form).next().ok_or_else(|| {
        Failure::new(
            Reason::NotAcceptable,
            "only the following media types are accepted: application/json, application/json;as=Table;v=v1;g=meta.k8s.io, application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        )
    })
}

fn form(entry: &str) -> Option<Form> {
    let mut parts = entry.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*" | "") {
        return None;
    }
    let mut named = None;
    for parameter in parts {
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("as", "Table") => named = Some(Form::Table),
            ("as", "PartialObjectMetadata" | "PartialObjectMetadataList") => named = Some(Form::Metadata),
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
