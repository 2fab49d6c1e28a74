//! How latency grows with load: the wait in a pod's queue on top of what a request takes without one.
//!
//! A pod is taken for an M/G/k queue. Its waiting time is the approximation of Sakasegawa (1977) for the chance to wait
//! and of Allen and Cunneen for its length: `P(wait > t) = ρ^(√(2(k+1))-1) · exp(-t · x_sat · (1-ρ) · 2/(1+cv²))`, with ρ the
//! load over the load `x_sat` that saturates the pod, k its workers and cv² the variability of what requests take.
//! What a request takes without a wait is not assumed: it is the histogram at low load.

/// Atoms that stand for a histogram.
const ATOMS_MAX: usize = 40;
/// Points of the table of [`Tail::wait_passes`].
const TABLE: usize = 64;
/// The table spans waits from this part of the edge to the reciprocal of it.
const TABLE_LOWEST: f64 = 0.02;
const TABLE_HIGHEST: f64 = 400.0;
/// Utilisation from which a pod counts as saturated.
pub const UTILIZATION_MAX: f64 = 0.985;

/// The time that requests take when they need not wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Base {
    /// `(seconds, share)`, ascending; shares add up to 1.
    atoms: Vec<(f64, f64)>,
    /// `2/(1+cv²)`.
    drain: f64,
}

impl Base {
    /// From buckets `(upper edge in seconds, requests up to it)`, ascending, and the number of all requests. What lies
    /// on either side of an edge in `kept_seconds` is never put together. None without requests or edges.
    pub fn of(
        cumulative: impl Iterator<Item = (f64, f64)>,
        total: f64,
        kept_seconds: &[f64],
    ) -> Option<Self> {
        if total <= 0.0 {
            return None;
        }
        let mut atoms = Vec::with_capacity(ATOMS_MAX + 1);
        let (mut lower, mut below) = (0.0, 0.0);
        // Narrow buckets are put together until they hold enough to matter.
        let least = total / ATOMS_MAX as f64;
        let (mut mass, mut moment) = (0.0, 0.0);
        for (edge, up_to) in cumulative {
            let count: f64 = up_to - below;
            mass += count;
            moment += count * f64::midpoint(lower, edge);
            let kept = kept_seconds.iter().any(|kept| (kept - edge).abs() <= 1e-9 * edge);
            if mass >= least || (mass > 0.0 && (kept || moment / mass < 0.7 * edge)) {
                atoms.push((moment / mass, mass / total));
                (mass, moment) = (0.0, 0.0);
            }
            (lower, below) = (edge, up_to);
        }
        if lower <= 0.0 {
            return None;
        }
        if mass > 0.0 {
            atoms.push((moment / mass, mass / total));
        }
        if total > below {
            atoms.push((1.5 * lower, (total - below) / total));
        }
        let mean = atoms.iter().map(|(seconds, share)| seconds * share).sum::<f64>();
        let square = atoms.iter().map(|(seconds, share)| seconds * seconds * share).sum::<f64>();
        let variability = (square / (mean * mean).max(f64::MIN_POSITIVE) - 1.0).clamp(0.0, 10.0);
        Some(Self { atoms, drain: 2.0 / (1.0 + variability) })
    }

    /// The share of requests that take longer than `seconds` without a wait.
    pub fn over(&self, seconds: f64) -> f64 {
        self.atoms.iter().rev().take_while(|atom| atom.0 > seconds).map(|atom| atom.1).sum()
    }

    /// The least time that at most `share` of requests exceed.
    pub fn exceeded_by(&self, share: f64) -> f64 {
        let mut over = 0.0;
        for &(seconds, part) in self.atoms.iter().rev() {
            over += part;
            if over > share {
                return seconds;
            }
        }
        0.0
    }
}

/// The share of requests over one edge, as a function of load.
#[derive(Clone, Debug, PartialEq)]
pub struct Tail {
    edge_seconds: f64,
    base_over: f64,
    drain: f64,
    /// Sum over atoms below the edge of `share · exp(-η · (edge - atom))`, over a logarithmic range of η.
    table: [f64; TABLE],
}

impl Tail {
    /// Tabulates `base` for one edge.
    pub fn new(base: &Base, edge_seconds: f64) -> Self {
        let table = std::array::from_fn(|index| {
            let eta = Self::eta_at(index) / edge_seconds;
            base.atoms
                .iter()
                .take_while(|atom| atom.0 <= edge_seconds)
                .map(|&(seconds, share)| share * (-eta * (edge_seconds - seconds)).exp())
                .sum()
        });
        Self { edge_seconds, base_over: base.over(edge_seconds), drain: base.drain, table }
    }

