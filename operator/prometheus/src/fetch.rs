//! One request on a connection of its own, bounded in time and in size.
//!
//! It follows no redirect, so that a token goes to no one but the server that was named, and tries nothing twice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Of an answer, held at a time on its way through: pieces of the body, or all of the headers. hyper's own bound is 400 KiB, and there
/// may be hundreds of answers at once.
const BUFFER_BYTES_MAX: usize = 16 << 10;
/// By so much at a time a body's memory grows, so that there is hardly more of it than of the body.
const GROWTH_BYTES: usize = 256 << 10;

/// What is waited for, and how much is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until there is a connection.
    pub connect: Duration,
    /// Until the answer has come, from when there is a connection.
    pub answer: Duration,
    /// Of its body.
    pub body_bytes: usize,
}

/// Who is asked.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name or address; that of IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How it proves who it is. Absent for plain HTTP.
    pub tls: Option<Tls>,
}

/// How a peer proves who it is.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Whose certificate is taken.
    pub config: Arc<ClientConfig>,
    /// The name that the certificate must have.
    pub name: ServerName<'static>,
}

/// What came back, but for the body.
#[derive(Clone, Debug)]
pub struct Head {
    /// The answer's status.
    pub status: StatusCode,
    /// Where a redirect leads.
    pub location: Option<String>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status, and where a redirect leads.
    pub head: Head,
    /// Its body.
    pub body: Bytes,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody took the connection in time.
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    /// The connection was refused, or there is no way to it.
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    /// The certificate is of somebody else, has ended, or is signed by nobody that is trusted.
    #[error("its certificate is not to be trusted")]
    Untrusted(#[source] std::io::Error),
    /// The peer speaks something else than TLS.
    #[error("it does not speak TLS")]
    NotTls(#[source] std::io::Error),
    /// The handshake failed in another way.
    #[error("TLS did not come about")]
    Tls(#[source] std::io::Error),
    /// The answer did not come in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    AnswerTimeout(Duration),
    /// The peer speaks something else than HTTP/1, or hung up.
    #[error("it does not answer in HTTP")]
    NotHttp(#[source] hyper::Error),
    /// The answer is longer than this many bytes.
    #[error("the answer is longer than {} MiB", .0 >> 20)]
    TooLarge(usize),
    /// The connection ended before the answer did.
    #[error("the answer broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends a request and reads the answer to its end. The request has the headers that it needs, `Host` among them.
///
/// # Errors
/// [`FetchError`], when nothing came back within the limits. A refusal is an answer.
pub async fn fetch(
    peer: &Peer,
    request: Request<Full<Bytes>>,
    limits: Limits,
) -> Result<Response, FetchError> {
    let mut body = Vec::new();
    let head = fetch_pieces(peer, request, limits, |piece| {
        if body.capacity() - body.len() < piece.len() {
            body.reserve_exact(piece.len().max(GROWTH_BYTES));
        }
        body.extend_from_slice(piece);
    });
    let head = head.await?;
    Ok(Response { head, body: body.into() })
}

/// As [`fetch()`], but hands the body on piece by piece as it comes, and keeps none of it. What was handed on before an error
/// is not the whole.
///
/// # Errors
/// As [`fetch()`].
pub async fn fetch_pieces(
    peer: &Peer,
    request: Request<Full<Bytes>>,
    limits: Limits,
    take: impl FnMut(&[u8]),
) -> Result<Head, FetchError> {
    let Limits { connect, answer, body_bytes } = limits;
    let stream = tokio::time::timeout(connect, TcpStream::connect((peer.host.as_str(), peer.port)))
        .await
        .map_err(|_| FetchError::ConnectTimeout(connect))?
        .map_err(FetchError::Connect)?;
    let response = async {
        match &peer.tls {
            Some(tls) => send(encrypt(tls, stream).await?, request, body_bytes, take).await,
            None => send(stream, request, body_bytes, take).await,
        }
    };
    tokio::time::timeout(answer, response).await.map_err(|_| FetchError::AnswerTimeout(answer))?
}

async fn encrypt(
    tls: &Tls,
    stream: TcpStream,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, FetchError> {
    TlsConnector::from(Arc::clone(&tls.config)).connect(tls.name.clone(), stream).await.map_err(|error| {
        match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_)) => FetchError::Untrusted(error),
            Some(rustls::Error::InvalidMessage(_)) => FetchError::NotTls(error),
            _ => FetchError::Tls(error),
        }
    })
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    body_bytes: usize,
    mut take: impl FnMut(&[u8]),
) -> Result<Head, FetchError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::NotHttp)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(FetchError::NotHttp)?;
        let status = response.status();
        let location = response.headers().get(header::LOCATION).filter(|_| status.is_redirection());
        let location = location.map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
        let mut body = Limited::new(response.into_body(), body_bytes);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    FetchError::TooLarge(body_bytes)
                } else {
                    FetchError::Broken(error)
                }
            })?;
            if let Some(piece) = frame.data_ref() {
                take(piece);
            }
        }
        Ok(Head { status, location })
    };
    // The connection is driven here, so that dropping this future ends it.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! { answer = answer => answer, () = connection => Err(FetchError::Broken("the connection broke off".into())) }
}
