//! What a post is, and which input makes one. This module never touches a database.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;

/// The longest title, in characters.
pub const TITLE_CHARS_MAX: usize = 200;

/// The longest body, in bytes of UTF-8.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

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
    /// When it was made, to the microsecond.
    pub created_at: Timestamp,
    /// When it was last written, to the microsecond.
    pub updated_at: Timestamp,
    /// 1 for a new post, one more with every write.
    pub version: i64,
}

/// A post's content that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// See [`Post::title`].
    pub title: String,
    /// See [`Post::body`].
    pub body: String,
}

/// A post's content as a client sent it.
// Options, so that a field that is missing gets the same kind of answer as one that is wrong.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    title: Option<String>,
    body: Option<String>,
}

impl Draft {
    /// Checks the content.
    ///
    /// # Errors
    /// [`ApiError::InvalidField`] with the first field that is missing or out of bounds.
    pub fn check(self) -> Result<Content, ApiError> {
        let title = self.title.ok_or_else(|| ApiError::invalid_field("title", "title is required"))?;
        if title.trim().is_empty() || title.chars().count() > TITLE_CHARS_MAX {
            let detail = format!("title must have 1 to {TITLE_CHARS_MAX} characters, not all of them blank");
            return Err(ApiError::invalid_field("title", detail));
        }
        let body =
            self.body.ok_or_else(|| ApiError::invalid_field("body", "body is required; it may be empty"))?;
        if body.len() > BODY_BYTES_MAX {
            let detail = format!("body must have at most {BODY_BYTES_MAX} bytes");
            return Err(ApiError::invalid_field("body", detail));
        }
        // Valid JSON, but Postgres cannot store it.
        for (field, text) in [("title", &title), ("body", &body)] {
            if text.contains('\0') {
                return Err(ApiError::invalid_field(field, format!("{field} must not contain U+0000")));
            }
        }
        Ok(Content { title, body })
    }
}

/// The entity tag of a post's version, without quotes and without a content coding.
pub fn tag(version: i64) -> String {
    format!("v{version}")
}

/// `now`, cut to the microseconds that every database can hold.
pub fn stamp(now: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}
