//! Redis in front of the database, and every way it can fail: answers stay right and in time.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use futures::future::join_all;
use nix::sys::signal::Signal;
use redis::aio::MultiplexedConnection;
use tokio::sync::oneshot;

use crate::harness::{App, Process, eventually, free_port, post_json};

const LOCAL_HITS: &str = r#"cache_requests_total{layer="local",result="hit"}"#;
const HITS: &str = r#"cache_requests_total{layer="redis",result="hit"}"#;
const MISSES: &str = r#"cache_requests_total{layer="redis",result="miss"}"#;
const ERRORS: &str = r#"cache_requests_total{layer="redis",result="error"}"#;

/// How long one answer may take while Redis hangs: four calls of 30 ms, with room for a slow machine.
const BOUND: Duration = Duration::from_secs(2);

pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    pub async fn start() -> Self {
        Self::start_on(free_port()).await
    }

    async fn start_on(port: u16) -> Self {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--requirepass",
            "right",
        ]);
        let redis = Self { process: Process::spawn(&mut command), port };
        eventually("redis-server answers", async || redis.connect().await.is_ok()).await;
        redis
    }

    pub fn url(&self, password: &str) -> String {
        format!("redis://:{password}@127.0.0.1:{}", self.port)
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        redis::Client::open(self.url("right"))?.get_multiplexed_async_connection().await
    }

    async fn run(&self, command: &redis::Cmd) {
        command.exec_async(&mut self.connect().await.unwrap()).await.unwrap();
    }

    async fn entry(&self, id: i64) -> Option<String> {
        redis::cmd("GET")
            .arg(format!("post:{id}"))
            .query_async(&mut self.connect().await.unwrap())
            .await
            .unwrap()
    }
}

/// An app that keeps nothing in its own memory, so that every read shows what Redis does.
async fn app_with(url: &str) -> App {
    App::ready(&[&format!("--cache-url={url}"), "--cache-local-bytes=0"]).await
}

/// An app on a database that it shares, with all layers of the cache.
async fn replica(redis: &Redis, folder: &tempfile::TempDir) -> App {
    let database = format!("--database-url=sqlite:{}/posts.db", folder.path().display());
    App::ready(&[&database, &format!("--cache-url={}", redis.url("right"))]).await
}

/// Reads the post until the replica answers from its own memory.
async fn remember(app: &App, id: i64) {
    eventually("the replica answers from its memory", async || {
        let before = app.count(LOCAL_HITS).await;
        read(app, id).await;
        app.count(LOCAL_HITS).await > before
    })
    .await;
}

/// An app whose cache is known to answer, and a post in it.
async fn warm(redis: &Redis) -> (App, i64) {
    let app = app_with(&redis.url("right")).await;
    let id = app.post("first").await;
    eventually("the cache answers", async || {
        read(&app, id).await;
        app.count(HITS).await > 0
    })
    .await;
    (app, id)
}

