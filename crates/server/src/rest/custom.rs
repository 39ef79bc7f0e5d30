//! Kinds that users define: there are none, and whoever lists their definitions is told so. kubectl does,
//! before it says of a kind that it knows no more than we do.

use axum::response::Response;
use balsa_model::{Failure, Reason};
use http::{Method, StatusCode};
use serde_json::json;

use super::path::ResourcePath;
use super::{Call, attributes, respond};

/// Whether a path is that of all definitions.
pub(super) fn is_definitions(path: &ResourcePath) -> bool {
    path.group == "apiextensions.k8s.io"
        && path.version == "v1"
        && path.plural == "customresourcedefinitions"
        && path.namespace.is_empty()
        && path.name.is_empty()
}

/// Answers with all definitions; anything else is not found, as nothing of the kind is served.
pub(super) fn serve(call: &Call, path: &ResourcePath) -> Result<Response, Failure> {
    call.front.authorize(&call.user, &attributes(call, path))?;
    if !matches!(call.method, Method::GET | Method::HEAD) || call.query.flag("watch") {
        return Err(Failure::generic(Reason::NotFound));
    }
    let none = json!({"kind": "CustomResourceDefinitionList", "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {}, "items": []});
    Ok(respond::value(StatusCode::OK, &none))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::path::parse;

    #[test]
    fn only_the_list_is_known() {
        let is = |path: &str| is_definitions(&parse(path).unwrap());
        assert!(is("/apis/apiextensions.k8s.io/v1/customresourcedefinitions"));
        assert!(!is("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com"));
        assert!(!is("/apis/apiextensions.k8s.io/v1beta1/customresourcedefinitions"));
    }
}
