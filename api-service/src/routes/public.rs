//! `/public/posts`: the page that everybody asks for, made to be cached by browsers and proxies.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue},
    response::Response,
};

use super::posts::Query;
use crate::{error::ApiError, extract::Parameters, state::AppState};

/// Anybody may keep it for a minute, and answer with it for five more while asking for a new one (RFC 5861).
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=60, stale-while-revalidate=300");

/// `GET /public/posts?limit=20&after=CURSOR`: one page, newest first; 304 when the client has it.
///
/// # Errors
/// 400 for a limit out of bounds, a cursor that is not from an earlier page, or an `If-None-Match` that is none; 503 when
/// the database is busy or away.
pub async fn list(
    State(state): State<Arc<AppState>>,
    Parameters(query): Parameters<Query>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let request = query.check()?;
    let read = || {
        let state = Arc::clone(&state);
        async move {
            let page = request.load(state.store()?).await?;
            let json = serde_json::to_vec(&page);
            json.map(Into::into).map_err(|error| ApiError::Internal { cause: error.to_string() })
        }
    };
    let page = state.cache.page(&request.to_string(), read).await?;
    page.answer(&headers, CACHE_CONTROL, &state.cpu).await
}
