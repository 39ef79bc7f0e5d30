//! The Kubernetes REST API. One handler for all kinds: the path says which kind, the method and the
//! parameters say what to do, and the engine does it.

mod accept;
pub(crate) mod body;
mod encode;
mod eviction;
mod info;
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

use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use balsa_model::{Failure, KindRef, Reason, kinds};
use http::{HeaderMap, Method, Request, Uri};
use hyper::upgrade::OnUpgrade;

use crate::authorize::Attributes;
use crate::fairness::Sort;
use crate::front::{Front, Peer};
use crate::identity::Authenticated;
use path::ResourcePath;
use query::Query;

/// The routes of the REST API: everything that is no gRPC.
pub(crate) fn router(front: Front) -> Router {
    Router::new().fallback(handle).layer(encode::gzip()).with_state(front)
}

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

async fn handle(State(front): State<Front>, request: Request<Body>) -> Response {
    let started = Instant::now();
    let labels = Labels::of(&request);
    let audit_id = request.headers().get("audit-id").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let encoding = accept::encoding(request.headers());
    let pretty = encode::is_for_people(request.headers(), &Query::parse(request.uri().query()));
    let response = match dispatch(front, request).await {
        Ok(response) => response,
        Err(failure) => respond::failure(&failure),
    };
    let mut response = match response.extensions().get::<proxy::Verbatim>() {
        Some(_) => response,
        None => encode::transcode(response, encoding, pretty).await,
    };
    respond::audit_id(&mut response, &audit_id.unwrap_or_else(balsa_rt::new_uid));
    labels.record(started, response.status().as_u16());
    response
}

async fn dispatch(front: Front, request: Request<Body>) -> Result<Response, Failure> {
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    let user = front.authenticate_fresh(&peer, request.headers()).await?;
    let (mut parts, body) = request.into_parts();
    let call = Call {
        front,
        user,
        query: Query::parse(parts.uri.query()),
        method: parts.method.clone(),
        uri: parts.uri.clone(),
        headers: parts.headers.clone(),
    };
    let Some(path) = path::parse(call.uri.path()) else {
        return info::serve(call, body).await;
    };
    if let Some(review) = reviews::question(&path) {
        return reviews::serve(review, call, path, body).await;
    }
    if let Some(measured) = usage::measured(&path) {
        return usage::serve(measured, &call, &path).await;
    }
    let kind = match served_kind(&path) {
        Ok(kind) => kind,
        Err(failure) => {
            // Who may not ask does not learn that there is no answer.
            call.front.authorize(&call.user, &attributes(&call, &path))?;
            return Err(failure);
        }
    };
    let call = ResourceCall { call, kind, path };
    let sort = if matches!(call.call.method, Method::GET | Method::HEAD) { Sort::Read } else { Sort::Write };
    // Until the answer begins: what streams after that is not work that others wait for.
    let _seat = call.call.front.fairness.seat(&call.call.user, sort).await?;
    match call.path.subresource.as_str() {
        "" => resources::serve(call, body).await,
        "exec" | "attach" | "portforward" if is_pod(&call.path) => {
            streams::serve(call, parts.extensions.remove::<OnUpgrade>()).await
        }
        "proxy" => proxy::serve(call, body, parts.extensions.remove::<OnUpgrade>()).await,
        "log" => logs::serve(call).await,
        _ => subresources::serve(call, body).await,
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

/// The labels under which a request is counted: Kubernetes' own, so that its dashboards work.
struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
}

impl Labels {
    fn of(request: &Request<Body>) -> Self {
        let path = path::parse(request.uri().path()).filter(|path| served_kind(path).is_ok());
        let path = path.unwrap_or_default();
        let query = Query::parse(request.uri().query());
        let verb = match (request.method(), path.name.is_empty()) {
            (&Method::GET, _) if query.flag("watch") => "WATCH",
            (&Method::GET, true) if !path.plural.is_empty() => "LIST",
            (&Method::GET, _) => "GET",
            (&Method::POST, _) => "POST",
            (&Method::PUT, _) => "PUT",
            (&Method::PATCH, _) => "PATCH",
            (&Method::DELETE, true) => "DELETECOLLECTION",
            (&Method::DELETE, false) => "DELETE",
            _ => "other",
        };
        let scope = match (path.plural.is_empty(), path.name.is_empty(), path.namespace.is_empty()) {
            (true, ..) => "",
            (_, false, _) => "resource",
            (_, true, false) => "namespace",
            (_, true, true) => "cluster",
        };
        let (group, version, resource) = (path.group, path.version, path.plural);
        Self { verb, group, version, resource, subresource: path.subresource, scope }
    }

    fn record(self, started: Instant, code: u16) {
        let Self { verb, group, version, resource, subresource, scope } = self;
        metrics::counter!(
            "apiserver_request_total",
            "verb" => verb, "group" => group.clone(), "version" => version, "resource" => resource.clone(),
            "subresource" => subresource.clone(), "scope" => scope, "component" => "apiserver",
            "code" => code.to_string(),
        )
        .increment(1);
        // A watch lasts as long as the client wants: it says nothing about how fast answers are.
        if verb != "WATCH" {
            metrics::histogram!(
                "apiserver_request_duration_seconds",
                "verb" => verb, "group" => group, "resource" => resource, "subresource" => subresource,
                "scope" => scope, "component" => "apiserver",
            )
            .record(started.elapsed());
        }
    }
}
