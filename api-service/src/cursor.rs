//! Where a page of posts ends, as text that clients pass on unread. Holds no secret: a forged one only names a place.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use crate::{error::ApiError, store::Filter};

/// The two forms. The first is that of the release before, which knew no filters, so that during a rollout either
/// release goes on where the other one ended.
const UNFILTERED: &str = "1:";
const FILTERED: &str = "2:";

/// The cursor of the posts after the one with this id, among those that `filter` lets through.
pub fn encode(id: i64, filter: &Filter) -> String {
    URL_SAFE_NO_PAD.encode(match mark(filter) {
        None => format!("{UNFILTERED}{id}"),
        Some(mark) => format!("{FILTERED}{mark}:{id}"),
    })
}

/// The id in a cursor of a list with the same filter.
///
/// # Errors
/// [`ApiError::BadRequest`] for text that is no cursor, or is one of a list with another filter.
pub fn decode(text: &str, filter: &Filter) -> Result<i64, ApiError> {
    let Some((given, id)) = read(text) else {
        return Err(ApiError::invalid_parameter("after", "after must be the `next` of an earlier page"));
    };
    if given == mark(filter) {
        return Ok(id);
    }
    let detail = "after is from a list with other filters; give the author and tag that it was made with";
    Err(ApiError::invalid_parameter("after", detail))
}

fn read(text: &str) -> Option<(Option<String>, i64)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (mark, id) = if let Some(id) = text.strip_prefix(UNFILTERED) {
        (None, id)
    } else {
        let (mark, id) = text.strip_prefix(FILTERED)?.split_once(':')?;
        (Some(mark.to_owned()), id)
    };
    Some((mark, id.parse().ok().filter(|id| *id >= 1)?))
}

/// Tells filters apart: 64 bits of a hash, in hexadecimal; nothing when there is no filter.
fn mark(filter: &Filter) -> Option<String> {
    if *filter == Filter::default() {
        return None;
    }
    let mut start = [0; 8];
    start.copy_from_slice(&Sha256::digest(filter.to_string())[..8]);
    Some(format!("{:016x}", u64::from_be_bytes(start)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(author: Option<i64>, tag: Option<&str>) -> Filter {
        Filter { author, tag: tag.map(str::to_owned) }
    }

    #[test]
    fn a_cursor_is_of_use_with_its_own_filter_only() {
        let filters = [
            filter(None, None),
            filter(Some(1), None),
            filter(None, Some("1")),
            filter(Some(1), Some("1")),
            filter(Some(11), None),
        ];
        for made in &filters {
            for used in &filters {
                let id = decode(&encode(42, made), used);
                if made == used {
                    assert_eq!(id.unwrap(), 42);
                } else {
                    assert!(id.unwrap_err().to_string().contains("other filters"), "{made:?} {used:?}");
                }
            }
        }
    }

    #[test]
    fn the_release_before_understands_a_cursor_without_filters() {
        assert_eq!(encode(42, &Filter::default()), URL_SAFE_NO_PAD.encode("1:42"));
    }

    proptest! {
        #[test]
        fn nothing_but_a_cursor_is_read(text in ".{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            // Text of the right form is not met by chance.
            prop_assert!(decode(&text, &Filter::default()).is_err());
            let id = decode(&URL_SAFE_NO_PAD.encode(&bytes), &Filter::default());
            prop_assert!(id.is_err() || bytes.starts_with(b"1:"));
        }
    }

    #[test]
    fn ids_below_one_and_other_forms_are_refused() {
        for text in ["1:-1", "1:0", "1:", "2:42", "3:42", "2::42", "1:9223372036854775808", "1:4 2"] {
            assert!(decode(&URL_SAFE_NO_PAD.encode(text), &Filter::default()).is_err(), "{text:?}");
        }
        for text in ["", "42", "!!"] {
            assert!(decode(text, &Filter::default()).is_err(), "{text:?}");
        }
    }
}
