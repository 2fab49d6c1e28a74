//! Old data and the release before on the schema of this one: a rollout, and its undoing, lose nothing.

use rusqlite::Connection;
use tokio_postgres::NoTls;

use super::{create, now, open, postgres, tagged};
use crate::{
    config::Database,
    post::ANONYMOUS,
    store::{Conditional, Filter, Store},
};

/// What the release before sends, with a time as the database writes it.
fn insert(time: &str) -> String {
    format!(
        "INSERT INTO posts (title, body, created_at, updated_at, version)
        VALUES ('old', 'text', {time}, {time}, 1)"
    )
}

fn update(id: i64, time: &str) -> String {
    format!(
        "UPDATE posts SET title = 'renamed', body = 'text', updated_at = {time}, version = version + 1
        WHERE id = {id}"
    )
}

#[tokio::test]
async fn sqlite_survives_a_rollout() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("posts.db");
    let before = Connection::open(&path).unwrap();
    // As the release before sets its connections.
    before.execute_batch("PRAGMA journal_mode = WAL; PRAGMA foreign_keys = ON").unwrap();
    before.execute_batch(include_str!("../../../migrations/sqlite/0001_posts.sql")).unwrap();
    before
        .execute_batch(
            "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL) STRICT;
            INSERT INTO schema_version VALUES (1, '')",
        )
        .unwrap();
    before.execute_batch(&insert("0")).unwrap();
    let store = open(&Database::SqliteFile(path)).await;
    keeps_old_posts(&store, 1).await;
    before.execute_batch(&insert("0")).unwrap();
    keeps_old_posts(&store, 2).await;
    let tagged_post = create(&store, tagged("ann", &["rust"])).await.id;
    before.execute_batch(&update(tagged_post, "9")).unwrap();
    keeps_author_and_tags(&store, tagged_post).await;
    before.execute_batch(&format!("DELETE FROM posts WHERE id = {tagged_post}")).unwrap();
    leaves_nothing_behind(&store, tagged_post).await;
    // Enforced again after the migration, which has to do without.
    assert!(store.count("pragma_foreign_keys WHERE foreign_keys = 1").await == 1);
}

#[tokio::test]
async fn postgres_survives_a_rollout() {
    let Some(database) = postgres("store_rollout").await else { return };
    let Database::Postgres(config) = &database else { unreachable!() };
    let (before, connection) = config.connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    before.batch_execute(include_str!("../../../migrations/postgres/0001_posts.sql")).await.unwrap();
    before
        .batch_execute(
            "CREATE TABLE schema_version
            (version BIGINT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now());
            INSERT INTO schema_version (version) VALUES (1)",
        )
        .await
        .unwrap();
    before.batch_execute(&insert("now()")).await.unwrap();
    // Prepared before the migration and used after it, as a pool's connections do.
    let read = "SELECT id, title, body, created_at, updated_at, version FROM posts WHERE id = $1";
    let read = before.prepare(read).await.unwrap();
    let store = open(&database).await;
    keeps_old_posts(&store, 1).await;
    assert_eq!(before.query(&read, &[&1_i64]).await.unwrap().len(), 1);
    before.batch_execute(&insert("now()")).await.unwrap();
    keeps_old_posts(&store, 2).await;
    let tagged_post = create(&store, tagged("ann", &["rust"])).await.id;
    before.batch_execute(&update(tagged_post, "now()")).await.unwrap();
    keeps_author_and_tags(&store, tagged_post).await;
    before.execute("DELETE FROM posts WHERE id = $1", &[&tagged_post]).await.unwrap();
    leaves_nothing_behind(&store, tagged_post).await;
    drop(before);
    connection.await.unwrap().unwrap();
}

async fn keeps_old_posts(store: &Store, id: i64) {
    let post = store.read(id).await.unwrap().unwrap();
    assert_eq!((post.author.id, post.author.name.as_str(), post.title.as_str()), (1, ANONYMOUS, "old"));
    assert!(post.tags.is_empty());
    let replaced = store.replace(id, tagged("ann", &["rust"]), None, now()).await.unwrap();
    assert!(matches!(replaced, Conditional::Done(_)), "{replaced:?}");
}

async fn keeps_author_and_tags(store: &Store, id: i64) {
    let post = store.read(id).await.unwrap().unwrap();
    assert_eq!((post.title.as_str(), post.author.name.as_str(), post.version), ("renamed", "ann", 2));
    assert_eq!(post.tags, ["rust"]);
}

async fn leaves_nothing_behind(store: &Store, id: i64) {
    assert_eq!(store.count(&format!("post_tags WHERE post_id = {id}")).await, 0);
    let filter = Filter { author: None, tag: Some("rust".to_owned()) };
    let columns = crate::store::Columns { body: true, tags: true };
    assert!(store.list(&filter, None, 100, columns).await.unwrap().iter().all(|post| post.id != id));
}
