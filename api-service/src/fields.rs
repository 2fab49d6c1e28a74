//! Sparse fields: `?fields=id,title` chooses which fields of a post are answered. Never changes what a field holds.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use crate::{error::ApiError, post::Post};

/// The fields of a post by their names in JSON, in the order in which they are answered.
const NAMES: [&str; 8] = ["id", "title", "body", "author", "tags", "createdAt", "updatedAt", "version"];
const BODY: usize = 2;
const TAGS: usize = 4;

/// A set of fields. Equal for every way of writing the same set, so fit for a cache's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fields(u8);

impl Fields {
    /// Every field.
    pub const ALL: Self = Self(u8::MAX);

    /// What an item of a list has unless the client says otherwise: all but the body.
    pub const LISTED: Self = Self(!(1 << BODY));

    /// Reads names that are separated by commas; doubles are folded.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] that lists the known names when one is unknown.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut set = 0;
        for name in text.split(',') {
            let index = NAMES.iter().position(|known| *known == name).ok_or_else(|| {
                let known = NAMES.join(", ");
                ApiError::invalid_parameter("fields", format!("fields must be some of: {known}"))
            })?;
            set |= 1 << index;
        }
        Ok(Self(set))
    }

    /// True when the body is among them.
    pub fn body(self) -> bool {
        self.has(BODY)
    }

    /// True when the tags are among them.
    pub fn tags(self) -> bool {
        self.has(TAGS)
    }

    fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().enumerate().filter(move |(index, _)| self.has(*index)).map(|(_, name)| name)
    }
}

/// The names in the order of the answer, separated by commas.
impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            f.write_str(name)?;
        }
        Ok(())
    }
}

/// The query of a single post.
#[derive(Debug, Deserialize)]
pub struct Query {
    fields: Option<String>,
}

impl Query {
    /// The fields that were asked for; absent when none were named, which means all.
    ///
    /// # Errors
    /// See [`Fields::parse`].
    pub fn fields(&self) -> Result<Option<Fields>, ApiError> {
        self.fields.as_deref().map(Fields::parse).transpose()
    }
}

/// Some fields of a post, as JSON.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What is shown in part.
    pub post: &'a Post,
    /// The part.
    pub fields: Fields,
}

impl Serialize for View<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Post { id, title, body, author, tags, created_at, updated_at, version } = self.post;
        let mut map = serializer.serialize_map(Some(self.fields.0.count_ones() as usize))?;
        for name in self.fields.names() {
            match name {
                "id" => map.serialize_entry(name, id)?,
                "title" => map.serialize_entry(name, title)?,
                "body" => map.serialize_entry(name, body)?,
                "author" => map.serialize_entry(name, author)?,
                "tags" => map.serialize_entry(name, tags)?,
                "createdAt" => map.serialize_entry(name, created_at)?,
                "updatedAt" => map.serialize_entry(name, updated_at)?,
                _ => map.serialize_entry(name, version)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::post::Author;

    fn post() -> Post {
        Post {
            id: 1,
            title: "t".to_owned(),
            body: "b".to_owned(),
            author: Author { id: 2, name: "ann".to_owned() },
            tags: vec!["http".to_owned()],
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            version: 3,
        }
    }

    #[test]
    fn all_fields_are_the_post_itself_byte_by_byte() {
        let view = serde_json::to_string(&View { post: &post(), fields: Fields::ALL }).unwrap();
        assert_eq!(view, serde_json::to_string(&post()).unwrap());
        assert_eq!(Fields::ALL.to_string(), NAMES.join(","));
    }

    #[test]
    fn every_way_of_writing_a_set_is_the_same_set() {
        let fields = Fields::parse("title,id,title").unwrap();
        assert_eq!((fields, fields.to_string().as_str()), (Fields::parse("id,title").unwrap(), "id,title"));
        let view = serde_json::to_string(&View { post: &post(), fields }).unwrap();
        assert_eq!(view, r#"{"id":1,"title":"t"}"#);
    }

    #[test]
    fn unknown_names_are_refused_with_those_that_are_known() {
        for text in ["", ",", "id,", "ID", "created_at", "id, title", "secret"] {
            let error = Fields::parse(text).unwrap_err().to_string();
            assert!(error.contains("id, title, body"), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_set_survives_being_written(set in 1..=u8::MAX) {
            prop_assert_eq!(Fields::parse(&Fields(set).to_string()).unwrap(), Fields(set));
        }

        #[test]
        fn nothing_but_names_is_read(text in "([a-zA-Z]{0,9}|id|title|body|tags)(,(.{0,4}|id|version)){0,4}") {
            let names = text.split(',').all(|name| NAMES.contains(&name));
            prop_assert_eq!(Fields::parse(&text).is_ok(), names);
        }
    }
}
