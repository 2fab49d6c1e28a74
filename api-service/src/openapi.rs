//! `GET /openapi.json` and `GET /docs`: the description of the API and a page to try it. Written by hand, in
//! `openapi.json`; `tests/api/openapi.rs` holds it to the router, to the bounds and to every error's code.

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};

/// The OpenAPI 3.1 document.
pub const DOCUMENT: &str = include_str!("../openapi.json");

const PAGE: &str = include_str!("docs.html");

/// The page runs its own script and style, speaks with this service only, and is shown in no other page.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The OpenAPI document.
pub async fn document() -> Response {
    fixed("application/json", DOCUMENT)
}

/// A page that reads the document and sends requests.
pub async fn page() -> Response {
    let mut response = fixed("text/html; charset=utf-8", PAGE);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    response
}

fn fixed(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // It changes with the version only; after an update, five minutes of the old one do no harm.
        (header::CACHE_CONTROL, "public, max-age=300"),
    ];
    (headers, text).into_response()
}
