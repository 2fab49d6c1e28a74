//! `/posts`: the database decides, the cache only shortens reads by id.

use std::{fmt, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::ApiError,
    extract::{JsonBody, Parameters, PostId},
    post::{self, Draft, Post},
    state::AppState,
    store::Store,
};

/// Posts on a page when the client does not say, and at most.
const LIMIT_DEFAULT: u32 = 20;
const LIMIT_MAX: u32 = 100;

/// A copy may be kept, and is asked about before it is used: a write shows at once.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// What a cursor starts with; a cursor of another form is refused, not misread.
const CURSOR_PREFIX: &str = "1:";

/// The query of a list.
// Text, so that a value that is wrong is answered with its field's name.
#[derive(Debug, Deserialize)]
pub struct Query {
    limit: Option<String>,
    after: Option<String>,
}

/// A query that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRequest {
    limit: u32,
    before: Option<i64>,
}

impl Query {
    /// Checks it.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for a limit out of bounds or a cursor that is not from an earlier page.
    pub fn check(&self) -> Result<PageRequest, ApiError> {
        let limit = self.limit.as_deref().map_or(Ok(LIMIT_DEFAULT), parse_limit)?;
        let before = self.after.as_deref().map(parse_cursor).transpose()?;
        Ok(PageRequest { limit, before })
    }
}

impl fmt::Display for PageRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.limit, self.before)
    }
}

impl PageRequest {
    /// Reads the page.
    ///
    /// # Errors
    /// 503 when the database is busy or away.
    pub async fn load(self, store: &Store) -> Result<Page, ApiError> {
        // One more than asked for tells whether there is a next page.
        let mut items = store.list(self.before, self.limit + 1).await?;
        let more = items.len() > self.limit as usize;
        items.truncate(self.limit as usize);
        let next = items.last().filter(|_| more).map(|post| cursor(post.id));
        Ok(Page { items, next })
    }
}

/// A page of posts, newest first.
#[derive(Debug, Serialize)]
pub struct Page {
    items: Vec<Post>,
    /// For `after`, to get the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// `POST /posts`: 201 with the post and its `Location`.
///
/// # Errors
/// 4xx for content that cannot be accepted, 503 when the database is busy or away.
pub async fn create(
    State(state): State<Arc<AppState>>,
    JsonBody(draft): JsonBody<Draft>,
) -> Result<impl IntoResponse, ApiError> {
    let content = draft.check()?;
    let written = finish(async move {
        let post = state.store()?.create(content, post::stamp(Timestamp::now())).await?;
        // It may be known that there was no such post.
        state.cache.invalidate(post.id).await;
        Ok(post)
    });
    let post = written.await?;
    let location = [(header::LOCATION, format!("/posts/{}", post.id))];
    Ok((StatusCode::CREATED, location, Json(post)))
}

/// `GET /posts?limit=20&after=CURSOR`: one page.
///
/// # Errors
/// 400 for a limit out of bounds or a cursor that is not from an earlier page, 503 when the database is busy or away.
pub async fn list(
    State(state): State<Arc<AppState>>,
    Parameters(query): Parameters<Query>,
) -> Result<Json<Page>, ApiError> {
    Ok(Json(query.check()?.load(state.store()?).await?))
}

/// `GET /posts/{id}`: the post, from the cache when it is there; 304 when the client has it.
///
/// # Errors
/// 400 for an `If-None-Match` that is none, 404 when there is none, 503 when the database is busy or away.
pub async fn read(
    State(state): State<Arc<AppState>>,
    PostId(id): PostId,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let read = || {
        let state = Arc::clone(&state);
        async move { Ok(state.store()?.read(id).await?) }
    };
    let post = state.cache.post(id, read).await?.ok_or(ApiError::PostNotFound)?;
    post.answer(&headers, REVALIDATE, &state.cpu).await
}

/// `PUT /posts/{id}`: replaces the content of a post that exists.
///
/// # Errors
/// 4xx for content that cannot be accepted, 404 when there is no such post, 503 when the database is busy or away.
pub async fn replace(
    State(state): State<Arc<AppState>>,
    PostId(id): PostId,
    JsonBody(draft): JsonBody<Draft>,
) -> Result<Json<Post>, ApiError> {
    let content = draft.check()?;
    let written = finish(async move {
        let written = state.store()?.replace(id, content, post::stamp(Timestamp::now())).await;
        // Also when it failed: it may have been done all the same.
        state.cache.invalidate(id).await;
        Ok(written?)
    });
    let post = written.await?.ok_or(ApiError::PostNotFound)?;
    Ok(Json(post))
}

/// `DELETE /posts/{id}`: 204.
///
/// # Errors
/// 404 when there is no such post, 503 when the database is busy or away.
pub async fn delete(State(state): State<Arc<AppState>>, PostId(id): PostId) -> Result<StatusCode, ApiError> {
    let deleted = finish(async move {
        let deleted = state.store()?.delete(id).await;
        // Also when there was none, or nothing is known: an earlier delete may have ended before it told the cache.
        state.cache.invalidate(id).await;
        Ok(deleted?)
    });
    if deleted.await? { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::PostNotFound) }
}

/// Runs a write to its end also when the client leaves or the time limit passes: between the database's commit and
/// the cache's removal nothing may be cut off.
async fn finish<T: Send + 'static>(
    write: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let finished = tokio::spawn(write).await;
    finished.unwrap_or_else(|error| Err(ApiError::Internal { cause: error.to_string() }))
}

fn parse_limit(text: &str) -> Result<u32, ApiError> {
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| {
        ApiError::invalid_parameter("limit", format!("limit must be a whole number from 1 to {LIMIT_MAX}"))
    })
}

fn cursor(id: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("{CURSOR_PREFIX}{id}"))
}

fn parse_cursor(text: &str) -> Result<i64, ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let id = bytes.as_deref().and_then(|bytes| {
        std::str::from_utf8(bytes).ok()?.strip_prefix(CURSOR_PREFIX)?.parse().ok().filter(|id| *id >= 1)
    });
    id.ok_or_else(|| ApiError::invalid_parameter("after", "after must be the `next` of an earlier page"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_a_round_trip_and_nothing_else_does() {
        assert_eq!(parse_cursor(&cursor(42)).unwrap(), 42);
        for text in ["", "42", "!!", &URL_SAFE_NO_PAD.encode("2:42"), &URL_SAFE_NO_PAD.encode("1:-1")] {
            assert!(parse_cursor(text).is_err(), "{text:?}");
        }
    }
}
