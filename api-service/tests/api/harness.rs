//! Servers, clients and peers for the tests. Waits for conditions, never for a fixed time.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Request, StatusCode},
};
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use plimsoll_api::{config::Config, health, router, shutdown::Lifecycle, state::AppState};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tower::ServiceExt;

/// How long a condition may take to come true on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The settings that tests start from, with `flags` on top.
pub fn config(flags: &[&str]) -> Config {
    let given = |name: &str| flags.iter().any(|flag| flag.starts_with(name));
    let drain = (!given("--drain")).then_some("--drain=0s");
    let database = (!given("--database-url")).then_some("--database-url=sqlite::memory:");
    let defaults = std::iter::once("plimsoll-api").chain(drain).chain(database);
    Config::try_parse_from(defaults.chain(flags.iter().copied())).unwrap()
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub async fn read<B: hyper::body::Body<Error: std::fmt::Debug>>(response: hyper::Response<B>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Seconds after which the client may try again.
    pub fn retry_after(&self) -> Option<u32> {
        self.header("retry-after").map(|seconds| seconds.parse().unwrap())
    }

    pub fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

/// The service behind its router, without connections.
pub struct App {
    pub state: Arc<AppState>,
    router: Router,
}

impl App {
    /// Starts the service; its database may not be open yet.
    pub fn start(flags: &[&str]) -> Self {
        let config = config(flags);
        let lifecycle = Arc::new(Lifecycle::new(config.drain));
        let state = AppState::new(config, lifecycle).unwrap();
        tokio::spawn(health::watch_database(Arc::clone(&state)));
        Self { router: router::build(Arc::clone(&state)), state }
    }

    /// Starts the service and waits until it is ready.
    pub async fn ready(flags: &[&str]) -> Self {
        let app = Self::start(flags);
        eventually("the service is ready", async || app.get("/readyz").await.status == StatusCode::OK).await;
        app
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        Answer::read(self.router.clone().oneshot(request).await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub async fn json(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Makes a post and gives its id.
    pub async fn post(&self, title: &str) -> i64 {
        let answer = self.json("POST", "/posts", post_json(title)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        answer.json()["id"].as_i64().unwrap()
    }

    /// The value of a series, given as its line in `/metrics` up to the value; 0 when it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        value_of(self.get("/metrics").await.text(), series)
    }

    /// The value of a series that counts.
    pub async fn count(&self, series: &str) -> usize {
        self.metric(series).await as usize
    }
}

pub fn post_json(title: &str) -> String {
    serde_json::json!({ "title": title, "body": "text" }).to_string()
}

pub fn value_of(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// The service on a real port.
pub struct Server {
    pub port: u16,
    pub lifecycle: Arc<Lifecycle>,
    pub task: JoinHandle<Result<(), plimsoll_api::Error>>,
}

impl Server {
    pub async fn ready(flags: &[&str]) -> Self {
        let config = config(flags);
        let lifecycle = Arc::new(Lifecycle::new(config.drain));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(plimsoll_api::serve(listener, config, Arc::clone(&lifecycle)));
        let server = Self { port, lifecycle, task };
        eventually("the server is ready", async || server.get("/readyz").await.status == StatusCode::OK)
            .await;
        server
    }

    /// One request on a connection of its own.
    pub async fn get(&self, path: &str) -> Answer {
        Client::connect(self.port).await.unwrap().get(path).await.unwrap()
    }
}

/// One kept-alive connection.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl Client {
    pub async fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        let task = tokio::spawn(async {
            // The test looks at the answers; how the connection ends shows there.
            let _ = connection.await;
        });
        Ok(Self { sender, task })
    }

    pub async fn get(&mut self, path: &str) -> hyper::Result<Answer> {
        self.send(Request::get(path).body(Full::default()).unwrap()).await
    }

    /// Sends JSON.
    pub async fn post(&mut self, path: &str, json: String) -> hyper::Result<Answer> {
        let request = Request::post(path).header("content-type", "application/json");
        self.send(request.body(json.into()).unwrap()).await
    }

    async fn send(&mut self, mut request: Request<Full<Bytes>>) -> hyper::Result<Answer> {
        self.sender.ready().await?;
        request.headers_mut().insert("host", HeaderValue::from_static("test"));
        Ok(Answer::read(self.sender.send_request(request).await?).await)
    }

    /// Waits until the server has closed the connection.
    pub async fn closed(self) {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server closes the connection").unwrap();
    }
}

/// A port that nothing listens on now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A child process, killed at the end of the test.
pub struct Process(pub Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        let program = command.get_program().to_owned();
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{} must be on the PATH: {error}", program.display())))
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