/// Reads the post and checks that the answer comes in time; gives its title.
async fn read(app: &App, id: i64) -> String {
    let asked = Instant::now();
    let answer = app.get(&format!("/posts/{id}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
    answer.json()["title"].as_str().unwrap().to_owned()
}

async fn rename(app: &App, id: i64, title: &str) {
    let asked = Instant::now();
    let answer = app.json("PUT", &format!("/posts/{id}"), post_json(title)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert!(asked.elapsed() < BOUND, "{:?}", asked.elapsed());
}

/// Reads and writes while Redis is `failing`; every answer must be right.
async fn stays_right(app: &App, id: i64, failing: &str) {
    for round in 0..10 {
        let title = format!("{failing} {round}");
        rename(app, id, &title).await;
        assert_eq!(read(app, id).await, title);
    }
    let missing = app.get("/posts/999999").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(app.get("/readyz").await.status, StatusCode::OK, "the cache does not count for readiness");
}

#[tokio::test]
async fn reads_miss_then_hit_and_writes_invalidate() {
    let redis = Redis::start().await;
    let (app, id) = warm(&redis).await;
    let (hits, misses) = (app.count(HITS).await, app.count(MISSES).await);
    assert_eq!(read(&app, id).await, "first");
    assert_eq!(app.count(HITS).await, hits + 1);
    rename(&app, id, "second").await;
    assert_eq!(redis.entry(id).await, None);
    assert_eq!(read(&app, id).await, "second");
    assert_eq!(app.count(MISSES).await, misses + 1);
    assert!(redis.entry(id).await.unwrap().contains(r#""title":"second""#));
    assert_eq!(read(&app, id).await, "second");
    assert_eq!(app.count(HITS).await, hits + 2);

    assert_eq!(app.json("DELETE", &format!("/posts/{id}"), "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(app.get(&format!("/posts/{id}")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_copy_read_before_a_write_is_not_put_back_after_it() {
    let redis = Redis::start().await;
    let (app, id) = warm(&redis).await;
    for (title, evicts) in [("second", false), ("third", true)] {
        // A slow reader: it has read the row and not yet answered when the write comes.
        redis.run(redis::cmd("DEL").arg(format!("post:{id}"))).await;
        let old = app.state.store().unwrap().read(id).await.unwrap();
        let (answer, answered) = oneshot::channel();
        let (start, started) = oneshot::channel();
        let slow = {
            let state = Arc::clone(&app.state);
            tokio::spawn(async move {
                let read = || async {
                    start.send(()).unwrap();
                    Ok(answered.await.unwrap())
                };
                state.cache.post(id, read).await.unwrap()
            })
        };
        started.await.unwrap();
        rename(&app, id, title).await;
        if evicts {
            redis.run(redis::cmd("DEL").arg(format!("post:{id}"))).await;
        }
        answer.send(old).unwrap();
        slow.await.unwrap();
        assert_eq!(read(&app, id).await, title);
        assert_eq!(read(&app, id).await, title);
    }
}

#[tokio::test]
async fn a_write_through_one_replica_shows_there_at_once_and_soon_through_another() {
    let redis = Redis::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (replica(&redis, &folder).await, replica(&redis, &folder).await);
    let id = here.post("first").await;
    for round in 0..20 {
        remember(&here, id).await;
        remember(&there, id).await;
        let title = format!("round {round}");
        rename(&here, id, &title).await;
        assert_eq!(read(&here, id).await, title);
        eventually("the other replica has heard", async || read(&there, id).await == title).await;
    }
    assert_eq!(here.json("DELETE", &format!("/posts/{id}"), "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(here.get(&format!("/posts/{id}")).await.status, StatusCode::NOT_FOUND);
    eventually("the other replica has heard", async || {
        there.get(&format!("/posts/{id}")).await.status == StatusCode::NOT_FOUND
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_cannot_hear_of_writes_answers_nothing_from_memory() {
    let redis = Redis::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (replica(&redis, &folder).await, replica(&redis, &folder).await);
    let id = here.post("first").await;
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        remember(&there, id).await;
        redis.process.signal(signal);
        eventually("the replica has noticed", async || {
            let before = there.count(LOCAL_HITS).await;
            read(&there, id).await;
            there.count(LOCAL_HITS).await == before
        })
        .await;
        rename(&here, id, "unheard").await;
        assert_eq!(read(&there, id).await, "unheard");
        if signal == Signal::SIGSTOP {
            redis.process.signal(Signal::SIGCONT);
        }
    }
}

#[tokio::test]
async fn many_readers_of_a_cold_post_cost_one_query() {
    let redis = Redis::start().await;
    let (app, id) = warm(&redis).await;
    redis.run(redis::cmd("DEL").arg(format!("post:{id}"))).await;
    let queries = Arc::new(AtomicUsize::new(0));
    let readers = (0..100).map(|_| {
        let (state, queries) = (Arc::clone(&app.state), Arc::clone(&queries));
        async move {
            let read = || {
                let state = Arc::clone(&state);
                async move {
                    queries.fetch_add(1, Ordering::Relaxed);
                    Ok(state.store()?.read(id).await?)
                }
            };
            state.cache.post(id, read).await.unwrap().unwrap()
        }
    });
    join_all(readers).await;
    assert_eq!(queries.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_post_that_is_made_after_it_was_missed_shows_at_once() {
    let redis = Redis::start().await;
    let (app, id) = warm(&redis).await;
    let next = format!("/posts/{}", id + 1);
    for _ in 0..2 {
        assert_eq!(app.get(&next).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(app.post("next").await, id + 1);
    assert_eq!(app.get(&next).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_redis_that_is_full_or_read_only_changes_no_answer() {
    let redis = Redis::start().await;
    let (app, id) = warm(&redis).await;
    redis.run(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1")).await;
    stays_right(&app, id, "full").await;
    redis.run(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0")).await;
    let primary = Redis::start().await;
    let replicates = |host: &str, port: &str| {
        let mut command = redis::cmd("REPLICAOF");
        command.arg(host).arg(port);
        command
    };
    redis.run(&replicates("127.0.0.1", &primary.port.to_string())).await;
    stays_right(&app, id, "read-only").await;
    redis.run(&replicates("NO", "ONE")).await;
    let hits = app.count(HITS).await;
    eventually("the cache is used again", async || {
        assert_eq!(read(&app, id).await, "read-only 9");
        app.count(HITS).await > hits
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_is_no_post_is_a_miss() {
    let redis = Redis::start().await;
    let (app, id) = warm(&redis).await;
    let other = app.json("POST", "/posts", post_json("other")).await.json();
    for entry in ["", "nonsense", "1:{", "1:null", &format!("1:{other}")] {
        let mut connection = redis.connect().await.unwrap();
        redis::cmd("SET").arg(format!("post:{id}")).arg(entry).exec_async(&mut connection).await.unwrap();
        assert_eq!(read(&app, id).await, "first", "{entry}");
    }
    let mut connection = redis.connect().await.unwrap();
    redis::cmd("DEL").arg(format!("post:{id}")).exec_async(&mut connection).await.unwrap();
    redis::cmd("LPUSH").arg(format!("post:{id}")).arg("a list").exec_async(&mut connection).await.unwrap();
    assert_eq!(read(&app, id).await, "first");
}

#[tokio::test]
async fn a_killed_redis_changes_no_answer_and_is_used_again_when_back() {
    let redis = Redis::start().await;
    let (app, id) = warm(&redis).await;
    let port = redis.port;
    drop(redis);
    stays_right(&app, id, "killed").await;
    assert!(app.count(ERRORS).await > 0);
    assert_eq!(app.get("/health").await.json()["cache"], "failing");

    let _redis = Redis::start_on(port).await;
    let hits = app.count(HITS).await;
    eventually("the cache is used again", async || {
        assert_eq!(read(&app, id).await, "killed 9");
        app.count(HITS).await > hits
    })
    .await;
    assert_eq!(app.get("/health").await.json()["cache"], "ok");
}

#[tokio::test]
async fn a_wrong_password_changes_no_answer() {
    let redis = Redis::start().await;
    let app = app_with(&redis.url("wrong")).await;
    let id = app.post("first").await;
    stays_right(&app, id, "refused").await;
    assert_eq!(app.count(HITS).await, 0);
}

#[tokio::test]
async fn a_redis_that_was_never_there_changes_no_answer() {
    let app = app_with(&format!("redis://127.0.0.1:{}", free_port())).await;
    let id = app.post("first").await;
    stays_right(&app, id, "absent").await;
}

#[tokio::test]
async fn a_redis_that_hangs_changes_no_answer_and_no_old_one_shows_after() {
    let redis = Redis::start().await;
    let (app, id) = warm(&redis).await;
    redis.process.signal(Signal::SIGSTOP);
    stays_right(&app, id, "hanging").await;
    redis.process.signal(Signal::SIGCONT);
    let hits = app.count(HITS).await;
    eventually("the cache is used again", async || {
        assert_eq!(read(&app, id).await, "hanging 9");
        app.count(HITS).await > hits
    })
    .await;
}
