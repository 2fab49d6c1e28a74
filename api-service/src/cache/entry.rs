//! What the layers hand each other of a post. Holds bytes, reads none of them.

use std::time::Duration;

use bytes::Bytes;

use super::redis_store::Token;

/// A post as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Of the post.
    pub version: i64,
    /// The post as JSON.
    pub json: Bytes,
}

/// What is known of a post, or that there is none, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The post, when there is one.
    pub post: Option<Stored>,
    /// How long this may still be answered.
    pub life: Duration,
    /// How long the database took to say so.
    pub cost: Duration,
    /// Its name in Redis, when it came from there or went there.
    pub token: Option<Token>,
}
