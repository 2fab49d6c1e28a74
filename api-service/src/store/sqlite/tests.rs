//! How SQLite does what it is asked: its plans, its work, its statements, its limits.

use std::{
    num::NonZero,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use rusqlite::{
    Connection, Result, StatementStatus,
    trace::{TraceEvent, TraceEventCodes},
};

use super::{Sqlite, migrate, sql};
use crate::store::{
    Columns, Filter, Limits, StoreError, StoreMetrics,
    contract::{LIMITS, crowd},
    metrics::Usage,
};

const EVERYTHING: Columns = Columns { body: true, tags: true };
const TWO: Limits = Limits { connections: NonZero::new(2).unwrap(), ..LIMITS };

/// Some thousand posts of ten authors, each with three of ten tags of fifty.
const FILL: &str = "
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 10)
        INSERT INTO authors (name) SELECT 'author ' || n FROM n;
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 50)
        INSERT INTO tags (name) SELECT 'tag-' || n FROM n;
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 5000)
        INSERT INTO posts (title, body, created_at, updated_at, version, author_id)
        SELECT 'post ' || n, 'text', 0, 0, 1, 2 + n % 10 FROM n;
    INSERT INTO post_tags (post_id, tag_id, author_id)
        SELECT p.id, 1 + (p.id / 10 + three.value) % 10, p.author_id
        FROM posts p, json_each('[0, 1, 2]') three;
    ANALYZE;";

/// Enough posts for 10,000 pages of 20, whatever the filter lets through, among others that it does not.
const FILL_DEEP: &str = "
    INSERT INTO authors (id, name) VALUES (3, 'author 3'), (4, 'author 4');
    INSERT INTO tags (id, name) VALUES (7, 'tag-7'), (8, 'tag-8');
    WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 211000)
        INSERT INTO posts (title, body, created_at, updated_at, version, author_id)
        SELECT 'post ' || n, 'text', 0, 0, 1, CASE WHEN n % 20 = 0 THEN 4 ELSE 3 END FROM n;
    INSERT INTO post_tags (post_id, tag_id, author_id)
        SELECT id, CASE author_id WHEN 3 THEN 7 ELSE 8 END, author_id FROM posts;
    ANALYZE;";

fn filters() -> [Filter; 4] {
    let tag = || Some("tag-7".to_owned());
    [
        Filter::default(),
        Filter { author: Some(3), tag: None },
        Filter { author: None, tag: tag() },
        Filter { author: Some(3), tag: tag() },
    ]
}

