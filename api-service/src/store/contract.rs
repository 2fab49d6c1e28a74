//! One suite for every database: what a store promises, whichever it is. Runs on Postgres when its URL is given.

use std::{env, num::NonZero, str::FromStr};

use jiff::Timestamp;
use tokio_postgres::NoTls;

use super::{Store, StoreError};
use crate::{
    config::Database,
    post::{self, Content},
};

/// The server that the suite may use; `cargo xtask test` starts one and sets it.
const POSTGRES_URL: &str = "PLIMSOLL_TEST_POSTGRES_URL";

const CONNECTIONS: NonZero<usize> = NonZero::new(3).unwrap();

#[tokio::test]
async fn sqlite_in_memory_keeps_the_contract() {
    suite(&Database::SqliteMemory).await;
}

#[tokio::test]
async fn sqlite_in_a_file_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::SqliteFile(folder.path().join("posts.db"));
    suite(&database).await;
    opens_many_times_at_once(&database).await;
    keeps_posts_for_the_next_process(&database).await;
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let Some(database) = postgres("store_contract").await else { return };
    // Before any other: the schema is not there yet.
    opens_many_times_at_once(&database).await;
    suite(&database).await;
    keeps_posts_for_the_next_process(&database).await;
}

#[tokio::test]
async fn an_unreachable_database_is_unavailable() {
    let nobody = Database::Postgres(Box::new("postgres://posts@127.0.0.1:1/posts".parse().unwrap()));
    assert!(matches!(Store::open(&nobody, CONNECTIONS).await, Err(StoreError::Unavailable(_))));
    let no_folder = Database::SqliteFile("/nonexistent/posts.db".into());
    assert!(matches!(Store::open(&no_folder, CONNECTIONS).await, Err(StoreError::Unavailable(_))));
}

#[test]
fn migrations_have_the_same_numbers_on_every_database() {
    let numbers = |folder: &str| {
        let folder =
            std::fs::read_dir(format!("{}/migrations/{folder}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(numbers("postgres"), numbers("sqlite"));
}

async fn suite(database: &Database) {
    let store = Store::open(database, CONNECTIONS).await.unwrap();
    store.ping().await.unwrap();
    creates_and_reads(&store).await;
    replaces_with_a_higher_version(&store).await;
    deletes_once_and_never_uses_an_id_again(&store).await;
    lists_newest_first_without_gaps(&store).await;
    refuses_what_the_schema_forbids(&store).await;
    loses_no_write_among_many(&store).await;
}

async fn creates_and_reads(store: &Store) {
    // All that text may hold: quotes, SQL, the whole of Unicode.
    let content = content("Robert'); DROP TABLE posts;--", "naïve 🦀 \u{10ffff}\n");
    let now = now();
    let created = store.create(content.clone(), now).await.unwrap();
    assert_eq!((created.created_at, created.updated_at, created.version), (now, now, 1));
    assert_eq!((&created.title, &created.body), (&content.title, &content.body));
    assert_eq!(store.read(created.id).await.unwrap(), Some(created));
    assert_eq!(store.read(i64::MAX).await.unwrap(), None);
}

async fn replaces_with_a_higher_version(store: &Store) {
    let first = store.create(content("old", "old"), now()).await.unwrap();
    let second = store.replace(first.id, content("new", ""), now()).await.unwrap().unwrap();
    assert_eq!((second.version, second.title.as_str(), second.body.as_str()), (2, "new", ""));
    assert_eq!(second.created_at, first.created_at);
    assert!(second.updated_at >= first.updated_at);
    // A replica whose clock is behind does not turn the time back.
    let third = store.replace(first.id, content("new", ""), Timestamp::UNIX_EPOCH).await.unwrap().unwrap();
    assert_eq!((third.version, third.updated_at), (3, second.updated_at));
    assert_eq!(store.replace(i64::MAX, content("none", ""), now()).await.unwrap(), None);
}

async fn deletes_once_and_never_uses_an_id_again(store: &Store) {
    let gone = store.create(content("short-lived", ""), now()).await.unwrap();
    assert!(store.delete(gone.id).await.unwrap());
    assert!(!store.delete(gone.id).await.unwrap());
    assert_eq!(store.read(gone.id).await.unwrap(), None);
    assert!(store.create(content("next", ""), now()).await.unwrap().id > gone.id);
}

async fn lists_newest_first_without_gaps(store: &Store) {
    let mut made = Vec::new();
    for number in 0..5 {
        made.push(store.create(content(&format!("post {number}"), ""), now()).await.unwrap());
    }
    made.reverse();
    let first = store.list(None, 2).await.unwrap();
    assert_eq!(first, made[..2]);
    // Pages stay aligned when posts come and go at the front.
    store.create(content("newer", ""), now()).await.unwrap();
    assert_eq!(store.list(Some(first[1].id), 3).await.unwrap(), made[2..]);
    assert!(store.list(Some(1), 3).await.unwrap().is_empty());
}

async fn refuses_what_the_schema_forbids(store: &Store) {
    for (title, body, constraint) in
        [("", String::new(), "posts_title"), ("long", "x".repeat(65_537), "posts_body")]
    {
        let refused = store.create(content(title, &body), now()).await;
        assert!(
            matches!(&refused, Err(StoreError::Rejected { constraint: name }) if name == constraint),
            "{refused:?}"
        );
    }
    let longest = content(&"ü".repeat(post::TITLE_CHARS_MAX), &"x".repeat(post::BODY_BYTES_MAX));
    store.create(longest, now()).await.unwrap();
}

async fn loses_no_write_among_many(store: &Store) {
    let post = store.create(content("contended", ""), now()).await.unwrap();
    let writes = (0..20).map(|_| store.replace(post.id, content("contended", ""), now()));
    let mut versions: Vec<_> = futures::future::join_all(writes)
        .await
        .into_iter()
        .map(|post| post.unwrap().unwrap().version)
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, (2..=21).collect::<Vec<_>>());
}

async fn opens_many_times_at_once(database: &Database) {
    let stores = futures::future::join_all((0..8).map(|_| Store::open(database, CONNECTIONS))).await;
    for store in stores {
        store.unwrap().ping().await.unwrap();
    }
}

async fn keeps_posts_for_the_next_process(database: &Database) {
    let post =
        Store::open(database, CONNECTIONS).await.unwrap().create(content("kept", ""), now()).await.unwrap();
    let reopened = Store::open(database, CONNECTIONS).await.unwrap();
    assert_eq!(reopened.read(post.id).await.unwrap(), Some(post));
}

fn content(title: &str, body: &str) -> Content {
    Content { title: title.to_owned(), body: body.to_owned() }
}

fn now() -> Timestamp {
    post::stamp(Timestamp::now())
}

/// A schema of its own on the test server; nothing, said aloud, when there is no server.
async fn postgres(schema: &str) -> Option<Database> {
    let Ok(url) = env::var(POSTGRES_URL) else {
        println!("NOT RUN: the store's contract on Postgres; set {POSTGRES_URL}, as `cargo xtask test` does");
        return None;
    };
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client
        .batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}"))
        .await
        .unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    let mut config = tokio_postgres::Config::from_str(&url).unwrap();
    config.options(format!("-c search_path={schema}"));
    Some(Database::Postgres(Box::new(config)))
}
