//! The node's own HTTP endpoint: is it well, and its numbers.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use balsa_runtime::Runtime;

use crate::agent::AgentHandle;

#[derive(Clone)]
struct Shared {
    runtime: Arc<dyn Runtime>,
    render: Arc<dyn Fn() -> String + Send + Sync>,
}

/// `/healthz`, `/livez`, `/readyz` and `/metrics` of an agent; `render` gives the text of the last.
/// The same is served to those who may proxy to the node (`nodes/proxy`).
pub fn router(agent: &AgentHandle, render: impl Fn() -> String + Send + Sync + 'static) -> Router {
    let shared = Shared { runtime: agent.runtime(), render: Arc::new(render) };
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(healthz))
        .route("/livez", get(|| async { "ok" }))
        .route("/metrics", get(|State(shared): State<Shared>| async move { (shared.render)() }))
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
