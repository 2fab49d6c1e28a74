//! Asks a server for each case before it is measured: a wrong answer, however fast, is not one.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use http::header;
use http::{Method, StatusCode};
use plimsoll_load::client::Client;
use serde_json::Value;

use super::case::Case;
use super::content::Content;
use super::server::Server;
use super::{Answer, ask};

/// A case that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Headers to send, as `name: value`.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body, as sent.
    pub body_bytes: u64,
}

/// What the server answers in this case, when it is what all answer.
///
/// # Errors
/// With the reason for which the case is not offered.
pub async fn probe(client: &Client, server: Server, case: Case, content: &Content) -> Result<Offer> {
    let paths = case.paths(content);
    let path = paths.first().context("a case has a path")?;
    let mut headers = Vec::new();
    if let Some(coding) = case.coding() {
        headers.push(("accept-encoding".to_owned(), coding.to_owned()));
    }
    let answer = ask(client, Method::GET, path, &headers, bytes::Bytes::new()).await?;
    let body = decode(&answer, case.coding())?;
    let body: Value = serde_json::from_slice(&body).context("the body is not JSON")?;
    match case {
        Case::Health => {
            let keys =
                |value: &Value| value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>());
            ensure!(keys(&body) == keys(&content.health), "/health has other fields than Plimsoll's");
        }
        Case::Post => ensure!(Some(&body) == content.posts.first(), "the post differs from Plimsoll's"),
        // Plimsoll's own list may be of another form than the one that was written down for its rivals.
        _ => ensure!(server.ours() || body == content.page, "the list differs from Plimsoll's"),
    }
    if case != Case::NotModified {
        return Ok(Offer { headers, body_bytes: answer.body.len() as u64 });
    }
    let tag = answer.header(header::ETAG).context("the list has no ETag")?;
    headers.push(("if-none-match".to_owned(), tag));
    let again = super::send(client, Method::GET, path, &headers, bytes::Bytes::new()).await?;
    ensure!(again.status == StatusCode::NOT_MODIFIED, "its own ETag is answered with {}", again.status);
    ensure!(again.body.is_empty(), "304 comes with a body");
    Ok(Offer { headers, body_bytes: 0 })
}

/// The body without its content coding, which must be the one that was asked for.
fn decode(answer: &Answer, coding: Option<&str>) -> Result<Vec<u8>> {
    let sent = answer.header(header::CONTENT_ENCODING);
    ensure!(
        sent.as_deref() == coding,
        "asked for {}, it sends {}",
        coding.unwrap_or("no coding"),
        sent.as_deref().unwrap_or("no coding")
    );
    let mut body = Vec::new();
    match coding {
        None => body.extend_from_slice(&answer.body),
        Some("gzip") => {
            flate2::read::GzDecoder::new(&*answer.body).read_to_end(&mut body).context("not gzip")?;
        }
        Some("br") => {
            brotli::Decompressor::new(&*answer.body, 4096).read_to_end(&mut body).context("not brotli")?;
        }
        Some(other) => bail!("{other} cannot be read here"),
    }
    ensure!(!body.is_empty(), "the body is empty");
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn answer(coding: Option<&str>, body: &[u8]) -> Answer {
        let mut headers = http::HeaderMap::new();
        if let Some(coding) = coding {
            headers.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
        }
        Answer { status: StatusCode::OK, headers, body: body.to_vec().into() }
    }

    #[test]
    fn a_body_must_have_the_coding_that_was_asked_for() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"{}").unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(decode(&answer(Some("gzip"), &gzip), Some("gzip")).unwrap(), b"{}");
        assert_eq!(decode(&answer(None, b"{}"), None).unwrap(), b"{}");
        let refused = [(None, Some("gzip")), (Some("gzip"), None), (Some("gzip"), Some("br"))];
        for (sent, asked) in refused {
            assert!(decode(&answer(sent, &gzip), asked).is_err(), "{sent:?} {asked:?}");
        }
        assert!(decode(&answer(Some("gzip"), b"{}"), Some("gzip")).is_err());
        assert!(decode(&answer(None, b""), None).is_err());
    }
}
