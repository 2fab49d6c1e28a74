//! `/posts`: the database decides, the cache only shortens reads by id.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;

use crate::{
    auth::Subject,
    entity_tag::Condition,
    error::ApiError,
    extract::{JsonBody, Parameters, PostId},
    fields::{self, Fields, View},
    idempotency,
    page::{self, Page},
    post::{self, Draft, Post},
    representation::{REVALIDATE, Representation},
    state::AppState,
    store::{Conditional, Created},
};

/// `POST /posts`: 201 with the post and its `Location` and `ETag`. With an `Idempotency-Key` that was used before, the
/// answer that was given then, marked `Idempotency-Replayed: true`.
///
/// # Errors
/// 4xx for content that cannot be accepted, 409 while a request with the same key is being worked on, 422 for a key
/// that was used with another body, 503 when the database is busy or away.
pub async fn create(
    State(state): State<Arc<AppState>>,
    caller: Option<Extension<Subject>>,
    headers: HeaderMap,
    JsonBody(draft): JsonBody<Draft>,
) -> Result<Response, ApiError> {
    let content = draft.check()?;
    let once = idempotency::once(&headers, caller.as_deref(), &content)?;
    let created = finish(async move {
        let created = state.store()?.create(content, once, post::stamp(Timestamp::now())).await?;
        if let Created::New(post) = &created {
            // It may be known that there was no such post, and every page may have changed.
            state.cache.invalidate(post.id).await;
        }
        Ok(created)
    });
    match created.await? {
        Created::New(post) => Ok(created_post(&post)),
        Created::Again(post) => {
            let mut response = created_post(&post);
            response.headers_mut().insert(idempotency::REPLAYED, HeaderValue::from_static("true"));
            Ok(response)
        }
        Created::KeyOfAnother => Err(ApiError::IdempotencyKeyReused),
        Created::InProgress => Err(ApiError::IdempotencyInProgress),
    }
}

/// `GET /posts?limit=20&after=CURSOR&author=ID&tag=NAME&fields=id,title`: one page, newest first.
///
/// # Errors
/// 400 for a parameter that is out of bounds, or a cursor that is not from an earlier page of the same list; 503 when
/// the database is busy or away.
pub async fn list(
    State(state): State<Arc<AppState>>,
    request: page::Request,
) -> Result<Json<Page>, ApiError> {
    page::load(state.store()?, &request).await.map(Json)
}

/// `GET /posts/{id}?fields=id,title`: the post, from the cache when it is there; 304 when the client has it.
///
/// # Errors
/// 400 for an unknown field or an `If-None-Match` that is none, 404 when there is no such post, 503 when the database is busy or away.
pub async fn read(
    State(state): State<Arc<AppState>>,
    PostId(id): PostId,
    Parameters(query): Parameters<fields::Query>,
    request: Request,
) -> Result<Response, ApiError> {
    // Taken and not copied, as the extractor of headers would.
    let (Parts { headers, .. }, _) = request.into_parts();
    let fields = query.fields()?;
    let mut post = find(&state, id).await?;
    if let Some(fields) = fields {
        post = Arc::new(in_part(&post, fields)?);
    }
    post.answer(&headers, REVALIDATE, &state.cpu).await
}

/// `PUT /posts/{id}`: replaces the content of a post that exists; with `If-Match`, only the version that it names.
///
/// # Errors
/// 4xx for content that cannot be accepted, 404 when there is no such post, 412 when it has another version, 503 when
/// the database is busy or away.
pub async fn replace(
    State(state): State<Arc<AppState>>,
    PostId(id): PostId,
    headers: HeaderMap,
    JsonBody(draft): JsonBody<Draft>,
) -> Result<Response, ApiError> {
    let content = draft.check()?;
    let expected = expected_versions(&headers)?;
    let written = finish(async move {
        let written = state.store()?.replace(id, content, expected, post::stamp(Timestamp::now())).await;
        if !matches!(written, Ok(Conditional::Missing | Conditional::Changed)) {
            // Also when it failed: it may have been done all the same.
            state.cache.invalidate(id).await;
        }
        Ok(written?)
    });
    let post = done(written.await?)?;
    Ok((etag(post.version), Json(post)).into_response())
}

/// `DELETE /posts/{id}`: 204; with `If-Match`, only the version that it names.
///
/// # Errors
/// 404 when there is no such post, 412 when it has another version, 503 when the database is busy or away.
pub async fn delete(
    State(state): State<Arc<AppState>>,
    PostId(id): PostId,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let expected = expected_versions(&headers)?;
    let deleted = finish(async move {
        let deleted = state.store()?.delete(id, expected).await;
        if !matches!(deleted, Ok(Conditional::Changed)) {
            // Also when there was none, or nothing is known: an earlier delete may have ended before it told the cache.
            state.cache.invalidate(id).await;
        }
        Ok(deleted?)
    });
    done(deleted.await?)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The post as it is answered, by the first layer that has it.
pub(super) async fn find(state: &Arc<AppState>, id: i64) -> Result<Arc<Representation>, ApiError> {
    let read = || {
        let state = Arc::clone(state);
        async move { Ok(state.store()?.read(id).await?) }
    };
    state.cache.post(id, read).await?.ok_or(ApiError::PostNotFound)
}

/// Runs a write to its end also when the client leaves or the time limit passes: between the database's commit and
/// the cache's removal nothing may be cut off.
async fn finish<T: Send + 'static>(
    write: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let finished = tokio::spawn(write).await;
    finished.unwrap_or_else(|error| Err(ApiError::Internal { cause: error.to_string() }))
}

/// The post with some of its fields, under a tag of its own.
fn in_part(post: &Representation, fields: Fields) -> Result<Representation, ApiError> {
    let internal = |error: serde_json::Error| ApiError::Internal { cause: error.to_string() };
    let post: Post = serde_json::from_slice(post.body()).map_err(internal)?;
    let json = serde_json::to_vec(&View { post: &post, fields }).map_err(internal)?;
    Ok(Representation::new(json.into(), &format!("{}.{fields}", post::tag(post.version))))
}

fn created_post(post: &Post) -> Response {
    let location = [(header::LOCATION, format!("/posts/{}", post.id))];
    (StatusCode::CREATED, location, etag(post.version), Json(post)).into_response()
}

fn etag(version: i64) -> [(header::HeaderName, String); 1] {
    [(header::ETAG, post::etag(version))]
}

fn expected_versions(headers: &HeaderMap) -> Result<Option<Vec<i64>>, ApiError> {
    let condition = Condition::from_headers(headers, &header::IF_MATCH)?;
    Ok(condition.as_ref().and_then(post::expected_versions))
}

fn done<T>(outcome: Conditional<T>) -> Result<T, ApiError> {
    match outcome {
        Conditional::Done(value) => Ok(value),
        Conditional::Missing => Err(ApiError::PostNotFound),
        Conditional::Changed => Err(ApiError::PreconditionFailed),
    }
}
