//! Posts in Redis: what is stored, and which write may replace which. Never decides whether Redis can be asked.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{INVALIDATIONS, entry::Entry, owed::Owed};
use crate::redis_link::{Failed, RedisLink};

/// How long a post lives, from 54 s to 66 s, so that entries made together do not expire together.
const LIFE_MIN: Duration = Duration::from_secs(54);
const LIFE_SPREAD: Duration = Duration::from_secs(12);
const LIFE_MAX: Duration = LIFE_MIN.saturating_add(LIFE_SPREAD);

/// How long it is known that no post has an id. Short: a scan of ids must not fill the memory that posts need.
const ABSENT_LIFE: Duration = Duration::from_secs(3);

/// How long a lease lives: no request that could still fill takes longer.
const LEASE_LIFE: Duration = Duration::from_secs(15);

/// Owed invalidations sent before one read, in one call.
const OWED_AT_ONCE: usize = 64;

/// What every value of ours starts with; another program's, or another release's, is a miss.
const FORMAT: &str = "2 ";

/// Gives what is there, when it is ours; else leaves a lease for the caller and gives nothing.
const LEASE: &str = r"
local there = redis.call('GET', KEYS[1])
if there and string.sub(there, 1, 2) == '2 ' then return there end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false";

/// Writes only over the value that the caller saw: its own lease, or the entry that it refreshes.
const FILL: &str = r"
local there = redis.call('GET', KEYS[1])
if not there or string.sub(there, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1";

/// Names one value among all that a key ever had: 16 hexadecimal digits, chosen at random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(String);

/// What Redis has for a post.
#[derive(Debug)]
pub enum Lookup {
    /// An answer.
    Found(Entry),
    /// Nothing yet. Whoever reads the row now may [fill](RedisStore::fill), unless a write comes first.
    Leased(Token),
    /// Nothing yet, and another reader is about to fill.
    Awaited,
}

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

    /// What is there for the post, never older than what this replica wrote.
    ///
    /// # Errors
    /// [`Failed`] when Redis cannot be asked, or may hold a version that this replica has replaced.
    pub async fn look_up(&self, id: i64) -> Result<Lookup, Failed> {
        self.settle().await?;
        if self.owed.forbids(id, Instant::now()) {
            return Err(Failed);
        }
        let mut get = redis::cmd("GET");
        get.arg(key(id));
        let there: Option<Vec<u8>> =
            self.link.call(async |mut redis| get.query_async(&mut redis).await).await?;
        if let Some(lookup) = there.as_deref().and_then(read) {
            return Ok(lookup);
        }
        let token = Token::new();
        let mut lease = redis::cmd("EVAL");
        lease.arg(LEASE).arg(1).arg(key(id)).arg(format!("{}\n", token.prefix())).arg(millis(LEASE_LIFE));
        let there: Option<Vec<u8>> =
            self.link.call(async |mut redis| lease.query_async(&mut redis).await).await?;
        Ok(there.as_deref().and_then(read).unwrap_or(Lookup::Leased(token)))
    }

    /// Offers what was read from the database; `over` is the lease that was given before, or the token of an entry that
    /// is still to expire. Gives the entry as stored, with how long it lives.
    pub async fn fill(&self, id: i64, over: &Token, entry: Entry) -> Entry {
        let life =
            if entry.post.is_some() { LIFE_MIN + LIFE_SPREAD.mul_f64(rand::random()) } else { ABSENT_LIFE };
        let entry = Entry { life, token: Some(Token::new()), ..entry };
        let mut fill = redis::cmd("EVAL");
        fill.arg(FILL).arg(1).arg(key(id)).arg(over.prefix()).arg(write(&entry)).arg(millis(life));
        // A failure leaves no entry, which is no harm; the breaker has counted it.
        let _ = self.link.call(async |mut redis| fill.query_async::<i64>(&mut redis).await).await;
        entry
    }

    /// Removes the post and every lease on it, and tells all replicas; or owes it.
    pub async fn invalidate(&self, id: i64) {
        // Owed first: when the request is cut in the middle, it still is.
        let debt = self.owed.add(id, Instant::now(), LIFE_MAX);
        if self.send(&[id]).await.is_ok() {
            self.owed.paid(id, debt);
        }
    }

    /// Sends some of the invalidations that are owed, in one call.
    async fn settle(&self) -> Result<(), Failed> {
        let some = self.owed.some(OWED_AT_ONCE);
        if some.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = some.iter().map(|(id, _)| *id).collect();
        self.send(&ids).await?;
        for (id, debt) in some {
            self.owed.paid(id, debt);
        }
        Ok(())
    }

    /// First the removal, then the message: whoever reads after the message finds nothing old.
    async fn send(&self, ids: &[i64]) -> Result<(), Failed> {
        let (mut removals, mut messages) = (Vec::new(), Vec::new());
        for id in ids {
            removals.push(redis::cmd("DEL").arg(key(*id)).take());
            messages.push(redis::cmd("PUBLISH").arg(INVALIDATIONS).arg(*id).take());
        }
        if self.link.spread() {
            // Each may be another server's.
            for command in removals.iter().chain(&messages) {
                self.link.call(async |mut redis| command.exec_async(&mut redis).await).await?;
            }
            return Ok(());
        }
        let mut commands = redis::pipe();
        for (removal, message) in removals.into_iter().zip(messages) {
            commands.add_command(removal).ignore().add_command(message).ignore();
        }
        self.link.call(async |mut redis| commands.query_async::<()>(&mut redis).await).await
    }
}

