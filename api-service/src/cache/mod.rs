//! Posts and pages close at hand: in this process, then in Redis, then in the database. It can slow an answer by a bounded
//! time; it never fails or decides one.
//!
//! A read that finds nothing in Redis leaves a *lease* there, reads the row, and fills only over its own lease. A write
//! removes the key, and any lease with it, after the database has committed and before the write is answered; then it tells
//! every replica, which drops its own copy ([`invalidations`]).
//!
//! A post as HTML is kept in this process only, by the post's version: whichever version is answered, its HTML is right.
//!
//! # Guarantees
//! - Once a write is answered, no copy that was read before it is put into Redis, nor answered by this replica, however
//!   slow the reader was and whatever Redis evicted meanwhile: a fill without its lease is refused.
//! - Other replicas drop their copies when the message reaches them, at most 1.5 s later when they have lost Redis without
//!   a word. Without a connection on which they would hear of writes, replicas answer nothing from memory.
//! - A call to Redis takes at most 30 ms, and a read makes at most four; after five failures in a row Redis is left
//!   alone for about a second.
//! - A write whose removal could not be sent is *owed*: this replica does not ask Redis for that post until it has been
//!   sent. This replica never answers with less than it has itself written.
//! - Any number of readers of a post that is in no layer cost one query.
//!
//! # Caveats
//! - While a removal is owed, or when the process was killed between the database's commit and the removal, *other* replicas
//!   may answer with the older version, at most until the entry expires (66 s).

mod entry;
mod invalidations;
mod local;
mod owed;
mod redis_store;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prometheus::IntCounter;
use tokio_util::task::AbortOnDropHandle;

pub use self::local::Size;
use self::{
    entry::{Entry, Stored},
    local::{Found, Loaded, Local},
    redis_store::{Lookup, RedisStore, Token},
};
use crate::{
    error::ApiError,
    metrics::Metrics,
    page,
    post::{self, Post},
    redis_link::RedisLink,
    representation::Representation,
};

/// Where replicas tell each other which post has changed: its id in decimal.
const INVALIDATIONS: &str = "post:invalidations";

/// How long what this replica keeps is answered when no layer says otherwise.
const LIFE: Duration = Duration::from_mins(1);

/// How long what was rendered of a post's version is kept where there is room: a version never changes.
const HTML_LIFE: Duration = Duration::from_hours(1);

/// How long it is known that no post has an id.
const ABSENT_LIFE: Duration = Duration::from_secs(3);

/// Which writes this process hears of, and so how long it may trust its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Only this process writes.
    ThisOne,
    /// Others write too; without Redis nobody would tell.
    Many,
}

/// The caches of the service.
#[derive(Debug)]
pub struct Cache {
    layers: Layers,
    /// By id and version of the post, so that no write makes any of it wrong.
    html: Arc<Local<String, Arc<Representation>>>,
    redis: Option<Arc<RedisStore>>,
    counts: Counts,
    _listener: Option<AbortOnDropHandle<()>>,
}

/// What is kept in this process.
#[derive(Debug, Clone)]
struct Layers {
    posts: Arc<Local<i64, Arc<Known>>>,
    pages: Arc<Local<page::Request, Arc<Representation>>>,
}

/// What is known of a post; no representation: that there is no such post.
#[derive(Debug)]
struct Known {
    post: Option<Arc<Representation>>,
    token: Option<Token>,
}

#[derive(Debug, Clone)]
struct Counts {
    local_hits: IntCounter,
    hits: IntCounter,
    misses: IntCounter,
    errors: IntCounter,
}

