//! The HTTP server for probes, metrics and the decisions of the last minutes. It reads only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::state::Registry;
use crate::watches::WatchHealth;

/// What the server reads.
#[derive(Clone)]
pub struct Shared {
    /// All watches have listed once.
    pub synced: Arc<AtomicBool>,
    /// Whether watches make progress.
    pub watches: Arc<WatchHealth>,
    /// The operator's metrics.
    pub metrics: Metrics,
    /// Decisions by object.
    pub registry: Arc<Registry>,
}

#[derive(Deserialize)]
struct DecisionsQuery {
    namespace: String,
    name: String,
}

/// The routes.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/decisions", get(decisions))
        .with_state(shared)
}

/// Serves until `stop`.
///
/// # Errors
/// Those of the listener.
pub async fn serve(listener: TcpListener, shared: Shared, stop: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(shared)).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// 503 once a watch has been silent or failing for so long that only a restart may help.
async fn livez(State(shared): State<Shared>) -> Response {
    match shared.watches.stuck(Instant::now()) {
        None => "ok\n".into_response(),
        Some(stuck) => (StatusCode::SERVICE_UNAVAILABLE, format!("{stuck}\n")).into_response(),
    }
}

/// 200 once all watches have listed. A standby is ready: leadership is no part of it.
async fn readyz(State(shared): State<Shared>) -> Response {
    if shared.synced.load(Ordering::Relaxed) {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "watches have not synced yet\n").into_response()
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    for (kind, age) in shared.watches.ages(Instant::now()) {
        shared.metrics.fleet.watch_age(kind, age);
    }
    match shared.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The last decisions on one object, oldest first; empty for an unknown one, and on a standby.
async fn decisions(State(shared): State<Shared>, Query(query): Query<DecisionsQuery>) -> Response {
    Json(shared.registry.decisions(&query.namespace, &query.name)).into_response()
}
