//! Distributions of times, by their quantile functions: a request carries one uniform number, and the pod that serves it
//! reads its time from that, so that a change of policy or of pod never changes which requests are the long ones.

use serde::Serialize;

/// How long something takes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Distribution {
    /// Always the same.
    Constant {
        /// The time in seconds.
        seconds: f64,
    },
    /// Memoryless; the coefficient of variation is 1.
    Exponential {
        /// Mean in seconds.
        mean: f64,
    },
    /// Multiplicative noise.
    Lognormal {
        /// Mean in seconds.
        mean: f64,
        /// Standard deviation over mean.
        cv: f64,
    },
    /// One time for hits of a cache, another for misses.
    TwoPoint {
        /// Share of hits, 0 to 1.
        hit_share: f64,
        /// Time of a hit in seconds.
        hit: f64,
        /// Time of a miss in seconds.
        miss: f64,
    },
    /// A power law between two bounds: P(more than x) ∝ x^−shape. Heavy-tailed for a shape below 2.
    BoundedPareto {
        /// Shortest time in seconds, above 0.
        low: f64,
        /// Longest time in seconds, above `low`.
        high: f64,
        /// Exponent, above 0 and not 1.
        shape: f64,
    },
}

impl Distribution {
    /// The time in seconds below which a share `u` of all lies; `u` in the open interval (0, 1).
    pub fn quantile(&self, u: f64) -> f64 {
        match *self {
            Self::Constant { seconds } => seconds,
            Self::Exponential { mean } => -mean * libm::log1p(-u),
            Self::Lognormal { mean, cv } => {
                let variance = libm::log1p(cv * cv);
                mean * libm::exp(normal_quantile(u) * variance.sqrt() - variance / 2.0)
            }
            Self::TwoPoint { hit_share, hit, miss } => {
                if u < hit_share {
                    hit
                } else {
                    miss
                }
            }
            Self::BoundedPareto { low, high, shape } => {
                let ratio = libm::pow(low / high, shape);
                low / libm::pow(1.0 - u * (1.0 - ratio), 1.0 / shape)
            }
        }
    }

    /// Mean in seconds.
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Constant { seconds } => seconds,
            Self::Exponential { mean } | Self::Lognormal { mean, .. } => mean,
            Self::TwoPoint { hit_share, hit, miss } => hit_share * hit + (1.0 - hit_share) * miss,
            Self::BoundedPareto { low, high, shape } => pareto_moment(low, high, shape, 1.0),
        }
    }

    /// Mean of the square, in square seconds.
    pub fn second_moment(&self) -> f64 {
        match *self {
            Self::Constant { seconds } => seconds * seconds,
            Self::Exponential { mean } => 2.0 * mean * mean,
            Self::Lognormal { mean, cv } => mean * mean * (1.0 + cv * cv),
            Self::TwoPoint { hit_share, hit, miss } => {
                hit_share * hit * hit + (1.0 - hit_share) * miss * miss
            }
            Self::BoundedPareto { low, high, shape } => pareto_moment(low, high, shape, 2.0),
        }
    }

    /// The same shape, `factor` times as long.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        match *self {
            Self::Constant { seconds } => Self::Constant { seconds: seconds * factor },
            Self::Exponential { mean } => Self::Exponential { mean: mean * factor },
            Self::Lognormal { mean, cv } => Self::Lognormal { mean: mean * factor, cv },
            Self::TwoPoint { hit_share, hit, miss } => {
                Self::TwoPoint { hit_share, hit: hit * factor, miss: miss * factor }
            }
            Self::BoundedPareto { low, high, shape } => {
                Self::BoundedPareto { low: low * factor, high: high * factor, shape }
            }
        }
    }
}

/// E[X^k] of a bounded Pareto distribution, for a shape other than `k`.
fn pareto_moment(low: f64, high: f64, shape: f64, k: f64) -> f64 {
    let bounded = 1.0 - libm::pow(low / high, shape);
    shape * libm::pow(low, shape) / bounded * (libm::pow(high, k - shape) - libm::pow(low, k - shape))
        / (k - shape)
}

/// Quantile of the standard normal distribution, to about 1e-9: Acklam's rational approximation
/// (<https://web.archive.org/web/20151030215612/http://home.online.no/~pjacklam/notes/invnorm/>).
pub fn normal_quantile(u: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] =
        [7.784_695_709_041_462e-3, 3.224_671_290_700_398e-1, 2.445_134_137_142_996, 3.754_408_661_907_416];
    const TAIL: f64 = 0.024_25;
    let polynomial = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |share: f64| {
        let q = (-2.0 * libm::log(share)).sqrt();
        polynomial(&C, q) / (polynomial(&D, q) * q + 1.0)
    };
    if u < TAIL {
        tail(u)
    } else if u > 1.0 - TAIL {
        -tail(1.0 - u)
    } else {
        let q = u - 0.5;
        let r = q * q;
        polynomial(&A, r) * q / (polynomial(&B, r) * r + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_quantiles_are_those_of_tables() {
        for (u, z) in
            [(0.5, 0.0), (0.975, 1.959_964), (0.99, 2.326_348), (0.001, -3.090_232), (0.9, 1.281_552)]
        {
            assert!((normal_quantile(u) - z).abs() < 1e-6, "{u}: {}", normal_quantile(u));
        }
    }

    #[test]
    fn quantiles_integrate_to_the_moments() {
        for distribution in [
            Distribution::Constant { seconds: 0.05 },
            Distribution::Exponential { mean: 0.05 },
            Distribution::Lognormal { mean: 0.05, cv: 1.5 },
            Distribution::TwoPoint { hit_share: 0.9, hit: 0.002, miss: 0.05 },
            Distribution::BoundedPareto { low: 0.005, high: 2.0, shape: 1.5 },
        ] {
            // The integral of the quantile function over (0, 1) is the mean, that of its square the second moment.
            let steps = 4_000_000;
            let (mut mean, mut square) = (0.0, 0.0);
            for step in 0..steps {
                let x = distribution.quantile((f64::from(step) + 0.5) / f64::from(steps));
                mean += x;
                square += x * x;
            }
            let close = |a: f64, b: f64| (a / f64::from(steps) / b - 1.0).abs() < 0.002;
            assert!(close(mean, distribution.mean()), "{distribution:?}");
            assert!(close(square, distribution.second_moment()), "{distribution:?}");
            let twice = distribution.scaled(2.0);
            assert!((twice.mean() / distribution.mean() - 2.0).abs() < 1e-9);
            assert!((twice.quantile(0.37) / distribution.quantile(0.37) - 2.0).abs() < 1e-9);
        }
    }

    #[test]
    fn quantiles_of_the_exponential_are_its_logarithms() {
        let p99 = Distribution::Exponential { mean: 0.05 }.quantile(0.99);
        assert!((p99 - 0.230_258_5).abs() < 1e-6, "{p99}");
    }
}
