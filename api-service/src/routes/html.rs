//! `/posts/{id}/html`: a post's body, which is Markdown, as HTML. Rendered on the CPU workers, once for each version.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use serde::Deserialize;

use super::posts;
use crate::{
    arrival,
    error::ApiError,
    extract::PostId,
    markdown,
    representation::{REVALIDATE, Representation},
    state::AppState,
};

/// For who opens it as a page of its own: beside the renderer, a second reason why nothing in it runs.
const POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; img-src http: https:; frame-ancestors 'none'; sandbox");

/// `GET /posts/{id}/html`: the body as a piece of HTML; 304 when the client has it.
///
/// # Errors
/// 400 for an `If-None-Match` that is none, 404 when there is no such post, 503 when as much CPU work as may wait is
/// waiting, or the database is busy or away.
pub async fn read(
    State(state): State<Arc<AppState>>,
    PostId(id): PostId,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let post = posts::find(&state, id).await?;
    let render = || {
        let (state, post) = (Arc::clone(&state), Arc::clone(&post));
        let html = async move { state.cpu.run(move |_| render(&post)).await? };
        // It runs as a task of its own, which else would not know what this request has waited already.
        arrival::scope(arrival::waited(), html)
    };
    let html = state.cache.html(id, &post, render).await?;
    let mut response = html.answer(&headers, REVALIDATE, &state.cpu).await?;
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    Ok(response)
}

/// Only what is rendered is read.
#[derive(Deserialize)]
struct Source {
    body: String,
}

fn render(post: &Representation) -> Result<Bytes, ApiError> {
    let source: Source = serde_json::from_slice(post.body())
        .map_err(|error| ApiError::Internal { cause: format!("read a post of our own: {error}") })?;
    Ok(markdown::to_html(&source.body).into())
}
