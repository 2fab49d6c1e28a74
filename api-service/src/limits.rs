//! What a request's head may be at most, and what every answer says about itself. Looks at heads only, never at a body.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use clap::Args;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{duration, error::ApiError};

/// The longest path and query: what RFC 9110, section 4.1 asks everyone to support.
pub const URI_BYTES_MAX: usize = 8_000;

/// The most bytes in names and values of headers. The server's buffer of 64 KiB bounds a head before it is read; beyond
/// that, and beyond its 100 headers, the server answers 431 by itself, without a body.
pub const HEADER_BYTES_MAX: usize = 32 * 1024;

/// How long a browser may remember what it was told about other origins; Chrome asks again after two hours anyway.
const CORS_MAX_AGE: Duration = Duration::from_mins(10);

/// The settings for what comes in.
#[derive(Debug, Clone, Args)]
#[group(id = "limits-options")]
pub struct Options {
    /// How long a request's head may take to arrive, from its first byte.
    // As long as a bad mobile link needs for a few lost packets; an honest head is one packet or two.
    #[arg(long, env = "PLIMSOLL_HEAD_TIMEOUT", default_value = "10s", value_parser = duration::parse)]
    pub head_timeout: Duration,

    /// How long a request's body may take to arrive, once its head has.
    // Longer than a bad mobile link needs for the largest body, far below what a client could hold a place for.
    #[arg(long, env = "PLIMSOLL_BODY_TIMEOUT", default_value = "5s", value_parser = duration::parse)]
    pub body_timeout: Duration,

    /// Origins whose pages may use the API from a browser, comma-separated (<https://app.example>), or `*`; absent: none.
    #[arg(long, env = "PLIMSOLL_CORS_ORIGINS", value_delimiter = ',', value_parser = origin, value_name = "ORIGINS")]
    pub cors_origins: Vec<HeaderValue>,
}

fn origin(text: &str) -> Result<HeaderValue, String> {
    let valid = || {
        let uri: Uri = text.parse().ok()?;
        let bare = matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some();
        // `Uri` reads an empty path as `/`; a browser never sends one.
        (bare && !text.ends_with('/') && uri.path() == "/" && uri.query().is_none()).then_some(())
    };
    if text != "*" && valid().is_none() {
        return Err("an origin is a scheme and a host, such as https://app.example, or *".to_owned());
    }
    HeaderValue::from_str(text).map_err(|error| error.to_string())
}

/// Why this head is refused; nothing when it is not.
pub fn refuse(request: &Request) -> Option<ApiError> {
    let uri = request.uri();
    if uri.path_and_query().is_some_and(|uri| uri.as_str().len() > URI_BYTES_MAX) {
        return Some(ApiError::UriTooLong);
    }
    let headers = request.headers().iter();
    if headers.map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() > HEADER_BYTES_MAX {
        return Some(ApiError::HeadTooLarge);
    }
    let query = uri.query().unwrap_or_default();
    // Reading it would put U+FFFD in place of what was sent.
    (query.contains('%') && !decodes_to_utf8(query.as_bytes())).then(|| ApiError::BadRequest {
        field: None,
        detail: "the query must be UTF-8, percent-encoded".to_owned(),
    })
}

/// Whether `text` is UTF-8 once each `%XX` is a byte; other uses of `%` stay as they are.
fn decodes_to_utf8(text: &[u8]) -> bool {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        if let (b'%', Some(high), Some(low)) = (byte, digit(at + 1), digit(at + 2)) {
            bytes.push((high * 16 + low) as u8);
            at += 3;
        } else {
            bytes.push(*byte);
            at += 1;
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// The answer for a method that a path does not have: `OPTIONS` learns which it has, any other is refused. The router
/// adds the header `Allow` to both.
pub async fn other_method(method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    ApiError::MethodNotAllowed.into_response()
}

/// What each answer of the API says: that its type is not for guessing.
pub fn tell(response: &mut Response) {
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// What lets pages of the origins in the settings use the API from a browser; nothing when there are none.
pub fn cross_origin(options: &Options) -> Option<CorsLayer> {
    const fn name(name: &'static str) -> HeaderName {
        HeaderName::from_static(name)
    }
    let allowed = match options.cors_origins.as_slice() {
        [] => return None,
        origins if origins.iter().any(|origin| origin == "*") => AllowOrigin::any(),
        origins => AllowOrigin::list(origins.to_vec()),
    };
    let layer = CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            name("idempotency-key"),
            name("traceparent"),
            name("x-request-id"),
        ])
        .expose_headers([
            header::ETAG,
            header::LINK,
            header::LOCATION,
            header::RETRY_AFTER,
            name("ratelimit"),
            name("ratelimit-policy"),
            name("x-request-id"),
        ])
        .max_age(CORS_MAX_AGE);
    Some(layer)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use proptest::prelude::*;

    use super::*;

    fn refused(uri: &str, headers: &[(&str, String)]) -> Option<ApiError> {
        let request = Request::get(uri);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        refuse(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn heads_are_refused_beyond_their_bounds_only() {
        let uri = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
        assert!(refused(&uri(URI_BYTES_MAX), &[]).is_none());
        assert!(matches!(refused(&uri(URI_BYTES_MAX + 1), &[]), Some(ApiError::UriTooLong)));
        let header = |bytes: usize| [("x", "a".repeat(bytes - 1))];
        assert!(refused("/", &header(HEADER_BYTES_MAX)).is_none());
        assert!(matches!(refused("/", &header(HEADER_BYTES_MAX + 1)), Some(ApiError::HeadTooLarge)));
    }

    #[test]
    fn a_query_must_be_utf8() {
        for query in ["", "a=%C3%BC", "a=100%", "a=%zz", "a=%"] {
            assert!(refused(&format!("/?{query}"), &[]).is_none(), "{query}");
        }
        for query in ["a=%ff", "%C3=1", "a=%ED%A0%80", "a=%c3%", "a=%C3%BC%80"] {
            assert!(
                matches!(refused(&format!("/?{query}"), &[]), Some(ApiError::BadRequest { .. })),
                "{query}"
            );
        }
    }

    #[test]
    fn origins_are_those_that_browsers_send() {
        for text in ["*", "https://app.example", "http://localhost:3000"] {
            assert!(origin(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "app.example",
            "https://app.example/",
            "https://app.example/x",
            "ftp://a",
            "https://a?b",
            "null",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_utf8(text in ".{0,30}") {
            let encoded = text.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
            prop_assert!(decodes_to_utf8(encoded.as_bytes()));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            decodes_to_utf8(&bytes);
        }
    }
}
