//! How long to wait before a failed reconcile is tried again. One object's failures never slow another's.

use std::time::Duration;

use crate::error::Retry;

/// First pause after a transient failure.
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause after a transient failure.
const LONGEST: Duration = Duration::from_mins(1);
/// Pause while something is about to change by itself.
const WAITING: Duration = Duration::from_secs(1);
/// Pause while only a person can help; their change triggers a reconcile at once, unless it is a right.
const PERMANENT: Duration = Duration::from_mins(1);

/// Pause after `failures` failures in a row. `jitter` lies in 0..1 and spreads pauses by a quarter each way.
pub fn pause(retry: Retry, failures: u32, jitter: f64) -> Duration {
    let pause = match retry {
        Retry::Waiting => WAITING,
        Retry::Permanent => PERMANENT,
        Retry::Transient => {
            FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(LONGEST)
        }
    };
    pause.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_stays_there() {
        let pauses = [1, 2, 3, 8, 100, u32::MAX].map(|failures| pause(Retry::Transient, failures, 0.5));
        assert_eq!(pauses.map(|pause| pause.as_millis()), [500, 1000, 2000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        assert_eq!(pause(Retry::Waiting, 1, 0.0), Duration::from_millis(750));
        assert_eq!(pause(Retry::Waiting, 1, 1.0), Duration::from_millis(1250));
    }
}
