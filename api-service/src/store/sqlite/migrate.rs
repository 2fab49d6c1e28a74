//! Brings the schema up to date, one process at a time. Leaves a schema that is newer as it is.

use rusqlite::{Connection, TransactionBehavior};

use crate::store::{Migration, pending};

pub(super) const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../../migrations/sqlite/0001_posts.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/sqlite/0002_authors_tags.sql") },
];

/// Applies what is missing; all of it or nothing.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    // SQLite adds no column that refers to another table and has a default while it enforces such references.
    connection.pragma_update(None, "foreign_keys", false)?;
    let outcome = apply(connection);
    connection.pragma_update(None, "foreign_keys", true)?;
    outcome
}

fn apply(connection: &mut Connection) -> rusqlite::Result<()> {
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
