//! The one error that handlers answer with, as problem details (RFC 9457). Never shows a client what is inside.

use std::sync::{Arc, LazyLock};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use rand::Rng;
use serde::Serialize;

use crate::{auth, cpu::CpuError, limits, overload::ShedReason, store::StoreError, telemetry};

/// Seconds after which a client that met an overload may try again, one of these: clients that were refused together
/// must not come back together.
const RETRY_AFTER: [HeaderValue; 3] =
    [HeaderValue::from_static("1"), HeaderValue::from_static("2"), HeaderValue::from_static("3")];

/// [`ApiError::Shed`] as problem details, written once: a refusal must cost less than the work that it avoids.
static SHED: LazyLock<Bytes> = LazyLock::new(|| ApiError::Shed(ShedReason::Limit).problem_json().into());

/// An answer that is not a success. Each variant's documentation says its status and when.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    /// 400: the request cannot be read: broken JSON, a parameter out of bounds.
    #[error("{detail}")]
    BadRequest {
        /// The parameter or field at fault, when one is.
        field: Option<String>,
        /// For the client.
        detail: String,
    },
    /// 422: the request can be read, but a field of the body cannot be accepted.
    #[error("{detail}")]
    InvalidField {
        /// The path of the field at fault.
        field: String,
        /// For the client.
        detail: String,
    },
    /// 401: a write without a token.
    #[error("writing needs a bearer token in the header Authorization")]
    MissingToken,
    /// 401: the token is not good, for this reason.
    #[error("{0}")]
    InvalidToken(&'static str),
    /// 403: the token is good, but not for writing.
    #[error("the token's scope does not hold {}", auth::SCOPE)]
    InsufficientScope,
    /// 404: no post has this id.
    #[error("no post has this id")]
    PostNotFound,
    /// 404: no route has this path.
    #[error("there is nothing at this path")]
    RouteNotFound,
    /// 405: the path exists, with other methods (see the `Allow` header).
    #[error("this path does not answer this method; see the Allow header")]
    MethodNotAllowed,
    /// 409: a request with the same idempotency key is being worked on.
    #[error("a request with this Idempotency-Key is being worked on; try again shortly")]
    IdempotencyInProgress,
    /// 412: the post's version is none of those that `If-Match` names.
    #[error("the post has changed: its entity tag is none of those in If-Match")]
    PreconditionFailed,
    /// 408: the head did not arrive in time.
    #[error("the request's head did not arrive in time")]
    HeadTimeout,
    /// 408: the body did not arrive in time.
    #[error("the body did not arrive in time")]
    BodyTimeout,
    /// 414: the path and query are longer than any that could be meant.
    #[error("path and query must have at most {} bytes", limits::URI_BYTES_MAX)]
    UriTooLong,
    /// 431: the headers are larger than any that could be meant.
    #[error("names and values of headers must have at most {} bytes", limits::HEADER_BYTES_MAX)]
    HeadTooLarge,
    /// 413: the body is longer than any that could be accepted.
    #[error("the request's body must have at most {limit_bytes} bytes")]
    BodyTooLarge {
        /// The longest body.
        limit_bytes: usize,
    },
    /// 415: the body is not declared as JSON.
    #[error("send the body as JSON, with content-type: application/json")]
    NotJson,
    /// 422: the idempotency key belongs to a request with another body.
    #[error("this Idempotency-Key was used with another body")]
    IdempotencyKeyReused,
    /// 429: the caller has sent more than the rate limit allows.
    #[error("you have sent more requests than the rate limit allows; see the header Retry-After")]
    RateLimited {
        /// When one more may come.
        retry_after_seconds: u64,
    },
    /// 503: more work than this replica can do now; nothing was done.
    #[error("this replica is at its limit; try again shortly")]
    Overloaded,
    /// 503: refused because of a queue, by age or length; nothing was done.
    #[error("this replica is at its limit; try again shortly")]
    Shed(ShedReason),
    /// 503: the database cannot be reached, or this replica is still starting.
    #[error("the database cannot be reached; try again shortly")]
    Unavailable,
    /// 503: the request took longer than it may.
    #[error("the request took too long; whether a write was done is not known")]
    Timeout,
    /// 500: a defect. The client learns nothing of it; the log has the cause.
    #[error("an internal error; the log has its cause under this request's id")]
    Internal {
        /// For the log only.
        cause: String,
    },
}

