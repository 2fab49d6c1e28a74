//! `GET /metrics`. Never measured itself.

use std::sync::Arc;

use axum::{extract::State, http::header, response::IntoResponse};

use crate::{error::ApiError, metrics::CONTENT_TYPE, state::AppState};

/// All metrics in Prometheus' text format.
///
/// # Errors
/// [`ApiError::Internal`] when they cannot be written as text: a defect.
pub async fn text(State(state): State<Arc<AppState>>) -> Result<impl IntoResponse, ApiError> {
    let text = state.metrics.encode().map_err(|error| ApiError::Internal { cause: error.to_string() })?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}
