//! Whether the managed cache is worth what it takes: what it says of itself, what the replicas say of it, and whether it is
//! too small. Pure; it never asks anyone, and a cache that says nothing changes no decision.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use crate::input::Scrape;
use crate::memory::seconds_between;

/// Rates are told over this long.
const WINDOW_SECONDS: f64 = 300.0;
/// A cache that has said nothing for this long is told of no more.
const STALE_SECONDS: f64 = 120.0;
/// Readings kept at most.
const READINGS_MAX: usize = 32;
/// Fewer look-ups than this in the window tell no ratio.
const LOOKUPS_MIN: f64 = 100.0;
/// Below the first share of look-ups that find something a cache that is full is too small; above the second it no longer
/// is.
const RATIO_LOW: f64 = 0.8;
const RATIO_FINE: f64 = 0.9;
/// Memory at which it counts as full, and below which it no longer does, as a share of its limit.
const FULL: f64 = 0.95;
const ROOM: f64 = 0.85;
/// Keys per second that have to go for others, at least, where it is too small.
const EVICTIONS_MIN: f64 = 0.1;
/// Share of the container's memory that keys may take, of a single server and of one that others copy; the rest is for buffers
/// and fragmentation, and for what changes and waits while a copy is made. Redis 7.0 with `maxmemory` 48 MiB had 59 MiB at rest, and
/// 68 MiB and a fork's 39 MiB while it was copied under writes as fast as they go.
const KEYS_PERCENT: u64 = 75;
const KEYS_PERCENT_COPIED: u64 = 50;
/// What is left at least beside the keys: Redis itself, the kernel's part, and a probe's process, which starts in the same
/// container. Redis 7.0 was killed in 16 MiB with 12 MiB for keys: it had 14.2 MiB by then, and the probe 2.5 MiB.
const BESIDE_KEYS_BYTES: u64 = 10 * MEBIBYTE;
const MEBIBYTE: u64 = 1 << 20;

/// Bytes at which Redis evicts keys (`maxmemory`) in a container of so many bytes; `copied` when other servers copy it.
pub fn max_memory_bytes(container_bytes: u64, copied: bool) -> u64 {
    let most = container_bytes.saturating_sub(BESIDE_KEYS_BYTES);
    // None at all would be no limit to Redis.
    (container_bytes / 100 * keys_percent(copied)).min(most).max(MEBIBYTE)
}

/// The other way round: bytes of the container in which Redis may use so many, rounded up.
pub fn container_bytes(max_memory_bytes: u64, copied: bool) -> u64 {
    let by_share = max_memory_bytes.saturating_mul(100) / keys_percent(copied);
    round_up(by_share.max(max_memory_bytes + BESIDE_KEYS_BYTES))
}

const fn keys_percent(copied: bool) -> u64 {
    if copied { KEYS_PERCENT_COPIED } else { KEYS_PERCENT }
}

/// What a cache said of itself at one moment. Counts are since it started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacheReading {
    /// When.
    pub at: Timestamp,
    /// Look-ups that found something.
    pub hits: u64,
    /// Look-ups that found nothing.
    pub misses: u64,
    /// Keys that made room for others.
    pub evicted: u64,
    /// Memory in use, in bytes.
    pub memory_bytes: u64,
    /// Memory in use before there was any key, in bytes.
    pub startup_bytes: u64,
    /// Memory at which keys are evicted, in bytes; 0 is never.
    pub memory_max_bytes: u64,
    /// Keys.
    pub keys: u64,
    /// Keys that expire.
    pub expiring: u64,
    /// How long keys that expire still have, on average, in milliseconds.
    pub ttl_ms_mean: u64,
}

impl CacheReading {
    /// Reads the answer to `INFO`. None when a number that matters is missing, as in the answer of something else.
    pub fn parse(at: Timestamp, info: &str) -> Option<Self> {
        let fields: BTreeMap<&str, &str> =
            info.lines().filter_map(|line| line.trim().split_once(':')).collect();
        let number = |name: &str| fields.get(name)?.parse::<u64>().ok();
        let databases = fields.iter().filter(|(name, _)| {
            name.strip_prefix("db")
                .is_some_and(|index| !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()))
        });
        // `keys=12,expires=12,avg_ttl=30000`: the numbers of all databases; there is one, unless somebody made more.
        let (mut keys, mut expiring, mut ttl_ms_mean) = (0, 0, 0);
        for (_, text) in databases {
            let of = |name: &str| {
                let found =
                    text.split(',').find_map(|part| part.split_once('=').filter(|(key, _)| *key == name));
                found.and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(0)
            };
            keys += of("keys");
            expiring += of("expires");
            ttl_ms_mean = ttl_ms_mean.max(of("avg_ttl"));
        }
        Some(Self {
            at,
            hits: number("keyspace_hits")?,
            misses: number("keyspace_misses")?,
            evicted: number("evicted_keys")?,
            memory_bytes: number("used_memory")?,
            startup_bytes: number("used_memory_startup").unwrap_or(0),
            memory_max_bytes: number("maxmemory")?,
            keys,
            expiring,
            ttl_ms_mean,
        })
    }

    /// Whether it is of the same run as an earlier one: counts never go back in a run.
    fn continues(&self, earlier: &Self) -> bool {
        self.hits >= earlier.hits && self.misses >= earlier.misses && self.evicted >= earlier.evicted
    }
}