impl ApiError {
    /// A field of the body that cannot be accepted.
    pub fn invalid_field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::InvalidField { field: field.into(), detail: detail.into() }
    }

    /// A parameter of the path or query that cannot be accepted.
    pub fn invalid_parameter(field: &str, detail: impl Into<String>) -> Self {
        Self::BadRequest { field: Some(field.to_owned()), detail: detail.into() }
    }

    /// The status, and the code that clients may depend on.
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BadRequest { .. } => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::InvalidField { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_field"),
            Self::MissingToken => (StatusCode::UNAUTHORIZED, "missing_token"),
            Self::InvalidToken(_) => (StatusCode::UNAUTHORIZED, "invalid_token"),
            Self::InsufficientScope => (StatusCode::FORBIDDEN, "insufficient_scope"),
            Self::PostNotFound => (StatusCode::NOT_FOUND, "post_not_found"),
            Self::RouteNotFound => (StatusCode::NOT_FOUND, "route_not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::IdempotencyInProgress => (StatusCode::CONFLICT, "idempotency_in_progress"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json"),
            Self::IdempotencyKeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
            Self::HeadTimeout => (StatusCode::REQUEST_TIMEOUT, "head_timeout"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::UriTooLong => (StatusCode::URI_TOO_LONG, "uri_too_long"),
            Self::HeadTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large"),
            Self::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::Overloaded | Self::Shed(_) => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            Self::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// What a client has to do to be let in (RFC 6750, section 3); without a token, no error is named.
    fn challenge(&self) -> Option<HeaderValue> {
        let challenge = match self {
            Self::MissingToken => return Some(HeaderValue::from_static("Bearer")),
            Self::InvalidToken(why) => format!(r#"Bearer error="invalid_token", error_description="{why}""#),
            Self::InsufficientScope => {
                format!(r#"Bearer error="insufficient_scope", scope="{}""#, auth::SCOPE)
            }
            _ => return None,
        };
        HeaderValue::try_from(challenge).ok()
    }

    /// The problem details as they are sent.
    pub(crate) fn problem_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.problem()).unwrap_or_default()
    }

    fn problem(&self) -> Problem<'_> {
        let (status, code) = self.kind();
        let field = match self {
            Self::BadRequest { field, .. } => field.as_deref(),
            Self::InvalidField { field, .. } => Some(field.as_str()),
            _ => None,
        };
        Problem {
            r#type: format!("urn:plimsoll:problem:{code}"),
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.to_string(),
            code,
            field,
        }
    }
}

/// The problem details of RFC 9457, with our stable `code` and the `field` at fault.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

/// Marks a response as refused before any work: it leaves the latency histogram, which its quick answer would flatter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// There is more work than this replica can do. It counts as load: another replica would have done it.
    Load(ShedReason),
    /// The caller is at its limit. It does not count as load: no number of replicas would let it through.
    RateLimit,
}

/// Why a response is a 500; the edge logs it, with the request's id.
#[derive(Debug, Clone)]
pub struct Cause(pub Arc<str>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, _) = self.kind();
        let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))];
        let mut response = match &self {
            Self::Overloaded | Self::Shed(_) => (status, content_type, SHED.clone()).into_response(),
            _ => (status, content_type, Json(self.problem())).into_response(),
        };
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT) {
            let retry_after = RETRY_AFTER[rand::rng().random_range(0..RETRY_AFTER.len())].clone();
            response.headers_mut().insert(header::RETRY_AFTER, retry_after);
        }
        if let Some(challenge) = self.challenge() {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        match self {
            Self::Overloaded => _ = response.extensions_mut().insert(Shed::Load(ShedReason::Limit)),
            Self::Shed(reason) => _ = response.extensions_mut().insert(Shed::Load(reason)),
            Self::RateLimited { retry_after_seconds } => {
                response.headers_mut().insert(header::RETRY_AFTER, retry_after_seconds.into());
                response.extensions_mut().insert(Shed::RateLimit);
            }
            Self::Internal { cause } => _ = response.extensions_mut().insert(Cause(cause.into())),
            _ => {}
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::QueueFull => Self::Shed(ShedReason::DatabaseQueueFull),
            StoreError::QueueAge => Self::Shed(ShedReason::DatabaseQueueAge),
            StoreError::Busy => Self::Overloaded,
            StoreError::Unavailable(_) => {
                // Debug only: under load this is once a request; the watch on the database warns once an outage.
                tracing::debug!(error = telemetry::chain(&error), "database is not available");
                Self::Unavailable
            }
            StoreError::Rejected { ref constraint } => {
                let field = match constraint.as_str() {
                    "authors_name" => "author",
                    "tags_name" => "tags",
                    of_post => of_post.strip_prefix("posts_").unwrap_or("body"),
                };
                Self::invalid_field(field, format!("{field} breaks a rule of the database"))
            }
            StoreError::Internal(_) => Self::Internal { cause: telemetry::chain(&error) },
        }
    }
}

impl From<CpuError> for ApiError {
    fn from(error: CpuError) -> Self {
        match error {
            CpuError::QueueFull => Self::Shed(ShedReason::CpuQueueFull),
            CpuError::TooOld => Self::Shed(ShedReason::CpuQueueAge),
            CpuError::Panicked => Self::Internal { cause: error.to_string() },
        }
    }
}
