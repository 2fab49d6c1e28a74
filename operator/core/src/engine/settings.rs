//! What the user asks of the engine.

use std::time::Duration;

use crate::histogram::Delta;

/// Price of a minute over target, in replica-minutes. One bad minute costs as much as one replica for this long.
pub const VIOLATION_PRICE_DEFAULT: f64 = 60.0;

/// Fewer requests than this, for each one that may be late, prove nothing: with none late of 299, the share is below 1 %
/// at 95 % confidence.
pub(super) const REQUESTS_PER_BUDGET: f64 = 2.99;

/// The promise and the bounds of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// At least one.
    pub targets: Vec<Target>,
    /// Fewest replicas.
    pub min: u32,
    /// Most replicas.
    pub max: u32,
    /// Time between two observations.
    pub period: Duration,
    /// Price of a minute over target, in replica-minutes.
    pub violation_price: f64,
}

impl Settings {
    /// The most replicas: never below the fewest, which win when the two contradict each other.
    pub fn highest(&self) -> u32 {
        self.max.max(self.min)
    }
}

/// One promise: this share of requests is answered as it says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Share of requests, such as 0.99.
    pub quantile: f64,
    /// How they are answered.
    pub answer: Answer,
}

/// How requests are to be answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// Within this time.
    Within(Duration),
    /// Without an error of the server.
    WithoutError,
}

impl Target {
    /// So much of the requests is answered within `latency`.
    pub fn latency(quantile: f64, latency: Duration) -> Self {
        Self { quantile, answer: Answer::Within(latency) }
    }

    /// Share of requests that may be answered otherwise.
    pub fn budget(self) -> f64 {
        1.0 - self.quantile
    }

    /// Time within which requests are to be answered, if that is what is promised.
    pub fn latency_seconds(self) -> Option<f64> {
        match self.answer {
            Answer::Within(latency) => Some(latency.as_secs_f64()),
            Answer::WithoutError => None,
        }
    }

    /// Requests that were answered otherwise.
    pub fn missed(self, requests: &Delta) -> f64 {
        match self.answer {
            Answer::Within(latency) => requests.slower_than(latency),
            Answer::WithoutError => requests.failed,
        }
    }
}
