//! When requests come: the trace's load, turned into moments.
//!
//! Gaps are drawn for a load of one a second and stretched by the trace, so that the same seed gives the same pattern at
//! any height of the load.

use crate::clock::{Nanos, nanos};
use crate::random::{Purpose, Random};
use crate::scenario::Arrivals;
use crate::trace::Trace;

pub(crate) struct ArrivalStream {
    random: Random,
    kind: Arrivals,
    pieces: Vec<(f64, f64, f64)>,
    piece: usize,
    second: f64,
}

impl ArrivalStream {
    pub(crate) fn new(trace: &Trace, kind: Arrivals, seed: u64) -> Self {
        let pieces: Vec<_> = trace.pieces().collect();
        Self { random: Random::new(seed, Purpose::Arrivals), kind, pieces, piece: 0, second: 0.0 }
    }

    /// The next request's moment; none after the end of the trace.
    pub(crate) fn next(&mut self) -> Option<Nanos> {
        let mut gap = self.gap();
        loop {
            let &(_, end, rate) = self.pieces.get(self.piece)?;
            let room = (end - self.second).max(0.0) * rate;
            if gap < room {
                self.second += gap / rate;
                return Some(nanos(self.second));
            }
            gap -= room;
            self.second = end;
            self.piece += 1;
        }
    }

    /// A gap with mean 1.
    fn gap(&mut self) -> f64 {
        match self.kind {
            Arrivals::Poisson => self.random.exponential(),
            Arrivals::Even => 1.0,
            Arrivals::Bursty { cv } => {
                // Two exponentials of balanced means: Whitt, "Approximating a point process by a renewal process I",
                // Operations Research 30 (1982).
                let square = (cv * cv).max(1.0);
                let share = f64::midpoint(1.0, ((square - 1.0) / (square + 1.0)).sqrt());
                let rate = if self.random.unit() < share { 2.0 * share } else { 2.0 * (1.0 - share) };
                self.random.exponential() / rate
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;
    use crate::generate;

    fn moments(kind: Arrivals, seconds: u32, rate: f64) -> Vec<Nanos> {
        let trace = generate::step(seconds, 0, rate, rate);
        let mut stream = ArrivalStream::new(&trace, kind, 1);
        std::iter::from_fn(move || stream.next()).collect()
    }

    #[test]
    fn they_come_at_the_traces_rate() {
        let trace = generate::step(200, 100, 50.0, 200.0);
        let mut stream = ArrivalStream::new(&trace, Arrivals::Poisson, 3);
        let all: Vec<_> = std::iter::from_fn(|| stream.next()).collect();
        let first = all.iter().filter(|&&at| at < 100 * SECOND).count();
        assert!((4700..5300).contains(&first), "{first}");
        assert!((19_400..20_600).contains(&(all.len() - first)), "{}", all.len() - first);
        assert!(all.is_sorted());
    }

    #[test]
    fn gaps_have_the_variation_that_is_asked_for() {
        for (kind, expected) in
            [(Arrivals::Even, 0.0), (Arrivals::Poisson, 1.0), (Arrivals::Bursty { cv: 2.0 }, 2.0)]
        {
            let all = moments(kind, 1000, 200.0);
            assert!((all.len() as f64 / 200_000.0 - 1.0).abs() < 0.02);
            let gaps: Vec<f64> = all.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            let cv = variance.sqrt() / mean;
            assert!((cv - expected).abs() < 0.03, "{kind:?}: {cv}");
        }
    }
}