/// A cache that was asked and has not told how it fares since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// When it was first asked in vain.
    pub since: Timestamp,
    /// Why, when it was last asked.
    pub cause: SilenceCause,
}

/// Why a cache does not tell how it fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SilenceCause {
    /// It cannot be reached, or does not answer in time.
    Unreachable,
    /// It does not take the operator's password.
    Unauthorized,
    /// It answers, but not as Redis does.
    Unreadable,
}

impl Silence {
    /// Why, once it has lasted for so long that it is no restart and no lost packet.
    pub fn lasting(&self, now: Timestamp) -> Option<SilenceCause> {
        (seconds_between(self.since, now) >= STALE_SECONDS).then_some(self.cause)
    }
}

/// Look-ups, as replicas count them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct LookUps {
    hits: f64,
    misses: f64,
}

/// What is kept of the cache between two decisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CacheWatch {
    /// What each pod has counted, when it was last read.
    pods: BTreeMap<String, LookUps>,
    /// What all pods have counted since the first was read.
    counted: LookUps,
    /// Oldest first, each with what the pods had counted then.
    readings: VecDeque<(CacheReading, LookUps)>,
    too_small: bool,
}

/// What a cache does for those who read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effect {
    /// Share of look-ups that found something; absent when there were too few.
    pub hit_ratio: Option<f64>,
    /// Keys per second that made room for others; absent before the second reading.
    pub evictions_per_second: Option<f64>,
    /// Memory in use, in bytes.
    pub memory_bytes: u64,
    /// Memory at which keys are evicted, in bytes.
    pub memory_max_bytes: u64,
    /// It is full, evicts, and too few look-ups find something.
    pub too_small: bool,
    /// Memory in use with which nothing would have to go before it expires, in bytes; absent where that cannot be told, for
    /// keys that never expire are wanted for ever.
    pub enough_bytes: Option<u64>,
}

impl CacheWatch {
    /// Keeps what replicas and the cache have said. Either may be absent, or what was said before.
    pub fn keep(&mut self, scrape: Option<&Scrape>, reading: Option<&CacheReading>) {
        if let Some(scrape) = scrape {
            self.count(scrape);
        }
        let Some(reading) =
            reading.filter(|reading| self.newest().is_none_or(|newest| reading.at > newest.at))
        else {
            return;
        };
        if self.newest().is_some_and(|newest| !reading.continues(newest)) {
            self.readings.clear();
        }
        self.readings.push_back((*reading, self.counted));
        while self.readings.len() > READINGS_MAX
            || (self.readings.len() > 2
                && self
                    .readings
                    .get(1)
                    .is_some_and(|(second, _)| seconds_between(second.at, reading.at) >= WINDOW_SECONDS))
        {
            self.readings.pop_front();
        }
        self.too_small = self.judge();
    }

    /// What the cache does, as far as is known at `now`.
    pub fn effect(&self, now: Timestamp) -> Option<Effect> {
        let newest = self.newest().filter(|newest| seconds_between(newest.at, now) < STALE_SECONDS)?;
        Some(Effect {
            hit_ratio: self.hit_ratio(),
            evictions_per_second: self.evictions_per_second(),
            memory_bytes: newest.memory_bytes,
            memory_max_bytes: newest.memory_max_bytes,
            too_small: self.too_small,
            enough_bytes: self.enough_bytes(newest),
        })
    }

    fn newest(&self) -> Option<&CacheReading> {
        self.readings.back().map(|(reading, _)| reading)
    }

