//! What a client wants to read: which encoding, and in it the object as it is, a Table, or only the
//! metadata.

use balsa_model::{Descriptor, Failure, Reason};
use http::HeaderMap;
use http::header::ACCEPT;

use super::encode::Encoding;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The object itself.
    Whole,
    /// `meta.k8s.io Table`.
    Table,
    /// `meta.k8s.io PartialObjectMetadata`.
    Metadata,
    /// `meta.k8s.io PartialObjectMetadataList`.
    MetadataList,
}

/// What a client accepts, as far as this server has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) form: Form,
    /// The apiVersion of what is no object of its own kind.
    pub(super) version: &'static str,
    pub(super) encoding: Encoding,
}

/// The versions of Tables and bare metadata.
const META_V1: &str = "meta.k8s.io/v1";
const META_V1BETA1: &str = "meta.k8s.io/v1beta1";

const PLAIN: Accepted = Accepted { form: Form::Whole, version: META_V1, encoding: Encoding::Json };

/// Chooses the first form that the client names and this server has.
pub(super) fn negotiate(headers: &HeaderMap) -> Result<Accepted, Failure> {
    let entries = entries(headers);
    if entries.is_empty() {
        return Ok(PLAIN);
    }
    entries.iter().find_map(|entry| accepted(entry)).ok_or_else(|| {
        if !entries.iter().any(|entry| Encoding::of(media_type(entry)).is_some()) {
            return Failure::generic(Reason::NotAcceptable);
        }
        // The encoding is known; what the client wants to see in it is not. In the words that clients know, though answers in
        // protobuf are not made.
        let accepted = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
        Failure::new(Reason::NotAcceptable, accepted)
    })
}

/// The same for a list, of which there is no single metadata.
pub(super) fn negotiate_list(headers: &HeaderMap, kind: &Descriptor) -> Result<Accepted, Failure> {
    negotiate_but(Form::Metadata, headers, kind)
}

/// The same for one object, which is no list.
pub(super) fn negotiate_object(headers: &HeaderMap, kind: &Descriptor) -> Result<Accepted, Failure> {
    negotiate_but(Form::MetadataList, headers, kind)
}

/// The same for what has no such form: lists have no single metadata, objects no list of it.
fn negotiate_but(none: Form, headers: &HeaderMap, kind: &Descriptor) -> Result<Accepted, Failure> {
    let accepted = negotiate(headers)?;
    if accepted.form != none {
        return Ok(accepted);
    }
    let (asked, found, list) = match none {
        Form::Metadata => ("PartialObjectMetadata", "a list", "List"),
        _ => ("PartialObjectMetadataList", "not a list", ""),
    };
    let (package, kind) = (package(kind), kind.kind);
    let message =
        format!("you requested {asked}, but the requested object is {found} (*{package}.{kind}{list})");
    Err(Failure::new(Reason::NotAcceptable, message))
}

/// The same for a watch, whose events no YAML can follow one another in.
pub(super) fn negotiate_watch(headers: &HeaderMap) -> Result<Accepted, Failure> {
    let entries = entries(headers);
    if entries.is_empty() {
        return Ok(PLAIN);
    }
    let streams = |accepted: &Accepted| accepted.encoding != Encoding::Yaml;
    entries.iter().filter_map(|entry| accepted(entry)).find(streams).ok_or_else(|| {
        let accepted = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        Failure::new(Reason::NotAcceptable, accepted)
    })
}

/// The name that Kubernetes' own types of a group go by.
fn package(kind: &Descriptor) -> &str {
    if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or_default() }
}

/// The encoding of an answer that has one form only. Who accepts none that this server has gets JSON.
pub(super) fn encoding(headers: &HeaderMap) -> Encoding {
    negotiate(headers).map_or(Encoding::Json, |accepted| accepted.encoding)
}

/// The entries of the header, by the client's weights; those of the same weight in their order.
fn entries(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut entries: Vec<&str> = values.flat_map(|value| value.split(',')).collect();
    let weight = |entry: &&str| {
        let quality = entry.split(';').skip(1).find_map(|p| p.trim().strip_prefix("q="));
        let quality = quality.and_then(|q| q.parse::<f32>().ok()).filter(|q| (0.0..=1.0).contains(q));
        // Thousandths, from the heaviest down.
        1000 - quality.map_or(1000, |q| (q * 1000.0) as u16)
    };
    entries.sort_by_key(weight);
    entries
}

fn media_type(entry: &str) -> &str {
    entry.split(';').next().unwrap_or_default().trim()
}

fn accepted(entry: &str) -> Option<Accepted> {
    let mut accepted = Accepted { encoding: Encoding::of(media_type(entry))?, ..PLAIN };
    for parameter in entry.split(';').skip(1).map(str::trim) {
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("as", "Table") => accepted.form = Form::Table,
            ("as", "PartialObjectMetadata") => accepted.form = Form::Metadata,
            ("as", "PartialObjectMetadataList") => accepted.form = Form::MetadataList,
            ("as", _) => return None,
            ("v", "v1") => accepted.version = META_V1,
            ("v", "v1beta1") => accepted.version = META_V1BETA1,
            ("v", _) => return None,
            ("g", group) if group != "meta.k8s.io" => return None,
            _ => {}
        }
    }
    Some(accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(accept: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        negotiate(&headers).ok().map(|accepted| accepted.form)
    }

    fn chosen(accept: &str) -> Accepted {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        negotiate(&headers).unwrap()
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

    #[test]
    fn versions_encodings_and_weights() {
        let old = chosen("application/json;as=Table;v=v1beta1;g=meta.k8s.io");
        assert_eq!((old.form, old.version), (Form::Table, META_V1BETA1));
        assert_eq!(chosen("application/yaml").encoding, Encoding::Yaml);
        assert_eq!(chosen("application/cbor, application/json").encoding, Encoding::Cbor);
        assert_eq!(chosen("text/html,application/yaml;q=0.5,*/*;q=0.8").encoding, Encoding::Json);
        assert_eq!(chosen("application/vnd.kubernetes.protobuf,*/*").encoding, Encoding::Json);
    }

    #[test]
    fn watches_are_no_yaml_and_objects_no_lists() {
        let headers = |accept: &'static str| HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
        assert_eq!(negotiate_watch(&headers("application/yaml, application/json")).unwrap(), PLAIN);
        let failure = negotiate_watch(&headers("application/yaml")).unwrap_err();
        assert!(failure.message.ends_with("protobuf;stream=watch"), "{}", failure.message);
        let list = headers("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
        let kind = Descriptor::cluster("", "v1", "Namespace", "namespaces", "namespace", "NamespaceList");
        let failure = negotiate_object(&list, &kind).unwrap_err();
        assert!(failure.message.ends_with("is not a list (*core.Namespace)"), "{}", failure.message);
        let object = headers("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
        let failure = negotiate_list(&object, &kind).unwrap_err();
        assert!(failure.message.ends_with("is a list (*core.NamespaceList)"), "{}", failure.message);
    }
}
