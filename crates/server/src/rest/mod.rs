//! The Kubernetes REST API. One handler for all kinds: the path says which kind, the method and the
//! parameters say what to do, and the engine does it.

mod accept;
pub(crate) mod body;
mod components;
mod counted;
mod custom;
mod encode;
mod eviction;
mod health;
mod info;
mod listing;
mod logs;
pub(crate) mod path;
pub(crate) mod proxy;
mod query;
mod resources;
mod respond;
mod reviews;
mod streams;
mod subresources;
mod usage;
mod watch;

use axum::body::Body;
use axum::response::Response;
use balsa_model::{Failure, KindRef, Reason, kinds};
use http::header::ACCEPT_ENCODING;
use http::{Extensions, HeaderMap, Method, Request, Uri};
use hyper::upgrade::OnUpgrade;
use serde_json::Value;

use crate::authorize::Attributes;
use crate::fairness::Sort;
use crate::front::{Front, Peer};
use crate::identity::Authenticated;
pub(crate) use counted::{Asked, Counted, Watching};
use path::ResourcePath;
use query::Query;
use streams::told::Listener;

/// A request, taken apart.
pub(crate) struct Call {
    pub(super) front: Front,
    pub(super) user: Authenticated,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) query: Query,
}

/// A request for objects of a kind.
pub(crate) struct ResourceCall {
    pub(super) call: Call,
    pub(super) kind: KindRef,
    pub(super) path: ResourcePath,
}

