//! What a post is, which input makes one, and the entity tag of each version. This module never touches a database.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{coding::Coding, entity_tag::Condition, error::ApiError};

/// The longest title, in characters.
pub const TITLE_CHARS_MAX: usize = 200;

/// The longest body, in bytes of UTF-8.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// The longest name of an author, in characters.
pub const AUTHOR_CHARS_MAX: usize = 80;

/// The most tags of a post.
pub const TAGS_MAX: usize = 10;

/// The longest tag, in characters, which are ASCII.
pub const TAG_CHARS_MAX: usize = 40;

/// The author of posts that name none; the schema makes it.
pub const ANONYMOUS: &str = "anonymous";

/// A post as stored and as answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Post {
    /// Given by the database, from 1 upwards; never used again.
    pub id: i64,
    /// 1 to [`TITLE_CHARS_MAX`] characters.
    pub title: String,
    /// At most [`BODY_BYTES_MAX`] bytes.
    pub body: String,
    /// Who wrote it.
    pub author: Author,
    /// At most [`TAGS_MAX`], sorted, each once.
    pub tags: Vec<String>,
    /// When it was made, to the microsecond.
    pub created_at: Timestamp,
    /// When it was last written, to the microsecond.
    pub updated_at: Timestamp,
    /// 1 for a new post, one more with every write.
    pub version: i64,
}

/// Who wrote a post.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// Given by the database; stays with the name.
    pub id: i64,
    /// 1 to [`AUTHOR_CHARS_MAX`] characters; no two authors share one.
    pub name: String,
}

/// A post's content that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// See [`Post::title`].
    pub title: String,
    /// See [`Post::body`].
    pub body: String,
    /// See [`Author::name`]. Absent: [`ANONYMOUS`] for a new post, the author there is for one that is replaced.
    pub author: Option<String>,
    /// See [`Post::tags`].
    pub tags: Vec<String>,
}

impl Content {
    /// The name of a new post's author.
    pub fn author_or_anonymous(&self) -> &str {
        self.author.as_deref().unwrap_or(ANONYMOUS)
    }

    /// The new post that this becomes, at version 1.
    pub fn into_post(self, id: i64, author_id: i64, at: Timestamp) -> Post {
        let name = self.author.unwrap_or_else(|| ANONYMOUS.to_owned());
        Post {
            id,
            title: self.title,
            body: self.body,
            author: Author { id: author_id, name },
            tags: self.tags,
            created_at: at,
            updated_at: at,
            version: 1,
        }
    }

    /// SHA-256 of what a new post would hold: equal for requests that ask for the same post.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let texts = [self.title.as_str(), &self.body, self.author_or_anonymous()];
        for text in texts.into_iter().chain(self.tags.iter().map(String::as_str)) {
            // The length first, so that no two contents are written alike.
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        hash.finalize().into()
    }
}

/// A post's content as a client sent it.
// Options, so that a field that is missing gets the same kind of answer as one that is wrong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    title: Option<String>,
    body: Option<String>,
    author: Option<String>,
    tags: Option<Vec<String>>,
}

impl Draft {
    /// Checks the content.
    ///
    /// # Errors
    /// [`ApiError::InvalidField`] with the first field that is missing or out of bounds.
    pub fn check(self) -> Result<Content, ApiError> {
        let title = self.title.ok_or_else(|| ApiError::invalid_field("title", "title is required"))?;
        check_line("title", &title, TITLE_CHARS_MAX)?;
        let body =
            self.body.ok_or_else(|| ApiError::invalid_field("body", "body is required; it may be empty"))?;
        if body.len() > BODY_BYTES_MAX {
            let detail = format!("body must have at most {BODY_BYTES_MAX} bytes");
            return Err(ApiError::invalid_field("body", detail));
        }
        check_storable("body", &body)?;
        if let Some(author) = &self.author {
            check_line("author", author, AUTHOR_CHARS_MAX)?;
        }
        let mut tags = self.tags.unwrap_or_default();
        if tags.len() > TAGS_MAX {
            return Err(ApiError::invalid_field("tags", format!("tags must be at most {TAGS_MAX}")));
        }
        if let Some(index) = tags.iter().position(|tag| !is_tag(tag)) {
            let field = format!("tags[{index}]");
            let detail = format!("{field} must be {}", tag_rule());
            return Err(ApiError::invalid_field(field, detail));
        }
        tags.sort_unstable();
        tags.dedup();
        Ok(Content { title, body, author: self.author, tags })
    }
}

