//! How many requests a caller may send: the setting, and the arithmetic behind it. Knows no clock and no Redis.

use std::{fmt, num::NonZero, str::FromStr, time::Duration};

/// The most requests that a setting may name: their intervals are still microseconds.
const COUNT_MAX: u32 = 1_000_000;

/// Requests in a period, such as `100/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: NonZero<u32>,
    period: Duration,
}

impl Rate {
    /// How many requests.
    pub fn count(self) -> NonZero<u32> {
        self.count
    }
}

/// Text that is not a rate such as `100/s`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{text:?} is not a rate; write a number from 1 to {COUNT_MAX} and its period (s, m or h), such as 100/s"
)]
pub struct RateError {
    text: String,
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (count, period) = text.split_once('/')?;
            let period = match period {
                "s" => Duration::from_secs(1),
                "m" => Duration::from_mins(1),
                "h" => Duration::from_hours(1),
                _ => return None,
            };
            if !count.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let count = count.parse().ok().filter(|count: &NonZero<u32>| count.get() <= COUNT_MAX)?;
            Some(Self { count, period })
        };
        read().ok_or_else(|| RateError { text: text.to_owned() })
    }
}

/// The generic cell rate algorithm: one number a caller, the time at which all that it has sent is paid for.
///
/// A request is let through while that time is at most [`Quota::tolerance_us`] ahead. Unlike a counter that is set back
/// every second, it never lets twice the rate through around the edge of two windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Microseconds that one request costs.
    pub interval_us: u64,
    /// Requests that may come at once after a pause.
    pub burst: u32,
}

/// What became of one request. Times are microseconds from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may go on.
    pub allowed: bool,
    /// How many more could come now.
    pub remaining: u32,
    /// Until the whole burst may come again.
    pub reset_us: u64,
    /// Until one more may come; 0 when one may now.
    pub retry_us: u64,
}

impl Quota {
    /// The quota of `rate` with `burst` requests at once.
    pub fn new(rate: Rate, burst: NonZero<u32>) -> Self {
        let interval_us = rate.period.as_micros() as u64 / u64::from(rate.count.get());
        Self { interval_us: interval_us.max(1), burst: burst.get() }
    }

    /// How far ahead of now the time of [`Quota`] may be, in microseconds.
    pub fn tolerance_us(self) -> u64 {
        self.interval_us * u64::from(self.burst)
    }

    /// Judges one request at `now_us` of a caller whose requests are paid for at `paid_us`; gives the new such time.
    pub fn judge(self, paid_us: u64, now_us: u64) -> (u64, Verdict) {
        let after = paid_us.max(now_us) + self.interval_us;
        let ahead = after - now_us;
        if ahead > self.tolerance_us() {
            let reset_us = paid_us.saturating_sub(now_us);
            let retry_us = ahead - self.tolerance_us();
            return (paid_us, Verdict { allowed: false, remaining: 0, reset_us, retry_us });
        }
        let remaining = ((self.tolerance_us() - ahead) / self.interval_us) as u32;
        (after, Verdict { allowed: true, remaining, reset_us: ahead, retry_us: 0 })
    }
}

/// The policy of draft-ietf-httpapi-ratelimit-headers-11: `q` requests in a window of `w` seconds.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#""default";q={};w={}"#, self.burst, whole_seconds(self.tolerance_us()))
    }
}

impl Verdict {
    /// What is left of the policy, in the form of the same draft: `r` requests now, all of them after `t` seconds.
    pub fn limit_header(self) -> String {
        format!(r#""default";r={};t={}"#, self.remaining, self.reset_us.div_ceil(1_000_000))
    }

    /// Whole seconds after which one more request may come; at least 1, the smallest that a client can wait for.
    pub fn retry_seconds(self) -> u64 {
        whole_seconds(self.retry_us)
    }
}

fn whole_seconds(microseconds: u64) -> u64 {
    microseconds.div_ceil(1_000_000).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quota(rate: &str, burst: u32) -> Quota {
        Quota::new(rate.parse().unwrap(), NonZero::new(burst).unwrap())
    }

    #[test]
    fn reads_rates_and_refuses_other_text() {
        assert_eq!(quota("100/s", 10).interval_us, 10_000);
        assert_eq!(quota("60/m", 10).interval_us, 1_000_000);
        assert_eq!(quota("1/h", 1).interval_us, 3_600_000_000);
        assert_eq!(quota("1000000/s", 1).interval_us, 1);
        for text in [
            "",
            "/",
            "100",
            "/s",
            "100/",
            "0/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "1/d",
            "1000001/s",
            "1/s/s",
            "１/s",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_burst_passes_then_one_an_interval() {
        let quota = quota("10/s", 3);
        let (mut paid, start) = (0, 1_000_000_000);
        for remaining in [2, 1, 0] {
            let (after, verdict) = quota.judge(paid, start);
            assert_eq!((verdict.allowed, verdict.remaining), (true, remaining));
            paid = after;
        }
        let (after, refused) = quota.judge(paid, start);
        assert_eq!(
            (after, refused),
            (paid, Verdict { allowed: false, remaining: 0, reset_us: 300_000, retry_us: 100_000 })
        );
        assert!(!quota.judge(paid, start + 99_999).1.allowed);
        assert!(quota.judge(paid, start + 100_000).1.allowed);
        assert_eq!(quota.judge(paid, start + 300_000).1.remaining, 2, "all of it is back");
    }

    #[test]
    fn headers_have_the_form_of_the_draft() {
        assert_eq!(quota("10/s", 3).to_string(), r#""default";q=3;w=1"#);
        assert_eq!(quota("60/m", 60).to_string(), r#""default";q=60;w=60"#);
        let verdict = Verdict { allowed: false, remaining: 0, reset_us: 1_500_000, retry_us: 1_000_001 };
        assert_eq!((verdict.limit_header().as_str(), verdict.retry_seconds()), (r#""default";r=0;t=2"#, 2));
    }

    proptest! {
        /// In any stretch of time, no more than the burst and what the rate gives in it.
        #[test]
        fn never_lets_more_through_than_it_says(gaps in proptest::collection::vec(0_u64..300_000, 1..200)) {
            let quota = quota("10/s", 5);
            let (mut paid, mut now, mut passed) = (0, 1_000_000_000, Vec::new());
            for gap in gaps {
                now += gap;
                let (after, verdict) = quota.judge(paid, now);
                paid = after;
                if verdict.allowed {
                    passed.push(now);
                }
            }
            for (from, first) in passed.iter().enumerate() {
                for (count, last) in passed[from..].iter().enumerate() {
                    let allowed = u64::from(quota.burst) + (last - first) / quota.interval_us;
                    prop_assert!((count as u64) < allowed + 1, "{count} in {} µs", last - first);
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,20}") {
            let _ = text.parse::<Rate>();
        }
    }
}