/// Answers a request: everything that is no gRPC.
pub(crate) async fn serve(front: Front, request: Request<Body>) -> Response {
    let path = path::parse(request.uri().path());
    let query = Query::parse(request.uri().query());
    let counting = counted::Request::begin(request.method(), path.as_ref(), &query);
    let counted = front.counted.clone();
    let audit_id = request.headers().get("audit-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let encoding = accept::encoding(request.headers());
    let accepted = request.headers().get(ACCEPT_ENCODING).cloned();
    let pretty = encode::is_for_people(request.headers(), &query);
    let response = match dispatch(front, request, path, query).await {
        Ok(response) => response,
        Err(failure) => respond::failure(&failure),
    };
    let mut response = match response.extensions().get::<proxy::Verbatim>() {
        Some(_) => response,
        None => encode::transcode(response, encoding, pretty).await,
    };
    respond::audit_id(&mut response, &audit_id.unwrap_or_else(balsa_rt::new_uid));
    counted.end(counting, response.status().as_u16());
    encode::gzip(response, accepted).await
}

async fn dispatch(
    front: Front,
    request: Request<Body>,
    path: Option<ResourcePath>,
    query: Query,
) -> Result<Response, Failure> {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    let user = front.authenticate_fresh(&peer, request.headers()).await?;
    let (parts, body) = request.into_parts();
    let extensions = parts.extensions;
    let call = Call { front, user, query, method: parts.method, uri: parts.uri, headers: parts.headers };
    let wanted = match &path {
        Some(path) => attributes(&call, path),
        None => info::attributes(&call),
    };
    if path.as_ref().is_some_and(is_open_for_long) {
        return route(call, path, body, extensions).await;
    }
    let fairness = call.front.fairness.clone();
    let ticket = fairness.classify(&call.user, &wanted);
    let sort = if matches!(call.method, Method::GET | Method::HEAD) { Sort::Read } else { Sort::Write };
    let answered = match fairness.seat(&ticket, sort).await {
        // Until the answer begins: what streams after that is not work that others wait for.
        Ok(_seat) => route(call, path, body, extensions).await,
        Err(refused) => Err(refused),
    };
    let mut response = answered.unwrap_or_else(|failure| respond::failure(&failure));
    ticket.tell(response.headers_mut());
    Ok(response)
}

/// The texts in a list of a body.
fn texts(value: &Value, pointer: &str) -> Vec<String> {
    let list = value.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// Whether a request lasts for as long as somebody looks.
fn is_open_for_long(path: &ResourcePath) -> bool {
    matches!(path.subresource.as_str(), "attach" | "exec" | "log" | "portforward" | "proxy")
}

async fn route(
    call: Call,
    path: Option<ResourcePath>,
    body: Body,
    mut extensions: Extensions,
) -> Result<Response, Failure> {
    let Some(path) = path else {
        return info::serve(call, body).await;
    };
    if let Some(review) = reviews::question(&path) {
        return reviews::serve(review, call, path, body).await;
    }
    if let Some(measured) = usage::measured(&path) {
        return usage::serve(measured, &call, &path).await;
    }
    if components::is_asked(&path) {
        return components::serve(&call, &path).await;
    }
    if custom::is_definitions(&path) {
        return custom::serve(&call, &path);
    }
    let kind = match served_kind(&path) {
        Ok(kind) => kind,
        Err(failure) => {
            // Who may not ask does not learn that there is no answer.
            call.front.authorize(&call.user, &attributes(&call, &path))?;
            return Err(failure);
        }
    };
    if !exists(kind, &path) {
        call.front.authorize(&call.user, &attributes(&call, &path))?;
        return Err(Failure::generic(Reason::NotFound));
    }
    let call = ResourceCall { call, kind, path };
    let writes = matches!(call.call.method, Method::POST | Method::PUT | Method::PATCH);
    let mut answer = served(call, body, &mut extensions).await?;
    // Writes are warned of it along with what they write.
    if !writes {
        respond::warn_deprecated(&mut answer, kind.descriptor());
    }
    Ok(answer)
}

/// An answer about objects, or a part of one.
async fn served(call: ResourceCall, body: Body, extensions: &mut Extensions) -> Result<Response, Failure> {
    match call.path.subresource.as_str() {
        "" if call.call.query.flag("watch") => {
            let listener = Listener::to_watch(&call.call.headers, extensions);
            told(listener, resources::serve(call, body).await)
        }
        "" => resources::serve(call, body).await,
        "exec" | "attach" | "portforward" if is_pod(&call.path) => {
            streams::serve(call, extensions.remove::<OnUpgrade>()).await
        }
        "proxy" => proxy::serve(call, body, extensions.remove::<OnUpgrade>()).await,
        "log" => {
            let listener = Listener::to_log(&call.call.headers, extensions)?;
            told(listener, logs::serve(call).await)
        }
        _ => subresources::serve(call, body).await,
    }
}

/// An answer, to who listens over a WebSocket.
fn told(listener: Option<Listener>, answer: Result<Response, Failure>) -> Result<Response, Failure> {
    match listener {
        Some(listener) => answer.map(|answer| listener.tell(answer)),
        None => answer,
    }
}

/// What a request wants of a resource, by its method alone.
fn attributes(call: &Call, path: &ResourcePath) -> Attributes {
    let verb = match (&call.method, path.name.is_empty()) {
        (&Method::GET, _) if call.query.flag("watch") => "watch",
        (&Method::GET | &Method::HEAD, true) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "deletecollection",
        (&Method::DELETE, false) => "delete",
        _ => "get",
    };
    Attributes {
        verb: verb.to_owned(),
        group: path.group.clone(),
        resource: path.plural.clone(),
        subresource: path.subresource.clone(),
        namespace: path.namespace.clone(),
        name: path.name.clone(),
        ..Attributes::default()
    }
}

fn is_pod(path: &ResourcePath) -> bool {
    path.group.is_empty() && path.plural == "pods"
}

fn served_kind(path: &ResourcePath) -> Result<KindRef, Failure> {
    let kind = kinds::by_version(&path.group, &path.version, &path.plural);
    kind.ok_or_else(|| Failure::generic(Reason::NotFound))
}

/// Whether there is such a path for a kind: cluster-wide objects are in no namespace, and of others there are
/// only collections without one.
fn exists(kind: KindRef, path: &ResourcePath) -> bool {
    match kind.descriptor().is_namespaced() {
        true => !path.namespace.is_empty() || path.name.is_empty(),
        false => path.namespace.is_empty(),
    }
}

impl ResourceCall {
    /// The proof that the user may do `verb` here.
    pub(super) fn authorize(&self, verb: &str) -> Result<crate::authorize::Authorized, Failure> {
        let path = &self.path;
        let mut attributes = Attributes::resource(verb, self.kind.descriptor(), &path.namespace, &path.name);
        // What is allowed within a namespace is allowed on the namespace itself.
        if path.plural == "namespaces" && path.group.is_empty() {
            attributes.namespace.clone_from(&path.name);
        }
        attributes.field_selector = self.call.query.get("fieldSelector").to_owned();
        let attributes = attributes.part(&path.subresource);
        self.call.front.authorize(&self.call.user, &attributes)
    }

    /// That a method makes no sense here.
    pub(super) fn not_allowed(&self) -> Failure {
        Failure::generic(Reason::MethodNotAllowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_where_their_kind_has_them() {
        for (path, there) in [
            ("/api/v1/pods", true),
            ("/api/v1/namespaces/n/pods/p", true),
            ("/api/v1/pods/p", false),
            ("/api/v1/pods/p/log", false),
            ("/api/v1/nodes/n", true),
            ("/api/v1/namespaces/n", true),
            ("/api/v1/namespaces/n/nodes", false),
            ("/api/v1/namespaces/n/namespaces", false),
        ] {
            let path = path::parse(path).unwrap();
            assert_eq!(exists(served_kind(&path).unwrap(), &path), there, "{path:?}");
        }
    }
}