impl Cache {
    /// Caches that keep about `local_bytes` in this process, and use Redis when there is a link to one. Needs a tokio
    /// runtime.
    pub fn new(redis: Option<RedisLink>, writers: Writers, local_bytes: usize, metrics: &Metrics) -> Self {
        // Pages are few and large, posts many and small, and few of them are asked for as HTML.
        let (pages_bytes, html_bytes) = (local_bytes / 4, local_bytes / 8);
        let layers = Layers {
            posts: Arc::new(Local::new(local_bytes - pages_bytes - html_bytes)),
            pages: Arc::new(Local::new(pages_bytes)),
        };
        let html = Arc::new(Local::new(html_bytes));
        html.trust(true);
        let listener = redis.as_ref().map(|link| {
            let listening = invalidations::listen(link.clone(), layers.clone());
            AbortOnDropHandle::new(tokio::spawn(listening))
        });
        if listener.is_none() {
            layers.trust(writers == Writers::ThisOne);
        }
        let redis = redis.map(|link| Arc::new(RedisStore::new(link)));
        let counts = Counts {
            local_hits: metrics.cache_local_hits.clone(),
            hits: metrics.cache_hits.clone(),
            misses: metrics.cache_misses.clone(),
            errors: metrics.cache_errors.clone(),
        };
        Self { layers, html, redis, counts, _listener: listener }
    }

    /// The post as it is answered, by the first layer that has it, or by `read`, which asks the database.
    ///
    /// # Errors
    /// What `read` answers.
    pub async fn post<F>(
        &self,
        id: i64,
        read: impl FnOnce() -> F,
    ) -> Result<Option<Arc<Representation>>, ApiError>
    where
        F: Future<Output = Result<Option<Post>, ApiError>> + Send + 'static,
    {
        match self.layers.posts.find(&id) {
            Found::Fresh(known) => {
                self.counts.local_hits.inc();
                return Ok(known.post.clone());
            }
            Found::DueForRefresh(known) => {
                self.counts.local_hits.inc();
                let (posts, redis, read) = (Arc::clone(&self.layers.posts), self.redis.clone(), read());
                let token = known.token.clone();
                tokio::spawn(async move {
                    posts.refresh(&id, from_database(id, redis.as_deref(), token, read)).await;
                });
                return Ok(known.post.clone());
            }
            Found::Nothing => {}
        }
        // On the heap: what only a miss needs would make every hit's future several kilobytes larger, each of which is
        // copied twice on the way into the handler's own box. That was a quarter of the instructions of a hit.
        let known = Box::pin(self.load_post(id, read())).await?;
        Ok(known.post.clone())
    }

    async fn load_post(
        &self,
        id: i64,
        read: impl Future<Output = Result<Option<Post>, ApiError>> + Send + 'static,
    ) -> Result<Arc<Known>, ApiError> {
        let (redis, counts) = (self.redis.clone(), self.counts.clone());
        let load = async move { load(id, redis.as_deref(), &counts, read).await };
        self.layers.posts.load(id, load).await
    }

    /// The page of posts that `request` asks for, from memory or by `read`, which asks the database.
    ///
    /// # Errors
    /// What `read` answers.
    pub async fn page<F>(
        &self,
        request: &page::Request,
        read: impl FnOnce() -> F,
    ) -> Result<Arc<Representation>, ApiError>
    where
        F: Future<Output = Result<Bytes, ApiError>> + Send + 'static,
    {
        let load = |read: F| async move {
            let asked = Instant::now();
            let value = Arc::new(Representation::hashed(read.await?));
            Ok(Loaded { value, life: LIFE, cost: asked.elapsed() })
        };
        match self.layers.pages.find(request) {
            Found::Fresh(page) => Ok(page),
            Found::DueForRefresh(page) => {
                let (pages, request, read) = (Arc::clone(&self.layers.pages), request.clone(), read());
                tokio::spawn(async move { pages.refresh(&request, load(read)).await });
                Ok(page)
            }
            // On the heap, as a post's.
            Found::Nothing => Box::pin(self.layers.pages.load(request.clone(), load(read()))).await,
        }
    }

