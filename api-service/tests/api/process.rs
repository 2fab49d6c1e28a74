//! The binary as the kubelet runs it: environment in, signals, exit code out.

use std::process::Command;

use axum::http::StatusCode;
use nix::sys::signal::Signal;

use crate::harness::{Client, Process, eventually, free_port};

struct Service {
    process: Process,
    port: u16,
}

impl Service {
    async fn ready(drain: &str) -> Self {
        let port = free_port();
        let process = Process::spawn(
            Command::new(env!("CARGO_BIN_EXE_plimsoll-api"))
                .env("PLIMSOLL_LISTEN", format!("127.0.0.1:{port}"))
                .env("PLIMSOLL_DATABASE_URL", "sqlite::memory:")
                .env("PLIMSOLL_DRAIN", drain),
        );
        let service = Self { process, port };
        eventually("the process is ready", async || service.readiness().await == Some(StatusCode::OK)).await;
        service
    }

    async fn readiness(&self) -> Option<StatusCode> {
        let mut client = Client::connect(self.port).await.ok()?;
        Some(client.get("/readyz").await.ok()?.status)
    }

    async fn exit_code(mut self) -> Option<i32> {
        let mut status = None;
        eventually("the process ends", async || {
            status = self.process.0.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().code()
    }
}

#[tokio::test]
async fn a_signal_ends_it_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let service = Service::ready("100ms").await;
        service.process.signal(signal);
        assert_eq!(service.exit_code().await, Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let service = Service::ready("1m").await;
    service.process.signal(Signal::SIGTERM);
    let stopping = Some(StatusCode::SERVICE_UNAVAILABLE);
    eventually("the process drains", async || service.readiness().await == stopping).await;
    service.process.signal(Signal::SIGTERM);
    assert_eq!(service.exit_code().await, Some(130));
}

#[test]
fn a_setting_that_cannot_work_is_said_in_one_sentence_without_its_secret() {
    let output = Command::new(env!("CARGO_BIN_EXE_plimsoll-api"))
        .env("PLIMSOLL_LISTEN", "127.0.0.1:0")
        .env("PLIMSOLL_DATABASE_URL", "mysql://posts:hunter2@db/posts")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(text.contains("PLIMSOLL_DATABASE_URL: write sqlite:PATH"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_variable_goes_before_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let port = free_port();
    let text = format!("listen: 127.0.0.1:{port}\ndatabase-url: mysql://wrong\ndrain: 0s\n");
    std::fs::write(file.path(), text).unwrap();
    let process = Process::spawn(
        Command::new(env!("CARGO_BIN_EXE_plimsoll-api"))
            .env("PLIMSOLL_CONFIG", file.path())
            .env("PLIMSOLL_DATABASE_URL", "sqlite::memory:"),
    );
    let service = Service { process, port };
    eventually("the process is ready", async || service.readiness().await == Some(StatusCode::OK)).await;
    service.process.signal(Signal::SIGTERM);
    assert_eq!(service.exit_code().await, Some(0));
}

#[test]
fn a_mistake_in_the_file_is_said_with_its_place() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "drain: 5s\ncache-ulr: redis://cache\n").unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_plimsoll-api")).arg("--config").arg(file.path()).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let path = file.path().to_str().unwrap();
    assert!(
        text.contains(path) && text.contains("no setting `cache-ulr`") && text.contains("line 2"),
        "{text}"
    );
}

/// In builds with the feature: `cargo test -p plimsoll-api --features otlp`.
#[cfg(feature = "otlp")]
#[tokio::test]
async fn spans_reach_the_collector_in_the_callers_trace() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let collector = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let port = free_port();
    let process = Process::spawn(
        Command::new(env!("CARGO_BIN_EXE_plimsoll-api"))
            .env("PLIMSOLL_LISTEN", format!("127.0.0.1:{port}"))
            .env("PLIMSOLL_DATABASE_URL", "sqlite::memory:")
            .env("PLIMSOLL_DRAIN", "0s")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
    );
    let service = Service { process, port };
    eventually("the process is ready", async || service.readiness().await == Some(StatusCode::OK)).await;
    let mut client = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let traceparent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = format!("GET /posts HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{traceparent}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("x-request-id: 0af7651916cd43dd8448eb211c80319c"), "{answer}");

    // The end of the process sends what is left.
    service.process.signal(Signal::SIGTERM);
    let sent = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        let (mut stream, _) = collector.accept().await.unwrap();
        let (mut sent, mut buffer) = (Vec::new(), [0; 4096]);
        let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
        while !sent.windows(16).any(|bytes| bytes == trace) {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "no span of the trace in {:?}", String::from_utf8_lossy(&sent));
            sent.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        sent
    });
    let sent = sent.await.expect("the collector gets the trace");
    let text = String::from_utf8_lossy(&sent);
    assert!(text.starts_with("POST /v1/traces HTTP/1.1") && text.contains("plimsoll-api"), "{text}");
    assert_eq!(service.exit_code().await, Some(0));
}
