//! How many requests one caller may send, over all replicas. Off unless a rate is set, and it never fails a request: while
//! Redis does not answer, each replica limits on its own.
//!
//! A limited request is answered with 429, `Retry-After`, and, as every answer of a limited route, with `RateLimit` and
//! `RateLimit-Policy` in the form of draft-ietf-httpapi-ratelimit-headers-11 (structured fields, one policy `default`).

pub mod client;
mod local;
pub mod rate;
mod shared;

use std::{num::NonZero, time::Instant};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue},
    response::Response,
};
use clap::Args;
use prometheus::IntCounterVec;

pub use self::client::Peer;
use self::{
    client::Caller,
    local::Local,
    rate::{Quota, Rate, Verdict},
    shared::Shared,
};
use crate::{auth::Subject, redis_link::RedisLink};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The most proxies that a setting may trust; more is a mistake.
const HOPS_MAX: i64 = 16;

/// The settings of the limiter.
#[derive(Debug, Clone, Args)]
#[group(id = "rate-limit-options")]
pub struct Options {
    /// Requests that each caller may send, such as 100/s, 600/m or 1000/h; absent: any number. Shared by all replicas
    /// through the cache's Redis. A caller is a token's subject, else an address.
    #[arg(long, env = "PLIMSOLL_RATE_LIMIT", value_name = "RATE")]
    pub rate_limit: Option<Rate>,

    /// Requests that may come at once after a pause; absent: the number in the rate.
    #[arg(long, env = "PLIMSOLL_RATE_LIMIT_BURST", value_name = "NUMBER")]
    pub rate_limit_burst: Option<NonZero<u32>>,

    /// Proxies in front that each add an address to X-Forwarded-For; with 0, a caller's address is the connection's.
    #[arg(long, env = "PLIMSOLL_RATE_LIMIT_TRUSTED_HOPS", value_name = "NUMBER", default_value = "0",
        value_parser = clap::value_parser!(u8).range(0..=HOPS_MAX))]
    pub rate_limit_trusted_hops: u8,
}

/// Limits callers.
#[derive(Debug)]
pub struct RateLimit {
    quota: Quota,
    policy: HeaderValue,
    trusted_hops: u8,
    shared: Option<Shared>,
    local: Local,
    requests: IntCounterVec,
}

/// What one request's answer says about the limit.
#[derive(Debug, Clone)]
pub struct Standing {
    verdict: Verdict,
    policy: HeaderValue,
}

impl RateLimit {
    /// The limiter that the settings ask for; nothing when they name no rate. Counts verdicts in `requests`, by
    /// `result` and by who judged.
    pub fn new(options: &Options, redis: Option<RedisLink>, requests: IntCounterVec) -> Option<Self> {
        let rate = options.rate_limit?;
        let quota = Quota::new(rate, options.rate_limit_burst.unwrap_or(rate.count()));
        let policy = HeaderValue::try_from(quota.to_string()).ok()?;
        let shared = redis.map(|link| Shared::new(quota, link));
        let trusted_hops = options.rate_limit_trusted_hops;
        Some(Self { quota, policy, trusted_hops, shared, local: Local::new(quota), requests })
    }

    /// Judges one request.
    pub async fn judge(
        &self,
        subject: Option<&Subject>,
        headers: &HeaderMap,
        peer: Option<Peer>,
    ) -> Standing {
        let caller = Caller::of(subject, headers, peer, self.trusted_hops);
        let shared = match &self.shared {
            Some(shared) => shared.judge(&caller).await.ok(),
            None => None,
        };
        let by = if shared.is_some() { "redis" } else { "replica" };
        let verdict = shared.unwrap_or_else(|| self.local.judge(caller, Instant::now()));
        let result = if verdict.allowed { "allowed" } else { "limited" };
        self.requests.with_label_values(&[result, by]).inc();
        Standing { verdict, policy: self.policy.clone() }
    }

    /// What is allowed.
    pub fn quota(&self) -> Quota {
        self.quota
    }
}

impl Standing {
    /// Seconds after which the caller may try again; nothing when the request may go on.
    pub fn refused(&self) -> Option<u64> {
        (!self.verdict.allowed).then(|| self.verdict.retry_seconds())
    }

    /// Tells the client where it stands.
    pub fn tell(self, response: &mut Response) {
        if let Ok(limit) = HeaderValue::try_from(self.verdict.limit_header()) {
            response.headers_mut().insert(LIMIT, limit);
        }
        response.headers_mut().insert(POLICY, self.policy);
    }
}
