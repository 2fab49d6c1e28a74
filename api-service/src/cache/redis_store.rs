//! Posts in Redis: what is stored, and which write may replace which. Never decides whether Redis can be asked.

use std::time::{Duration, Instant};

use super::owed::Owed;
use crate::{
    post::Post,
    redis_link::{Failed, RedisLink},
};

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

/// Posts in Redis.
#[derive(Debug)]
pub struct RedisStore {
    link: RedisLink,
    owed: Owed,
}

impl RedisStore {
    /// Posts in the Redis behind `link`.
    pub fn new(link: RedisLink) -> Self {
        Self { link, owed: Owed::default() }
    }

    /// True while calls are skipped because earlier ones failed.
    pub fn failing(&self) -> bool {
        self.link.failing()
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
            self.link.call(async |mut redis| command.query_async(&mut redis).await).await?;
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
        self.link.call(async |mut redis| commands.query_async::<()>(&mut redis).await).await?;
        for (id, version) in some {
            self.owed.sent(id, version);
        }
        Ok(())
    }

    async fn write(&self, id: i64, version: i64, json: &[u8], life: Duration) -> Result<(), Failed> {
        let command = write_command(id, version, json, life);
        self.link.call(async |mut redis| command.query_async(&mut redis).await).await
    }
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