    /// The `post` with this id as HTML, from memory or by `render`.
    ///
    /// # Errors
    /// What `render` answers.
    pub async fn html<F>(
        &self,
        id: i64,
        post: &Representation,
        render: impl FnOnce() -> F,
    ) -> Result<Arc<Representation>, ApiError>
    where
        F: Future<Output = Result<Bytes, ApiError>> + Send + 'static,
    {
        let Some(tag) = post.tag() else {
            return Err(ApiError::Internal { cause: "a post without an entity tag".into() });
        };
        let key = format!("{id} {tag:?}");
        match self.html.find(&key) {
            Found::Fresh(html) | Found::DueForRefresh(html) => Ok(html),
            Found::Nothing => {
                let render = render();
                let load = async {
                    let value = Arc::new(Representation::html(render.await?));
                    Ok(Loaded { value, life: HTML_LIFE, cost: Duration::ZERO })
                };
                self.html.load(key, load).await
            }
        }
    }

    /// Drops the post, and every page, from all layers of all replicas. Call between the database's commit and the answer,
    /// also when it is not known whether the database has committed, and when the post is new.
    pub async fn invalidate(&self, id: i64) {
        // Redis first: a reader that misses in memory must not find the old copy there.
        if let Some(redis) = &self.redis {
            redis.invalidate(id).await;
        }
        self.layers.forget(id);
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

impl Layers {
    fn trust(&self, trusted: bool) {
        self.posts.trust(trusted);
        self.pages.trust(trusted);
    }

    fn forget(&self, id: i64) {
        self.posts.forget(&id);
        // Any post may be on any page.
        self.pages.forget_all();
    }

    fn forget_all(&self) {
        self.posts.forget_all();
        self.pages.forget_all();
    }
}

impl Size for Arc<Known> {
    fn size_bytes(&self) -> usize {
        self.post.as_ref().map_or(0, Size::size_bytes)
    }
}

/// The post from Redis, or else from the database by `read`.
async fn load(
    id: i64,
    redis: Option<&RedisStore>,
    counts: &Counts,
    read: impl Future<Output = Result<Option<Post>, ApiError>>,
) -> Result<Loaded<Arc<Known>>, ApiError> {
    let Some(store) = redis else { return from_database(id, None, None, read).await };
    match store.look_up(id).await {
        Ok(Lookup::Found(entry)) => {
            counts.hits.inc();
            Ok(loaded(entry))
        }
        Ok(Lookup::Leased(token)) => {
            counts.misses.inc();
            from_database(id, redis, Some(token), read).await
        }
        Ok(Lookup::Awaited) => {
            counts.misses.inc();
            from_database(id, None, None, read).await
        }
        Err(_) => {
            counts.errors.inc();
            from_database(id, None, None, read).await
        }
    }
}

/// The post by `read`, offered to Redis when there is something that it may be written over.
async fn from_database(
    id: i64,
    redis: Option<&RedisStore>,
    over: Option<Token>,
    read: impl Future<Output = Result<Option<Post>, ApiError>>,
) -> Result<Loaded<Arc<Known>>, ApiError> {
    let asked = Instant::now();
    let post = read.await?;
    let life = if post.is_some() { LIFE } else { ABSENT_LIFE };
    let post = post.as_ref().map(stored).transpose()?;
    let entry = Entry { post, life, cost: asked.elapsed(), token: None };
    let entry = match (redis, over) {
        (Some(redis), Some(over)) => redis.fill(id, &over, entry).await,
        _ => entry,
    };
    Ok(loaded(entry))
}

fn stored(post: &Post) -> Result<Stored, ApiError> {
    let json = serde_json::to_vec(post).map_err(|error| ApiError::Internal { cause: error.to_string() })?;
    Ok(Stored { version: post.version, json: json.into() })
}

fn loaded(Entry { post, life, cost, token }: Entry) -> Loaded<Arc<Known>> {
    let post = post.map(|Stored { version, json }| Arc::new(Representation::new(json, &post::tag(version))));
    Loaded { value: Arc::new(Known { post, token }), life, cost }
}
