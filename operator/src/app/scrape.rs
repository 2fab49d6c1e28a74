//! Asks ready pods for their metrics: all at once, within a deadline, up to a size.
//!
//! It asks pod addresses of the API's own selector only, follows no redirect, and never turns a failure into a number.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use plimsoll_core::build::{APP_LABEL, COMPONENT_LABEL, name_of};
use plimsoll_core::engine::{self, Cpu, Sample};
use plimsoll_core::histogram::Rejection;
use plimsoll_core::input::Scrape;
use plimsoll_crds::{ApiDeployment, quantity_value};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::exposition::{self, Exposition};

/// Longest wait for one pod, the wait for its turn included.
const DEADLINE: Duration = Duration::from_secs(2);
/// Longest answer: some tens of thousands of series.
const BODY_BYTES_MAX: usize = 4 << 20;

/// A pod of the API, and where it can be asked. It is asked if it is Ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    uid: String,
    created_at: Timestamp,
    ready_at: Option<Timestamp>,
    address: Option<SocketAddr>,
}

impl Target {
    /// The pod, if it belongs to the resource and is not being deleted.
    pub fn of(app: &ApiDeployment, pod: &Pod) -> Option<Self> {
        let labels = pod.metadata.labels.as_ref()?;
        let ours = pod.metadata.namespace == app.metadata.namespace
            && labels.get(APP_LABEL).map(String::as_str) == Some(name_of(app))
            && labels.get(COMPONENT_LABEL).map(String::as_str) == Some("api");
        if ours { Self::selected(app, pod) } else { None }
    }

    /// A pod that is known to be scaled by the resource, if it is not being deleted.
    pub fn selected(app: &ApiDeployment, pod: &Pod) -> Option<Self> {
        if pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let created_at = pod.metadata.creation_timestamp.as_ref()?.0;
        let status = pod.status.as_ref();
        let ready = status.and_then(|status| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.find(|condition| condition.type_ == "Ready" && condition.status == "True")
        });
        let ready_at = ready.map(|ready| ready.last_transition_time.as_ref().map_or(created_at, |at| at.0));
        let address = status
            .and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok())
            .zip(u16::try_from(app.spec.metrics_port()).ok())
            .map(|(address, port)| SocketAddr::new(address, port));
        Some(Self { uid: pod.metadata.uid.clone()?, created_at, ready_at, address })
    }
}

/// Asks all targets that are Ready. One that fails is in the answer, with the reason.
pub async fn pods(app: &ApiDeployment, targets: &[Target], turns: &Semaphore) -> Scrape {
    let metrics = &app.spec.metrics;
    let ask = async |address: Option<SocketAddr>| {
        let _turn = turns.acquire().await.map_err(|_| Rejection::Connection)?;
        let body = get(address.ok_or(Rejection::Connection)?, &metrics.path).await?;
        let text = std::str::from_utf8(&body).map_err(|_| Rejection::NotExposition)?;
        exposition::parse(text, &metrics.histogram)
    };
    let asked = targets.iter().map(async |target| {
        let mut sample = None;
        if target.ready_at.is_some() {
            let answer = tokio::time::timeout(DEADLINE, ask(target.address)).await;
            sample = Some(sample_of(app, answer.unwrap_or(Err(Rejection::Timeout))));
        }
        let Target { uid, created_at, ready_at, .. } = target.clone();
        engine::Pod { uid, created_at, ready_at, sample }
    });
    Scrape { pods: join_all(asked).await }
}

fn sample_of(app: &ApiDeployment, answer: Result<Exposition, Rejection>) -> Sample {
    let at = Timestamp::now();
    match answer {
        Ok(Exposition { snapshot, cpu }) => {
            let limit_cores = || app.spec.resources.limits.as_ref()?.get("cpu").map(quantity_value)?.ok();
            let with_limit = |cpu: Cpu| Cpu { limit_cores: cpu.limit_cores.or_else(limit_cores), ..cpu };
            Sample { at, reading: Ok(snapshot), cpu: cpu.map(with_limit) }
        }
        Err(rejection) => Sample { at, reading: Err(rejection), cpu: None },
    }
}

/// One request on a connection of its own, so that a pod's connection limit or balancer plays no part.
async fn get(address: SocketAddr, path: &str) -> Result<Bytes, Rejection> {
    let stream = TcpStream::connect(address).await.map_err(|_| Rejection::Connection)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Rejection::Connection)?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::ACCEPT, "text/plain;version=0.0.4")
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("plimsoll-operator/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| Rejection::Connection)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|_| Rejection::Connection)?;
        if response.status() != StatusCode::OK {
            return Err(Rejection::HttpStatus);
        }
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Rejection::TooLarge
            } else {
                Rejection::Connection
            }
        })?;
        Ok(body.to_bytes())
    };
    // The connection is driven here, so that dropping this future ends it.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! { answer = answer => answer, () = connection => Err(Rejection::Connection) }
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
        assert_eq!(get(address, "/metrics").await.as_deref(), Ok(b"up 1".as_slice()));
    }

    #[tokio::test]
    async fn every_failure_has_its_name() {
        let cases = [
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
            assert_eq!(get(address, "/metrics").await, Err(rejection), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_pod_that_is_gone_is_a_broken_connection() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(get(address, "/metrics").await, Err(Rejection::Connection));
    }
}
