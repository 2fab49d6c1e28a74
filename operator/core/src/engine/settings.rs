//! What the user asks of the engine.

use std::time::Duration;

/// Price of a minute over target, in replica-minutes. One bad minute costs as much as one replica for this long.
pub const VIOLATION_PRICE_DEFAULT: f64 = 60.0;

/// The promise and the bounds of one resource.
#[derive(Clone, Debug)]
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

/// One promise: this share of requests is answered within this time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Share of requests, such as 0.99.
    pub quantile: f64,
    /// Time within which they are answered.
    pub latency: Duration,
}

impl Target {
    /// Share of requests that may be slower.
    pub fn budget(self) -> f64 {
        1.0 - self.quantile
    }
}
