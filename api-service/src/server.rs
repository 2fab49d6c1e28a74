//! Accepts connections and ends them: by age, by idleness, or because the service stops. Tells each request when it arrived,
//! and never looks into it.

use std::{
    convert::Infallible,
    future::Future,
    iter,
    net::SocketAddr,
    num::NonZero,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body, http::HeaderValue, response::Response};
use hyper::{body::Incoming, header, server::conn::http1};
use rand::Rng;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::{
    arrival::{self, LastRead, Stamped},
    head::{Punctual, Turn},
    head_timer::HeadTimer,
    rate_limit::Peer,
    shutdown::Lifecycle,
};

/// The largest buffer of one connection; also bounds a request's head.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// How far a connection's age limit may be from the setting, either way. Without it, connections that opened
/// together would all reopen together.
const AGE_JITTER: f64 = 0.2;

/// How long to wait before accepting again after the system refused (out of file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that may wait in the kernel to be accepted; the kernel takes less where `net.core.somaxconn` is less. Beyond
/// it, clients' first packets are dropped, which costs each of them a second.
const LISTEN_BACKLOG: u32 = 4096;

/// How long a connection that has sent nothing yet may still send its first request once the service closes. A client that
/// was connected by then has done nothing wrong.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// How long an idle connection is kept once the service closes: until the runtime has asked the kernel again, and so has
/// read what had come in by then. The runtime asks before it fires a timer, however late that is.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// Bounds on connections.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most connections at once; at the limit, each is closed after its next response, so that places turn over.
    pub connections_max: NonZero<u32>,
    /// The age after which a connection is closed behind its next response, give or take 20 %.
    pub connection_max_age: Duration,
    /// How long a connection may wait for a request.
    pub idle_timeout: Duration,
    /// How long a request's head may take, from its first byte.
    pub head_timeout: Duration,
    /// How long requests in flight may take once the service is closing.
    pub shutdown_timeout: Duration,
    /// Whether to ask the kernel when requests came in; see [`arrival`].
    pub kernel_timestamps: bool,
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Connections that were cut because they were not done by the deadline.
    pub aborted_connections: usize,
}

/// Listens on `address`, with a queue long enough for a burst of new connections.
///
/// # Errors
/// When the address is in use or not ours.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A replica that follows another at once on the same port must not meet its closed connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

/// Tells whether this replica is, at that moment, so far behind that its clients had better try another one.
pub type Crowded = Arc<dyn Fn(Instant) -> bool + Send + Sync>;

/// Serves `router` on `listener` until `lifecycle` is closing and every connection has ended, or the deadline has passed.
///
/// While it is `crowded`, each connection is closed behind its next response: a Service balances connections, not
/// requests, so that a replica that has just been added gets nothing from clients that keep theirs.
pub async fn run(
    listener: TcpListener,
    router: Router,
    lifecycle: &Arc<Lifecycle>,
    limits: &Limits,
    crowded: &Crowded,
) -> Outcome {
    if limits.kernel_timestamps
        && let Err(error) = arrival::stamp(&listener)
    {
        tracing::warn!(%error, "the kernel does not stamp what it receives: latency counts from the read");
    }
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(limits.connections_max.get() as usize));
    let shared = Arc::new(Shared {
        router,
        lifecycle: Arc::clone(lifecycle),
        places: Arc::clone(&places),
        crowded: Arc::clone(crowded),
    });
    let mut closing = pin!(lifecycle.closing());
    let start = |stream, peer, place| {
        // Answers are written whole: waiting for more to send would only add latency.
        if let Err(error) = TcpStream::set_nodelay(&stream, true) {
            tracing::debug!(%error, "set TCP_NODELAY");
        }
        let stream = Stamped::new(stream);
        let connection = Connection {
            shared: Arc::clone(&shared),
            peer,
            closes_at: Instant::now() + jittered(limits.connection_max_age),
            last_read: stream.last_read(),
            used: Arc::default(),
            turn: Turn::default(),
        };
        let stream = Punctual::new(stream, limits.head_timeout, connection.turn.clone());
        connections.spawn(serve(stream, place, connection, limits.idle_timeout));
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut closing => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        start(stream, peer, place);
    }
    for (stream, peer, place) in waiting(listener, &places) {
        start(stream, peer, place);
    }
    connections.close();
    // Err means the deadline passed: what is left is cut when the runtime ends.
    let _ = tokio::time::timeout(limits.shutdown_timeout, connections.wait()).await;
    Outcome { aborted_connections: connections.len() }
}

