//! `GET /work`: costs a given amount of CPU, so that a load test can saturate a replica. Never on the event loop.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use crate::{cpu, duration, error::ApiError, extract::Parameters, state::AppState};

/// The most CPU time that one request may ask for.
const CPU_MAX: Duration = Duration::from_secs(1);

/// The query of `/work`.
#[derive(Debug, Deserialize)]
pub struct Query {
    cpu: Option<String>,
}

/// What a request cost.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Spent {
    cpu_ms: f64,
}

/// Spends `cpu` (such as `2ms`, at most 1 s) of CPU time on a worker.
///
/// # Errors
/// 400 for a `cpu` that is missing, no duration, or too long; 503 when as much work as may wait is waiting.
pub async fn burn(
    State(state): State<Arc<AppState>>,
    Parameters(query): Parameters<Query>,
) -> Result<Json<Spent>, ApiError> {
    let text =
        query.cpu.ok_or_else(|| ApiError::invalid_parameter("cpu", "cpu is required, such as cpu=2ms"))?;
    let cpu = duration::parse(&text)
        .map_err(|error| ApiError::invalid_parameter("cpu", format!("cpu: {error}")))?;
    if cpu > CPU_MAX {
        return Err(ApiError::invalid_parameter("cpu", "cpu must be at most 1s"));
    }
    let spent = state.cpu.run(move |caller| cpu::burn(cpu, caller)).await?;
    Ok(Json(Spent { cpu_ms: spent.as_secs_f64() * 1000.0 }))
}
