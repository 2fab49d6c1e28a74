//! What the operator has in memory while many pods give long answers at once. In a process of its own, whose highest memory it reads.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use plimsoll_operator::source::credentials::Credentials;
use plimsoll_operator::source::pods::Pods;
use plimsoll_operator::source::target::Target;
use plimsoll_operator::source::{Asked, MetricsSource as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Barrier, Semaphore};

const PODS: usize = 64;
/// Below what is taken of one.
const ANSWER_BYTES: usize = 512 << 10;
/// Kept whole, the answers would be 32 MiB.
const MEMORY_BYTES_MAX: usize = 8 << 20;

/// A pod whose answer comes to its end only when those of all others have come as far.
async fn pod(answer: Arc<str>, all: Arc<Barrier>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        all.wait().await;
        let series = "http_requests_in_flight 3\n";
        stream.write_all(series.as_bytes()).await.unwrap();
    });
    address
}

/// The most that this process has had so far, in bytes.
fn memory_peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_answers_of_many_pods_at_once_are_not_kept() {
    let line = format!("# HELP other {}\n", "x".repeat(1010));
    let answer: Arc<str> = line.repeat(ANSWER_BYTES / line.len()).into();
    let all = Arc::new(Barrier::new(PODS));
    let mut targets = Vec::new();
    for place in 0..PODS {
        targets.push(Target {
            uid: format!("uid-{place}"),
            name: format!("posts-{place}"),
            template: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            ready_at: Some(Timestamp::UNIX_EPOCH),
            address: Some(pod(answer.clone(), all.clone()).await),
            limit_cores: None,
        });
    }
    let app = json!({
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
        "metadata": { "namespace": "shop", "name": "posts" },
        "spec": { "latency": { "p99": "250ms" } },
    });
    let app = serde_json::from_value(app).unwrap();
    let asked =
        Asked { app: &app, deployment: "posts", targets: &targets, credentials: &Credentials::default() };
    let before = memory_peak_bytes();
    let readings = Pods { turns: &Semaphore::new(PODS) }.read(asked).await.unwrap();
    let taken = memory_peak_bytes() - before;
    let in_flight =
        readings.iter().map(|reading| reading.sample.reading.as_ref().map(|counts| counts.in_flight));
    assert_eq!(in_flight.collect::<Vec<_>>(), vec![Ok(Some(3.0)); PODS]);
    assert!(taken < MEMORY_BYTES_MAX, "{} MiB", taken >> 20);
}
