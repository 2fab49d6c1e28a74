//! Brings the schema up to date, one process at a time. Never waits long for a lock that others queue behind.

use deadpool_postgres::{Client, GenericClient};

use crate::store::{Migration, StoreError, pending};

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../../migrations/postgres/0001_posts.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/postgres/0002_authors_tags.sql") },
];

/// Names the lock that a migrating process holds: "plimsoll" in ASCII, so that no one else's is hit by chance.
const LOCK: i64 = i64::from_be_bytes(*b"plimsoll");

/// True when nothing is missing. Asks for nothing that a read-only database would refuse.
pub(super) async fn up_to_date(client: &Client) -> Result<bool, StoreError> {
    let there = client.query_one("SELECT to_regclass('schema_version') IS NOT NULL", &[]).await?;
    Ok(there.try_get(0)? && pending(MIGRATIONS, applied(client).await?).is_empty())
}

/// Applies what is missing; all of it or nothing.
pub(super) async fn migrate(client: &mut Client) -> Result<(), StoreError> {
    let transaction = client.transaction().await?;
    // Held to the end of the transaction: of several replicas that start, one migrates and the others wait.
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    transaction
        .batch_execute(
            // A step may take longer than a request's statement may, but must not hold up requests for long by waiting
            // for a table that someone else has locked.
            "SET LOCAL statement_timeout = 0;
            SET LOCAL lock_timeout = '2s';
            CREATE TABLE IF NOT EXISTS schema_version
            (version BIGINT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())",
        )
        .await?;
    for migration in pending(MIGRATIONS, applied(&transaction).await?) {
        transaction.batch_execute(migration.sql).await?;
        transaction
            .execute("INSERT INTO schema_version (version) VALUES ($1)", &[&migration.version])
            .await?;
        tracing::info!(migration = migration.version, "schema migrated");
    }
    transaction.commit().await?;
    Ok(())
}

async fn applied(client: &impl GenericClient) -> Result<i64, StoreError> {
    let row = client.query_one("SELECT coalesce(max(version), 0) FROM schema_version", &[]).await?;
    Ok(row.try_get(0)?)
}
