//! Random numbers whose streams are fixed: the same seed gives the same numbers on every platform and in every release.
//!
//! Every purpose draws from a stream of its own, so that two policies that differ see the same arrivals, the same service
//! times and the same start-up times (common random numbers), and their scores differ by what they did.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What numbers are drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Gaps between requests.
    Arrivals = 1,
    /// How long requests take.
    Service = 2,
    /// Which pod gets a request.
    Balancing = 3,
    /// How long pods take to start.
    StartUp = 4,
    /// Scrapes that are lost.
    Scrapes = 5,
    /// Traces that are made from a seed.
    Traces = 6,
    /// Choices of a policy that draws, as Knative's does when it samples pods.
    Policy = 7,
}

/// One stream of random numbers: `ChaCha` with eight rounds, whose output is specified and not left to a release of a
/// crate.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream of one purpose.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(purpose as u64);
        Self(generator)
    }

    /// Uniform in the open interval (0, 1), in steps of 2⁻⁵³: never 0, so that its logarithm is finite, and never 1.
    pub fn unit(&mut self) -> f64 {
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        ((self.0.next_u64() >> 11) as f64 + 0.5) * STEP
    }

    /// Uniform in `0..below`, by multiplication: its bias, below `below` / 2³², is beyond what a run can show.
    /// 0 if `below` is.
    pub fn below(&mut self, below: usize) -> usize {
        ((u64::from(self.0.next_u32()) * below as u64) >> 32) as usize
    }

    /// Uniform between two numbers.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -libm::log(self.unit())
    }

    /// Normal with mean 0 and variance 1.
    pub fn normal(&mut self) -> f64 {
        crate::distribution::normal_quantile(self.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_fixed_and_independent() {
        let draw = |purpose| {
            let mut random = Random::new(7, purpose);
            [random.below(1_000_000), random.below(1_000_000), random.below(1_000_000)]
        };
        assert_eq!(draw(Purpose::Arrivals), draw(Purpose::Arrivals));
        assert_ne!(draw(Purpose::Arrivals), draw(Purpose::Service));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut random = Random::new(1, Purpose::Service);
        let count = 200_000;
        let (mut uniform, mut exponential, mut normal, mut square) = (0.0, 0.0, 0.0, 0.0);
        for _ in 0..count {
            uniform += random.unit();
            exponential += random.exponential();
            let z = random.normal();
            normal += z;
            square += z * z;
        }
        let n = f64::from(count);
        for (name, value, expected) in [
            ("uniform", uniform / n, 0.5),
            ("exponential", exponential / n, 1.0),
            ("normal", normal / n, 0.0),
            ("variance", square / n, 1.0),
        ] {
            assert!((value - expected).abs() < 0.01, "{name}: {value}");
        }
    }
}
