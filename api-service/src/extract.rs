//! Reads paths, queries and bodies so that every mistake is a 4xx that names the field. Never checks the content itself.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody},
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{error::ApiError, post::BODY_BYTES_MAX, state::AppState};

/// The longest request body: every byte of a post's body written as a six-byte escape, and room for the rest.
pub const REQUEST_BYTES_MAX: usize = 6 * BODY_BYTES_MAX + 16 * 1024;

/// A post's id from the path.
#[derive(Debug, Clone, Copy)]
pub struct PostId(pub i64);

impl<S: Send + Sync> FromRequestParts<S> for PostId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let error =
            || ApiError::invalid_parameter("id", "id must be a whole number from 1 to 9223372036854775807");
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| error())?;
        // `+1` is a number to Rust, but not another name for post 1.
        let id = text.parse().ok().filter(|id| *id >= 1 && !text.starts_with('+'));
        id.map(Self).ok_or_else(error)
    }
}

/// The query of a list.
#[derive(Debug)]
pub struct Parameters<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(ApiError::BadRequest { field: None, detail: rejection.body_text() }),
        }
    }
}

/// A body of JSON, of at most [`REQUEST_BYTES_MAX`] bytes.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<AppState>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, Self::Rejection> {
        if !is_json(request.headers()) {
            return Err(ApiError::NotJson);
        }
        let too_large = ApiError::BodyTooLarge { limit_bytes: REQUEST_BYTES_MAX };
        // Refused by the declared length before a byte of it is read.
        if Body::size_hint(request.body()).lower() > REQUEST_BYTES_MAX as u64 {
            return Err(too_large);
        }
        let limit = state.config.limits.body_timeout;
        let bytes = tokio::time::timeout(limit, Bytes::from_request(request, state))
            .await
            .map_err(|_| ApiError::BodyTimeout)?
            .map_err(|rejection| unreadable(&rejection, too_large))?;
        // Serde would also read a struct from an array of its fields, which is no form that we promise.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(ApiError::BadRequest {
                field: None,
                detail: "the body must be a JSON object".to_owned(),
            });
        }
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| refused(&error))?;
        json.end().map_err(|error| ApiError::BadRequest {
            field: None,
            detail: format!("after the JSON: {error}"),
        })?;
        Ok(Self(value))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn unreadable(rejection: &BytesRejection, too_large: ApiError) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return too_large;
    }
    ApiError::BadRequest { field: None, detail: "the body broke off before its end".to_owned() }
}

/// 422 with the field's path when the JSON is sound but of another shape, else 400.
fn refused(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let detail = error.inner().to_string();
    if error.inner().classify() != serde_json::error::Category::Data {
        return ApiError::BadRequest { field: None, detail };
    }
    match error.path().to_string() {
        path if path == "." => ApiError::BadRequest { field: None, detail },
        path => ApiError::invalid_field(path, detail),
    }
}
