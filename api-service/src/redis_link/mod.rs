//! One connection to Redis, shared by all that use it: every call is bounded in time and passes a breaker. Never retries
//! a call, and never waits for a connection longer than for a call.
//!
//! Where sentinels name the primary, it is followed: they are asked once a second, and when it has moved so does the
//! connection, and so do those who [listen](RedisLink::subscribe).

mod breaker;
mod connection;
mod sentinel;
mod target;

use std::{
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use redis::{Client, RedisError, RedisResult, aio::PubSub};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    breaker::Breaker,
    target::{Cluster, Sentinels},
};
pub use self::{
    connection::Connection,
    target::{Target, TargetError},
};

/// The longest a call may take. A read from the database takes a few milliseconds: beyond that Redis is no help.
const CALL_TIMEOUT: Duration = Duration::from_millis(30);

/// The longest a new connection may take; requests do not wait for it longer than for a call.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Redis could not be asked, or did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

/// A shared connection; a clone uses the same one.
#[derive(Clone)]
pub struct RedisLink {
    shared: Arc<Shared>,
    /// Follows the primary for as long as somebody holds the link.
    _follower: Option<Arc<AbortOnDropHandle<()>>>,
}

struct Shared {
    target: Target,
    // Replaced when the breaker opens: a connection to a peer that vanished without a word, or that became a
    // read-only replica, would otherwise be kept for many minutes.
    connection: RwLock<Option<Connection>>,
    /// The client of the primary, where sentinels name it; none before they first have.
    primary: watch::Sender<Option<Client>>,
    breaker: Breaker,
}

impl std::fmt::Debug for RedisLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client's own output holds the password.
        f.debug_struct("RedisLink").field("breaker", &self.shared.breaker).finish_non_exhaustive()
    }
}

impl RedisLink {
    /// Starts to connect in the background. Needs a tokio runtime.
    pub fn new(target: Target) -> Self {
        let shared = Arc::new(Shared {
            target,
            connection: RwLock::new(None),
            primary: watch::Sender::new(None),
            breaker: Breaker::default(),
        });
        shared.connect();
        let follower = match &shared.target {
            Target::Sentinel(sentinels) => Some(follow(Arc::clone(&shared), sentinels.clone())),
            Target::One(_) | Target::Cluster(_) => None,
        };
        let follower = follower.map(|follower| Arc::new(AbortOnDropHandle::new(tokio::spawn(follower))));
        Self { shared, _follower: follower }
    }

    /// True while calls are skipped because earlier ones failed.
    pub fn failing(&self) -> bool {
        self.shared.breaker.open()
    }

    /// True when keys are spread over servers, so that one call may not name two of them.
    pub fn spread(&self) -> bool {
        matches!(self.shared.target, Target::Cluster(_))
    }

    /// Makes one call of at most 30 ms, unless the breaker is open, and tells the breaker how it went.
    ///
    /// # Errors
    /// [`Failed`] when the call was skipped, failed, or took too long; whether Redis carried it out is then not known.
    pub async fn call<T, F: Future<Output = RedisResult<T>>>(
        &self,
        command: impl FnOnce(Connection) -> F,
    ) -> Result<T, Failed> {
        let Shared { connection, breaker, .. } = &*self.shared;
        if !breaker.admit(Instant::now()) {
            return Err(Failed);
        }
        let current = connection.read().unwrap_or_else(PoisonError::into_inner).clone();
        let error = match current {
            None => "not connected yet".to_owned(),
            Some(current) => match timeout(CALL_TIMEOUT, command(current)).await {
                Ok(Ok(value)) => {
                    breaker.succeeded();
                    return Ok(value);
                }
                // The code says what happened and, unlike the message, never quotes what was sent.
                Ok(Err(error)) => error.code().unwrap_or(error.category()).to_owned(),
                Err(_) => "no answer in time".to_owned(),
            },
        };
        let was_open = breaker.open();
        if breaker.failed(Instant::now()) {
            if !was_open {
                tracing::warn!(%error, "Redis fails; answering without it");
            }
            self.shared.connect();
        }
        Err(Failed)
    }

    /// A connection of its own on which to listen. It is of no use any more once [`Self::moved`] has returned.
    ///
    /// # Errors
    /// Those of the connection, and none to connect to.
    pub async fn listener(&self) -> RedisResult<PubSub> {
        let nobody =
            || RedisError::from(std::io::Error::new(std::io::ErrorKind::NotConnected, "no primary is known"));
        let client = match &self.shared.target {
            Target::One(client) => Some(client.clone()),
            Target::Sentinel(_) => self.shared.primary.borrow().clone(),
            // What is published on one of them is heard on all; another one each time, for one may be gone.
            Target::Cluster(cluster) => {
                cluster.nodes.get(rand::random_range(0..cluster.nodes.len().max(1))).cloned()
            }
        };
        client.ok_or_else(nobody)?.get_async_pubsub().await
    }

    /// What tells when the primary has moved, from now on.
    pub fn moves(&self) -> Moves {
        Moves(self.shared.primary.subscribe())
    }
}

/// Tells when the primary has moved.
pub struct Moves(watch::Receiver<Option<Client>>);

impl Moves {
    /// Returns when it has; never where it cannot.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Shared {
    /// Makes a new connection in the background, in place of the one that there is.
    fn connect(self: &Arc<Self>) {
        match &self.target {
            Target::One(client) => self.put(Connection::to(client)),
            // Before the primary is known there is nothing to connect to; whoever finds it connects.
            Target::Sentinel(_) => {
                let primary = self.primary.borrow().clone();
                self.put(primary.and_then(|client| Connection::to(&client)));
            }
            Target::Cluster(cluster) => self.connect_cluster(cluster),
        }
    }

    fn put(&self, connection: Option<Connection>) {
        *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connection;
    }

    /// A cluster's connection finds its way by itself once it is made; until then the one before stays.
    fn connect_cluster(self: &Arc<Self>, cluster: &Cluster) {
        let (shared, client) = (Arc::downgrade(self), cluster.client.clone());
        tokio::spawn(async move {
            if let Ok(Ok(connection)) = timeout(CONNECT_TIMEOUT, client.get_async_connection()).await
                && let Some(shared) = shared.upgrade()
            {
                shared.put(Some(Connection::Cluster(connection)));
            }
        });
    }
}

/// Follows the primary. While no sentinel answers it is believed to be where it was.
async fn follow(shared: Arc<Shared>, sentinels: Sentinels) {
    let mut known = None;
    let mut ticks = interval(sentinel::PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some((host, port)) = sentinel::primary(&sentinels).await else { continue };
        if known.as_ref() == Some(&(host.clone(), port)) {
            continue;
        }
        match sentinels.primary(host.clone(), port) {
            Ok(client) => {
                tracing::info!(first = known.is_none(), "Redis has another primary");
                shared.put(Connection::to(&client));
                shared.primary.send_replace(Some(client));
                known = Some((host, port));
            }
            Err(error) => {
                tracing::error!(error = error.category(), "prepare the connection to Redis' primary");
            }
        }
    }
}
