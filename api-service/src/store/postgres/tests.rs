//! How Postgres does what it is asked: its plans, its work, its limits. Runs when the test server's URL is given.

use std::{
    num::NonZero,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{Postgres, sql};
use crate::{
    config::Database,
    overload::Patience,
    post::Content,
    store::{
        Created, Filter, Limits, Once, StoreError, StoreMetrics,
        contract::{LIMITS, crowd, open, postgres},
        metrics::Usage,
    },
};

/// Some thousand of everything. The planner knows that from ANALYZE.
const FILL: &str = "
    INSERT INTO authors (name) SELECT 'author ' || n FROM generate_series(1, 3000) n;
    INSERT INTO tags (name) SELECT 'tag-' || n FROM generate_series(1, 3000) n;
    INSERT INTO posts (title, body, created_at, updated_at, version, author_id)
        SELECT 'post ' || n, repeat('text ', 60), now(), now(), 1, 2 + n % 10 FROM generate_series(1, 6000) n;
    INSERT INTO post_tags (post_id, tag_id, author_id)
        SELECT p.id, 1 + (p.id / 10 + k) % 10, p.author_id FROM posts p, generate_series(0, 2) k;
    INSERT INTO idempotency_keys (key, request, post_id, author_id, created_at)
        SELECT 'key ' || n, '', n, 1, now() FROM generate_series(1, 3000) n;
    ANALYZE authors, tags, posts, post_tags, idempotency_keys;";

/// Enough posts for 10,000 pages of 20, whatever the filter lets through, among others that it does not.
const FILL_DEEP: &str = "
    INSERT INTO authors (name) SELECT 'author ' || n FROM generate_series(1, 10) n;
    INSERT INTO tags (name) SELECT 'tag-' || n FROM generate_series(1, 10) n;
    INSERT INTO posts (title, body, created_at, updated_at, version, author_id)
        SELECT 'post ' || n, 'text', now(), now(), 1, CASE WHEN n % 20 = 0 THEN 4 ELSE 3 END
        FROM generate_series(1, 211000) n;
    INSERT INTO post_tags (post_id, tag_id, author_id)
        SELECT id, CASE author_id WHEN 3 THEN 7 ELSE 8 END, author_id FROM posts;
    ANALYZE authors, tags, posts, post_tags;";

/// Posts before page 10,000.
const DEEP: i64 = 9_999 * 20;

/// Whether the planner sees the parameters, or plans once for all of them, as it may for a prepared statement.
const PLANS: [&str; 2] = ["force_custom_plan", "force_generic_plan"];

/// A list's statement, its parameters' types, and the values after the first four.
fn lists() -> [(&'static str, &'static str, &'static str); 4] {
    let text = |author: Option<i64>, tag: Option<&str>| {
        sql::list(&Filter { author, tag: tag.map(str::to_owned) }).text
    };
    [
        (text(None, None), "", ""),
        (text(Some(3), None), ", bigint", ", 3"),
        (text(None, Some("tag-7")), ", text", ", 'tag-7'"),
        (text(Some(3), Some("tag-7")), ", text, bigint", ", 'tag-7', 3"),
    ]
}

#[tokio::test]
async fn no_statement_reads_a_table_from_end_to_end() {
    let Some(client) = filled("store_plans", FILL).await else { return };
    let one = "1::bigint, '{1,2}'::bigint[]";
    let others = [
        (sql::READ.text, "bigint", "1"),
        (sql::INSERT.text, "text, text, timestamptz, text, text[]", "'t', '', now(), 'author 7', '{tag-7}'"),
        (sql::ADD_AUTHOR.text, "text", "'author 7'"),
        (sql::ADD_TAGS.text, "text[]", "'{tag-7,tag-8}'"),
        (
            sql::UPDATE.text,
            "bigint, text, text, timestamptz, text, bigint[]",
            "1, 't', '', now(), 'author 7', '{1}'",
        ),
        (sql::TAG.text, "bigint, bigint, text[]", "1, 3, '{tag-7,tag-8}'"),
        (sql::DELETE.text, "bigint, bigint[]", one),
        (sql::FIND.text, "bigint", "1"),
        (sql::FIND_KEY.text, "text, timestamptz", "'key 7', now()"),
        (sql::NOTE_KEY.text, "text, bytea, bigint, bigint, timestamptz", "'key 7', '', 1, 1, now()"),
        (sql::FORGET_KEYS.text, "timestamptz, bigint", "now() - interval '1 day', 4"),
    ];
    let others = others.map(|(text, types, values)| (text, types.to_owned(), values.to_owned()));
    let lists = lists().map(|(text, types, values)| {
        let all = format!("{}, 20, true, true{values}", i64::MAX);
        (text, format!("bigint, bigint, boolean, boolean{types}"), all)
    });
    for mode in PLANS {
        for (text, types, values) in lists.iter().chain(&others) {
            let plan = explain(&client, mode, "COSTS OFF", text, types, values).await;
            assert!(!plan.contains("Seq Scan"), "{mode}: {text}\n{plan}");
        }
    }
}

#[tokio::test]
async fn a_page_deep_inside_costs_what_the_first_one_costs() {
    let Some(client) = filled("store_depth", FILL).await else { return };
    for mode in PLANS {
        for list in lists() {
            let (first, deep) =
                (cost(&client, mode, list, i64::MAX).await, cost(&client, mode, list, 1500).await);
            assert!(deep.buffers <= first.buffers + first.buffers / 5, "{mode}\n{first:?}\n{deep:?}");
        }
    }
}

#[tokio::test]
async fn page_10_000_costs_what_page_1_costs() {
    let Some(client) = filled("store_page_10000", FILL_DEEP).await else { return };
    let last_before = async |condition: &str| -> i64 {
        let text =
            format!("SELECT id FROM posts WHERE {condition} ORDER BY id DESC OFFSET {DEEP} - 1 LIMIT 1");
        client.query_one(&text, &[]).await.unwrap().get(0)
    };
    let (of_all, of_author) = (last_before("true").await, last_before("author_id = 3").await);
    for mode in PLANS {
        for (number, list) in lists().into_iter().enumerate() {
            let cursor = if number == 0 { of_all } else { of_author };
            let (first, deep) =
                (cost(&client, mode, list, i64::MAX).await, cost(&client, mode, list, cursor).await);
            assert!(deep.buffers <= first.buffers + 10, "{mode}\n{first:?}\n{deep:?}");
        }
    }
    // What it would cost to count off the posts before it shows that the measure tells.
    let text = sql::list(&Filter::default()).text;
    let counted = format!("{text} OFFSET {DEEP}");
    let types = "bigint, bigint, boolean, boolean";
    let all = format!("{}, 20, true, true", i64::MAX);
    let plan = explain(&client, PLANS[0], MEASURED, &counted, types, &all).await;
    let first = cost(&client, PLANS[0], lists()[0], i64::MAX).await;
    assert!(buffers(&plan) > 10 * first.buffers, "{plan}\n{first:?}");
}

/// What EXPLAIN is to tell: what was done, and nothing that differs from run to run.
const MEASURED: &str = "ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF";

/// What it took to answer a page of 20 posts.
#[derive(Debug)]
struct Cost {
    /// Pages of memory that were looked at, one as often as it was.
    buffers: u64,
    /// For a failure's message.
    #[allow(dead_code)]
    plan: String,
}

/// The cost of the page of `list` that goes on from `before`, each step of which reads no more rows than it answers.
async fn cost(client: &Client, mode: &str, (text, types, values): (&str, &str, &str), before: i64) -> Cost {
    let types = format!("bigint, bigint, boolean, boolean{types}");
    let values = format!("{before}, 20, true, true{values}");
    // Twice, so that all of it is in memory the second time.
    explain(client, mode, MEASURED, text, &types, &values).await;
    let plan = explain(client, mode, MEASURED, text, &types, &values).await;
    assert!(plan.lines().next().unwrap().contains("rows=20 "), "{plan}");
    assert!(plan.lines().filter_map(|line| number_after(line, "rows=")).all(|rows| rows <= 20), "{plan}");
    Cost { buffers: buffers(&plan), plan }
}

fn buffers(plan: &str) -> u64 {
    let (hit, read) = plan
        .lines()
        .find_map(|line| Some((number_after(line, "hit=")?, number_after(line, "read="))))
        .unwrap();
    hit + read.unwrap_or_default()
}

#[tokio::test]
async fn a_call_waits_for_a_connection_for_a_second_at_most() {
    let Some(Database::Postgres(config)) = postgres("store_pool").await else { return };
    let store = Postgres::new(&config, &LIMITS, &StoreMetrics::new().unwrap()).unwrap();
    let usage = store.usage();
    let mut held = Vec::new();
    for _ in 0..LIMITS.connections.get() {
        held.push(store.pool.client().await.unwrap());
    }
    let start = Instant::now();
    let (refused, seen) = tokio::join!(store.ping(), async {
        while usage()[0].waiting == 0 {
            tokio::task::yield_now().await;
        }
        usage()[0]
    });
    let waited = start.elapsed();
    assert!(matches!(refused, Err(StoreError::QueueAge)), "{refused:?}");
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(seen, Usage { pool: "shared", max: 3, in_use: 3, idle: 0, waiting: 1 });
    drop(held);
    store.ping().await.unwrap();
    assert_eq!(usage()[0], Usage { pool: "shared", max: 3, in_use: 0, idle: 3, waiting: 0 });
}

#[tokio::test]
async fn twice_what_the_connections_carry_keeps_the_goodput() {
    let Some(Database::Postgres(config)) = postgres("store_crowd").await else { return };
    let two = Limits { connections: NonZero::new(2).unwrap(), patience: crowd::PATIENCE, ..LIMITS };
    let store = Arc::new(Postgres::new(&config, &two, &StoreMetrics::new().unwrap()).unwrap());
    let sleep = format!("SELECT pg_sleep({})", crowd::WORK.as_secs_f64());
    crowd::two_connections_keep_their_goodput(|| {
        let (store, sleep) = (Arc::clone(&store), sleep.clone());
        async move {
            let client = store.pool.client().await?;
            client.batch_execute(&sleep).await.map_err(StoreError::from)
        }
    })
    .await;
}

#[tokio::test]
async fn the_watch_on_the_database_is_not_refused_for_load() {
    let Some(Database::Postgres(config)) = postgres("store_watch").await else { return };
    // Any wait is too long, and has been for long enough at once.
    let patience = Patience { target: Duration::ZERO, interval: Duration::ZERO };
    let one = Limits { connections: NonZero::<usize>::MIN, patience, ..LIMITS };
    let store = Postgres::new(&config, &one, &StoreMetrics::new().unwrap()).unwrap();
    let held = store.pool.client().await.unwrap();
    let first = store.pool.client();
    let ping = store.ping();
    let last = store.pool.client();
    tokio::pin!(first, ping, last);
    assert!(futures::poll!(first.as_mut()).is_pending());
    assert!(futures::poll!(ping.as_mut()).is_pending());
    assert!(futures::poll!(last.as_mut()).is_pending());
    drop(held);
    assert!(matches!(first.await, Err(StoreError::QueueAge)));
    ping.await.unwrap();
    assert!(last.await.is_ok());
}

#[tokio::test]
async fn a_key_that_another_transaction_works_on_is_in_progress_at_once() {
    let Some(database) = postgres("store_key_lock").await else { return };
    let store = open(&database).await;
    let Database::Postgres(config) = &database else { unreachable!() };
    let (other, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    other.batch_execute("BEGIN").await.unwrap();
    other.query_one(sql::LOCK_KEY.text, &[&super::lock_number("busy")]).await.unwrap();
    let content = Content { title: "t".to_owned(), body: String::new(), author: None, tags: Vec::new() };
    let once = Once { key: "busy".to_owned(), request: content.digest() };
    let create =
        async || store.create(content.clone(), Some(once.clone()), jiff::Timestamp::now()).await.unwrap();
    assert_eq!(create().await, Created::InProgress);
    other.batch_execute("ROLLBACK").await.unwrap();
    assert!(matches!(create().await, Created::New(_)));
}

#[tokio::test]
async fn a_connection_that_leads_to_a_read_only_server_is_not_used_again() {
    let Some(Database::Postgres(config)) = postgres("store_failover").await else { return };
    let one = Limits { connections: NonZero::<usize>::MIN, ..LIMITS };
    let store = Postgres::new(&config, &one, &StoreMetrics::new().unwrap()).unwrap();
    store.migrate().await.unwrap();
    // As one to a primary that has become a replica; a new connection would find the new primary.
    let client = store.pool.client().await.unwrap();
    client.batch_execute("SET default_transaction_read_only = on").await.unwrap();
    drop(client);
    let content = || Content { title: "t".to_owned(), body: String::new(), author: None, tags: Vec::new() };
    let create = async || store.create(content(), None, jiff::Timestamp::now()).await;
    let refused = create().await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(matches!(create().await, Ok(Created::New(_))));
}

/// A client of a schema with the rows of `fill`.
async fn filled(schema: &str, fill: &str) -> Option<Client> {
    let database = postgres(schema).await?;
    open(&database).await;
    let Database::Postgres(config) = &database else { unreachable!() };
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(fill).await.unwrap();
    Some(client)
}

async fn explain(
    client: &Client,
    mode: &str,
    options: &str,
    text: &str,
    types: &str,
    values: &str,
) -> String {
    let query = format!(
        "SET plan_cache_mode = {mode}; PREPARE explained ({types}) AS {text};
        EXPLAIN ({options}) EXECUTE explained ({values}); DEALLOCATE explained"
    );
    let answer = client.simple_query(&query).await.unwrap_or_else(|error| panic!("{error:?}: {query}"));
    let lines = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn number_after(line: &str, name: &str) -> Option<u64> {
    let (_, after) = line.split_once(name)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
