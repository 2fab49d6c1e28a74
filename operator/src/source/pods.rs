//! Asks ready pods for their metrics: many at once, within a deadline, up to a size.
//!
//! It asks pod addresses of the API's own selector only, follows no redirect, and never turns a failure into a number.

use std::net::SocketAddr;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use http_body_util::Full;
use hyper::{Request, StatusCode, header};
use jiff::Timestamp;
use plimsoll_core::engine::{Cpu, Sample};
use plimsoll_core::histogram::Rejection;
use plimsoll_core::input::Outage;
use plimsoll_prometheus::{FetchError, Limits, Peer, fetch_pieces};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::credentials::Credentials;
use super::tally::Counts;
use super::target::Target;
use super::{Asked, MetricsSource, Reading, exposition};

/// Longest wait for one pod, the wait for its turn included.
const DEADLINE: Duration = Duration::from_secs(2);
/// Pods of one resource that are asked at the same time: a quarter of those of all, so that one whose pods are many and silent
/// leaves turns to others.
const OF_ONE_RESOURCE: usize = 128;
/// Longest wait for all pods of a resource. Two thousand that answer in 50 ms take one second.
const ROUND: Duration = Duration::from_secs(10);
/// Longest answer: some tens of thousands of series.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// Pods, asked themselves.
#[derive(Debug)]
pub struct Pods<'a> {
    /// As many pods are asked at the same time, over all resources.
    pub turns: &'a Semaphore,
}

impl MetricsSource for Pods<'_> {
    async fn read(&self, asked: Asked<'_>) -> Result<Vec<Reading>, Outage> {
        let ends = Instant::now() + ROUND;
        let read = async |target: &Target| {
            let deadline = ends.min(Instant::now() + DEADLINE);
            let answer = tokio::time::timeout_at(deadline, self.ask(asked, target)).await;
            let sample = sample(target, answer.unwrap_or(Err(Rejection::Timeout)));
            Reading { uid: target.uid.clone(), sample }
        };
        let readings = asked.ready().map(read);
        Ok(stream::iter(readings).buffer_unordered(OF_ONE_RESOURCE).collect().await)
    }
}

impl Pods<'_> {
    async fn ask(&self, asked: Asked<'_>, target: &Target) -> Result<Counts, Rejection> {
        let _turn = self.turns.acquire().await.map_err(|_| Rejection::Connection)?;
        let metrics = &asked.app.spec.metrics;
        let address = target.address.ok_or(Rejection::Connection)?;
        let mut reader = exposition::Reader::new(&metrics.histogram, &metrics.labels);
        get(address, &metrics.path, asked.credentials, |piece| reader.take(piece)).await?;
        reader.finish()
    }
}

fn sample(target: &Target, answer: Result<Counts, Rejection>) -> Sample {
    let at = Timestamp::now();
    match answer {
        Ok(Counts { snapshot, cpu }) => {
            let with_limit = |cpu: Cpu| Cpu { limit_cores: cpu.limit_cores.or(target.limit_cores), ..cpu };
            Sample { at, reading: Ok(snapshot), cpu: cpu.map(with_limit) }
        }
        Err(rejection) => Sample { at, reading: Err(rejection), cpu: None },
    }
}

/// One request on a connection of its own, so that a pod's connection limit or balancer plays no part. The answer is taken as it
/// comes: an answer counts only when it has come to its end.
async fn get(
    address: SocketAddr,
    path: &str,
    credentials: &Credentials,
    take: impl FnMut(&[u8]),
) -> Result<(), Rejection> {
    let mut request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::ACCEPT, "text/plain;version=0.0.4")
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("plimsoll-operator/", env!("CARGO_PKG_VERSION")));
    if let Some(authorization) = &credentials.authorization {
        request = request.header(header::AUTHORIZATION, authorization.clone());
    }
    let request = request.body(Full::default()).map_err(|_| Rejection::Connection)?;
    let peer = Peer { host: address.ip().to_string(), port: address.port(), tls: credentials.tls.clone() };
    let limits = Limits { connect: DEADLINE, answer: DEADLINE, body_bytes: BODY_BYTES_MAX };
    let head = fetch_pieces(&peer, request, limits, take).await.map_err(|error| match error {
        FetchError::ConnectTimeout(_) | FetchError::AnswerTimeout(_) => Rejection::Timeout,
        FetchError::Connect(_) | FetchError::NotHttp(_) | FetchError::Broken(_) => Rejection::Connection,
        FetchError::Untrusted(_) | FetchError::NotTls(_) | FetchError::Tls(_) => Rejection::Untrusted,
        FetchError::TooLarge(_) => Rejection::TooLarge,
    })?;
    match head.status {
        StatusCode::OK => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Rejection::Unauthorized),
        _ => Err(Rejection::HttpStatus),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives one answer, then says no more.
    async fn serving(answer: &'static str, padding_bytes: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.write_all(&vec![b'#'; padding_bytes]).await;
        });
        address
    }

    #[tokio::test]
    async fn reads_a_body_to_its_end() {
        let address = serving("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nup 1", 0).await;
        let mut body = Vec::new();
        let nobody = Credentials::default();
        assert_eq!(get(address, "/metrics", &nobody, |piece| body.extend_from_slice(piece)).await, Ok(()));
        assert_eq!(body, b"up 1");
    }

    #[tokio::test]
    async fn every_failure_has_its_name() {
        let cases = [
            ("HTTP/1.1 401 Who\r\ncontent-length: 0\r\n\r\n", 0, Rejection::Unauthorized),
            ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", 0, Rejection::HttpStatus),
            // A redirect is not followed: it could lead anywhere.
            (
                "HTTP/1.1 302 Found\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n",
                0,
                Rejection::HttpStatus,
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", 0, Rejection::Connection),
            ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", BODY_BYTES_MAX + 1, Rejection::TooLarge),
            ("not http", 0, Rejection::Connection),
        ];
        for (answer, padding_bytes, rejection) in cases {
            let address = serving(answer, padding_bytes).await;
            assert_eq!(
                get(address, "/metrics", &Credentials::default(), |_| ()).await,
                Err(rejection),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn a_pod_that_is_gone_is_a_broken_connection() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(
            get(address, "/metrics", &Credentials::default(), |_| ()).await,
            Err(Rejection::Connection)
        );
    }
}
