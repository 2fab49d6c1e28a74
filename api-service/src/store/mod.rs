//! Where posts live, behind one interface. Nothing outside this folder knows SQL or a database's errors.

mod metrics;
mod postgres;
mod queue;
mod sqlite;

#[cfg(test)]
mod contract;

use std::{fmt, time::Duration};

use jiff::Timestamp;

use self::{metrics::Sql, postgres::Postgres, sqlite::Sqlite};
pub use self::{
    metrics::{Query, StoreMetrics},
    queue::Limits,
};
use crate::{
    config::Database,
    post::{Content, Post},
};

/// How long a request with the same idempotency key is answered as the first one was.
pub const IDEMPOTENCY_LIFE: Duration = Duration::from_hours(24);

/// Old idempotency keys that a write with a key removes: more than the one it adds, so that they cannot pile up, and
/// few enough that no write is slow.
const OLD_KEYS_PER_WRITE: i64 = 4;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// As many calls as may wait for a connection were waiting. Nothing was done.
    #[error("too many calls wait for a connection to the database")]
    QueueFull,
    /// The call waited for a connection longer than it may. Nothing was done.
    #[error("the call waited too long for a connection to the database")]
    QueueAge,
    /// A lock was held for longer than a statement may wait, or the database gave up for load. Nothing was done.
    #[error("the database is busy")]
    Busy,
    /// The database cannot be reached, ended the connection, or did not answer in time. A write may have been done.
    #[error("reach the database")]
    Unavailable(#[source] Source),
    /// The content breaks a constraint of the schema.
    #[error("the post breaks the constraint {constraint}")]
    Rejected {
        /// The constraint's name in the schema.
        constraint: String,
    },
    /// A defect of the program or the schema.
    #[error("ask the database")]
    Internal(#[source] Source),
}

/// Which posts a list holds; all of them by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Those of the author with this id.
    pub author: Option<i64>,
    /// Those with this tag.
    pub tag: Option<String>,
}

/// As in a query string: the same text for equal filters only.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { author, tag } = self;
        f.write_str("author=")?;
        author.map_or(Ok(()), |author| write!(f, "{author}"))?;
        write!(f, "&tag={}", tag.as_deref().unwrap_or_default())
    }
}

/// Which of the columns that cost much a list reads. One that is not read is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// The posts' bodies.
    pub body: bool,
    /// The posts' tags.
    pub tags: bool,
}

/// An idempotency key and what it may be used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// As the client sent it.
    pub key: String,
    /// The digest of the content, by which another request with this key is known.
    pub request: [u8; 32],
}

/// What became of a request for a new post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The post was added.
    New(Post),
    /// A request with this key has been answered with this post before; nothing was done.
    Again(Post),
    /// The key belongs to a request with another content; nothing was done.
    KeyOfAnother,
    /// A request with this key is being worked on; nothing was done.
    InProgress,
}

/// What became of a write to a post that must have an expected version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conditional<T> {
    /// It was done.
    Done(T),
    /// There is no such post.
    Missing,
    /// The post has a version that was not expected; nothing was done.
    Changed,
}

/// Posts in one of the databases. Both behave the same; `contract` holds them to it.
#[derive(Debug)]
pub enum Store {
    /// A file or memory of this process.
    Sqlite(Sqlite),
    /// A server that replicas share.
    Postgres(Postgres),
}

/// Runs a method of whichever database is in use.
macro_rules! either {
    ($store:expr, $backend:ident => $call:expr) => {
        match $store {
            Self::Sqlite($backend) => $call.await,
            Self::Postgres($backend) => $call.await,
        }
    };
}

