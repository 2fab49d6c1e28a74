//! The limiter that all replicas share: one script in Redis, one round trip. Never waits longer than one call may take.

use crate::redis_link::{Failed, RedisLink};

use super::{
    client::Caller,
    rate::{Quota, Verdict},
};

/// [`Quota::judge`] by the clock of Redis, so that replicas' clocks do not matter.
///
/// Numbers are doubles there: microseconds since 1970 stay below 2^53 until 2255, but must be written with all digits.
const JUDGE: &str = r"
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local paid = tonumber(redis.call('GET', KEYS[1]) or 0) or 0
local after = math.max(paid, now) + interval
local ahead = after - now
if ahead > tolerance then return {0, 0, math.max(paid - now, 0), ahead - tolerance} end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil(ahead / 1000))
return {1, math.floor((tolerance - ahead) / interval), ahead, 0}";

/// Judges callers by what they sent to any replica.
#[derive(Debug)]
pub struct Shared {
    quota: Quota,
    link: RedisLink,
}

impl Shared {
    /// Counts in the Redis behind `link`.
    pub fn new(quota: Quota, link: RedisLink) -> Self {
        Self { quota, link }
    }

    /// Judges one request.
    ///
    /// # Errors
    /// [`Failed`] when Redis does not tell; it may have counted the request all the same.
    pub async fn judge(&self, caller: &Caller) -> Result<Verdict, Failed> {
        let mut command = redis::cmd("EVAL");
        command.arg(JUDGE).arg(1).arg(format!("rate:{caller}"));
        command.arg(self.quota.interval_us).arg(self.quota.tolerance_us());
        let (allowed, remaining, reset_us, retry_us): (u8, u32, u64, u64) =
            self.link.call(async |mut redis| command.query_async(&mut redis).await).await?;
        Ok(Verdict { allowed: allowed == 1, remaining, reset_us, retry_us })
    }
}