impl Token {
    fn new() -> Self {
        Self(format!("{:016x}", rand::random::<u64>()))
    }

    fn prefix(&self) -> String {
        format!("{FORMAT}{}", self.0)
    }
}

fn key(id: i64) -> String {
    format!("post:{id}")
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// `2 TOKEN EXPIRES_UNIX_MS COST_US VERSION\nJSON`; no post: version 0 and no JSON; a lease: only `2 TOKEN\n`.
fn write(entry: &Entry) -> Vec<u8> {
    let prefix = entry.token.as_ref().map(Token::prefix).unwrap_or_default();
    let expires = unix_millis().saturating_add(millis(entry.life));
    let cost = entry.cost.as_micros();
    let (version, json) = match &entry.post {
        Some(post) => (post.version, &post.json[..]),
        None => (0, &[][..]),
    };
    let mut value = format!("{prefix} {expires} {cost} {version}\n").into_bytes();
    value.extend_from_slice(json);
    value
}

/// What a stored value says; nothing when it is not ours.
fn read(value: &[u8]) -> Option<Lookup> {
    let split = value.iter().position(|byte| *byte == b'\n')?;
    let (head, json) = (std::str::from_utf8(value.get(..split)?).ok()?, value.get(split + 1..)?);
    let mut words = head.strip_prefix(FORMAT)?.split(' ');
    let token = Token(words.next().filter(|token| token.len() == 16)?.to_owned());
    let Some(expires) = words.next() else { return Some(Lookup::Awaited) };
    // The clock of the replica that wrote it may be off; the entry's life is bounded all the same.
    let life =
        Duration::from_millis(expires.parse::<u64>().ok()?.saturating_sub(unix_millis())).min(LIFE_MAX);
    let cost = Duration::from_micros(words.next()?.parse().ok()?);
    let version = words.next()?.parse().ok()?;
    let post = (version > 0).then(|| super::entry::Stored { version, json: json.to_vec().into() });
    Some(Lookup::Found(Entry { post, life, cost, token: Some(token) }))
}

fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::Stored;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let post = Some(Stored { version: 7, json: "{\"id\":\n1}".into() });
        let entry = Entry {
            post,
            life: Duration::from_mins(1),
            cost: Duration::from_micros(1500),
            token: Some(Token::new()),
        };
        let Some(Lookup::Found(found)) = read(&write(&entry)) else { panic!("not found") };
        assert!(found.life <= entry.life && found.life > Duration::from_secs(50));
        assert_eq!((found.post, found.cost, found.token), (entry.post, entry.cost, entry.token));

        let absent = Entry { post: None, life: ABSENT_LIFE, cost: Duration::ZERO, token: Some(Token::new()) };
        let Some(Lookup::Found(found)) = read(&write(&absent)) else { panic!("not found") };
        assert_eq!(found.post, None);

        let lease = format!("{}\n", Token::new().prefix());
        assert!(matches!(read(lease.as_bytes()), Some(Lookup::Awaited)));
        for foreign in ["", "nonsense", "2 ", "2 short\n{}", "1:{\"id\":1}", "2 0123456789abcdef x y z\n{}"] {
            assert!(read(foreign.as_bytes()).is_none(), "{foreign:?}");
        }
    }
}
