//! The highest rate that a server sustains in an open loop. Decides which rates are tried, and sends nothing itself.
//!
//! A closed loop's rate is none that can be sustained: its 50 connections wait while the server is behind, and requests at
//! random moments do not. At that rate a queue grows for as long as the load lasts.

use anyhow::Result;

use super::measure::Open;

/// The rates that are tried, from the highest, in tenths of what the closed loop found. Below a fifth of it, something else
/// than a queue is wrong.
const TENTHS: [u8; 9] = [10, 9, 8, 7, 6, 5, 4, 3, 2];

/// How many of them it usually takes, for the estimate.
pub const TRIES_USUAL: u64 = 4;

/// The highest rate of those tried that `load` shows to be sustained, in requests a second; nothing when none is. `closed` is
/// the rate that the closed loop found.
///
/// # Errors
/// As `load`.
pub async fn highest(closed: f64, mut load: impl AsyncFnMut(f64) -> Result<Open>) -> Result<Option<f64>> {
    for tenths in TENTHS {
        let rate = closed * f64::from(tenths) / 10.0;
        let open = load(rate).await?;
        if open.valid && open.failed == 0 {
            return Ok(Some(rate));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn open(rate: f64, valid: bool, failed: u64) -> Open {
        Open {
            rate,
            achieved: if valid { 1.0 } else { 0.9 },
            valid,
            failed,
            failures: BTreeMap::new(),
            p50_ms: 1.0,
            p95_ms: 1.0,
            p99_ms: 1.0,
            p999_ms: 1.0,
            late_p99_ms: 0.1,
        }
    }

    /// What is found of a server that keeps up below `capacity`, and fails nothing below `flawless`, and the rates tried.
    async fn search(capacity: f64, flawless: f64) -> (Option<f64>, Vec<f64>) {
        let mut tried = Vec::new();
        let load = async |rate: f64| {
            tried.push(rate);
            Ok(open(rate, rate < capacity, u64::from(rate >= flawless)))
        };
        (highest(1000.0, load).await.unwrap(), tried)
    }

    #[tokio::test]
    async fn stops_at_the_first_rate_that_is_kept_up_with() {
        assert_eq!(search(750.0, 1e9).await, (Some(700.0), vec![1000.0, 900.0, 800.0, 700.0]));
        assert_eq!(search(1e9, 1e9).await, (Some(1000.0), vec![1000.0]));
    }

    #[tokio::test]
    async fn a_rate_with_failures_is_not_sustained() {
        assert_eq!(search(1e9, 550.0).await.0, Some(500.0));
    }

    #[tokio::test]
    async fn ends_without_a_rate_when_none_is_sustained() {
        let (found, tried) = search(100.0, 1e9).await;
        assert_eq!((found, tried.len()), (None, TENTHS.len()));
    }
}
