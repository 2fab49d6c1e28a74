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

use crate::{cpu::CpuError, overload::ShedReason, store::StoreError, telemetry};

/// Seconds after which a client that met an overload may try again, one of these: clients that were refused together
/// must not come back together.
const RETRY_AFTER: [HeaderValue; 3] =
    [HeaderValue::from_static("1"), HeaderValue::from_static("2"), HeaderValue::from_static("3")];

/// [`ApiError::Shed`] as problem details, written once: a refusal must cost less than the work that it avoids.
static SHED: LazyLock<Bytes> = LazyLock::new(|| {
    let error = ApiError::Shed(ShedReason::Limit);
    serde_json::to_vec(&error.problem()).unwrap_or_default().into()
});

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
    /// 404: no post has this id.
    #[error("no post has this id")]
    PostNotFound,
    /// 404: no route has this path.
    #[error("there is nothing at this path")]
    RouteNotFound,
    /// 405: the path exists, with other methods (see the `Allow` header).
    #[error("this path does not answer this method; see the Allow header")]
    MethodNotAllowed,
    /// 413: the body is longer than any that could be accepted.
    #[error("the request's body must have at most {limit_bytes} bytes")]
    BodyTooLarge {
        /// The longest body.
        limit_bytes: usize,
    },
    /// 415: the body is not declared as JSON.
    #[error("send the body as JSON, with content-type: application/json")]
    NotJson,
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
            Self::PostNotFound => (StatusCode::NOT_FOUND, "post_not_found"),
            Self::RouteNotFound => (StatusCode::NOT_FOUND, "route_not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json"),
            Self::Overloaded | Self::Shed(_) => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            Self::Internal { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
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

/// Marks a response as shed by load: it leaves the latency histogram and counts as shed.
#[derive(Debug, Clone, Copy)]
pub struct Shed(pub ShedReason);

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
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let retry_after = RETRY_AFTER[rand::rng().random_range(0..RETRY_AFTER.len())].clone();
            response.headers_mut().insert(header::RETRY_AFTER, retry_after);
        }
        match self {
            Self::Overloaded => _ = response.extensions_mut().insert(Shed(ShedReason::Limit)),
            Self::Shed(reason) => _ = response.extensions_mut().insert(Shed(reason)),
            Self::Internal { cause } => _ = response.extensions_mut().insert(Cause(cause.into())),
            _ => {}
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => Self::Overloaded,
            StoreError::Unavailable(_) => {
                // Debug only: under load this is once a request; the watch on the database warns once an outage.
                tracing::debug!(error = telemetry::chain(&error), "database is not available");
                Self::Unavailable
            }
            StoreError::Rejected { ref constraint } => {
                let field = constraint.strip_prefix("posts_").unwrap_or("body");
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