    /// The share over the edge when a pod that saturates at `saturation_per_second` is used to `utilization` (0..) and
    /// a request finds all its workers busy with probability `busy`.
    pub fn over(&self, saturation_per_second: f64, utilization: f64, busy: f64) -> f64 {
        let utilization = utilization.min(UTILIZATION_MAX);
        let eta = saturation_per_second * (1.0 - utilization) * self.drain;
        self.base_over + busy * self.wait_passes(eta)
    }

    fn wait_passes(&self, eta: f64) -> f64 {
        let steps = (TABLE - 1) as f64;
        let position = ((eta * self.edge_seconds / TABLE_LOWEST).ln() / (TABLE_HIGHEST / TABLE_LOWEST).ln())
            .clamp(0.0, 1.0)
            * steps;
        let lower = (position as usize).min(TABLE - 2);
        let part = position - lower as f64;
        self.table[lower] * (1.0 - part) + self.table[lower + 1] * part
    }

    fn eta_at(index: usize) -> f64 {
        TABLE_LOWEST * (TABLE_HIGHEST / TABLE_LOWEST).powf(index as f64 / (TABLE - 1) as f64)
    }
}

/// The exponent of ρ in Sakasegawa's chance to wait.
pub fn wait_exponent(workers: f64) -> f64 {
    (2.0 * (workers + 1.0)).sqrt() - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Erlang's C formula: the chance to wait in an M/M/k queue offered `erlangs`.
    fn erlang_c(workers: u32, erlangs: f64) -> f64 {
        let mut inverse_b = 1.0;
        for worker in 1..=workers {
            inverse_b = 1.0 + f64::from(worker) / erlangs * inverse_b;
        }
        let (b, k) = (1.0 / inverse_b, f64::from(workers));
        k * b / (k - erlangs * (1.0 - b))
    }

    /// The share over `t` of the sum of an exponential service and the M/M/k wait.
    fn exact(workers: u32, mean_seconds: f64, per_second: f64, t: f64) -> f64 {
        let (mu, k) = (1.0 / mean_seconds, f64::from(workers));
        let busy = erlang_c(workers, per_second * mean_seconds);
        let eta = k * mu - per_second;
        let both = (eta * (-mu * t).exp() - mu * (-eta * t).exp()) / (eta - mu);
        (1.0 - busy) * (-mu * t).exp() + busy * both
    }

    fn exponential(mean_seconds: f64) -> Base {
        let cumulative = (1..=200)
            .map(|step| {
                let edge = 0.005 * f64::from(step);
                (edge, 1e6 * (1.0 - (-edge / mean_seconds).exp()))
            })
            .collect::<Vec<_>>();
        Base::of(cumulative.into_iter(), 1e6, &[0.1, 0.3]).unwrap()
    }

    #[test]
    fn the_tail_is_close_to_that_of_an_exact_queue() {
        let tail = Tail::new(&exponential(0.05), 0.3);
        for workers in [2, 4, 8] {
            let saturation = f64::from(workers) / 0.05;
            for utilization in [0.55, 0.7, 0.8, 0.9] {
                let busy = f64::powf(utilization, wait_exponent(f64::from(workers)));
                let model = tail.over(saturation, utilization, busy);
                let exact = exact(workers, 0.05, utilization * saturation, 0.3);
                assert!(
                    (model / exact).ln().abs() < 0.25,
                    "k {workers}, ρ {utilization}: {model} or {exact}"
                );
            }
        }
    }

    #[test]
    fn what_takes_longer_than_the_edge_without_a_wait_is_never_within() {
        let tail = Tail::new(&exponential(0.05), 0.1);
        assert!((tail.base_over - (-2.0_f64).exp()).abs() < 0.02, "{}", tail.base_over);
        assert!(tail.over(80.0, 0.01, 1e-9) >= tail.base_over);
    }

    #[test]
    fn more_load_is_never_faster() {
        let tail = Tail::new(&exponential(0.05), 0.3);
        let mut before = 0.0;
        for percent in 1..150 {
            let utilization = f64::from(percent) / 100.0;
            let over = tail.over(80.0, utilization, utilization.min(1.0).powf(wait_exponent(4.0)));
            assert!(over >= before, "{percent} %");
            before = over;
        }
    }

    #[test]
    fn nothing_seen_gives_no_base() {
        assert_eq!(Base::of([].into_iter(), 0.0, &[]), None);
        assert_eq!(Base::of([].into_iter(), 1.0, &[]), None);
        assert_eq!(Base::of([(0.1, 0.0)].into_iter(), 0.0, &[]), None);
    }
}
