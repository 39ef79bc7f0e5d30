//! The node's own HTTP endpoint: is it well, and its numbers.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use balsa_runtime::Runtime;
use tokio::sync::watch;

use crate::agent::AgentHandle;
use crate::usage::{self, Measured, Meter};

#[derive(Clone)]
struct Shared {
    runtime: Arc<dyn Runtime>,
    meter: Arc<Meter>,
    in_session: Option<watch::Receiver<bool>>,
    render: Arc<dyn Fn() -> String + Send + Sync>,
}

/// `/healthz`, `/livez`, `/readyz` and `/metrics` of an agent; `render` gives the text of the last. And what
/// its containers use: `/stats/summary`, `/metrics/resource`.
/// The same is served to those who may proxy to the node (`nodes/proxy`).
pub fn router(agent: &AgentHandle, render: impl Fn() -> String + Send + Sync + 'static) -> Router {
    let meter = Arc::new(Meter::new(agent.runtime(), agent.node_name(), agent.clock()));
    let in_session = agent.in_session();
    let shared = Shared { runtime: agent.runtime(), meter, in_session, render: Arc::new(render) };
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/livez", get(|| async { "ok" }))
        .route("/metrics", get(|State(shared): State<Shared>| async move { (shared.render)() }))
        .route("/metrics/resource", get(resource))
        .route("/stats/summary", get(summary))
        .with_state(shared);
    agent.serve_http(router.clone());
    router
}

async fn healthz(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.runtime.ping().await {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("container runtime: {error}")),
    }
}

/// Whether it can be given work: well, and a server knows of it. What runs does not depend on that.
async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    if shared.in_session.as_ref().is_some_and(|known| !*known.borrow()) {
        return (StatusCode::INTERNAL_SERVER_ERROR, "session: no server answers".to_owned());
    }
    healthz(State(shared)).await
}

async fn measured(shared: &Shared) -> Result<Measured, (StatusCode, String)> {
    let failed = |error| (StatusCode::INTERNAL_SERVER_ERROR, format!("container runtime: {error}"));
    shared.meter.measure().await.map_err(failed)
}

async fn resource(State(shared): State<Shared>) -> Result<String, (StatusCode, String)> {
    Ok(usage::text(&measured(&shared).await?))
}

async fn summary(State(shared): State<Shared>) -> Result<impl IntoResponse, (StatusCode, String)> {
    let summary = shared.meter.summary(&measured(&shared).await?).to_string();
    Ok(([(CONTENT_TYPE, "application/json")], summary))
}
