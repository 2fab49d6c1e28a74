//! `/public/posts`: the page that everybody asks for, made to be cached by browsers and proxies.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, request::Parts},
    response::Response,
};

use crate::{error::ApiError, page, state::AppState};

/// Anybody may keep it for a minute, and answer with it for five more while asking for a new one (RFC 5861).
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=60, stale-while-revalidate=300");

/// `GET /public/posts`, with the parameters of `GET /posts`: one page, newest first; 304 when the client has it.
///
/// # Errors
/// 400 for a parameter out of bounds, a cursor that is not from an earlier page of the same list, or an `If-None-Match` that is none; 503 when
/// the database is busy or away.
pub async fn list(
    State(state): State<Arc<AppState>>,
    request: page::Request,
    http: Request,
) -> Result<Response, ApiError> {
    // Taken and not copied, as the extractor of headers would.
    let (Parts { headers, .. }, _) = http.into_parts();
    let read = || {
        let (state, request) = (Arc::clone(&state), request.clone());
        async move {
            let page = page::load(state.store()?, &request).await?;
            let json = serde_json::to_vec(&page);
            json.map(Into::into).map_err(|error| ApiError::Internal { cause: error.to_string() })
        }
    };
    let page = state.cache.page(&request, read).await?;
    page.answer(&headers, CACHE_CONTROL, &state.cpu).await
}
