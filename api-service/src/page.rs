//! A page of posts: read from a query, loaded by one statement, answered newest first. Never asks a cache.

use axum::{
    extract::{FromRequestParts, Query},
    http::{Uri, request::Parts},
};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};

use crate::{
    cursor,
    error::ApiError,
    fields::{Fields, View},
    post::{self, Post},
    store::{Columns, Filter, Store},
};

/// Posts on a page when the client does not say, and at most.
const LIMIT_DEFAULT: u32 = 20;
const LIMIT_MAX: u32 = 100;

/// Which page is asked for. Equal for every way of asking for the same page, so fit for a cache's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    limit: u32,
    filter: Filter,
    before: Option<i64>,
    fields: Fields,
}

/// The query as written.
// Text, so that a value that is wrong is answered with its field's name.
#[derive(Debug, Deserialize)]
struct Written {
    limit: Option<String>,
    after: Option<String>,
    author: Option<String>,
    tag: Option<String>,
    fields: Option<String>,
}

impl Request {
    /// Reads `?limit=20&after=CURSOR&author=ID&tag=NAME&fields=id,title`, each of which may be absent.
    ///
    /// # Errors
    /// [`ApiError::BadRequest`] that names the parameter at fault.
    pub fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let Query(written) = Query::<Written>::try_from_uri(uri)
            .map_err(|rejection| ApiError::BadRequest { field: None, detail: rejection.body_text() })?;
        let limit = written.limit.as_deref().map_or(Ok(LIMIT_DEFAULT), parse_limit)?;
        let author = written.author.as_deref().map(parse_author).transpose()?;
        let tag = written.tag.map(parse_tag).transpose()?;
        let fields = written.fields.as_deref().map_or(Ok(Fields::LISTED), Fields::parse)?;
        let filter = Filter { author, tag };
        let before = written.after.map(|after| cursor::decode(&after, &filter)).transpose()?;
        Ok(Self { limit, filter, before, fields })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Request {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::parse(&parts.uri)
    }
}

/// A page of posts, newest first.
#[derive(Debug, Clone)]
pub struct Page {
    // Hold the columns that `fields` asks for, and no others.
    items: Vec<Post>,
    next: Option<String>,
    fields: Fields,
}

/// `{"items": [...], "next": "CURSOR"}`; `next` is for `after` to get the next page, and absent on the last one.
impl Serialize for Page {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let items: Vec<_> = self.items.iter().map(|post| View { post, fields: self.fields }).collect();
        let mut page = serializer.serialize_struct("Page", 1 + usize::from(self.next.is_some()))?;
        page.serialize_field("items", &items)?;
        if let Some(next) = &self.next {
            page.serialize_field("next", next)?;
        }
        page.end()
    }
}

/// Loads a page by one statement, whose cost depends on the page's length alone.
///
/// # Errors
/// [`ApiError::Overloaded`] or [`ApiError::Unavailable`] when the database is busy or away.
pub async fn load(store: &Store, request: &Request) -> Result<Page, ApiError> {
    let Request { limit, ref filter, before, fields } = *request;
    let columns = Columns { body: fields.body(), tags: fields.tags() };
    // One more than asked for tells whether there is a next page.
    let mut items = store.list(filter, before, limit + 1, columns).await?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = items.last().filter(|_| more).map(|post| cursor::encode(post.id, filter));
    Ok(Page { items, next, fields })
}

fn parse_limit(text: &str) -> Result<u32, ApiError> {
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| {
        ApiError::invalid_parameter("limit", format!("limit must be a whole number from 1 to {LIMIT_MAX}"))
    })
}

fn parse_author(text: &str) -> Result<i64, ApiError> {
    let id = text.parse().ok().filter(|id| *id >= 1);
    id.ok_or_else(|| ApiError::invalid_parameter("author", "author must be an author's id, from 1 upwards"))
}

fn parse_tag(text: String) -> Result<String, ApiError> {
    if post::is_tag(&text) {
        return Ok(text);
    }
    Err(ApiError::invalid_parameter("tag", format!("tag must be {}", post::tag_rule())))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn request(query: &str) -> Request {
        Request::parse(&format!("/posts?{query}").parse().unwrap()).unwrap()
    }

    #[test]
    fn every_way_of_asking_for_a_page_is_the_same_request() {
        let plain = request("");
        for query in ["limit=20", "limit=%32%30", "fields=id,title,author,tags,version,createdAt,updatedAt"] {
            assert_eq!(plain, request(query), "{query}");
        }
    }

    #[test]
    fn requests_for_other_pages_are_other_requests() {
        let after = cursor::encode(7, &Filter::default());
        let queries = ["", "limit=1", "author=1", "tag=a", "author=1&tag=a", "fields=id"];
        let mut requests: HashSet<_> = queries.iter().map(|query| request(query)).collect();
        requests.insert(request(&format!("after={after}")));
        assert_eq!(requests.len(), queries.len() + 1, "{requests:?}");
    }
}
