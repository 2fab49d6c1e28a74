//! Posts in SQLite: one writer and a few readers, each a connection used on a blocking thread. Never on the event loop.

use std::{
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, named_params, types::Type,
};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{Migration, StoreError, pending};
use crate::post::{Content, Post};

const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, sql: include_str!("../../migrations/sqlite/0001_posts.sql") }];

/// How long a call waits for a connection before it is refused.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// How long SQLite waits for another process' lock.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Posts in a file or in memory.
#[derive(Debug)]
pub struct Sqlite {
    writer: Lane,
    readers: Lane,
}

impl Sqlite {
    /// Posts in a file, made on first use; read over at most `readers` connections at once.
    pub fn file(path: &Path, readers: NonZero<usize>) -> Self {
        let writer = Lane::new(Some(path.to_owned()), NonZero::<usize>::MIN);
        Self { writer, readers: Lane::new(Some(path.to_owned()), readers) }
    }

    /// Posts in memory: the one connection is the database, so reads take turns with writes.
    pub fn memory() -> Self {
        let only = Lane::new(None, NonZero::<usize>::MIN);
        Self { writer: only.clone(), readers: only }
    }

    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        self.writer.run(migrate).await
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        self.readers.run(|connection| connection.query_row("SELECT 1", [], |_| Ok(()))).await
    }

    pub(super) async fn create(&self, content: Content, now: Timestamp) -> Result<Post, StoreError> {
        const SQL: &str = "INSERT INTO posts (title, body, created_at, updated_at, version)
            VALUES (:title, :body, :now, :now, 1)
            RETURNING id, title, body, created_at, updated_at, version";
        let now = now.as_microsecond();
        self.writer
            .run(move |connection| {
                let parameters =
                    named_params! { ":title": content.title, ":body": content.body, ":now": now };
                connection.prepare_cached(SQL)?.query_row(parameters, post)
            })
            .await
    }

    pub(super) async fn read(&self, id: i64) -> Result<Option<Post>, StoreError> {
        const SQL: &str = "SELECT id, title, body, created_at, updated_at, version FROM posts WHERE id = :id";
        self.readers
            .run(move |connection| {
                connection.prepare_cached(SQL)?.query_row(named_params! { ":id": id }, post).optional()
            })
            .await
    }

    pub(super) async fn list(&self, before: i64, limit: u32) -> Result<Vec<Post>, StoreError> {
        const SQL: &str = "SELECT id, title, body, created_at, updated_at, version
            FROM posts WHERE id < :before ORDER BY id DESC LIMIT :limit";
        self.readers
            .run(move |connection| {
                let parameters = named_params! { ":before": before, ":limit": limit };
                connection.prepare_cached(SQL)?.query_map(parameters, post)?.collect()
            })
            .await
    }

    pub(super) async fn replace(
        &self,
        id: i64,
        content: Content,
        now: Timestamp,
    ) -> Result<Option<Post>, StoreError> {
        const SQL: &str = "UPDATE posts
            SET title = :title, body = :body, updated_at = max(:now, updated_at), version = version + 1
            WHERE id = :id
            RETURNING id, title, body, created_at, updated_at, version";
        let now = now.as_microsecond();
        self.writer
            .run(move |connection| {
                let parameters =
                    named_params! { ":id": id, ":title": content.title, ":body": content.body, ":now": now };
                connection.prepare_cached(SQL)?.query_row(parameters, post).optional()
            })
            .await
    }

    pub(super) async fn delete(&self, id: i64) -> Result<bool, StoreError> {
        const SQL: &str = "DELETE FROM posts WHERE id = :id";
        let deleted = self
            .writer
            .run(move |connection| connection.prepare_cached(SQL)?.execute(named_params! { ":id": id }))
            .await?;
        Ok(deleted > 0)
    }
}

fn post(row: &Row) -> rusqlite::Result<Post> {
    let timestamp = |column: usize| {
        Timestamp::from_microsecond(row.get(column)?).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(error))
        })
    };
    Ok(Post {
        id: row.get(0)?,
        title: row.get(1)?,
        body: row.get(2)?,
        created_at: timestamp(3)?,
        updated_at: timestamp(4)?,
        version: row.get(5)?,
    })
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    // IMMEDIATE takes the write lock first, so that of several processes one migrates and the others wait.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL) STRICT",
    )?;
    let applied =
        transaction
            .query_row("SELECT coalesce(max(version), 0) FROM schema_version", [], |row| row.get(0))?;
    for migration in pending(MIGRATIONS, applied) {
        transaction.execute_batch(migration.sql)?;
        transaction.execute(
            "INSERT INTO schema_version (version, applied_at) VALUES (?1, datetime('now'))",
            [migration.version],
        )?;
        tracing::info!(migration = migration.version, "schema migrated");
    }
    transaction.commit()
}

/// Connections to one database, of which a bounded number is in use at once.
#[derive(Debug, Clone)]
struct Lane {
    path: Option<PathBuf>,
    idle: Arc<Mutex<Vec<Connection>>>,
    places: Arc<Semaphore>,
}

impl Lane {
    fn new(path: Option<PathBuf>, places: NonZero<usize>) -> Self {
        Self { path, idle: Arc::default(), places: Arc::new(Semaphore::new(places.get())) }
    }

    /// Runs `query` on a blocking thread. It runs to its end also when the returned future is dropped.
    async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = Arc::clone(&self.places).acquire_owned();
        let Ok(Ok(place)) = timeout(WAIT_MAX, place).await else { return Err(StoreError::Busy) };
        let lane = self.clone();
        let outcome = spawn_blocking(move || {
            let idle = lane.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => open(lane.path.as_deref())?,
            };
            let outcome = query(&mut connection);
            // A query that panicked has lost its connection; the next one opens another.
            lane.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(place);
            outcome
        });
        match outcome.await {
            Ok(outcome) => outcome.map_err(StoreError::from),
            Err(panic) => Err(StoreError::Internal(Box::new(panic))),
        }
    }
}

fn open(path: Option<&Path>) -> rusqlite::Result<Connection> {
    let connection = match path {
        Some(path) => Connection::open(path)?,
        None => Connection::open_in_memory()?,
    };
    connection.busy_timeout(LOCK_WAIT_MAX)?;
    // WAL lets readers go on while the writer writes. NORMAL may lose the last commits at a power cut, corrupts nothing.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;",
    )?;
    Ok(connection)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(
                ErrorCode::CannotOpen
                | ErrorCode::DiskFull
                | ErrorCode::ReadOnly
                | ErrorCode::SystemIoFailure
                | ErrorCode::PermissionDenied,
            ) => Self::Unavailable(Box::new(error)),
            Some(ErrorCode::ConstraintViolation) => {
                // "CHECK constraint failed: posts_title": SQLite gives the name nowhere else.
                let text = error.to_string();
                Self::Rejected { constraint: text.rsplit(": ").next().unwrap_or_default().to_owned() }
            }
            _ => Self::Internal(Box::new(error)),
        }
    }
}
