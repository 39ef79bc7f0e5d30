//! What load balancers ask a node: whether it has pods of a service (`spec.healthCheckNodePort`).
//!
//! A port for each service with `externalTrafficPolicy: Local`. Agents of one machine share its ports: one of
//! them answers for all, as one of them programs the services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use balsa_net::proxy::ProxyService;
use balsa_net::{Lease, NetError, Netns};
use balsa_rt::{Scope, TaskKind};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How many pods of the service are here: load balancers may weigh nodes by it.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// What is said of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Pods of it on this machine that are ready.
    pub local: usize,
    /// Whether services are reached through this machine as they should be.
    pub proxy_is_well: bool,
}

impl HealthCheck {
    /// Of a service as the proxy has it.
    pub(crate) fn new(service: &ProxyService, proxy_is_well: bool) -> Self {
        let endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
        let here: BTreeSet<Ipv4Addr> =
            endpoints.filter(|endpoint| endpoint.local && endpoint.ready).map(|e| e.address).collect();
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        Self { namespace, name, local: here.len(), proxy_is_well }
    }

    fn status(&self) -> StatusCode {
        if self.local > 0 && self.proxy_is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    }

    fn body(&self) -> String {
        let service = json!({"namespace": self.namespace, "name": self.name});
        json!({"service": service, "localEndpoints": self.local, "serviceProxyHealthy": self.proxy_is_well})
            .to_string()
    }
}

/// The ports that are served.
#[derive(Default)]
pub(super) struct HealthPorts {
    lease: Option<Lease>,
    served: BTreeMap<u16, Served>,
}

struct Served {
    said: watch::Sender<HealthCheck>,
    _scope: Scope,
}

impl HealthPorts {
    /// Serves these ports and no others; `lease` names whose they are on this machine. A port that is taken
    /// is tried again with the next call.
    pub(super) async fn sync(
        &mut self,
        lease: &str,
        checks: &BTreeMap<u16, HealthCheck>,
    ) -> Result<(), NetError> {
        self.served.retain(|port, _| checks.contains_key(port));
        if checks.is_empty() {
            self.lease = None;
            return Ok(());
        }
        if self.lease.is_none() {
            self.lease = Lease::take(&Netns::Current, lease).await?;
            if self.lease.is_none() {
                return Ok(());
            }
        }
        for (port, check) in checks {
            if let Some(served) = self.served.get(port) {
                served.said.send_if_modified(|said| {
                    let changed = said != check;
                    said.clone_from(check);
                    changed
                });
                continue;
            }
            match serve(*port, check.clone()).await {
                Ok(served) => {
                    self.served.insert(*port, served);
                }
                Err(error) => {
                    let HealthCheck { namespace, name, .. } = check;
                    tracing::warn!(namespace, name, port, %error, "no health check of the service; will try again");
                }
            }
        }
        Ok(())
    }

    /// Closes all.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }
}

async fn serve(port: u16, check: HealthCheck) -> std::io::Result<Served> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    let (said, told) = watch::channel(check);
    let router = Router::new().fallback(answer).with_state(told);
    let scope = Scope::new();
    let token = scope.token();
    scope.spawn(TaskKind::Network, async move {
        tokio::select! {
            () = token.cancelled() => {}
            ended = axum::serve(listener, router).into_future() => {
                tracing::warn!(port, ?ended, "health checks of a service are answered no more");
            }
        }
    });
    Ok(Served { said, _scope: scope })
}

/// Whatever path is asked for. The connection ends with the answer, so that nobody is told what was once so.
async fn answer(State(told): State<watch::Receiver<HealthCheck>>) -> Response {
    let check = told.borrow().clone();
    let headers = [
        (CONTENT_TYPE.as_str(), "application/json".to_owned()),
        (X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff".to_owned()),
        (CONNECTION.as_str(), "close".to_owned()),
        (WEIGHT, check.local.to_string()),
    ];
    (check.status(), headers, check.body()).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use balsa_net::proxy::{ProxyEndpoint, ProxyPort};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn check(local: usize) -> HealthCheck {
        HealthCheck { namespace: "n".to_owned(), name: "web".to_owned(), local, proxy_is_well: true }
    }

    async fn asked(port: u16) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET /any HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        Some(said)
    }

    #[test]
    fn pods_that_are_here_and_ready_count_once() {
        let endpoint = |last: u8, local, ready| {
            let endpoint = ProxyEndpoint::ready([10, 0, 0, last].into(), 80);
            ProxyEndpoint { local, ready, ..endpoint }
        };
        let endpoints = vec![endpoint(1, true, true), endpoint(2, true, false), endpoint(3, false, true)];
        let port = ProxyPort { endpoints, ..ProxyPort::default() };
        let service = ProxyService { ports: vec![port.clone(), port], ..ProxyService::default() };
        assert_eq!(HealthCheck::new(&service, true).local, 1);
        assert_eq!(check(1).status(), StatusCode::OK);
        assert_eq!(check(0).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(HealthCheck::new(&service, false).status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_port_answers_as_long_as_it_is_wanted_and_one_agent_has_it() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let lease = format!("health/test-{}", std::process::id());
        let (mut one, mut other) = (HealthPorts::default(), HealthPorts::default());
        let with = |local| BTreeMap::from([(free, check(local))]);
        one.sync(&lease, &with(2)).await.unwrap();
        other.sync(&lease, &with(7)).await.unwrap();
        let said = asked(free).await.unwrap();
        assert!(
            said.starts_with("HTTP/1.1 200 OK\r\n")
                && said.contains("\r\nx-load-balancing-endpoint-weight: 2\r\n"),
            "{said}"
        );
        let body: serde_json::Value = serde_json::from_str(said.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let expected = serde_json::json!({"service": {"namespace": "n", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true});
        assert_eq!(body, expected);
        one.sync(&lease, &with(0)).await.unwrap();
        assert!(asked(free).await.unwrap().starts_with("HTTP/1.1 503 "));
        one.close();
        let closed = async {
            while asked(free).await.is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), closed).await.unwrap();
        other.sync(&lease, &with(7)).await.unwrap();
        assert!(asked(free).await.unwrap().contains("\"localEndpoints\":7"), "another takes over");
    }
}
