//! Lists of entity tags in `If-Match` and `If-None-Match` (RFC 9110, section 8.8.3). Knows nothing of what a tag stands for.

use axum::http::{HeaderMap, HeaderName};

/// What a conditional header names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// `*`: whatever is there.
    Any,
    /// These.
    Tags(Vec<EntityTag>),
}

/// One entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    /// True with `W/` before it: equal in meaning, not in every byte.
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: String,
}

/// The header is no list of entity tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write *, or entity tags in double quotes, separated by commas")]
pub struct Malformed;

impl Condition {
    /// The condition in every `name` header together; nothing when there is none.
    ///
    /// # Errors
    /// [`Malformed`], also for an empty list.
    pub fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, Malformed> {
        let mut condition = None;
        for value in headers.get_all(name) {
            let more = parse(value.as_bytes())?;
            condition = Some(match (condition, more) {
                (None, more) => more,
                (Some(Self::Tags(mut tags)), Self::Tags(more)) => {
                    tags.extend(more);
                    Self::Tags(tags)
                }
                // `*` stands alone.
                _ => return Err(Malformed),
            });
        }
        Ok(condition)
    }

    /// For `If-None-Match`: whether `opaque` is named, weak or not.
    pub fn matches_weakly(&self, opaque: &str) -> bool {
        self.named(|tag| tag.opaque == opaque)
    }

    /// For `If-Match`: whether `opaque`, a strong tag, is named by a strong tag.
    pub fn matches_strongly(&self, opaque: &str) -> bool {
        self.named(|tag| !tag.weak && tag.opaque == opaque)
    }

    fn named(&self, test: impl Fn(&EntityTag) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(test),
        }
    }
}

fn parse(mut text: &[u8]) -> Result<Condition, Malformed> {
    if text.trim_ascii() == b"*" {
        return Ok(Condition::Any);
    }
    let mut tags = Vec::new();
    loop {
        text = text.trim_ascii_start();
        // Empty members are allowed between commas, and mean nothing.
        match text {
            [] if tags.is_empty() => return Err(Malformed),
            [] => return Ok(Condition::Tags(tags)),
            [b',', rest @ ..] => {
                text = rest;
                continue;
            }
            _ => {}
        }
        let (weak, quoted) = text.strip_prefix(b"W/").map_or((false, text), |rest| (true, rest));
        let inner = quoted.strip_prefix(b"\"").ok_or(Malformed)?;
        let end = inner.iter().position(|byte| *byte == b'"').ok_or(Malformed)?;
        let (opaque, rest) = (&inner[..end], &inner[end + 1..]);
        if !opaque.iter().all(|byte| matches!(byte, 0x21..=0x7e | 0x80..)) {
            return Err(Malformed);
        }
        tags.push(EntityTag { weak, opaque: String::from_utf8_lossy(opaque).into_owned() });
        text = rest.trim_ascii_start();
        if !matches!(text, [] | [b',', ..]) {
            return Err(Malformed);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header::IF_NONE_MATCH};
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Result<Option<Condition>, Malformed> {
        let pairs = values.iter().map(|text| (IF_NONE_MATCH, HeaderValue::from_str(text).unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        Condition::read(&headers, &IF_NONE_MATCH)
    }

    #[test]
    fn reads_lists_with_commas_inside_the_quotes() {
        let condition = read(&[r#""a,b" , W/"c", "" ,"#, r#""d""#]).unwrap().unwrap();
        for named in ["a,b", "c", "", "d"] {
            assert!(condition.matches_weakly(named), "{named:?}");
        }
        assert!(!condition.matches_weakly("a"));
        assert!(condition.matches_strongly("a,b") && !condition.matches_strongly("c"));
        assert_eq!(read(&[]), Ok(None));
        assert!(read(&[" * "]).unwrap().unwrap().matches_strongly("anything"));
    }

    #[test]
    fn refuses_what_is_no_list_of_tags() {
        for values in [
            &[""][..],
            &[","],
            &["a"],
            &["\"a"],
            &["\"a\"b"],
            &["\"a\" \"b\""],
            &["w/\"a\""],
            &["*", "\"a\""],
            &["*, \"a\""],
            &["\"a b\""],
        ] {
            assert_eq!(read(values), Err(Malformed), "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn finds_every_tag_that_was_written(tags in proptest::collection::vec("[!#-~]{0,8}", 1..5)) {
            let list: Vec<_> = tags.iter().map(|tag| format!("\"{tag}\"")).collect();
            let condition = read(&[&list.join(", ")]).unwrap().unwrap();
            for tag in &tags {
                prop_assert!(condition.matches_strongly(tag));
            }
        }

        #[test]
        fn no_header_is_too_strange(text in "[ -~]{0,40}") {
            let _ = read(&[&text]);
        }
    }
}
