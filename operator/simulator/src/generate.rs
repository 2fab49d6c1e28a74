//! Traces made from a seed, a shape a function; the same arguments give the same trace.

use std::f64::consts::TAU;

use crate::random::{Purpose, Random};
use crate::trace::Trace;

/// A rate per second for each of `seconds` seconds, by a function of the second.
fn by_second(seconds: u32, rate: impl FnMut(f64) -> f64) -> Trace {
    Trace::from_rates((0..seconds).map(f64::from).map(rate))
}

/// `before` requests a second, and `after` from `at` seconds on.
pub fn step(seconds: u32, at: u32, before: f64, after: f64) -> Trace {
    by_second(seconds, |t| if t < f64::from(at) { before } else { after })
}

/// A straight line between two loads, from one second to another.
pub fn ramp(seconds: u32, (from_second, from): (u32, f64), (to_second, to): (u32, f64)) -> Trace {
    let length = f64::from(to_second.saturating_sub(from_second).max(1));
    by_second(seconds, |t| from + (to - from) * ((t - f64::from(from_second)) / length).clamp(0.0, 1.0))
}

/// `days` waves between `low` and `high`, each beginning at its lowest, with noise of 3 %.
pub fn diurnal(seed: u64, seconds: u32, days: f64, low: f64, high: f64) -> Trace {
    let mut random = Random::new(seed, Purpose::Traces);
    by_second(seconds, |t| {
        let wave = 0.5 - 0.5 * libm::cos(TAU * days * t / f64::from(seconds));
        (low + (high - low) * wave) * (1.0 + 0.03 * random.normal())
    })
}

/// `base` load with bursts of `factor` times as much: a new one every `every` seconds on the mean, each for 5 to 60
/// seconds.
pub fn bursts(seed: u64, seconds: u32, base: f64, factor: f64, every: f64) -> Trace {
    let mut random = Random::new(seed, Purpose::Traces);
    let mut next = random.exponential() * every;
    let mut until = 0.0;
    by_second(seconds, |t| {
        if t >= next {
            until = t + random.between(5.0, 60.0);
            next = until + random.exponential() * every;
        }
        if t < until { base * factor } else { base }
    })
}

/// `base` load; at `at` it grows to `factor` times as much within `rise` seconds, and then halves every `half_life`
/// seconds back to the base.
pub fn flash_crowd(seconds: u32, base: f64, factor: f64, at: u32, rise: f64, half_life: f64) -> Trace {
    by_second(seconds, |t| {
        let since = t - f64::from(at);
        let part = if since < 0.0 {
            0.0
        } else if since < rise {
            since / rise
        } else {
            libm::exp2(-(since - rise) / half_life)
        };
        base * (1.0 + (factor - 1.0) * part)
    })
}

/// `low` and `high` in turn, `period` seconds each.
pub fn on_off(seconds: u32, period: u32, low: f64, high: f64) -> Trace {
    by_second(seconds, |t| if (t as u32 / period.max(1)).is_multiple_of(2) { low } else { high })
}

/// A constant load that wanders: first-order noise whose deviation is `cv` of the mean and which forgets within
/// `memory` seconds.
pub fn noisy(seed: u64, seconds: u32, mean: f64, cv: f64, memory: f64) -> Trace {
    let mut random = Random::new(seed, Purpose::Traces);
    let keep = libm::exp(-1.0 / memory.max(1e-9));
    let mut deviation = random.normal();
    by_second(seconds, |_| {
        deviation = keep * deviation + (1.0 - keep * keep).sqrt() * random.normal();
        mean * (1.0 + cv * deviation)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_what_their_names_say() {
        let trace = step(100, 50, 10.0, 30.0);
        assert_eq!((trace.rate(49.5), trace.rate(50.0)), (10.0, 30.0));
        let trace = ramp(100, (20, 10.0), (40, 50.0));
        assert_eq!((trace.rate(0.0), trace.rate(30.0), trace.rate(90.0)), (10.0, 30.0, 50.0));
        let trace = on_off(40, 10, 1.0, 2.0);
        assert_eq!((trace.rate(5.0), trace.rate(15.0), trace.rate(25.0)), (1.0, 2.0, 1.0));
        let trace = flash_crowd(1000, 10.0, 5.0, 100, 10.0, 60.0);
        assert_eq!((trace.rate(99.0), trace.rate(110.0), trace.rate(170.0)), (10.0, 50.0, 30.0));
        let trace = diurnal(1, 3600, 1.0, 10.0, 100.0);
        assert!(trace.rate(0.0) < 20.0 && trace.rate(1800.0) > 80.0);
        let trace = bursts(1, 3600, 10.0, 3.0, 300.0);
        let high = (0..3600).filter(|&t| trace.rate(f64::from(t)) > 20.0).count();
        assert!((50..1200).contains(&high), "{high} s of bursts");
        let trace = noisy(1, 36_000, 100.0, 0.1, 10.0);
        assert!((trace.mean() - 100.0).abs() < 2.0, "{}", trace.mean());
    }

    #[test]
    fn a_seed_is_a_trace() {
        assert_eq!(noisy(1, 100, 10.0, 0.2, 5.0), noisy(1, 100, 10.0, 0.2, 5.0));
        assert_ne!(noisy(1, 100, 10.0, 0.2, 5.0), noisy(2, 100, 10.0, 0.2, 5.0));
    }
}