    /// Adds up what the pods have counted since they were last read. A pod that restarted counts from nothing again.
    fn count(&mut self, scrape: &Scrape) {
        for pod in &scrape.pods {
            let Some(Ok(snapshot)) = pod.sample.as_ref().map(|sample| &sample.reading) else { continue };
            let (Some(hits), Some(misses)) = (snapshot.shared.cache_hits, snapshot.shared.cache_misses)
            else {
                continue;
            };
            let before = self.pods.insert(pod.uid.clone(), LookUps { hits, misses });
            let before = before.filter(|before| hits >= before.hits && misses >= before.misses);
            if let Some(before) = before {
                self.counted.hits += hits - before.hits;
                self.counted.misses += misses - before.misses;
            }
        }
        self.pods.retain(|uid, _| scrape.pods.iter().any(|pod| &pod.uid == uid));
    }

    /// By the replicas' own count where they tell it: a cache counts every look-up, those of scripts too.
    fn hit_ratio(&self) -> Option<f64> {
        let ((first, then), (last, now)) = (self.readings.front()?, self.readings.back()?);
        let (hits, misses) = if self.pods.is_empty() {
            ((last.hits - first.hits) as f64, (last.misses - first.misses) as f64)
        } else {
            (now.hits - then.hits, now.misses - then.misses)
        };
        (hits + misses >= LOOKUPS_MIN).then(|| hits / (hits + misses))
    }

    fn evictions_per_second(&self) -> Option<f64> {
        let ((first, _), (last, _)) = (self.readings.front()?, self.readings.back()?);
        let seconds = seconds_between(first.at, last.at);
        (seconds >= 1.0).then(|| (last.evicted - first.evicted) as f64 / seconds)
    }

    fn judge(&self) -> bool {
        let Some(newest) = self.newest().filter(|newest| newest.memory_max_bytes > 0) else { return false };
        let filled = newest.memory_bytes as f64 / newest.memory_max_bytes as f64;
        let evicts = self.evictions_per_second().is_some_and(|rate| rate >= EVICTIONS_MIN);
        let (full, low) = if self.too_small { (ROOM, RATIO_FINE) } else { (FULL, RATIO_LOW) };
        // Without look-ups there is nothing new to tell.
        let low = self.hit_ratio().map_or(self.too_small, |ratio| ratio < low);
        evicts && low && filled >= full
    }

    /// Keys that had to go would have been there for at most their whole life, which is about twice what those that are
    /// there still have. All of them at once, at the size of those that are there, would be enough.
    fn enough_bytes(&self, newest: &CacheReading) -> Option<u64> {
        let all_expire = newest.keys > 0 && newest.expiring == newest.keys && newest.ttl_ms_mean > 0;
        let per_second = self.evictions_per_second().filter(|_| all_expire)?;
        let life_seconds = 2.0 * newest.ttl_ms_mean as f64 / 1000.0;
        let key_bytes = newest.memory_bytes.saturating_sub(newest.startup_bytes) as f64 / newest.keys as f64;
        let keys = newest.keys as f64 + per_second * life_seconds;
        let max_memory_bytes = newest.startup_bytes as f64 + keys * key_bytes;
        Some(max_memory_bytes as u64)
    }
}

/// The next of 1, 1.5, 2, 3, 4, 6, 8 … mebibytes: nobody tunes finer, and noise is no news.
fn round_up(bytes: u64) -> u64 {
    let mut step = MEBIBYTE;
    while step < bytes && step < u64::MAX / 4 {
        if step / 2 * 3 >= bytes {
            return step / 2 * 3;
        }
        step *= 2;
    }
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_leave_room_for_what_else_is_in_the_container() {
        let keys = |copied| {
            [1, 16, 32, 40, 64, 1024]
                .map(|mebibytes| max_memory_bytes(mebibytes * MEBIBYTE, copied) / MEBIBYTE)
        };
        assert_eq!(keys(false), [1, 6, 22, 29, 47, 767]);
        assert_eq!(keys(true), [1, 6, 15, 19, 31, 511]);
        for (mebibytes, copied) in [(16, false), (24, true), (48, false), (64, true), (512, false)] {
            let there_and_back = container_bytes(max_memory_bytes(mebibytes * MEBIBYTE, copied), copied);
            assert_eq!(there_and_back, mebibytes * MEBIBYTE, "{mebibytes}");
        }
    }

    #[test]
    fn sizes_are_rounded_up_to_what_people_write() {
        let rounded =
            [1, 40, 48, 49, 65, 97, 1000].map(|mebibytes| round_up(mebibytes * MEBIBYTE) / MEBIBYTE);
        assert_eq!(rounded, [1, 48, 48, 64, 96, 128, 1024]);
    }
}
