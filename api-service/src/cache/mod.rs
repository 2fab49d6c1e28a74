//! Posts by id in Redis, in front of the database. It can slow an answer by a bounded time; it never fails or decides one.
//!
//! Every entry is `VERSION:JSON`, written only over an older version. A write to a post replaces its entry by a
//! *tombstone*, `VERSION:` without JSON, which no older version may replace.
//!
//! # Guarantees
//! - A call takes at most 30 ms, and a read makes at most three; after five failures in a row Redis is left alone for
//!   about a second.
//! - Once a write is answered, no reader that read the row before that write can put its old copy back, as long as
//!   the tombstone lives (30 s, three times the default time limit of a request).
//! - A write whose tombstone could not be sent is *owed*: this replica does not ask the cache for that post until the
//!   tombstone has been sent. This replica never answers with less than it has itself written.
//!
//! # Caveats
//! - While a tombstone is owed, *other* replicas that can reach Redis may answer with the older version, at most until
//!   the entry expires (66 s).
//! - Redis may evict a tombstone under memory pressure; then a reader that read before the write can put its copy
//!   back for at most 66 s.

mod owed;
mod redis_store;

use prometheus::IntCounter;

use self::redis_store::RedisStore;
use crate::{metrics::Metrics, post::Post, redis_link::RedisLink};

/// The version of a deleted post's tombstone: above any that a row reaches, and exact in Lua's numbers.
const DELETED: i64 = (1 << 53) - 1;

/// The cache of posts; without Redis, one that never has anything.
#[derive(Debug)]
pub struct Cache {
    redis: Option<RedisStore>,
    hits: IntCounter,
    misses: IntCounter,
    errors: IntCounter,
}

impl Cache {
    /// A cache that uses Redis when there is a link to one.
    pub fn new(redis: Option<RedisLink>, metrics: &Metrics) -> Self {
        Self {
            redis: redis.map(RedisStore::new),
            hits: metrics.cache_hits.clone(),
            misses: metrics.cache_misses.clone(),
            errors: metrics.cache_errors.clone(),
        }
    }

    /// The post, when the cache has it.
    pub async fn get(&self, id: i64) -> Option<Post> {
        let answer = self.redis.as_ref()?.get(id).await;
        match &answer {
            Ok(Some(_)) => self.hits.inc(),
            Ok(None) => self.misses.inc(),
            Err(_) => self.errors.inc(),
        }
        answer.ok().flatten()
    }

    /// Offers a post that was just read from the database.
    pub async fn fill(&self, post: &Post) {
        if let Some(redis) = &self.redis {
            redis.fill(post).await;
        }
    }

    /// Tells that `version` of the post is now the database's. Call before the write is answered.
    pub async fn written(&self, id: i64, version: i64) {
        if let Some(redis) = &self.redis {
            redis.bury(id, version).await;
        }
    }

    /// Tells that the post is gone. Call before the delete is answered.
    pub async fn deleted(&self, id: i64) {
        self.written(id, DELETED).await;
    }

    /// For people: `none`, `ok` or `failing`. Readiness does not depend on it.
    pub fn condition(&self) -> &'static str {
        match &self.redis {
            None => "none",
            Some(redis) if redis.failing() => "failing",
            Some(_) => "ok",
        }
    }
}
