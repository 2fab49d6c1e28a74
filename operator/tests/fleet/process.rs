//! The binary itself: how it ends, by whose will, and what it says.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::server::{Fault, Server, app, app_path, until};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/plimsoll-system/leases/plimsoll-operator";

struct Operator {
    child: Child,
    port: u16,
    _kubeconfig: tempfile::NamedTempFile,
}

impl Operator {
    async fn start(server: &Server, args: &[&str]) -> Self {
        Self::start_with(server, args, &[]).await
    }

    async fn start_with(server: &Server, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let address = server.listen().await;
        let kubeconfig = kubeconfig(address);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(env!("CARGO_BIN_EXE_plimsoll-operator"))
            .arg("run")
            .args(args)
            .env("KUBECONFIG", kubeconfig.path())
            .env("POD_NAMESPACE", "plimsoll-system")
            .env("POD_NAME", "operator-a")
            .env("PLIMSOLL_LISTEN", format!("127.0.0.1:{port}"))
            .env_remove("RUST_LOG")
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, port, _kubeconfig: kubeconfig }
    }

    fn terminate(&self) {
        let id = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    /// Waits for the end and gives the exit code, with what was said.
    async fn ended(mut self, limit: Duration) -> (i32, String) {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let end = async {
            stderr.read_to_string(&mut said).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(limit, end).await.expect("the process ends in time");
        (status.code().unwrap(), said)
    }

    /// What the operator's own server answers.
    async fn get(&self, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn kubeconfig(address: SocketAddr) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": format!("http://{address}") } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "users": [{ "name": "test", "user": {} }],
    });
    std::fs::write(file.path(), config.to_string()).unwrap();
    file
}

fn holder(server: &Server) -> Option<String> {
    server.get(LEASE)?["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

async fn leads(server: &Server) {
    let path = app_path("shop", "posts");
    until(Duration::from_secs(20), "it leads and has reported", || {
        server.get(&path).is_some_and(|app| !app["status"].is_null())
    })
    .await;
}

#[tokio::test]
async fn sigterm_ends_it_well_and_releases_the_lease() {
    let server = Server::new();
    server.put(&app_path("shop", "posts"), app("shop", "posts", 2));
    let operator = Operator::start(&server, &[]).await;
    leads(&server).await;
    assert_eq!(holder(&server).as_deref(), Some("operator-a"));
    let alive = operator.get("/livez").await;
    assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
    let metrics = operator.get("/metrics").await;
    assert!(metrics.contains("plimsoll_operator_leader{shard=\"0\"} 1"), "{metrics}");
    for kind in ["ApiDeployment", "Deployment", "Service", "Pod"] {
        assert!(
            metrics.contains(&format!("plimsoll_operator_watch_age_seconds{{kind=\"{kind}\"}}")),
            "{metrics}"
        );
    }

    let began = Instant::now();
    operator.terminate();
    let (code, said) = operator.ended(Duration::from_secs(10)).await;
    assert_eq!(code, 0, "{said}");
    assert!(began.elapsed() < Duration::from_secs(5), "nothing had to be waited for");
    assert_eq!(holder(&server).as_deref(), Some(""), "a successor need not wait");
    for line in said.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn sigterm_waits_for_writes_under_way_but_not_for_ever() {
    let server = Server::new();
    server.put(&app_path("shop", "posts"), app("shop", "posts", 2));
    server.fault("PATCH /apis/apps/", Fault::Hang);
    let operator = Operator::start(&server, &[]).await;
    until(Duration::from_secs(20), "a write hangs", || {
        server.calls().iter().any(|call| call.starts_with("PATCH /apis/apps/"))
    })
    .await;
    operator.terminate();
    let (code, said) = operator.ended(Duration::from_secs(20)).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(holder(&server).as_deref(), Some(""));
}

#[tokio::test]
async fn sigterm_before_anything_was_listed_ends_it_at_once() {
    let server = Server::new();
    server.fault("GET /api", Fault::Hang);
    let operator = Operator::start(&server, &["--log-format=text"]).await;
    until(Duration::from_secs(20), "it lists", || !server.calls().is_empty()).await;
    operator.terminate();
    let (code, said) = operator.ended(Duration::from_secs(8)).await;
    assert_eq!(code, 0, "{said}");
    assert!(
        said.lines().all(|line| serde_json::from_str::<Value>(line).is_err()),
        "text is for people: {said}"
    );
}

#[tokio::test]
async fn losing_the_lease_to_another_ends_it_with_a_failure() {
    let server = Server::new();
    server.put(&app_path("shop", "posts"), app("shop", "posts", 2));
    let operator = Operator::start(&server, &[]).await;
    leads(&server).await;
    let mut lease = server.get(LEASE).unwrap();
    lease["spec"]["holderIdentity"] = "thief".into();
    server.put(LEASE, lease);
    let (code, said) = operator.ended(Duration::from_secs(8)).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("leadership"), "{said}");
    assert_eq!(holder(&server).as_deref(), Some("thief"), "another's Lease is left alone");
}

#[tokio::test]
async fn an_api_server_that_freezes_ends_the_leader_with_a_failure() {
    let server = Server::new();
    server.put(&app_path("shop", "posts"), app("shop", "posts", 2));
    let operator = Operator::start(&server, &[]).await;
    leads(&server).await;
    for verb in ["GET", "PATCH", "POST", "PUT", "DELETE"] {
        server.fault(verb, Fault::Hang);
    }
    let (code, said) = operator.ended(Duration::from_secs(20)).await;
    assert_eq!(code, 1, "{said}");
}

/// In builds with the feature: `cargo test -p plimsoll-operator --features otlp`.
#[cfg(feature = "otlp")]
#[tokio::test]
async fn spans_of_reconciles_reach_the_collector() {
    let collector = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let server = Server::new();
    server.put(&app_path("shop", "posts"), app("shop", "posts", 2));
    let operator = Operator::start_with(&server, &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await;
    leads(&server).await;
    // The end of the process sends what is left.
    operator.terminate();
    let sent = tokio::time::timeout(Duration::from_secs(20), async {
        let (mut stream, _) = collector.accept().await.unwrap();
        let (mut sent, mut buffer) = (Vec::new(), [0; 4096]);
        let holds = |sent: &[u8], text: &str| String::from_utf8_lossy(sent).contains(text);
        while !(holds(&sent, "reconciling object") && holds(&sent, "observe") && holds(&sent, "write")) {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "not all spans are in {:?}", String::from_utf8_lossy(&sent));
            sent.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        sent
    });
    let sent = String::from_utf8_lossy(&sent.await.expect("the collector gets the spans")).into_owned();
    assert!(sent.starts_with("POST /v1/traces HTTP/1.1") && sent.contains("plimsoll-operator"), "{sent}");
    let (code, said) = operator.ended(Duration::from_secs(10)).await;
    assert_eq!(code, 0, "{said}");
}
