//! One suite for every database: what a store promises, whichever it is. Runs on Postgres when its URL is given.

pub(super) mod crowd;
mod keys;
mod lists;
mod posts;
mod rollout;

use std::{env, num::NonZero, str::FromStr};

use jiff::Timestamp;
use tokio_postgres::NoTls;

use super::{Created, Limits, Store, StoreError, StoreMetrics};
use crate::{
    config::Database,
    overload::Patience,
    post::{self, Content, Post},
};

/// The server that the suite may use; `cargo xtask test` starts one and sets it.
const POSTGRES_URL: &str = "PLIMSOLL_TEST_POSTGRES_URL";

pub(super) const LIMITS: Limits = Limits {
    connections: NonZero::new(3).unwrap(),
    waiting: NonZero::new(1024).unwrap(),
    patience: Patience::endless(),
};

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
    let metrics = StoreMetrics::new().unwrap();
    let nobody = Database::Postgres(Box::new("postgres://posts@127.0.0.1:1/posts".parse().unwrap()));
    assert!(matches!(Store::open(&nobody, &LIMITS, &metrics).await, Err(StoreError::Unavailable(_))));
    let no_folder = Database::SqliteFile("/nonexistent/posts.db".into());
    assert!(matches!(Store::open(&no_folder, &LIMITS, &metrics).await, Err(StoreError::Unavailable(_))));
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
    let metrics = StoreMetrics::new().unwrap();
    let store = Store::open(database, &LIMITS, &metrics).await.unwrap();
    store.ping().await.unwrap();
    posts::keeps(&store).await;
    lists::keeps(&store, &metrics).await;
    keys::keeps(&store).await;
}

async fn opens_many_times_at_once(database: &Database) {
    for store in futures::future::join_all((0..8).map(|_| open(database))).await {
        store.ping().await.unwrap();
    }
}

async fn keeps_posts_for_the_next_process(database: &Database) {
    let post = create(&open(database).await, content("kept", "")).await;
    assert_eq!(open(database).await.read(post.id).await.unwrap(), Some(post));
}

pub(super) async fn open(database: &Database) -> Store {
    Store::open(database, &LIMITS, &StoreMetrics::new().unwrap()).await.unwrap()
}

async fn create(store: &Store, content: Content) -> Post {
    match store.create(content, None, now()).await.unwrap() {
        Created::New(post) => post,
        other => panic!("{other:?}"),
    }
}

fn content(title: &str, body: &str) -> Content {
    Content { title: title.to_owned(), body: body.to_owned(), author: None, tags: Vec::new() }
}

/// A post's content with an author and tags, which a draft would have sorted.
fn tagged(author: &str, tags: &[&str]) -> Content {
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    Content { author: Some(author.to_owned()), tags, ..content("tagged", "text") }
}

fn now() -> Timestamp {
    post::stamp(Timestamp::now())
}

/// A schema of its own on the test server; nothing, said aloud, when there is no server.
pub(super) async fn postgres(schema: &str) -> Option<Database> {
    let Ok(url) = env::var(POSTGRES_URL) else {
        println!("NOT RUN: {schema} on Postgres; set {POSTGRES_URL}, as `cargo xtask test` does");
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
