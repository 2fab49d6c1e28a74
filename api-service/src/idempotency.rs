//! Reads `Idempotency-Key`, by which a client may send a request again without doing it twice. Keeps nothing itself.

use axum::http::{HeaderMap, HeaderName};

use crate::{auth::Subject, error::ApiError, post::Content, store::Once};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Marks an answer that an earlier request has had before.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The longest key, in characters; a UUID has 36.
const KEY_CHARS_MAX: usize = 255;

/// The key of a request for `content` by `caller`; nothing when it has none. Callers with a token have keys of their own.
///
/// # Errors
/// [`ApiError::BadRequest`] for more than one key, or one that is empty, too long, or not of visible ASCII.
pub fn once(
    headers: &HeaderMap,
    caller: Option<&Subject>,
    content: &Content,
) -> Result<Option<Once>, ApiError> {
    let mut keys = headers.get_all(&KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let visible = |bytes: &&[u8]| bytes.iter().all(u8::is_ascii_graphic);
    let key = Some(key.as_bytes())
        .filter(|bytes| (1..=KEY_CHARS_MAX).contains(&bytes.len()) && keys.next().is_none())
        .filter(visible)
        .and_then(|bytes| str::from_utf8(bytes).ok());
    let key = key.ok_or_else(|| {
        let detail =
            format!("Idempotency-Key must be one key of 1 to {KEY_CHARS_MAX} visible ASCII characters");
        ApiError::invalid_parameter(KEY.as_str(), detail)
    })?;
    // A space is in no key, so that no caller can write another's.
    let key = caller.map_or_else(|| key.to_owned(), |Subject(subject)| format!("{key} {subject}"));
    Ok(Some(Once { key, request: content.digest() }))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn key_of(lines: &[&[u8]], caller: Option<&Subject>) -> Result<Option<String>, ApiError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(KEY, HeaderValue::from_bytes(line).unwrap());
        }
        let content = Content { title: "t".to_owned(), body: String::new(), author: None, tags: Vec::new() };
        Ok(once(&headers, caller, &content)?.map(|once| once.key))
    }

    #[test]
    fn callers_share_no_key() {
        let caller = Subject("ada".into());
        assert_eq!(key_of(&[], Some(&caller)).unwrap(), None);
        assert_eq!(key_of(&[b"k"], None).unwrap().as_deref(), Some("k"));
        assert_eq!(key_of(&[b"k"], Some(&caller)).unwrap().as_deref(), Some("k ada"));
        assert!(key_of(&[b"k", b"k"], None).is_err(), "which of them?");
        assert!(key_of(&[&[b'k'; KEY_CHARS_MAX]], None).is_ok());
        assert!(key_of(&[&[b'k'; KEY_CHARS_MAX + 1]], None).is_err());
    }

    proptest! {
        #[test]
        fn a_key_is_visible_ascii_or_refused_by_name(
            line in prop::collection::vec(prop_oneof![9..=9_u8, 32..=126_u8, 128..=255_u8], 0..300),
        ) {
            let fits = (1..=KEY_CHARS_MAX).contains(&line.len()) && line.iter().all(u8::is_ascii_graphic);
            match key_of(&[&line], None) {
                Ok(key) => prop_assert!(fits && key.is_some_and(|key| key.as_bytes() == line)),
                Err(ApiError::BadRequest { field, .. }) => {
                    prop_assert!(!fits && field.as_deref() == Some("idempotency-key"));
                }
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
