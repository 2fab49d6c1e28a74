//! One connection to Redis, shared by all that use it: every call is bounded in time and passes a breaker. Never retries
//! a call, and never waits for a connection longer than for a call.

mod breaker;

use std::{
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use redis::{
    Client, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::timeout;

use self::breaker::Breaker;

/// The longest a call may take. A read from the database takes a few milliseconds: beyond that Redis is no help.
const CALL_TIMEOUT: Duration = Duration::from_millis(30);

/// The longest a new connection may take; requests do not wait for it longer than for a call.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Redis could not be asked, or did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

/// A shared connection; a clone uses the same one.
#[derive(Clone)]
pub struct RedisLink(Arc<Inner>);

struct Inner {
    client: Client,
    // Replaced when the breaker opens: a connection to a peer that vanished without a word, or that became a
    // read-only replica, would otherwise be kept for many minutes.
    connection: RwLock<Option<ConnectionManager>>,
    breaker: Breaker,
}

impl std::fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client's own output holds the password.
        f.debug_struct("RedisLink").field("breaker", &self.0.breaker).finish_non_exhaustive()
    }
}

impl RedisLink {
    /// Starts to connect in the background. Needs a tokio runtime.
    pub fn new(client: Client) -> Self {
        let connection = RwLock::new(connect(&client));
        Self(Arc::new(Inner { client, connection, breaker: Breaker::default() }))
    }

    /// What connections are made with.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// True while calls are skipped because earlier ones failed.
    pub fn failing(&self) -> bool {
        self.0.breaker.open()
    }

    /// Makes one call of at most 30 ms, unless the breaker is open, and tells the breaker how it went.
    ///
    /// # Errors
    /// [`Failed`] when the call was skipped, failed, or took too long; whether Redis carried it out is then not known.
    pub async fn call<T, F: Future<Output = RedisResult<T>>>(
        &self,
        command: impl FnOnce(ConnectionManager) -> F,
    ) -> Result<T, Failed> {
        let Inner { client, connection, breaker } = &*self.0;
        if !breaker.admit(Instant::now()) {
            return Err(Failed);
        }
        let current = connection.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(current) = current else { return Err(Failed) };
        let error = match timeout(CALL_TIMEOUT, command(current)).await {
            Ok(Ok(value)) => {
                breaker.succeeded();
                return Ok(value);
            }
            // The code says what happened and, unlike the message, never quotes what was sent.
            Ok(Err(error)) => error.code().unwrap_or(error.category()).to_owned(),
            Err(_) => "no answer in time".to_owned(),
        };
        let was_open = breaker.open();
        if breaker.failed(Instant::now()) {
            if !was_open {
                tracing::warn!(%error, "Redis fails; answering without it");
            }
            *connection.write().unwrap_or_else(PoisonError::into_inner) = connect(client);
        }
        Err(Failed)
    }
}

/// A connection that is being made in the background; calls before it is ready wait for it within their own limit.
fn connect(client: &Client) -> Option<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(CALL_TIMEOUT))
        // The breaker spaces the attempts.
        .set_number_of_retries(0);
    let connection = ConnectionManager::new_lazy_with_config(client.clone(), config)
        .inspect_err(|error| tracing::error!(error = error.category(), "prepare the connection to Redis"))
        .ok()?;
    let mut first = connection.clone();
    // The manager connects only while someone waits for it.
    tokio::spawn(async move { redis::cmd("PING").exec_async(&mut first).await });
    Some(connection)
}
