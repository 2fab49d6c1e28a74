//! Where posts live, behind one interface. Nothing outside this folder knows SQL or a database's errors.

mod postgres;
mod sqlite;

#[cfg(test)]
mod contract;

use std::num::NonZero;

use jiff::Timestamp;

use self::{postgres::Postgres, sqlite::Sqlite};
use crate::{
    config::Database,
    post::{Content, Post},
};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Every connection was in use for longer than a request may wait for one, or a lock was. Nothing was done.
    #[error("every connection to the database is in use")]
    Busy,
    /// The database cannot be reached, or ended the connection. A write may have been done.
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

/// Posts in one of the databases. Both behave the same; `contract.rs` holds them to it.
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
    /// Connects with at most `connections` connections, and brings the schema up to date.
    ///
    /// Several processes may do this at once: one of them migrates, the others wait and find it done.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the database cannot be reached; it is safe to call again.
    pub async fn open(database: &Database, connections: NonZero<usize>) -> Result<Self, StoreError> {
        let store = match database {
            Database::SqliteFile(path) => Self::Sqlite(Sqlite::file(path, connections)),
            Database::SqliteMemory => Self::Sqlite(Sqlite::memory()),
            Database::Postgres(config) => Self::Postgres(Postgres::new(config, connections)?),
        };
        either!(&store, backend => backend.migrate())?;
        Ok(store)
    }

    /// True when the database is a server that can become unreachable on its own.
    pub fn external(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Returns when the database has answered.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it does not; [`StoreError::Busy`] when nothing is known.
    pub async fn ping(&self) -> Result<(), StoreError> {
        either!(self, backend => backend.ping())
    }

    /// Adds a post, at version 1.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn create(&self, content: Content, now: Timestamp) -> Result<Post, StoreError> {
        either!(self, backend => backend.create(content, now))
    }

    /// The post, when there is one.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn read(&self, id: i64) -> Result<Option<Post>, StoreError> {
        either!(self, backend => backend.read(id))
    }

    /// At most `limit` posts with ids below `before` (or from the newest on), newest first.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn list(&self, before: Option<i64>, limit: u32) -> Result<Vec<Post>, StoreError> {
        either!(self, backend => backend.list(before.unwrap_or(i64::MAX), limit))
    }

    /// Replaces a post's content and raises its version by one; nothing when there is no such post.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn replace(
        &self,
        id: i64,
        content: Content,
        now: Timestamp,
    ) -> Result<Option<Post>, StoreError> {
        either!(self, backend => backend.replace(id, content, now))
    }

    /// Removes a post; false when there was none.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn delete(&self, id: i64) -> Result<bool, StoreError> {
        either!(self, backend => backend.delete(id))
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