/// True for what can be a tag.
pub fn is_tag(text: &str) -> bool {
    (1..=TAG_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// What [`is_tag`] asks for, for people.
pub fn tag_rule() -> String {
    format!("1 to {TAG_CHARS_MAX} of a-z, 0-9 and -")
}

/// The entity tag of a post's version, without quotes and without a content coding.
pub fn tag(version: i64) -> String {
    format!("v{version}")
}

/// The entity tag of a post's version, with its quotes, when it is sent without a content coding.
pub fn etag(version: i64) -> String {
    format!("\"v{version}\"")
}

/// The versions that `If-Match` lets be written; absent when it lets any, which is what `*` means.
///
/// Strong comparison: a weak tag names no version. A coding's suffix is no part of what is compared, since what is
/// written has no coding.
pub fn expected_versions(condition: &Condition) -> Option<Vec<i64>> {
    let Condition::Tags(tags) = condition else { return None };
    let strong = tags.iter().filter(|tag| !tag.weak);
    Some(strong.filter_map(|tag| version_of(std::str::from_utf8(&tag.opaque).ok()?)).collect())
}

fn version_of(opaque: &str) -> Option<i64> {
    let bare = Coding::strip_from_tag(opaque);
    let version = bare.strip_prefix('v')?.parse().ok()?;
    // `v03` and `v+3` are numbers to Rust, but no tags that were ever given.
    (bare == format!("v{version}")).then_some(version)
}

fn check_line(field: &str, text: &str, chars_max: usize) -> Result<(), ApiError> {
    if text.trim().is_empty() || text.chars().count() > chars_max {
        let detail = format!("{field} must have 1 to {chars_max} characters, not all of them blank");
        return Err(ApiError::invalid_field(field, detail));
    }
    check_storable(field, text)
}

/// U+0000 is valid JSON, but Postgres cannot store it.
fn check_storable(field: &str, text: &str) -> Result<(), ApiError> {
    if text.contains('\0') {
        return Err(ApiError::invalid_field(field, format!("{field} must not contain U+0000")));
    }
    Ok(())
}

/// `now`, cut to the microseconds that every database can hold.
pub fn stamp(now: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(title: &str, body: &str, author: Option<&str>, tags: &[&str]) -> Content {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Content { title: title.to_owned(), body: body.to_owned(), author: author.map(str::to_owned), tags }
    }

    #[test]
    fn tags_are_sorted_and_folded() {
        let draft = r#"{"title": "t", "body": "", "tags": ["rust", "http", "rust"]}"#;
        let draft: Draft = serde_json::from_str(draft).unwrap();
        assert_eq!(draft.check().unwrap(), content("t", "", None, &["http", "rust"]));
    }

    #[test]
    fn contents_that_differ_anywhere_have_other_digests() {
        let contents = [
            content("ab", "c", None, &[]),
            content("a", "bc", None, &[]),
            content("ab", "c", Some("ann"), &[]),
            content("ab", "c", None, &["ann"]),
            content("ab", "c", None, &["an", "n"]),
        ];
        let digests: std::collections::HashSet<_> = contents.iter().map(Content::digest).collect();
        assert_eq!(digests.len(), contents.len());
        assert_eq!(contents[0].digest(), content("ab", "c", Some(ANONYMOUS), &[]).digest());
    }

    #[test]
    fn if_match_names_versions_whatever_their_coding() {
        let versions = |text: &str| expected_versions(&Condition::parse(text.as_bytes()).unwrap());
        assert_eq!(versions("*"), None);
        assert_eq!(versions(&etag(3)), Some(vec![3]));
        assert_eq!(versions(r#""v3-gzip", "v4-br", "v5-zstd", "v6""#), Some(vec![3, 4, 5, 6]));
        assert_eq!(versions(r#"W/"v3", "v03", "v+3", "v", "3", "v3-lzma", "v3-gzip-br""#), Some(vec![]));
    }
}
