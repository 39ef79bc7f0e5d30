//! How requests are counted: under Kubernetes' own names and labels, so that its dashboards work.
//!
//! To look a metric up by its labels costs more than to count; the series of plain objects, which are few, are
//! therefore kept. Series with a part of the URL that clients choose are not.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use balsa_model::kinds;
use balsa_proto::from_status;
use http::{HeaderMap, Method};
use metrics::{Counter, Gauge, Histogram};
use tonic::{Code, Status};

use super::path::ResourcePath;
use super::query::Query;
use super::served_kind;
use crate::authorize::Attributes;

/// The series that were counted in before. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Counted(Arc<RwLock<HashMap<(Series, u16), Metrics>>>);

/// What tells series of plain objects apart, but for the answer's code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Series {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    scope: &'static str,
}

#[derive(Clone)]
struct Metrics {
    total: Counter,
    duration: Histogram,
}

/// A request that is under way.
pub(super) struct Request {
    series: Series,
    subresource: String,
    started: Instant,
}

impl Request {
    /// A request that begins; `path` is none of a resource when it is absent.
    pub(super) fn begin(method: &Method, path: Option<&ResourcePath>, query: &Query) -> Self {
        let kind = path.and_then(|path| served_kind(path).ok());
        let descriptor = kind.map(|kind| kind.descriptor());
        let path = path.filter(|_| kind.is_some());
        let is_named = path.is_some_and(|path| !path.name.is_empty());
        let is_namespaced = path.is_some_and(|path| !path.namespace.is_empty());
        let verb = match (method, is_named) {
            (&Method::GET, _) if query.flag("watch") => "WATCH",
            (&Method::GET, false) if kind.is_some() => "LIST",
            (&Method::GET, _) => "GET",
            (&Method::POST, _) => "POST",
            (&Method::PUT, _) => "PUT",
            (&Method::PATCH, _) => "PATCH",
            (&Method::DELETE, false) => "DELETECOLLECTION",
            (&Method::DELETE, true) => "DELETE",
            _ => "other",
        };
        let scope = if kind.is_some() { scope(is_named, is_namespaced) } else { "" };
        let (group, version, resource) =
            descriptor.map_or(("", "", ""), |kind| (kind.group, kind.version, kind.plural));
        let subresource = path.map(|path| path.subresource.clone()).unwrap_or_default();
        let series = Series { verb, group, version, resource, scope };
        Self { series, subresource, started: Instant::now() }
    }
}

fn scope(is_named: bool, is_namespaced: bool) -> &'static str {
    match (is_named, is_namespaced) {
        (true, _) => "resource",
        (false, true) => "namespace",
        (false, false) => "cluster",
    }
}

/// What a gRPC request asked for: the door puts an empty one into the request, and reads what the service has
/// written into it, because no URL says it.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<OnceLock<(Series, String)>>);

impl Asked {
    /// The request is for this.
    pub(crate) fn tell(&self, wanted: &Attributes) {
        let Some(kind) = kinds::by_resource(&wanted.group, &wanted.resource) else { return };
        let kind = kind.descriptor();
        let verb = match wanted.verb.as_str() {
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "other",
        };
        let scope = scope(!wanted.name.is_empty(), !wanted.namespace.is_empty());
        let series = Series { verb, group: kind.group, version: kind.version, resource: kind.plural, scope };
        let _ = self.0.set((series, wanted.subresource.clone()));
    }
}

/// Counts a watch for as long as it is there.
pub(crate) struct Watching(Gauge);

impl Watching {
    pub(crate) fn begin(resource: &'static str) -> Self {
        let gauge =
            metrics::gauge!("apiserver_longrunning_requests", "verb" => "WATCH", "resource" => resource);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

impl Counted {
    /// Counts a gRPC request whose answer has begun, if it was one for objects: a stream that breaks later
    /// is counted as it began.
    pub(crate) fn grpc(&self, asked: &Asked, started: Instant, answer: &HeaderMap) {
        if asked.0.get().is_some() {
            let status = Status::from_header_map(answer).filter(|status| status.code() != Code::Ok);
            self.call(asked, started, status.map_or(200, |status| from_status(&status).reason.code()));
        }
    }

    /// Counts a call for objects that was answered with this code.
    pub(crate) fn call(&self, asked: &Asked, started: Instant, code: u16) {
        if let Some((series, subresource)) = asked.0.get() {
            self.end(Request { series: *series, subresource: subresource.clone(), started }, code);
        }
    }

    /// Counts a request that was answered.
    pub(super) fn end(&self, request: Request, code: u16) {
        let Request { series, subresource, started } = request;
        let metrics =
            if subresource.is_empty() { self.kept(series, code) } else { find(series, subresource, code) };
        metrics.total.increment(1);
        // A watch lasts as long as the client wants: it says nothing about how fast answers are.
        if series.verb != "WATCH" {
            metrics.duration.record(started.elapsed());
        }
    }

    fn kept(&self, series: Series, code: u16) -> Metrics {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&(series, code)).cloned();
        known.unwrap_or_else(|| {
            let found = find(series, String::new(), code);
            self.0.write().unwrap_or_else(PoisonError::into_inner).insert((series, code), found.clone());
            found
        })
    }
}

fn find(series: Series, subresource: String, code: u16) -> Metrics {
    let Series { verb, group, version, resource, scope } = series;
    Metrics {
        total: metrics::counter!(
            "apiserver_request_total",
            "verb" => verb, "group" => group, "version" => version, "resource" => resource,
            "subresource" => subresource.clone(), "scope" => scope, "component" => "apiserver",
            "code" => code.to_string(),
        ),
        duration: metrics::histogram!(
            "apiserver_request_duration_seconds",
            "verb" => verb, "group" => group, "version" => version, "resource" => resource,
            "subresource" => subresource, "scope" => scope, "component" => "apiserver",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::path;
    use super::*;

    #[test]
    fn requests_are_named_as_kubernetes_names_them() {
        let cases = [
            (Method::GET, "/api/v1/pods", "", ("LIST", "", "pods", "cluster", "")),
            (Method::GET, "/api/v1/namespaces/n/pods", "watch=1", ("WATCH", "", "pods", "namespace", "")),
            (Method::GET, "/api/v1/namespaces/n/pods/p/log", "", ("GET", "", "pods", "resource", "log")),
            (
                Method::POST,
                "/apis/apps/v1/namespaces/n/deployments",
                "",
                ("POST", "apps", "deployments", "namespace", ""),
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/n/pods",
                "",
                ("DELETECOLLECTION", "", "pods", "namespace", ""),
            ),
            (Method::DELETE, "/api/v1/nodes/n", "", ("DELETE", "", "nodes", "resource", "")),
            (Method::GET, "/api/v1/nonsense/x/y", "", ("GET", "", "", "", "")),
            (Method::GET, "/version", "", ("GET", "", "", "", "")),
        ];
        for (method, at, query, expected) in cases {
            let request = Request::begin(&method, path::parse(at).as_ref(), &Query::parse(Some(query)));
            let Series { verb, group, resource, scope, .. } = request.series;
            assert_eq!(
                (verb, group, resource, scope, request.subresource.as_str()),
                expected,
                "{method} {at}"
            );
        }
    }
}
