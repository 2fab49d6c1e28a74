//! HTTP/1.1 over connections that are kept alive, one of which is chosen at random for each request: many clients,
//! each with a connection of its own, look like that to a Service. The most recently used one would be unfair to new pods.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rand::Rng;
use tokio::net::TcpStream;

type Connection = SendRequest<Full<Bytes>>;

/// A client of one server.
pub struct Client {
    authority: String,
    address: SocketAddr,
    idle: Mutex<Vec<Connection>>,
    open: Arc<AtomicU64>,
    connections_max: u64,
}

/// A response whose body has been read.
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Whether the request was sent twice because the first connection had been closed.
    pub resent: bool,
}

/// Why there is no response.
#[derive(Debug)]
pub enum Failure {
    /// No connection could be opened.
    Connect,
    /// As many connections as allowed are in use.
    ConnectionsExhausted,
    /// The connection broke.
    Broken,
}

impl Client {
    /// Looks the host of `base` up, again and again for at most `limit`: a Service may be younger than its DNS entry.
    ///
    /// # Errors
    /// When `base` is not an `http` URL or its host is not found in time.
    pub async fn new(base: &Uri, connections_max: u64, limit: Duration) -> Result<Arc<Self>> {
        if base.scheme_str() != Some("http") {
            bail!("{base} is not an http:// URL");
        }
        let host = base.host().with_context(|| format!("{base} names no host"))?;
        let port = base.port_u16().unwrap_or(80);
        let lookup = async {
            loop {
                if let Some(address) =
                    tokio::net::lookup_host((host, port)).await.ok().and_then(|mut found| found.next())
                {
                    return address;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let address =
            tokio::time::timeout(limit, lookup).await.with_context(|| format!("{host} is not found"))?;
        let authority = base.authority().map_or_else(|| host.to_owned(), ToString::to_string);
        Ok(Arc::new(Self {
            authority,
            address,
            idle: Mutex::default(),
            open: Arc::default(),
            connections_max,
        }))
    }

    /// Connections that are open.
    pub fn connections(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Sends a request with these headers, besides those that it needs anyway, and reads the whole response.
    ///
    /// A request that met a kept-alive connection which the server had meanwhile closed is sent once more, on a new
    /// connection, as browsers and HTTP libraries do (RFC 9110, 9.2.2): for `GET` always, for others only when nothing of
    /// it had been written.
    ///
    /// # Errors
    /// [`Failure`] when no whole response came.
    pub async fn send(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response, Failure> {
        let mut resent = false;
        if let Some(connection) = self.take_idle() {
            match self.exchange(connection, method, path, headers, body.clone()).await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_canceled() || *method == Method::GET => resent = true,
                Err(_) => return Err(Failure::Broken),
            }
        }
        let connection = self.connect().await?;
        let response = self.exchange(connection, method, path, headers, body).await;
        Ok(Response { resent, ..response.map_err(|_| Failure::Broken)? })
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the chosen one is looked at: there may be hundreds, and a request must not cost more for each.
        while !idle.is_empty() {
            let chosen = rand::rng().random_range(0..idle.len());
            let connection = idle.swap_remove(chosen);
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.connections_max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::ConnectionsExhausted);
        }
        let open = Open(self.open.clone());
        let stream = TcpStream::connect(self.address).await.map_err(|_| Failure::Connect)?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| Failure::Connect)?;
        tokio::spawn(async move {
            let _open = open;
            // How it ended is told to the request that was under way.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        method: &Method,
        path: &str,
        extra: &HeaderMap,
        body: Bytes,
    ) -> Result<Response, hyper::Error> {
        connection.ready().await?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
        let headers = request.headers_mut();
        headers.clone_from(extra);
        if let Ok(host) = self.authority.parse() {
            headers.insert(hyper::header::HOST, host);
        }
        if *method != Method::GET {
            headers.insert(
                hyper::header::CONTENT_TYPE,
                hyper::header::HeaderValue::from_static("application/json"),
            );
        }
        let response = connection.send_request(request).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        if connection.ready().await.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        Ok(Response { status: parts.status, headers: parts.headers, body, resent: false })
    }
}

/// Counts an open connection for as long as it lives.
struct Open(Arc<AtomicU64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