#[test]
fn no_statement_reads_a_table_from_end_to_end() {
    for filled in [true, false] {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate::migrate(&mut connection).unwrap();
        if filled {
            connection.execute_batch(FILL).unwrap();
        }
        let lists = filters().map(|filter| sql::list(&filter).text);
        let others = [
            sql::READ.text,
            sql::ADD_AUTHOR.text,
            sql::ADD_TAGS.text,
            sql::INSERT.text,
            sql::UPDATE.text,
            sql::UNTAG.text,
            sql::TAG.text,
            sql::DELETE.text,
            sql::FIND.text,
            sql::FIND_KEY.text,
            sql::NOTE_KEY.text,
            sql::FORGET_KEYS.text,
        ];
        for text in lists.into_iter().chain(others) {
            for step in plan(&connection, text) {
                // The array that a list was passed in is no table.
                let scans = step.starts_with("SCAN")
                    && !step.contains("VIRTUAL TABLE")
                    && step != "SCAN CONSTANT ROW";
                assert!(!scans && !step.contains("TEMP B-TREE FOR ORDER"), "{step} in {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_deep_inside_costs_what_the_first_one_costs() {
    let store = filled(FILL).await;
    for filter in filters() {
        let (first, deep) = (steps(&store, &filter, i64::MAX).await, steps(&store, &filter, 1500).await);
        // Pages hold the same number of tags but for chance at their edges.
        assert!(f64::from(deep) <= f64::from(first) * 1.05, "{filter}: {first} then {deep} steps");
    }
}

#[tokio::test]
async fn page_10_000_costs_what_page_1_costs() {
    let store = filled(FILL_DEEP).await;
    for filter in filters() {
        // The last post of the page before.
        let condition = if filter == Filter::default() { "TRUE" } else { "author_id = 3" };
        let text =
            format!("SELECT id FROM posts WHERE {condition} ORDER BY id DESC LIMIT 1 OFFSET 9999 * 20 - 1");
        let cursor =
            store.readers().run(move |connection, _| connection.query_row(&text, [], |row| row.get(0)));
        let (first, deep) =
            (steps(&store, &filter, i64::MAX).await, steps(&store, &filter, cursor.await.unwrap()).await);
        assert!(f64::from(deep) <= f64::from(first) * 1.05, "{filter}: {first} then {deep} steps");
    }
}

/// What it takes to answer the 20 posts below `before`, in steps of SQLite's machine. None of them sorts, or goes through a table
/// from end to end.
async fn steps(store: &Sqlite, filter: &Filter, before: i64) -> i32 {
    let filter = filter.clone();
    let work = store.readers().run(move |connection, _| {
        let mut statement = connection.prepare(sql::list(&filter).text)?;
        for (name, value) in [(":before", before), (":limit", 20), (":body", 1), (":tags", 1)] {
            let index = statement.parameter_index(name)?.unwrap();
            statement.raw_bind_parameter(index, value)?;
        }
        if let Some(index) = statement.parameter_index(":author")? {
            statement.raw_bind_parameter(index, filter.author)?;
        }
        if let Some(index) = statement.parameter_index(":tag")? {
            statement.raw_bind_parameter(index, filter.tag.as_deref())?;
        }
        let mut rows = statement.raw_query();
        let mut count = 0;
        while rows.next()?.is_some() {
            count += 1;
        }
        drop(rows);
        assert_eq!(count, 20, "{filter}");
        assert_eq!(statement.get_status(StatementStatus::FullscanStep), 0);
        assert_eq!(statement.get_status(StatementStatus::Sort), 0);
        Ok(statement.get_status(StatementStatus::VmStep))
    });
    work.await.unwrap()
}

#[tokio::test]
async fn a_page_of_any_length_is_one_statement() {
    let store = filled(FILL).await;
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&sent);
    let traced = store.readers().run(move |connection, _| {
        connection.trace_v2(
            TraceEventCodes::SQLITE_TRACE_STMT,
            Some(move |event: TraceEvent<'_>| {
                if let TraceEvent::Stmt(_, text) = event {
                    log.lock().unwrap().push(text.to_owned());
                }
            }),
        )
    });
    traced.await.unwrap();
    for limit in [1, 100] {
        for filter in filters() {
            assert_eq!(store.list(&filter, i64::MAX, limit, EVERYTHING).await.unwrap().len(), limit as usize);
            let sent = std::mem::take(&mut *sent.lock().unwrap());
            assert_eq!(sent.len(), 1, "{sent:?}");
        }
    }
}

#[tokio::test]
async fn a_call_waits_for_a_connection_for_a_second_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = StoreMetrics::new().unwrap();
    let store = Sqlite::file(&folder.path().join("posts.db"), &TWO, &metrics);
    store.migrate().await.unwrap();
    let usage = store.usage();
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let occupy = |_| {
        let held = Arc::clone(&held);
        let lane = store.readers().clone();
        // The channel's end is what releases them.
        tokio::spawn(
            async move { lane.run(move |_, _| Result::Ok(held.lock().unwrap().recv().is_err())).await },
        )
    };
    let holders: Vec<_> = (0..2).map(occupy).collect();
    while usage()[1].in_use < 2 {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    assert!(matches!(store.ping().await, Err(StoreError::QueueAge)));
    let waited = start.elapsed();
    assert!(waited >= Duration::from_secs(1) && waited < Duration::from_secs(5), "{waited:?}");
    // The writer is another lane: it is not held up.
    assert_eq!(usage()[0], Usage { pool: "writer", max: 1, in_use: 0, idle: 1, waiting: 0 });
    assert_eq!((usage()[1].max, usage()[1].waiting), (2, 0));
    drop(release);
    for holder in holders {
        holder.await.unwrap().unwrap();
    }
    store.ping().await.unwrap();
    assert_eq!((usage()[1].in_use, usage()[1].idle), (0, 2));
}

#[tokio::test]
async fn twice_what_the_connections_carry_keeps_the_goodput() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { patience: crowd::PATIENCE, ..TWO };
    let store = Sqlite::file(&folder.path().join("posts.db"), &limits, &StoreMetrics::new().unwrap());
    // As the service does: two connections that both make a new file are in each other's way.
    store.migrate().await.unwrap();
    crowd::two_connections_keep_their_goodput(|| {
        let lane = store.readers().clone();
        async move {
            lane.run(|_, _| {
                std::thread::sleep(crowd::WORK);
                Ok(())
            })
            .await
        }
    })
    .await;
}

async fn filled(fill: &'static str) -> Sqlite {
    let store = Sqlite::memory(&LIMITS, &StoreMetrics::new().unwrap());
    store.migrate().await.unwrap();
    store.writer.run(|connection, _| connection.execute_batch(fill)).await.unwrap();
    store
}

fn plan(connection: &Connection, text: &str) -> Vec<String> {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
    let mut rows = statement.raw_query();
    let mut steps = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get("detail").unwrap());
    }
    steps
}
