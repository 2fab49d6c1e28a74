//! Entity tags as `If-Match` and `If-None-Match` list them (RFC 9110, 8.8.3 and 13.1). Never decides what a match means.

use axum::http::{HeaderMap, HeaderName};

use crate::error::ApiError;

/// One entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    /// Equivalent, but perhaps not the same bytes.
    pub weak: bool,
    /// What stands between the quotes: visible ASCII without quotes, and bytes above ASCII.
    pub opaque: Vec<u8>,
}

impl EntityTag {
    /// A strong tag of what stands between the quotes.
    pub fn strong(opaque: impl Into<Vec<u8>>) -> Self {
        Self { weak: false, opaque: opaque.into() }
    }

    /// The comparison that a cache needs: equal, weak or not.
    pub fn matches_weakly(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }
}

/// What a conditional header names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// `*`: whatever there is, as long as there is something.
    Any,
    /// One of these.
    Tags(Vec<EntityTag>),
}

/// The text is no list of entity tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not * or a list of entity tags, such as \"v1\", \"v2\"")]
pub struct Malformed;

impl Condition {
    /// The condition of every header of that name together; nothing when there is none.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] that names the header when it cannot be read.
    pub fn from_headers(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>, ApiError> {
        let lines: Vec<_> = headers.get_all(name).iter().map(axum::http::HeaderValue::as_bytes).collect();
        if lines.is_empty() {
            return Ok(None);
        }
        // Lines of one name are one list (RFC 9110, 5.2).
        let condition = Self::parse(&lines.join(&b", "[..]));
        condition
            .map(Some)
            .map_err(|error| ApiError::invalid_parameter(name.as_str(), format!("{name}: {error}")))
    }

    /// Reads the value of a header.
    ///
    /// # Errors
    /// [`Malformed`] for anything that the grammar does not allow. Empty elements of a list are allowed.
    pub fn parse(text: &[u8]) -> Result<Self, Malformed> {
        let mut rest = text.trim_ascii();
        if rest == b"*" {
            return Ok(Self::Any);
        }
        let mut tags = Vec::new();
        loop {
            while let Some(after) = rest.strip_prefix(b",") {
                rest = after.trim_ascii_start();
            }
            if rest.is_empty() {
                break;
            }
            let (tag, after) = parse_tag(rest)?;
            tags.push(tag);
            rest = after.trim_ascii_start();
            if !rest.is_empty() && !rest.starts_with(b",") {
                return Err(Malformed);
            }
        }
        if tags.is_empty() { Err(Malformed) } else { Ok(Self::Tags(tags)) }
    }

    /// True when `current`, the tag of what there is, is named by weak comparison.
    pub fn matches_weakly(&self, current: &EntityTag) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|tag| tag.matches_weakly(current)),
        }
    }
}

/// The tag that `text` starts with, and what follows it.
fn parse_tag(text: &[u8]) -> Result<(EntityTag, &[u8]), Malformed> {
    let (weak, quoted) = text.strip_prefix(b"W/").map_or((false, text), |quoted| (true, quoted));
    let inside = quoted.strip_prefix(b"\"").ok_or(Malformed)?;
    let end = inside.iter().position(|byte| *byte == b'"').ok_or(Malformed)?;
    let (opaque, after) = inside.split_at(end);
    let allowed = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..);
    if !opaque.iter().all(allowed) {
        return Err(Malformed);
    }
    Ok((EntityTag { weak, opaque: opaque.to_vec() }, &after[1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weak(opaque: &str) -> EntityTag {
        EntityTag { weak: true, opaque: opaque.into() }
    }

    fn tags(text: &str) -> Option<Vec<EntityTag>> {
        match Condition::parse(text.as_bytes()) {
            Ok(Condition::Tags(tags)) => Some(tags),
            _ => None,
        }
    }

    #[test]
    fn reads_lists_with_commas_and_slashes_inside_the_quotes() {
        assert_eq!(tags(r#""a""#), Some(vec![EntityTag::strong("a")]));
        assert_eq!(
            tags(r#" W/"a,b" ,"W/" ,, "", "#),
            Some(vec![weak("a,b"), EntityTag::strong("W/"), EntityTag::strong("")])
        );
        assert_eq!(Condition::parse(b" * "), Ok(Condition::Any));
    }

    #[test]
    fn refuses_what_the_grammar_does_not_allow() {
        for text in
            ["", " ", ",", "a", "\"", "\"a", "a\"", r#"w/"a""#, r#"W/ "a""#, "W/", r#""a" "b""#, r#""a"x"#]
        {
            assert_eq!(Condition::parse(text.as_bytes()), Err(Malformed), "{text:?}");
        }
        for text in [r#"*, "a""#, r#""a", *"#, "* *", "\"a b\"", "\"a\tb\"", "\"\u{7f}\""] {
            assert_eq!(Condition::parse(text.as_bytes()), Err(Malformed), "{text:?}");
        }
    }

    #[test]
    fn weak_comparison_looks_at_what_is_between_the_quotes_only() {
        let strong = EntityTag::strong("a");
        for (left, right) in
            [(&strong, &strong), (&strong, &weak("a")), (&weak("a"), &strong), (&weak("a"), &weak("a"))]
        {
            assert!(left.matches_weakly(right));
        }
        assert!(!strong.matches_weakly(&EntityTag::strong("A")));
    }

    #[test]
    fn headers_of_one_name_are_one_list() {
        let name = axum::http::header::IF_MATCH;
        let mut headers = HeaderMap::new();
        assert_eq!(Condition::from_headers(&headers, &name).unwrap(), None);
        headers.append(&name, "\"a\"".parse().unwrap());
        headers.append(&name, "W/\"b\"".parse().unwrap());
        let both = Condition::Tags(vec![EntityTag::strong("a"), weak("b")]);
        assert_eq!(Condition::from_headers(&headers, &name).unwrap(), Some(both));
        headers.append(&name, "*".parse().unwrap());
        assert!(Condition::from_headers(&headers, &name).is_err());
    }

    proptest! {
        #[test]
        fn every_list_survives_being_written(
            list in prop::collection::vec((any::<bool>(), "[!#-~]{0,12}"), 1..8),
            gap in "[ \t]{0,2}",
        ) {
            let list: Vec<_> =
                list.into_iter().map(|(weak, text)| EntityTag { weak, opaque: text.into_bytes() }).collect();
            let written: Vec<_> = list
                .iter()
                .map(|tag| {
                    let prefix = if tag.weak { "W/" } else { "" };
                    format!("{gap}{prefix}\"{}\"{gap}", str::from_utf8(&tag.opaque).unwrap())
                })
                .collect();
            prop_assert_eq!(tags(&written.join(",")), Some(list));
        }

        #[test]
        fn no_input_panics(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Condition::parse(&text);
        }
    }
}
