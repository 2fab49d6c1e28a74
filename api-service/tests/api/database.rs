//! A database that comes late, goes away, stands still, is full, refuses, and comes back: 503s in time, never a 500.

use std::{
    env,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use futures::future::join_all;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_postgres::{Client, Config, NoTls, config::Host};

use crate::{
    cache::Redis,
    harness::{Answer, App, eventually, free_port, post_json},
    postgres::{PASSWORD, Postgres},
};

const POSTGRES_URL: &str = "PLIMSOLL_TEST_POSTGRES_URL";

/// How long an answer may take while Postgres says nothing: a second's wait for a connection and six for a call, with
/// room for a slow machine, and below the limit of a request.
const BOUND: Duration = Duration::from_secs(9);

/// Forwards a port to the server until dropped, which also cuts every connection.
struct Link(JoinHandle<()>);

impl Link {
    async fn up(port: u16, server: Arc<(String, u16)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let server = Arc::clone(&server);
                connections.spawn(async move {
                    let mut server = TcpStream::connect((server.0.as_str(), server.1)).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        }))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn a_postgres_that_goes_and_comes_back_costs_503s_and_readiness_only() {
    let Ok(url) = env::var(POSTGRES_URL) else {
        println!("NOT RUN: losing Postgres; set {POSTGRES_URL}, as `cargo xtask test` does");
        return;
    };
    let server = Config::from_str(&url).unwrap();
    let Some(Host::Tcp(host)) = server.get_hosts().first() else { panic!("{POSTGRES_URL} needs a host") };
    let address = Arc::new((host.clone(), *server.get_ports().first().unwrap_or(&5432)));
    let port = free_port();
    let (user, name) = (server.get_user().unwrap(), server.get_dbname().unwrap_or("postgres"));
    let password = server.get_password().map(|text| String::from_utf8_lossy(text)).unwrap_or_default();
    let linked = format!("--database-url=postgres://{user}:{password}@127.0.0.1:{port}/{name}");

    let app = App::start(&[&linked]);
    let probe = async |path: &str| app.get(path).await.status;
    assert_eq!(probe("/startupz").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(probe("/livez").await, StatusCode::OK);

    let link = Link::up(port, Arc::clone(&address)).await;
    eventually("ready once Postgres is there", async || probe("/readyz").await == StatusCode::OK).await;
    let path = format!("/posts/{}", app.post("kept").await);

    drop(link);
    eventually("not ready without Postgres", async || {
        let answer = app.get(&path).await;
        // A connection that is cut may still have an answer in it; what must not come is a 500 or a 404.
        assert!([StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status), "{answer:?}");
        probe("/readyz").await == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    assert_eq!(probe("/livez").await, StatusCode::OK);
    assert_eq!(probe("/startupz").await, StatusCode::OK, "it has started, whatever came later");

    let _link = Link::up(port, address).await;
    eventually("ready again", async || probe("/readyz").await == StatusCode::OK).await;
    assert_eq!(probe(&path).await, StatusCode::OK);
}

#[tokio::test]
async fn a_postgres_that_stands_still_or_dies_costs_503s_in_time() {
    let Some(mut postgres) = Postgres::start("a Postgres that stands still").await else { return };
    let app = App::ready(&[&database(&postgres.url(PASSWORD))]).await;
    let path = format!("/posts/{}", app.post("kept").await);

    postgres.pause();
    let start = Instant::now();
    // More than there are connections.
    for answer in join_all((0..8).map(|_| app.get(&path))).await {
        assert_unavailable(&answer);
    }
    assert_unavailable(&app.json("POST", "/posts", post_json("new")).await);
    assert!(start.elapsed() < 2 * BOUND, "{:?}", start.elapsed());
    eventually("not ready", async || app.get("/readyz").await.status != StatusCode::OK).await;
    assert_eq!(app.get("/livez").await.status, StatusCode::OK);
    postgres.resume();
    comes_back(&app, &path).await;

    postgres.kill();
    assert_unavailable(&app.get(&path).await);
    assert_unavailable(&app.get("/posts").await);
    postgres.run().await;
    comes_back(&app, &path).await;
}

#[tokio::test]
async fn a_read_only_postgres_answers_reads_and_also_a_replica_that_starts() {
    let Some(postgres) = Postgres::start("a read-only Postgres").await else { return };
    let flag = database(&postgres.url(PASSWORD));
    let app = App::ready(&[&flag]).await;
    let path = format!("/posts/{}", app.post("kept").await);

    postgres.set("default_transaction_read_only", "on").await;
    let started = App::ready(&[&flag]).await;
    for app in [&app, &started] {
        for _ in 0..4 {
            assert_unavailable(&app.json("POST", "/posts", post_json("new")).await);
            assert_unavailable(&app.json("PUT", &path, post_json("new")).await);
            assert_unavailable(&app.json("DELETE", &path, "").await);
            assert_eq!(app.get(&path).await.status, StatusCode::OK);
            assert_eq!(app.get("/posts").await.json()["items"].as_array().unwrap().len(), 1);
        }
        assert_eq!(app.get("/readyz").await.status, StatusCode::OK);
    }
    postgres.set("default_transaction_read_only", "off").await;
    app.post("new").await;
}

#[tokio::test]
async fn a_wrong_password_costs_503s_until_it_is_right() {
    let Some(postgres) = Postgres::start("a wrong password").await else { return };
    let app = App::start(&[&database(&postgres.url("changed"))]);
    eventually("the password is refused", async || postgres.log().contains("authentication failed")).await;
    assert_unavailable(&app.get("/posts").await);
    assert_unavailable(&app.json("POST", "/posts", post_json("new")).await);
    assert_eq!(app.get("/startupz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(app.get("/livez").await.status, StatusCode::OK);
    postgres.execute("ALTER ROLE postgres PASSWORD 'changed'").await;
    eventually("ready", async || app.get("/readyz").await.status == StatusCode::OK).await;
    app.post("new").await;
}

#[tokio::test]
async fn a_page_of_any_length_is_one_statement_at_the_server() {
    let Some(postgres) = Postgres::start("counting statements").await else { return };
    let app = App::ready(&[&database(&postgres.url(PASSWORD))]).await;
    for number in 0..101 {
        let body = format!(
            r#"{{"title": "t", "body": "", "author": "author {number}", "tags": ["all", "tag-{number}"]}}"#
        );
        assert_eq!(app.json("POST", "/posts", body).await.status, StatusCode::CREATED);
    }
    postgres.set("log_statement", "all").await;
    let statements = || {
        let log = postgres.log();
        // What the watch on the database asks is no part of a page.
        log.matches("LOG:  execute ").count() - log.matches("SELECT 1\n").count()
    };
    for filter in ["", "&tag=all"] {
        for limit in [1, 100] {
            let (sent, counted) = (statements(), app.count(LISTS).await);
            let page = app.get(&format!("/posts?limit={limit}{filter}")).await.json();
            assert_eq!(page["items"].as_array().unwrap().len(), limit);
            assert_eq!((statements() - sent, app.count(LISTS).await - counted), (1, 1), "{}", postgres.log());
        }
    }
}

#[tokio::test]
async fn connections_that_the_server_refuses_cost_503s_only() {
    let Some((admin, url)) = schema("api_crowded").await else { return };
    admin
        .batch_execute(
            "DROP ROLE IF EXISTS plimsoll_crowded; CREATE ROLE plimsoll_crowded LOGIN CONNECTION LIMIT 1;
            ALTER SCHEMA api_crowded OWNER TO plimsoll_crowded",
        )
        .await
        .unwrap();
    let (_, host) = url.split_once('@').unwrap();
    let app = App::ready(&[&database(&format!("postgres://plimsoll_crowded@{host}"))]).await;
    // The watch on the database may have the one connection at that moment.
    eventually("a post is made", async || {
        app.json("POST", "/posts", post_json("kept")).await.status == StatusCode::CREATED
    })
    .await;
    // Reads that are not coalesced: each asks the database by itself.
    let answers = join_all((0..6).map(|_| app.get("/posts"))).await;
    let (good, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == StatusCode::OK);
    assert!(!good.is_empty() && !refused.is_empty(), "{answers:?}");
    refused.into_iter().for_each(assert_unavailable);
    // Every role that is made is removed; its schema's next use would find it in use.
    drop(app);
    eventually("the role is gone", async || {
        admin.batch_execute("DROP OWNED BY plimsoll_crowded; DROP ROLE plimsoll_crowded").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_statement_that_waits_for_a_lock_is_given_up_in_time() {
    let Some((mut admin, url)) = schema("api_locked").await else { return };
    let app = App::ready(&[&database(&url)]).await;
    let path = format!("/posts/{}", app.post("kept").await);
    let lock = admin.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE posts IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let start = Instant::now();
    for answer in join_all((0..8).map(|_| app.get(&path))).await {
        assert_unavailable(&answer);
    }
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    lock.rollback().await.unwrap();
    assert_eq!(app.get(&path).await.status, StatusCode::OK);
}

#[tokio::test]
async fn more_than_the_pool_carries_is_refused_early_and_what_is_cached_never() {
    let Some((admin, url)) = schema("api_crowd").await else { return };
    let redis = Redis::start().await;
    let cache = format!("--cache-url={}", redis.url("right"));
    let flags = [&database(&url), &cache, "--database-connections=1", "--latency-targets=100ms"];
    let app = Arc::new(App::ready(&flags).await);
    let path = format!("/posts/{}", app.post("kept").await);
    assert_eq!(app.get(&path).await.status, StatusCode::OK);
    admin
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
            CREATE TRIGGER slow BEFORE INSERT ON posts FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await
        .unwrap();
    // Twice what one connection can do with writes of 20 ms each.
    let mut every = tokio::time::interval(Duration::from_millis(10));
    let mut writes = JoinSet::new();
    for number in 0..300 {
        every.tick().await;
        let loaded = Arc::clone(&app);
        writes.spawn(async move {
            let start = Instant::now();
            (loaded.json("POST", "/posts", post_json("new")).await, start.elapsed())
        });
        if number % 20 == 0 {
            for path in [path.as_str(), "/health", "/readyz", "/metrics"] {
                assert_eq!(app.get(path).await.status, StatusCode::OK, "{path} after {number} writes");
            }
        }
    }
    let (made, refused): (Vec<_>, Vec<_>) =
        writes.join_all().await.into_iter().partition(|(answer, _)| answer.status == StatusCode::CREATED);
    for (answer, _) in &refused {
        assert_unavailable(answer);
        assert_eq!(answer.json()["code"], "overloaded");
    }
    assert_eq!(app.count(r#"http_requests_shed_total{reason="database_queue_age"}"#).await, refused.len());
    // In three seconds, at 20 ms each and what a statement costs besides, at most 150.
    assert!(made.len() >= 100 && refused.len() >= 100, "{} made, {} refused", made.len(), refused.len());
    // Without refusals the wait would have grown to a second, from where on it is bounded anyway.
    let mut latencies: Vec<_> = made.into_iter().map(|(_, latency)| latency).collect();
    latencies.sort();
    let p90 = latencies[latencies.len() * 9 / 10];
    assert!(p90 < Duration::from_millis(200), "{p90:?}");
}

#[tokio::test]
async fn a_full_disk_costs_writes_only() {
    let Some((admin, url)) = schema("api_full").await else { return };
    let app = App::ready(&[&database(&url)]).await;
    let path = format!("/posts/{}", app.post("kept").await);
    // What the server says when its disk is full, without filling one.
    admin
        .batch_execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$;
            CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON posts EXECUTE FUNCTION full_disk()",
        )
        .await
        .unwrap();
    for _ in 0..4 {
        assert_unavailable(&app.json("POST", "/posts", post_json("new")).await);
        assert_unavailable(&app.json("PUT", &path, post_json("new")).await);
        assert_eq!(app.get(&path).await.status, StatusCode::OK);
    }
    admin.batch_execute("DROP TRIGGER full_disk ON posts").await.unwrap();
    app.post("new").await;
}

#[tokio::test]
async fn an_sqlite_file_that_another_process_writes_to_costs_writes_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("posts.db");
    let app = App::ready(&[&format!("--database-url=sqlite:{}", file.display())]).await;
    let path = format!("/posts/{}", app.post("kept").await);
    let other = rusqlite::Connection::open(file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    let writes = join_all((0..4).map(|_| app.json("POST", "/posts", post_json("new"))));
    let (writes, read) = tokio::join!(writes, app.get(&path));
    writes.iter().for_each(assert_unavailable);
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    assert_eq!(read.status, StatusCode::OK);
    other.execute_batch("ROLLBACK").unwrap();
    app.post("new").await;
}

#[tokio::test]
async fn the_pool_and_the_statements_are_measured() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::ready(&[&format!("--database-url=sqlite:{}/posts.db", folder.path().display())]).await;
    let id = app.post("first").await;
    app.get(&format!("/posts/{id}")).await;
    assert_eq!(app.count(r#"database_queries_total{query="insert_post"}"#).await, 1);
    assert_eq!(app.count(r#"database_queries_total{query="read_post"}"#).await, 1);
    assert_eq!(app.count(r#"database_pool_connections_max{pool="readers"}"#).await, 3);
    assert_eq!(app.count(r#"database_pool_connections{pool="writer",state="idle"}"#).await, 1);
    assert_eq!(app.count(r#"database_pool_connections{pool="writer",state="in_use"}"#).await, 0);
    assert!(app.count(r#"database_pool_wait_seconds_count{pool="readers"}"#).await > 0);
    assert!(app.get("/metrics").await.text().contains(r#"database_pool_waiting{pool="readers"} 0"#));
}

const LISTS: &str = r#"database_queries_total{query="list_posts"}"#;

fn database(url: &str) -> String {
    format!("--database-url={url}")
}

fn assert_unavailable(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}

async fn comes_back(app: &App, path: &str) {
    eventually("ready again", async || app.get("/readyz").await.status == StatusCode::OK).await;
    eventually("the post is there again", async || app.get(path).await.status == StatusCode::OK).await;
    app.post("new").await;
}

/// An empty schema on the shared test server: a client of the server, and the URL for the service.
async fn schema(name: &str) -> Option<(Client, String)> {
    let Ok(url) = env::var(POSTGRES_URL) else {
        println!("NOT RUN: {name}; set {POSTGRES_URL}, as `cargo xtask test` does");
        return None;
    };
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let again =
        format!("DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}; SET search_path = {name}");
    client.batch_execute(&again).await.unwrap();
    Some((client, format!("{url}?options=-c%20search_path%3D{name}")))
}

#[tokio::test]
async fn the_server_tells_how_many_connections_it_takes() {
    let Some(postgres) = Postgres::start("the connections that a Postgres takes").await else { return };
    postgres.execute("CREATE ROLE app LOGIN PASSWORD 'app'; GRANT ALL ON SCHEMA public TO app").await;
    let url = postgres.url(PASSWORD).replace("postgres:right@", "app:app@");
    let app = App::ready(&[&database(&url)]).await;
    let max = async |app: &App| app.metric("database_server_connections_max").await;
    eventually("the server has told", async || max(&app).await > 0.0).await;
    assert_eq!(max(&app).await.to_string(), "97", "100, and three that are kept for superusers");
    assert!(app.metric("database_server_connections").await >= 1.0);
    postgres.execute("ALTER ROLE app CONNECTION LIMIT 20").await;
    let app = App::ready(&[&database(&url)]).await;
    eventually("the server has told", async || max(&app).await > 0.0).await;
    assert_eq!(max(&app).await.to_string(), "20", "a limit of the user's own");
}
