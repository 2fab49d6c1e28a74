//! Posts in Postgres, over a bounded pool. Connects when first used, and never waits for a connection without a limit.

use std::{num::NonZero, time::Duration};

use deadpool_postgres::{
    Client, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use jiff::Timestamp;
use tokio_postgres::{Config, NoTls, Row, error::SqlState};

use super::{Migration, StoreError, pending};
use crate::post::{Content, Post};

const MIGRATIONS: &[Migration] =
    &[Migration { version: 1, sql: include_str!("../../migrations/postgres/0001_posts.sql") }];

/// Names the lock that a migrating process holds: "plimsoll" in ASCII, so that no one else's is hit by chance.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"plimsoll");

/// How long a call waits for a connection before it is refused.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// How long a new connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How long sent bytes may stay unacknowledged before the connection counts as dead.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);

/// How long the server may work on one statement, in milliseconds; below the time limit of a request.
const STATEMENT_MS_MAX: u32 = 5000;

/// How long the server may take to answer a ping before it counts as unreachable.
const PING_MAX: Duration = Duration::from_secs(2);

/// Posts in a database that replicas share.
#[derive(Debug)]
pub struct Postgres {
    pool: Pool,
}

impl Postgres {
    /// A pool of at most `connections`. Does not connect.
    pub fn new(config: &Config, connections: NonZero<usize>) -> Result<Self, StoreError> {
        let mut config = config.clone();
        let options = config.get_options().unwrap_or_default();
        let options = format!("{options} -c statement_timeout={STATEMENT_MS_MAX}");
        config.options(options).application_name("plimsoll-api");
        config.connect_timeout(CONNECT_MAX).tcp_user_timeout(UNACKNOWLEDGED_MAX);
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = Pool::builder(Manager::from_config(config, NoTls, recycling))
            .max_size(connections.get())
            .timeouts(Timeouts {
                wait: Some(WAIT_MAX),
                create: Some(CONNECT_MAX),
                recycle: Some(CONNECT_MAX),
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Internal(Box::new(error)))?;
        Ok(Self { pool })
    }

    pub(super) async fn migrate(&self) -> Result<(), StoreError> {
        let mut client = self.client().await?;
        let transaction = client.transaction().await?;
        // Held to the end of the transaction: of several replicas that start, one migrates and the others wait.
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
        transaction
            .batch_execute(
                // A step may take longer than a request's statement may.
                "SET LOCAL statement_timeout = 0;
                CREATE TABLE IF NOT EXISTS schema_version
                (version BIGINT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())",
            )
            .await?;
        let row = transaction.query_one("SELECT coalesce(max(version), 0) FROM schema_version", &[]).await?;
        for migration in pending(MIGRATIONS, row.try_get(0)?) {
            transaction.batch_execute(migration.sql).await?;
            transaction
                .execute("INSERT INTO schema_version (version) VALUES ($1)", &[&migration.version])
                .await?;
            tracing::info!(migration = migration.version, "schema migrated");
        }
        transaction.commit().await?;
        Ok(())
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let client = self.client().await?;
        match tokio::time::timeout(PING_MAX, client.simple_query("SELECT 1")).await {
            Ok(answer) => Ok(answer.map(drop)?),
            Err(elapsed) => Err(StoreError::Unavailable(Box::new(elapsed))),
        }
    }

    pub(super) async fn create(&self, content: Content, now: Timestamp) -> Result<Post, StoreError> {
        const SQL: &str = "INSERT INTO posts (title, body, created_at, updated_at, version)
            VALUES ($1, $2, $3, $3, 1)
            RETURNING id, title, body, created_at, updated_at, version";
        let client = self.client().await?;
        let statement = client.prepare_cached(SQL).await?;
        post(&client.query_one(&statement, &[&content.title, &content.body, &now]).await?)
    }

    pub(super) async fn read(&self, id: i64) -> Result<Option<Post>, StoreError> {
        const SQL: &str = "SELECT id, title, body, created_at, updated_at, version FROM posts WHERE id = $1";
        let client = self.client().await?;
        let statement = client.prepare_cached(SQL).await?;
        client.query_opt(&statement, &[&id]).await?.as_ref().map(post).transpose()
    }

    pub(super) async fn list(&self, before: i64, limit: u32) -> Result<Vec<Post>, StoreError> {
        const SQL: &str = "SELECT id, title, body, created_at, updated_at, version
            FROM posts WHERE id < $1 ORDER BY id DESC LIMIT $2";
        let client = self.client().await?;
        let statement = client.prepare_cached(SQL).await?;
        client.query(&statement, &[&before, &i64::from(limit)]).await?.iter().map(post).collect()
    }

    pub(super) async fn replace(
        &self,
        id: i64,
        content: Content,
        now: Timestamp,
    ) -> Result<Option<Post>, StoreError> {
        const SQL: &str = "UPDATE posts
            SET title = $2, body = $3, updated_at = greatest($4, updated_at), version = version + 1
            WHERE id = $1
            RETURNING id, title, body, created_at, updated_at, version";
        let client = self.client().await?;
        let statement = client.prepare_cached(SQL).await?;
        let row = client.query_opt(&statement, &[&id, &content.title, &content.body, &now]).await?;
        row.as_ref().map(post).transpose()
    }

    pub(super) async fn delete(&self, id: i64) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached("DELETE FROM posts WHERE id = $1").await?;
        Ok(client.execute(&statement, &[&id]).await? > 0)
    }

    async fn client(&self) -> Result<Client, StoreError> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => StoreError::Busy,
            // While connecting, whatever goes wrong is the server's: it starts, is full, or knows no such user yet.
            error => StoreError::Unavailable(Box::new(error)),
        })
    }
}

fn post(row: &Row) -> Result<Post, StoreError> {
    Ok(Post {
        id: row.try_get(0)?,
        title: row.try_get(1)?,
        body: row.try_get(2)?,
        created_at: row.try_get(3)?,
        updated_at: row.try_get(4)?,
        version: row.try_get(5)?,
    })
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(answer) = error.as_db_error() else {
            // No answer from the server: the connection ended or could not be made, unless we misread a row.
            return match std::error::Error::source(&error) {
                Some(source) if source.is::<std::io::Error>() => Self::Unavailable(Box::new(error)),
                _ if error.is_closed() => Self::Unavailable(Box::new(error)),
                _ => Self::Internal(Box::new(error)),
            };
        };
        let code = answer.code();
        match code.code().get(..2) {
            // Integrity: the constraint's name is part of the schema.
            Some("23") => Self::Rejected { constraint: answer.constraint().unwrap_or_default().to_owned() },
            // Connection lost, out of resources (too many connections, disk full), shutting down or starting.
            Some("08" | "53") => Self::Unavailable(Box::new(error)),
            _ if [
                &SqlState::ADMIN_SHUTDOWN,
                &SqlState::CRASH_SHUTDOWN,
                &SqlState::CANNOT_CONNECT_NOW,
                // A primary that became a replica: the next connection finds the new one.
                &SqlState::READ_ONLY_SQL_TRANSACTION,
            ]
            .contains(&code) =>
            {
                Self::Unavailable(Box::new(error))
            }
            // Took longer than a statement may, lost a lock, or met a deadlock: load, not a defect.
            Some("40" | "55") => Self::Busy,
            _ if *code == SqlState::QUERY_CANCELED => Self::Busy,
            _ => Self::Internal(Box::new(error)),
        }
    }
}