impl Store {
    /// Connects within `limits`, brings the schema up to date, and reports to `metrics`.
    ///
    /// Several processes may do this at once: one of them migrates, the others wait and find it done.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database cannot be reached; it is safe to call again.
    pub async fn open(
        database: &Database,
        limits: &Limits,
        metrics: &StoreMetrics,
    ) -> Result<Self, StoreError> {
        let store = match database {
            Database::SqliteFile(path) => Self::Sqlite(Sqlite::file(path, limits, metrics)),
            Database::SqliteMemory => Self::Sqlite(Sqlite::memory(limits, metrics)),
            Database::Postgres(config) => Self::Postgres(Postgres::new(config, limits, metrics)?),
        };
        either!(&store, backend => backend.migrate())?;
        match &store {
            Self::Sqlite(backend) => metrics.watch(backend.usage()),
            Self::Postgres(backend) => metrics.watch(backend.usage()),
        }
        Ok(store)
    }

    /// True when the database is a server that can become unreachable on its own.
    pub fn external(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Returns when the database has answered.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it does not; [`StoreError::QueueAge`] or [`StoreError::Busy`] when nothing is known.
    pub async fn ping(&self) -> Result<(), StoreError> {
        either!(self, backend => backend.ping())
    }

    /// Asks the database's server how many connections it takes and has, and tells `metrics`. Does nothing where there is no
    /// server.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn measure_server(&self, metrics: &StoreMetrics) -> Result<(), StoreError> {
        if let Self::Postgres(backend) = self {
            metrics.server(backend.server_connections().await?);
        }
        Ok(())
    }

    /// Rows of a table, which may go on with a condition.
    #[cfg(test)]
    async fn count(&self, table: &str) -> i64 {
        either!(self, backend => backend.count(table))
    }

    /// Adds a post, at version 1, with its author and tags when they are new: all of it or nothing.
    ///
    /// With `once`, a post that was added with that key in the last [`IDEMPOTENCY_LIFE`] is given again, as it was
    /// then.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn create(
        &self,
        content: Content,
        once: Option<Once>,
        now: Timestamp,
    ) -> Result<Created, StoreError> {
        either!(self, backend => backend.create(content, once, now))
    }

    /// The post, when there is one. All of it is of the same version.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn read(&self, id: i64) -> Result<Option<Post>, StoreError> {
        either!(self, backend => backend.read(id))
    }

    /// At most `limit` posts with ids below `before` (or from the newest on) that `filter` lets through, newest first.
    ///
    /// One statement, so that all of a post is of the same version, and whose cost depends on `limit` alone.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn list(
        &self,
        filter: &Filter,
        before: Option<i64>,
        limit: u32,
        columns: Columns,
    ) -> Result<Vec<Post>, StoreError> {
        either!(self, backend => backend.list(filter, before.unwrap_or(i64::MAX), limit, columns))
    }

    /// Replaces a post's content and raises its version by one, when that is one of `expected` or none is given.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn replace(
        &self,
        id: i64,
        content: Content,
        expected: Option<Vec<i64>>,
        now: Timestamp,
    ) -> Result<Conditional<Post>, StoreError> {
        either!(self, backend => backend.replace(id, content, expected, now))
    }

    /// Removes a post, when its version is one of `expected` or none is given.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn delete(&self, id: i64, expected: Option<Vec<i64>>) -> Result<Conditional<()>, StoreError> {
        either!(self, backend => backend.delete(id, expected))
    }
}

/// One step of the schema: its number, rising from 1, and its SQL.
struct Migration {
    version: i64,
    sql: &'static str,
}

/// The steps after `applied`. A schema that is newer than this program is left as it is: steps only ever add what
/// the release before can live with, so that a rollout and its undoing find a schema that works.
fn pending(migrations: &[Migration], applied: i64) -> &[Migration] {
    let first = migrations.partition_point(|migration| migration.version <= applied);
    &migrations[first..]
}

/// The newest time of an idempotency key that is too old at `now`.
fn keys_end(now: Timestamp) -> Timestamp {
    now.checked_sub(IDEMPOTENCY_LIFE).unwrap_or(Timestamp::MIN)
}
