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
use bytes::{BufMut, Bytes, BytesMut};
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

/// Headers of an answer with a body, with those that the edge adds.
const HEADERS_USUAL: usize = 8;

/// A body, of JSON unless said otherwise, with its entity tag.
#[derive(Debug)]
pub struct Representation {
    body: Bytes,
    content_type: HeaderValue,
    /// `ETag` as it is without a coding, and in the order of [`Coding::COMPRESSED`], ready to be sent: a cached answer is
    /// little more than its headers, and to write these anew for each was a good part of its cost.
    tags: [Option<HeaderValue>; 4],
    /// In the order of [`Coding::COMPRESSED`]; empty until first asked for.
    coded: [OnceCell<Bytes>; 3],
}

impl Representation {
    /// A body whose strong entity tag is `tag`, without quotes and of visible ASCII: two bodies with the same tag, at the
    /// same path, must be the same bytes.
    pub fn new(json: Bytes, tag: &str) -> Self {
        let coded = [const { OnceCell::const_new() }; 3];
        Self { body: json, content_type: JSON, tags: tags(tag), coded }
    }

    /// A body whose tag is a hash of it.
    pub fn hashed(json: Bytes) -> Self {
        let tag = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&json));
        Self::new(json, &tag)
    }

    /// A body of HTML whose tag is a hash of it.
    pub fn html(html: Bytes) -> Self {
        Self { content_type: HTML, ..Self::hashed(html) }
    }

    /// `ETag` of the body as it is: it tells it from others at the same path.
    pub fn tag(&self) -> Option<&HeaderValue> {
        self.tags[0].as_ref()
    }

    /// The body as it is.
    pub fn body(&self) -> &Bytes {
        &self.body
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
            if self.body.len() < COMPRESS_BYTES_MIN { Coding::Identity } else { Coding::negotiate(request) };
        let unchanged = unchanged(request, self.etag(coding))?;
        let mut response = if unchanged {
            let mut response = Response::new(Body::new(NoContent));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            let body = match self.made(coding) {
                Some(body) => body.clone(),
                // On the heap: every other answer would bear the room for it.
                None => Box::pin(self.coded(coding, cpu)).await.unwrap_or_else(|_| {
                    coding = Coding::Identity;
                    self.body.clone()
                }),
            };
            let mut response = Response::new(Body::from(body));
            let headers = response.headers_mut();
            headers.reserve(HEADERS_USUAL);
            headers.insert(header::CONTENT_TYPE, self.content_type.clone());
            if let Some(name) = coding.name() {
                headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
            }
            response
        };
        let headers = response.headers_mut();
        if let Some(tag) = self.etag(coding) {
            headers.insert(header::ETAG, tag.clone());
        }
        headers.insert(header::CACHE_CONTROL, cache_control);
        headers.insert(header::VARY, VARY);
        Ok(response)
    }

    /// The tag of the body in `coding`.
    fn etag(&self, coding: Coding) -> Option<&HeaderValue> {
        let place = Coding::COMPRESSED.iter().position(|known| *known == coding);
        self.tags[place.map_or(0, |place| place + 1)].as_ref()
    }

    /// The body in `coding`, if it has been asked for before.
    fn made(&self, coding: Coding) -> Option<&Bytes> {
        let place = Coding::COMPRESSED.iter().position(|known| *known == coding);
        place.map_or(Some(&self.body), |place| self.coded[place].get())
    }

    /// The body in `coding`, made on a CPU worker when it is the first time.
    async fn coded(self: &Arc<Self>, coding: Coding, cpu: &CpuPool) -> Result<Bytes, ApiError> {
        let Some(place) = Coding::COMPRESSED.iter().position(|known| *known == coding) else {
            return Ok(self.body.clone());
        };
        let body = self.coded[place].get_or_try_init(async || {
            let this = Arc::clone(self);
            let coded = cpu.run(move |_| coding.encode(&this.body)).await?;
            coded.map(Bytes::from).map_err(|error| ApiError::Internal { cause: error.to_string() })
        });
        body.await.cloned()
    }
}

/// `ETag` for each coding, in one piece of memory: only those that are sent would pay for pieces of their own.
fn tags(opaque: &str) -> [Option<HeaderValue>; 4] {
    let [first, second, third] = Coding::COMPRESSED;
    let mut text = BytesMut::with_capacity(4 * (opaque.len() + "\"-gzip\"".len()));
    [Coding::Identity, first, second, third].map(|coding| {
        text.put_u8(b'"');
        text.put_slice(coding.tag(opaque).as_bytes());
        text.put_u8(b'"');
        HeaderValue::from_maybe_shared(text.split().freeze()).ok()
    })
}

/// Whether `If-None-Match` names what is there, whose `ETag` is `current`.
fn unchanged(request: &HeaderMap, current: Option<&HeaderValue>) -> Result<bool, ApiError> {
    // Most clients send back what they were given, byte for byte; only other conditions need to be read as a list.
    let mut lines = request.get_all(&header::IF_NONE_MATCH).iter();
    if current.is_some() && lines.next() == current && lines.next().is_none() {
        return Ok(true);
    }
    let Some(condition) = Condition::from_headers(request, &header::IF_NONE_MATCH)? else {
        return Ok(false);
    };
    Ok(match current.map(HeaderValue::as_bytes) {
        Some([b'"', opaque @ .., b'"']) => condition.matches_weakly(&EntityTag::strong(opaque)),
        _ => condition == Condition::Any,
    })
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
        let tags: usize = self.tags.iter().flatten().map(HeaderValue::len).sum();
        2 * self.body.len() + tags + size_of::<Representation>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(lines: &[&'static str], current: &'static str) -> Option<bool> {
        let lines = lines.iter().map(|line| (header::IF_NONE_MATCH, HeaderValue::from_static(line)));
        unchanged(&lines.collect::<HeaderMap>(), Some(&HeaderValue::from_static(current))).ok()
    }

    #[test]
    fn each_form_has_a_tag_of_its_own() {
        let representation = Representation::new(Bytes::new(), "v1");
        for (coding, tag) in [
            (Coding::Identity, "\"v1\""),
            (Coding::Brotli, "\"v1-br\""),
            (Coding::Zstd, "\"v1-zstd\""),
            (Coding::Gzip, "\"v1-gzip\""),
        ] {
            assert_eq!(representation.etag(coding).unwrap(), tag);
        }
    }

    #[test]
    fn a_condition_that_is_the_tag_to_the_byte_is_as_one_that_is_read() {
        for lines in
            [&["\"a\""][..], &["W/\"a\""], &["\"b\", \"a\""], &["\"b\"", "\"a\""], &["*"], &[" \"a\" "]]
        {
            assert_eq!(named(lines, "\"a\""), Some(true), "{lines:?}");
        }
        for lines in [&[][..], &["\"b\""], &["\"A\""], &["\"\""]] {
            assert_eq!(named(lines, "\"a\""), Some(false), "{lines:?}");
        }
        // Together they are one list, and that one is malformed, whichever line comes first.
        assert_eq!(named(&["\"a\"", "b"], "\"a\""), None);
        assert_eq!(named(&["b", "\"a\""], "\"a\""), None);
    }

    #[test]
    fn without_a_tag_to_send_only_any_matches() {
        let any = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static("*"))]);
        assert!(unchanged(&any, None).unwrap());
        assert!(!unchanged(&HeaderMap::new(), None).unwrap());
    }
}
