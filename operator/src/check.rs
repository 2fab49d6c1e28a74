//! `plimsoll-operator check`: asks an installed operator whether it is well, and says what to do if it is not. The chart's
//! test runs it. It changes nothing.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest answer. The metrics of thousands of objects fit in.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Where the operator is.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The operator's Service, such as `http://plimsoll-operator.plimsoll-system:8080`.
    #[arg(long)]
    pub url: Uri,
    /// Seconds for which an operator that is not ready is asked again.
    #[arg(long, default_value_t = 60)]
    pub timeout_seconds: u64,
}

/// Asks until the operator is well, or its time is over. Returns what it said of itself.
///
/// # Errors
/// What is wrong, and what to look at.
pub async fn run(options: &Options) -> anyhow::Result<String> {
    let deadline = Instant::now() + Duration::from_secs(options.timeout_seconds);
    loop {
        match well(&options.url).await {
            Ok(said) => return Ok(said),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn well(url: &Uri) -> anyhow::Result<String> {
    for path in ["/livez", "/readyz"] {
        let (status, body) = get(url, path).await?;
        let said = body.trim();
        ensure!(
            status == StatusCode::OK,
            "the operator answers {path} with {status}: {said}. Look at its log: a watch that is forbidden lacks a role"
        );
    }
    let (status, metrics) = get(url, "/metrics").await?;
    ensure!(status == StatusCode::OK, "the operator answers /metrics with {status}");
    let version = label(&metrics, "plimsoll_operator_build_info", "version")
        .with_context(|| format!("what answers at {url} is not Plimsoll's operator"))?;
    let ours = env!("CARGO_PKG_VERSION");
    ensure!(
        version == ours,
        "the operator is of version {version}, and this release of {ours}: wait for the rollout of its Deployment, and see \
         why its new pods do not become ready"
    );
    let leads =
        metrics.lines().any(|line| line.starts_with("plimsoll_operator_leader{") && line.ends_with(" 1"));
    let role = if leads { "leads" } else { "stands by for another one" };
    Ok(format!("the operator is ready, is of version {version} and {role}"))
}

/// The value of a label of the first sample of a metric.
fn label<'a>(exposition: &'a str, metric: &str, label: &str) -> Option<&'a str> {
    let labels = exposition.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix('{'))?;
    let (_, value) = labels.split_once(&format!("{label}=\""))?;
    value.split_once('"').map(|(value, _)| value)
}

async fn get(url: &Uri, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask(url, path)).await;
    answer.with_context(|| {
        format!(
            "no answer from {url} within {} s: does a NetworkPolicy stand in between?",
            ANSWER_TIMEOUT.as_secs()
        )
    })?
}

async fn ask(url: &Uri, path: &str) -> anyhow::Result<(StatusCode, String)> {
    let (Some(host), Some("http")) = (url.host(), url.scheme_str()) else {
        bail!("write the operator's Service as http://NAME.NAMESPACE:8080, not {url}");
    };
    let address = format!("{host}:{}", url.port_u16().unwrap_or(80));
    let mut found = tokio::net::lookup_host(&address).await.with_context(|| {
        format!("find {host}: is there such a Service, and does the cluster's DNS answer?")
    })?;
    let found = found.next().with_context(|| format!("{host} has no address"))?;
    let stream = TcpStream::connect(found).await.with_context(|| {
        format!("connect to {address}: no pod of the operator is ready behind its Service")
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
    let request = Request::get(path)
        .header(header::HOST, &address)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .context("make a request")?;
    let answer = async {
        let response = sender.send_request(request).await.context("read the answer")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed).context("read the answer")?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    // The connection works only while it is polled, and its end is no answer.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = connection => bail!("the connection broke"),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;

    use super::*;

    /// Serves these answers and gives what the check says of them.
    async fn checked(ready: (u16, &'static str), metrics: String) -> String {
        let ready = (StatusCode::from_u16(ready.0).unwrap(), ready.1);
        let router = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(async move || ready))
            .route("/metrics", get(async move || metrics.clone()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let server = tokio::spawn(async { axum::serve(listener, router).await });
        let said = run(&Options { url, timeout_seconds: 0 }).await;
        server.abort();
        said.unwrap_or_else(|error| format!("{error:#}"))
    }

    fn metrics(version: &str) -> String {
        format!(
            "plimsoll_operator_build_info{{version=\"{version}\"}} 1\nplimsoll_operator_leader{{shard=\"0\"}} 1\n"
        )
    }

    #[tokio::test]
    async fn tells_that_all_is_well_or_what_is_not() {
        let ours = env!("CARGO_PKG_VERSION");
        let said = checked((200, "ok\n"), metrics(ours)).await;
        assert_eq!(said, format!("the operator is ready, is of version {ours} and leads"));
        let said = checked((503, "watches have not synced yet\n"), metrics(ours)).await;
        assert!(said.contains("/readyz with 503") && said.contains("have not synced yet. Look at"), "{said}");
        let said = checked((200, "ok\n"), metrics("0.0.9")).await;
        assert!(said.contains("is of version 0.0.9") && said.contains("wait for the rollout"), "{said}");
        let said = checked((200, "ok\n"), String::new()).await;
        assert!(said.ends_with("is not Plimsoll's operator"), "{said}");
    }

    #[tokio::test]
    async fn names_the_step_that_fails() {
        let ask = async |url: &str| {
            let options = Options { url: url.parse().unwrap(), timeout_seconds: 0 };
            format!("{:#}", run(&options).await.unwrap_err())
        };
        let said = ask("http://127.0.0.1:9").await;
        assert!(said.contains("no pod of the operator is ready behind its Service"), "{said}");
        let said = ask("http://no-such-service.invalid:8080").await;
        assert!(said.contains("is there such a Service"), "{said}");
        let said = ask("https://plimsoll-operator:8080").await;
        assert!(said.contains("write the operator's Service as"), "{said}");
    }
}
