//! Simulated time: nanoseconds since the start of a run, as whole numbers, so that sums are exact and order is total.

use std::time::Duration;

/// Nanoseconds since the start of the run, or a length of time in nanoseconds.
pub(crate) type Nanos = u64;

pub(crate) const SECOND: Nanos = 1_000_000_000;

/// A length of time from seconds; nothing negative, and at most some centuries.
pub(crate) fn nanos(seconds: f64) -> Nanos {
    (seconds * 1e9).round() as Nanos
}

/// Nanoseconds of a duration, at most some centuries.
pub(crate) fn nanos_of(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// Seconds of a number of nanoseconds.
pub(crate) fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

/// A number of nanoseconds as a duration.
pub(crate) fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(nanos)
}
