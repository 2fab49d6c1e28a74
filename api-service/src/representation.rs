//! A body that is answered many times: its entity tag, its codings, each made once, and the answers to conditional
//! requests. Never decides what is answered, and compresses on the CPU workers only.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::OnceCell;

use crate::{
    cache::Size,
    coding::{COMPRESS_BYTES_MIN, Coding},
    cpu::CpuPool,
    entity_tag::{Condition, EntityTag},
    error::ApiError,
};

/// A copy may be kept, and is asked about before it is used: a write shows at once.
pub const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const VARY: HeaderValue = HeaderValue::from_static("accept-encoding");

/// A body, of JSON unless said otherwise, with its entity tag.
#[derive(Debug)]
pub struct Representation {
    json: Bytes,
    content_type: HeaderValue,
    tag: String,
    /// In the order of [`Coding::COMPRESSED`]; empty until first asked for.
    coded: [OnceCell<Bytes>; 3],
}

impl Representation {
    /// A body whose strong entity tag is `tag`, without quotes and of visible ASCII: two bodies with the same tag, at the
    /// same path, must be the same bytes.
    pub fn new(json: Bytes, tag: String) -> Self {
        Self { json, content_type: JSON, tag, coded: [const { OnceCell::const_new() }; 3] }
    }

    /// A body whose tag is a hash of it.
    pub fn hashed(json: Bytes) -> Self {
        let tag = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&json));
        Self::new(json, tag)
    }

    /// A body of HTML whose tag is a hash of it.
    pub fn html(html: Bytes) -> Self {
        Self { content_type: HTML, ..Self::hashed(html) }
    }

    /// What tells it from others at the same path, without quotes.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The body as it is.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// Answers a GET or HEAD with `request` headers: 200, or 304 when the client has this already.
    ///
    /// A coding is part of what a strong tag stands for, so each has a tag of its own (RFC 9110, section 8.8.3.3). A 304
    /// carries what the 200 would (section 15.4.5). Without a CPU worker to compress, the body goes as it is.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] for an `If-None-Match` that is no list of entity tags.
    pub async fn answer(
        self: &Arc<Self>,
        request: &HeaderMap,
        cache_control: HeaderValue,
        cpu: &CpuPool,
    ) -> Result<Response, ApiError> {
        let mut coding =
            if self.json.len() < COMPRESS_BYTES_MIN { Coding::Identity } else { Coding::negotiate(request) };
        let condition = Condition::from_headers(request, &header::IF_NONE_MATCH)?;
        let unchanged = condition
            .is_some_and(|condition| condition.matches_weakly(&EntityTag::strong(self.opaque_tag(coding))));
        let mut response = if unchanged {
            let mut response = Response::new(Body::new(NoContent));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            let body = self.coded(coding, cpu).await.unwrap_or_else(|_| {
                coding = Coding::Identity;
                self.json.clone()
            });
            let mut response = Response::new(Body::from(body));
            let headers = response.headers_mut();
            headers.reserve(8);
            headers.insert(header::CONTENT_TYPE, self.content_type.clone());
            if let Some(name) = coding.name() {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
            }
            response
        };
        let headers = response.headers_mut();
        if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", self.opaque_tag(coding))) {
            headers.insert(header::ETAG, tag);
        }
        headers.insert(header::CACHE_CONTROL, cache_control);
        headers.insert(header::VARY, VARY);
        Ok(response)
    }

    /// The tag of the body in `coding`.
    fn opaque_tag(&self, coding: Coding) -> String {
        coding.tag(&self.tag)
    }

    /// The body in `coding`, made on a CPU worker when it is the first time.
    async fn coded(self: &Arc<Self>, coding: Coding, cpu: &CpuPool) -> Result<Bytes, ApiError> {
        let Some(place) = Coding::COMPRESSED.iter().position(|known| *known == coding) else {
            return Ok(self.json.clone());
        };
        let body = self.coded[place].get_or_try_init(async || {
            let this = Arc::clone(self);
            let coded = cpu.run(move |_| coding.encode(&this.json)).await?;
            coded.map(Bytes::from).map_err(|error| ApiError::Internal { cause: error.to_string() })
        });
        body.await.cloned()
    }
}

/// A body that ends at once and does not say that it has no bytes: a 304 with `Content-Length: 0` would tell a cache that
/// what it keeps is empty (RFC 9110, section 8.6).
struct NoContent;

impl HttpBody for NoContent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

impl Size for Arc<Representation> {
    fn size_bytes(&self) -> usize {
        // The three codings of a text come to about as much as the text.
        2 * self.json.len() + self.tag.len() + size_of::<Representation>()
    }
}
