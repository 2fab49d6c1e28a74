//! The percentiles that a promise may speak of.

/// A percentile of the latency of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Percentile {
    /// The median.
    P50,
    /// 90 of 100 requests are no slower.
    P90,
    /// 95 of 100 requests are no slower.
    P95,
    /// 99 of 100 requests are no slower.
    P99,
    /// 999 of 1000 requests are no slower.
    P999,
}

impl Percentile {
    /// All of them, the lowest first.
    pub const ALL: [Self; 5] = [Self::P50, Self::P90, Self::P95, Self::P99, Self::P999];

    /// Its name, which is its field in `spec.latency`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::P999 => "p999",
        }
    }

    /// Share of requests that may be slower.
    pub const fn budget(self) -> f64 {
        match self {
            Self::P50 => 0.5,
            Self::P90 => 0.1,
            Self::P95 => 0.05,
            Self::P99 => 0.01,
            Self::P999 => 0.001,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_share_of_requests_within() {
        for percentile in Percentile::ALL {
            let digits = percentile.as_str().trim_start_matches('p');
            let within = format!("0.{digits}").parse::<f64>().unwrap_or(f64::NAN);
            assert!((1.0 - percentile.budget() - within).abs() < 1e-12, "{percentile:?}");
        }
    }
}
