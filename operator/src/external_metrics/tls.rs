//! Takes connections of the API server's front proxy, and no others. It serves nothing itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::front_proxy::{FrontProxy, Identity};

/// The front proxy's authority is read again after this long, for it is changed now and then.
const REFRESH_PERIOD: Duration = Duration::from_mins(5);
/// As long as it could not be read, it is tried again after this.
const RETRY_PERIOD: Duration = Duration::from_secs(10);
/// Longest time that a client may take to introduce itself.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients that introduce themselves at the same time; more wait in the socket.
const HANDSHAKES_MAX: usize = 32;
/// Pause after a connection could not be taken, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How connections are judged. None before it was read: then none is taken.
type Judge = Option<(TlsAcceptor, Arc<FrontProxy>)>;

/// Gives connections whose client is known.
pub struct Listener {
    known: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: io::Result<SocketAddr>,
}

impl Listener {
    /// Begins to take connections, until `stop`.
    pub fn new(listener: TcpListener, client: Client, identity: Identity, stop: CancellationToken) -> Self {
        let (known_sender, known) = mpsc::channel(HANDSHAKES_MAX);
        let (judge_sender, judge) = watch::channel(None);
        let local = listener.local_addr();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = refresh(client, identity, judge_sender) => {}
                () = accept(listener, judge, known_sender) => {}
            }
        });
        Self { known, local }
    }
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.known.recv().await {
            Some(connection) => connection,
            // Stopped: there will be none.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local.as_ref().copied().map_err(|error| error.kind().into())
    }
}

/// Keeps up with the cluster's front proxy. What was read last stays in force while it cannot be read.
async fn refresh(client: Client, identity: Identity, judge: watch::Sender<Judge>) {
    loop {
        let read = FrontProxy::read(&client).await;
        let read = read.and_then(|front_proxy| Ok((front_proxy.server_config(&identity)?, front_proxy)));
        let pause = match read {
            Ok((config, front_proxy)) => {
                judge.send_replace(Some((TlsAcceptor::from(Arc::new(config)), Arc::new(front_proxy))));
                REFRESH_PERIOD
            }
            Err(error) => {
                warn!("external metrics: {error:#}");
                RETRY_PERIOD
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn accept(
    listener: TcpListener,
    judge: watch::Receiver<Judge>,
    known: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let turns = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "external metrics: a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some((acceptor, front_proxy)) = judge.borrow().clone() else { continue };
        let known = known.clone();
        tokio::spawn(async move {
            let _turn = turn;
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) if is_known(&stream, &front_proxy) => {
                    let _ = known.send((stream, address)).await;
                }
                Ok(Ok(_)) => warn!("external metrics: refused a client that is not the front proxy"),
                Ok(Err(error)) => debug!(%error, "external metrics: refused a client"),
                Err(_) => debug!("external metrics: a client did not introduce itself in time"),
            }
        });
    }
}

fn is_known(stream: &TlsStream<TcpStream>, front_proxy: &FrontProxy) -> bool {
    let (_, connection) = stream.get_ref();
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    certificate.is_some_and(|certificate| front_proxy.knows(certificate))
}
