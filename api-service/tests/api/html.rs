//! A post as HTML: what it is, how it is cached, and that rendering never holds up anything else.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use serde_json::json;

use crate::harness::{Answer, App, Client, Process, eventually, free_port, value_of};

async fn posted(app: &App, markdown: &str) -> i64 {
    let answer = app.json("POST", "/posts", json!({ "title": "t", "body": markdown }).to_string()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()["id"].as_i64().unwrap()
}

async fn get_with(app: &App, path: &str, name: &str, value: &str) -> Answer {
    app.send(Request::get(path).header(name, value).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn the_body_is_rendered_without_what_could_run() {
    let app = App::ready(&[]).await;
    let id = posted(&app, "# Hi\n\n*you* <script>x</script> [a](javascript:x)").await;
    let answer = app.get(&format!("/posts/{id}/html")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        answer.text(),
        "<h1>Hi</h1>\n<p><em>you</em> &lt;script&gt;x&lt;/script&gt; <a href=\"\">a</a></p>\n"
    );
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    for path in ["/posts/999/html", "/posts/0/html"] {
        assert!(app.get(path).await.status.is_client_error(), "{path}");
    }
}

#[tokio::test]
async fn it_is_cached_by_version() {
    let app = App::ready(&[]).await;
    let id = posted(&app, &"one *two* ".repeat(200)).await;
    let path = format!("/posts/{id}/html");
    let plain = app.get(&path).await;
    let tag = plain.header("etag").unwrap().to_owned();
    let unchanged = get_with(&app, &path, "if-none-match", &tag).await;
    assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
    for name in ["etag", "cache-control", "vary", "content-security-policy"] {
        assert_eq!(unchanged.header(name), plain.header(name), "{name}");
    }
    assert_eq!(plain.header("cache-control"), Some("no-cache"));
    let coded = get_with(&app, &path, "accept-encoding", "gzip").await;
    assert_eq!(coded.header("content-encoding"), Some("gzip"));
    assert_ne!(coded.header("etag"), Some(tag.as_str()));
    let head = app.json("HEAD", &path, "").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));

    let draft = json!({ "title": "t", "body": "three" }).to_string();
    assert_eq!(app.json("PUT", &format!("/posts/{id}"), draft).await.status, StatusCode::OK);
    let written = get_with(&app, &path, "if-none-match", &tag).await;
    assert_eq!((written.status, written.text()), (StatusCode::OK, "<p>three</p>\n"));
    assert_eq!(app.json("DELETE", &format!("/posts/{id}"), "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(app.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn with_a_full_pool_what_was_rendered_is_served_and_the_rest_is_refused_at_once() {
    let app =
        App::ready(&["--cpu-workers=1", "--cpu-queue=1", "--cpu-queue-age=1m", "--shed-after=0s"]).await;
    let (known, new) = (posted(&app, "*known*").await, posted(&app, "*new*").await);
    assert_eq!(app.get(&format!("/posts/{known}/html")).await.status, StatusCode::OK);
    // One job holds the only worker until the test lets it go, another waits: there is room for no third.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (start, started) = tokio::sync::oneshot::channel();
    let mut running = Box::pin(app.state.cpu.run(move |_| {
        start.send(()).unwrap();
        let _ = held.recv();
    }));
    assert!(futures::poll!(running.as_mut()).is_pending());
    started.await.unwrap();
    let mut waiting = Box::pin(app.state.cpu.run(|_| ()));
    assert!(futures::poll!(waiting.as_mut()).is_pending());

    let refused = app.get(&format!("/posts/{new}/html")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    assert_eq!(refused.json()["code"], "overloaded");
    assert!(refused.retry_after().is_some_and(|seconds| (1..=3).contains(&seconds)), "{refused:?}");
    assert_eq!(app.get(&format!("/posts/{known}/html")).await.status, StatusCode::OK);
    assert_eq!(app.get("/health").await.status, StatusCode::OK);
    drop(release);
    assert_eq!((running.await, waiting.await), (Ok(()), Ok(())));
    assert_eq!(app.get(&format!("/posts/{new}/html")).await.status, StatusCode::OK);
}

/// Of a histogram in `metrics`: how many observations there were, and how many of them up to `edge`.
fn observations(metrics: &str, name: &str, edge: &str) -> (f64, f64) {
    (
        value_of(metrics, &format!("{name}_count")),
        value_of(metrics, &format!("{name}_bucket{{le=\"{edge}\"}}")),
    )
}

/// A process of its own, as in a pod: its event loop and its workers share the CPUs.
#[tokio::test]
async fn the_event_loop_stays_free_while_rendering_fills_its_pool() {
    // Rendered, it is larger than its share of the cache, so that every request is work.
    const MARKDOWN: &str = "[\"";
    const POSTS: usize = 8;
    let port = free_port();
    let _process = Process::spawn(
        Command::new(env!("CARGO_BIN_EXE_plimsoll-api"))
            .env("PLIMSOLL_LISTEN", format!("127.0.0.1:{port}"))
            .env("PLIMSOLL_DATABASE_URL", "sqlite::memory:")
            .env("PLIMSOLL_CACHE_LOCAL_BYTES", "2097152")
            .env("PLIMSOLL_CPU_WORKERS", "1")
            .env("PLIMSOLL_CPU_QUEUE", "2"),
    );
    // A connection each: a replica that is behind closes those that it has answered on.
    let get = async |path: &str| Client::connect(port).await?.get(path).await.map_err(std::io::Error::other);
    eventually("the process is ready", async || {
        get("/readyz").await.is_ok_and(|answer| answer.status == StatusCode::OK)
    })
    .await;
    let draft = json!({ "title": "t", "body": MARKDOWN.repeat(32 * 1024) }).to_string();
    for _ in 0..POSTS {
        let mut client = Client::connect(port).await.unwrap();
        assert_eq!(client.post("/posts", draft.clone()).await.unwrap().status, StatusCode::CREATED);
    }
    let (rendered, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let readers: Vec<_> = (1..=POSTS)
        .map(|id| {
            let (rendered, refused) = (Arc::clone(&rendered), Arc::clone(&refused));
            tokio::spawn(async move {
                loop {
                    let mut client = Client::connect(port).await.unwrap();
                    let answer = client.get(&format!("/posts/{id}/html")).await.unwrap();
                    match answer.status {
                        StatusCode::OK => rendered.fetch_add(1, Ordering::Relaxed),
                        StatusCode::SERVICE_UNAVAILABLE if answer.retry_after().is_some() => {
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        _ => panic!("{answer:?}"),
                    };
                }
            })
        })
        .collect();
    eventually("the pool is full", async || refused.load(Ordering::Relaxed) > 0).await;
    let lag = async || {
        let metrics = get("/metrics").await.unwrap();
        observations(metrics.text(), "event_loop_lag_seconds", "0.1")
    };
    let (before, before_low) = lag().await;
    let mut asked = 0;
    let (after, after_low) = loop {
        assert_eq!(get("/health").await.unwrap().status, StatusCode::OK);
        asked += 1;
        let (count, low) = lag().await;
        if count >= before + 100.0 {
            break (count, low);
        }
    };
    for reader in readers {
        assert!(!reader.is_finished(), "a reader met something else than an answer or a refusal");
        reader.abort();
    }
    let (rendered, refused) = (rendered.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    assert!(rendered > 10 && refused > 10 && asked > 10, "{rendered} {refused} {asked}");
    let high = (after - before) - (after_low - before_low);
    assert!(high <= 0.01 * (after - before), "{high} of {} ticks came over 100 ms late", after - before);
}
