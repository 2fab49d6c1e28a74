//! One command to a Redis, on a connection of its own. The image may be anybody's: how long its answer takes and how large it
//! is are bounded, whatever it says of its length.

use std::io;
use std::time::Duration;

use plimsoll_core::build::OPERATOR_USER;
use plimsoll_prometheus::{Trust, client_config};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, RedisConnectionInfo, RedisResult};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::state::CacheLogin;

/// Longest wait for one connection, and for one answer on it: of three sentinels two may be gone.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Most that is read of one connection. `INFO` of Redis 8 has some 8 KiB.
const ANSWER_BYTES_MAX: u64 = 256 << 10;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// The answer to one command.
pub(super) async fn said<T: FromRedisValue>(
    command: &Cmd,
    (host, port): (String, u16),
    login: &CacheLogin,
    encrypted: bool,
) -> RedisResult<T> {
    let stream =
        timeout(ANSWER_MAX, connect(host, port, login, encrypted)).await.map_err(io::Error::from)??;
    let (answers, questions) = tokio::io::split(stream);
    let bounded = tokio::io::join(answers.take(ANSWER_BYTES_MAX), questions);
    let user = RedisConnectionInfo::default().set_username(OPERATOR_USER).set_password(&login.password);
    let user = user.set_skip_set_lib_name();
    let answer = async {
        let (mut connection, driver) = MultiplexedConnection::new(&user, bounded).await?;
        tokio::select! {
            answer = command.query_async(&mut connection) => answer,
            () = driver => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    };
    timeout(ANSWER_MAX, answer).await.map_err(io::Error::from)?
}

async fn connect(
    host: String,
    port: u16,
    login: &CacheLogin,
    encrypted: bool,
) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    if !encrypted {
        return Ok(Box::new(stream));
    }
    let authority = login.authority.as_deref().unwrap_or_default();
    let config = client_config(Trust::Authorities(authority.as_bytes())).map_err(io::Error::other)?;
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}