/// The next connection and its place; nothing when the system refused one.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, Peer, OwnedSemaphorePermit)> {
    // The place comes first: while there is none, connections wait in the kernel's queue.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, address)) => Some((stream, Peer(address.ip()), place)),
        Err(error) => {
            tracing::warn!(%error, "accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// What still waits in the kernel's queue, as far as there are places: the handshake promised each a connection, and closing
/// the listener would reset it. Asks the kernel itself, since the runtime has not looked since it last slept.
fn waiting(
    listener: TcpListener,
    places: &Arc<Semaphore>,
) -> impl Iterator<Item = (TcpStream, Peer, OwnedSemaphorePermit)> {
    // The listener does not block, and stays so: the loop ends with the queue.
    let listener = listener.into_std().ok();
    iter::from_fn(move || {
        let place = Arc::clone(places).try_acquire_owned().ok()?;
        let (stream, address) = listener.as_ref()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, Peer(address.ip()), place))
    })
}

/// Serves one connection to its end; `place` is free again after that.
async fn serve(
    stream: Punctual,
    place: OwnedSemaphorePermit,
    connection: Connection,
    idle_timeout: Duration,
) {
    let lifecycle = Arc::clone(&connection.shared.lifecycle);
    let used = Arc::clone(&connection.used);
    let mut http = pin!(
        http1::Builder::new()
            .timer(HeadTimer::default())
            .header_read_timeout(idle_timeout)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(stream, connection)
    );
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = lifecycle.closing() => {
            // A graceful shutdown at once would reset a connection whose request lies unread in its socket. One that is
            // answered meanwhile ends by itself, since it says so in its answer.
            let grace = if used.load(Ordering::Relaxed) { LAST_LOOK } else { FIRST_REQUEST_GRACE };
            let answered = tokio::time::timeout(grace, http.as_mut()).await;
            if let Ok(ended) = answered {
                ended
            } else {
                http.as_mut().graceful_shutdown();
                http.await
            }
        }
    };
    if let Err(error) = ended {
        // Clients that leave, idle ones and malformed requests: the client's doing, or already counted.
        tracing::debug!(%error, "connection ended");
    }
    drop(place);
}

fn jittered(age: Duration) -> Duration {
    age.mul_f64(rand::rng().random_range(1.0 - AGE_JITTER..=1.0 + AGE_JITTER))
}

/// One connection's view of the service: it says when each request arrived and on which response the connection ends.
struct Connection {
    shared: Arc<Shared>,
    peer: Peer,
    closes_at: Instant,
    last_read: LastRead,
    /// Whether a request has come.
    used: Arc<AtomicBool>,
    turn: Turn,
}

/// What all connections look at.
struct Shared {
    router: Router,
    lifecycle: Arc<Lifecycle>,
    places: Arc<Semaphore>,
    crowded: Crowded,
}

impl Shared {
    /// Whether a connection that closes at `closes_at` at the latest ends behind a response that is ready at `now`.
    fn ends(&self, closes_at: Instant, now: Instant) -> bool {
        now >= closes_at
            || self.lifecycle.draining()
            || self.places.available_permits() == 0
            || (self.crowded)(now)
    }
}

impl hyper::service::Service<hyper::Request<Incoming>> for Connection {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        self.used.store(true, Ordering::Relaxed);
        self.turn.begin();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.last_read.arrival());
        request.extensions_mut().insert(self.peer);
        let answer = self.shared.router.clone().call(request);
        let shared = Arc::clone(&self.shared);
        let turn = self.turn.clone();
        let closes_at = self.closes_at;
        Box::pin(async move {
            let mut response = answer.await?;
            turn.end();
            // Decided when the answer is ready, so that a stop during a long request ends its connection too.
            if shared.ends(closes_at, Instant::now()) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_fifth() {
        let age = Duration::from_secs(30);
        assert!((0..1000).map(|_| jittered(age)).all(|age| (24.0..=36.0).contains(&age.as_secs_f64())));
    }
}
