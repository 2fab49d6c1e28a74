//! The calls to Redis, each bounded in time. Never retries a call, and never waits for a connection longer than for a call.

use std::{
    future::Future,
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use redis::{
    Client, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::timeout;

use super::{breaker::Breaker, owed::Owed};
use crate::post::Post;

/// The longest a call may take. A read from the database takes a few milliseconds: beyond that Redis is no help.
const CALL_TIMEOUT: Duration = Duration::from_millis(30);

/// The longest a new connection may take; requests do not wait for it longer than for a call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an entry lives, from 54 s to 66 s, so that entries made together do not expire together.
const ENTRY_LIFE_MIN: Duration = Duration::from_secs(54);
const ENTRY_LIFE_SPREAD: Duration = Duration::from_secs(12);
const ENTRY_LIFE_MAX: Duration = ENTRY_LIFE_MIN.saturating_add(ENTRY_LIFE_SPREAD);

/// How long a tombstone lives: longer than any request may take between reading a row and offering it.
const TOMBSTONE_LIFE: Duration = Duration::from_secs(30);

/// Owed tombstones sent before one read, in one call.
const OWED_AT_ONCE: usize = 64;

/// Writes `VERSION:JSON` (or a tombstone, without JSON) unless a newer version, or the same one with JSON, is there.
const WRITE: &str = r"
local there = redis.call('GET', KEYS[1])
if there then
  local split = string.find(there, ':', 1, true)
  local version = split and tonumber(string.sub(there, 1, split - 1))
  local offered = tonumber(ARGV[1])
  if version and (version > offered or (version == offered and (split < #there or ARGV[2] == ''))) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1] .. ':' .. ARGV[2], 'PX', ARGV[3])
return 1";

/// Redis could not be asked, or did not answer in time.
#[derive(Debug)]
pub struct Failed;

/// Posts in Redis.
pub struct RedisStore {
    client: Client,
    // Replaced when the breaker opens: a connection to a peer that vanished without a word, or that became a
    // read-only replica, would otherwise be kept for many minutes.
    connection: RwLock<Option<ConnectionManager>>,
    breaker: Breaker,
    owed: Owed,
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client's own output holds the password.
        f.debug_struct("RedisStore").field("breaker", &self.breaker).finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Starts to connect in the background.
    pub fn new(client: Client) -> Self {
        let connection = RwLock::new(connect(&client));
        Self { client, connection, breaker: Breaker::default(), owed: Owed::default() }
    }

    /// True while calls are skipped because earlier ones failed.
    pub fn failing(&self) -> bool {
        self.breaker.open()
    }

    /// The post, when Redis has it and it is not older than what this replica wrote.
    pub async fn get(&self, id: i64) -> Result<Option<Post>, Failed> {
        self.settle().await?;
        if self.owed.forbids(id, Instant::now()) {
            return Err(Failed);
        }
        let mut command = redis::cmd("GET");
        command.arg(key(id));
        let entry: Option<Vec<u8>> =
            self.call(async |mut redis| command.query_async(&mut redis).await).await?;
        // Anything that is not a post under its own id (a tombstone, another program's value) is a miss.
        Ok(entry
            .as_deref()
            .and_then(json_of)
            .and_then(|json| serde_json::from_slice(json).ok())
            .filter(|post: &Post| post.id == id))
    }

    /// Offers a post read from the database.
    pub async fn fill(&self, post: &Post) {
        let Ok(json) = serde_json::to_vec(post) else { return };
        let life = ENTRY_LIFE_MIN + ENTRY_LIFE_SPREAD.mul_f64(rand::random());
        // A failure leaves no entry, which is no harm; the breaker has counted it.
        let _ = self.write(post.id, post.version, &json, life).await;
    }

    /// Puts a tombstone in place of every older version, or owes it.
    pub async fn bury(&self, id: i64, version: i64) {
        // Owed first: when the request is cut in the middle, the tombstone still is.
        self.owed.add(id, version, Instant::now(), ENTRY_LIFE_MAX);
        if self.write(id, version, b"", TOMBSTONE_LIFE).await.is_ok() {
            self.owed.sent(id, version);
        }
    }

    /// Sends some of the tombstones that are owed, in one call.
    async fn settle(&self) -> Result<(), Failed> {
        let some = self.owed.some(OWED_AT_ONCE);
        if some.is_empty() {
            return Ok(());
        }
        let mut commands = redis::pipe();
        for (id, version) in &some {
            commands.add_command(write_command(*id, *version, b"", TOMBSTONE_LIFE)).ignore();
        }
        self.call(async |mut redis| commands.query_async::<()>(&mut redis).await).await?;
        for (id, version) in some {
            self.owed.sent(id, version);
        }
        Ok(())
    }

    async fn write(&self, id: i64, version: i64, json: &[u8], life: Duration) -> Result<(), Failed> {
        let command = write_command(id, version, json, life);
        self.call(async |mut redis| command.query_async(&mut redis).await).await
    }

    /// Makes one call, unless the breaker is open, and tells the breaker how it went.
    async fn call<T, F: Future<Output = RedisResult<T>>>(
        &self,
        command: impl FnOnce(ConnectionManager) -> F,
    ) -> Result<T, Failed> {
        if !self.breaker.admit(Instant::now()) {
            return Err(Failed);
        }
        let connection = self.connection.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(connection) = connection else { return Err(Failed) };
        let error = match timeout(CALL_TIMEOUT, command(connection)).await {
            Ok(Ok(value)) => {
                self.breaker.succeeded();
                return Ok(value);
            }
            // The code says what happened and, unlike the message, never quotes what was sent.
            Ok(Err(error)) => error.code().unwrap_or(error.category()).to_owned(),
            Err(_) => "no answer in time".to_owned(),
        };
        let was_open = self.breaker.open();
        if self.breaker.failed(Instant::now()) {
            if !was_open {
                tracing::warn!(%error, "the cache fails; answering from the database");
            }
            *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connect(&self.client);
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
        .inspect_err(|error| tracing::error!(error = error.category(), "prepare the cache's connection"))
        .ok()?;
    let mut first = connection.clone();
    // The manager connects only while someone waits for it.
    tokio::spawn(async move { redis::cmd("PING").exec_async(&mut first).await });
    Some(connection)
}

fn write_command(id: i64, version: i64, json: &[u8], life: Duration) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(WRITE).arg(1).arg(key(id)).arg(version).arg(json).arg(life.as_millis() as u64);
    command
}

fn key(id: i64) -> String {
    format!("post:{id}")
}

/// The part after the version, unless it is a tombstone.
fn json_of(entry: &[u8]) -> Option<&[u8]> {
    let split = entry.iter().position(|byte| *byte == b':')?;
    entry.get(split + 1..).filter(|json| !json.is_empty())
}
