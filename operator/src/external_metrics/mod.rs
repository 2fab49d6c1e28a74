//! Serves what was learned as external metrics, so that an HPA can scale by it. Off unless an address is given.
//!
//! It is an API of the aggregation layer: the API server passes on requests that it has authorized, over TLS. It reads
//! statuses that the operator watches anyway, and writes nothing.

pub mod answer;
mod front_proxy;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use kube::Client;
use kube_runtime::reflector::Store;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::answer::{API_VERSION, Metric};
use self::front_proxy::Identity;
use crate::controller::Guarded;

/// The resources, once they are watched.
pub type Apps = Arc<OnceLock<Store<Guarded>>>;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub listen: SocketAddr,
    /// Folder with the certificate; absent: one is made.
    pub certificate: Option<PathBuf>,
}

/// Serves if that is asked for, and never ends otherwise.
///
/// # Errors
/// Those of [`serve`].
pub async fn serve_if(
    settings: Option<Settings>,
    client: Client,
    apps: Apps,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    match settings {
        Some(settings) => serve(&settings, client, apps, stop).await,
        None => std::future::pending().await,
    }
}

/// Serves until `stop`.
///
/// # Errors
/// When the address or the certificate cannot be used.
pub async fn serve(
    settings: &Settings,
    client: Client,
    apps: Apps,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let identity = match &settings.certificate {
        Some(dir) => Identity::read(dir)?,
        None => Identity::self_signed()?,
    };
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("listen on {} for external metrics", settings.listen))?;
    info!(listen = %settings.listen, "serving external metrics");
    let listener = tls::Listener::new(listener, client, identity, stop.clone());
    axum::serve(listener, router(apps))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("serve external metrics")
}

/// The routes.
pub fn router(apps: Apps) -> Router {
    let version = format!("/apis/{API_VERSION}");
    Router::new()
        .route(&version, get(async || Json(answer::resources())))
        .route(&format!("{version}/namespaces/{{namespace}}/{{metric}}"), get(values))
        .fallback(async || failure(StatusCode::NOT_FOUND, "NotFound", "there is no such path"))
        .with_state(apps)
}

#[derive(Deserialize)]
struct ValuesQuery {
    #[serde(rename = "labelSelector", default)]
    label_selector: String,
}

async fn values(
    State(apps): State<Apps>,
    Path((namespace, metric)): Path<(String, String)>,
    Query(query): Query<ValuesQuery>,
) -> Response {
    let Some(metric) = Metric::of(&metric) else {
        let known = Metric::ALL.map(Metric::as_str).join(", ");
        let message = format!("there is no external metric {metric}; ask for one of {known}");
        return failure(StatusCode::NOT_FOUND, "NotFound", &message);
    };
    let selector = match answer::selector(&query.label_selector) {
        Ok(selector) => selector,
        Err(part) => {
            let message =
                format!("the part {part:?} of labelSelector cannot be read; write it such as name=posts");
            return failure(StatusCode::BAD_REQUEST, "BadRequest", &message);
        }
    };
    let Some(apps) = apps.get() else {
        return failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            "the watches have not synced yet",
        );
    };
    let apps = apps.state();
    let readable = apps.iter().filter_map(|app| app.0.as_ref().ok());
    let of_namespace = readable.filter(|app| app.metadata.namespace.as_deref() == Some(&*namespace));
    Json(answer::values(metric, of_namespace, &selector, Timestamp::now())).into_response()
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Response {
    let status: Value = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": message,
    });
    (code, Json(status)).into_response()
}
