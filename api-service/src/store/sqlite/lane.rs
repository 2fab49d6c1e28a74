//! Connections to one SQLite database, each used on a blocking thread. Knows no statement of ours.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{CachedStatement, Connection, ErrorCode};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use crate::store::{
    Limits, Sql, StoreError, StoreMetrics,
    metrics::Usage,
    queue::{Queue, WAIT_MAX},
};

/// How long SQLite waits for another process' lock.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Prepared statements kept by each connection: all that there are.
const STATEMENTS_MAX: usize = 32;

/// Connections to one database, of which a bounded number is in use at once.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    name: &'static str,
    path: Option<PathBuf>,
    max: usize,
    idle: Arc<Mutex<Vec<Connection>>>,
    places: Arc<Semaphore>,
    queue: Arc<Queue>,
    metrics: StoreMetrics,
}

impl Lane {
    /// Connections within `limits` to the file, or to memory of their own each.
    pub(super) fn new(
        name: &'static str,
        path: Option<PathBuf>,
        limits: &Limits,
        metrics: &StoreMetrics,
    ) -> Self {
        Self {
            name,
            path,
            max: limits.connections.get(),
            idle: Arc::default(),
            places: Arc::new(Semaphore::new(limits.connections.get())),
            queue: Arc::new(Queue::new(limits, metrics.pool(name))),
            metrics: metrics.clone(),
        }
    }

    /// Runs `query` on a blocking thread when its turn comes in time. It runs to its end also when the returned future is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Connection, &StoreMetrics) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = async {
            match timeout(WAIT_MAX, Arc::clone(&self.places).acquire_owned()).await {
                Ok(Ok(place)) => Ok(place),
                _ => Err(StoreError::QueueAge),
            }
        };
        let place = self.queue.pass(place).await?;
        let lane = self.clone();
        let outcome = spawn_blocking(move || {
            let idle = lane.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match idle {
                Some(connection) => connection,
                None => open(lane.path.as_deref())?,
            };
            let outcome = query(&mut connection, &lane.metrics);
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

    /// How the lane is used now.
    pub(super) fn usage(&self) -> Usage {
        Usage {
            pool: self.name,
            max: self.max,
            in_use: self.max.saturating_sub(self.places.available_permits()),
            idle: self.idle.lock().unwrap_or_else(PoisonError::into_inner).len(),
            waiting: self.queue.waiting(),
        }
    }
}

/// The statement, prepared on this connection when it has not been before; counted, since it is about to be run.
pub(super) fn prepare<'a>(
    connection: &'a Connection,
    metrics: &StoreMetrics,
    sql: &Sql,
) -> rusqlite::Result<CachedStatement<'a>> {
    metrics.count(sql.query);
    connection.prepare_cached(sql.text)
}

fn open(path: Option<&Path>) -> rusqlite::Result<Connection> {
    let connection = match path {
        Some(path) => Connection::open(path)?,
        None => Connection::open_in_memory()?,
    };
    connection.busy_timeout(LOCK_WAIT_MAX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
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
