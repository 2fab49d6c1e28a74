//! How the promise is kept, in numbers that add up: what one round's requests did to each target. It decides nothing.

use plimsoll_crds::Percentile;

use crate::engine::{Answer, Round};
use crate::input::{Scrape, Targets};
use crate::recent::Window;

/// What one round says of the promise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attainment {
    /// Requests that ended in the round, or were refused because of load.
    pub requests: f64,
    /// What they did to each target, in the order of the spec. One that could not be judged is left out.
    pub targets: Vec<Judged>,
    /// Percentiles of the last minute in seconds, the lowest first. One that too few requests tell is left out.
    pub latencies: Vec<(Percentile, f64)>,
}

/// One target, and what a round's requests did to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// Its field in `spec.latency`, or `errors`.
    pub name: &'static str,
    /// Share of requests that may miss it.
    pub budget: f64,
    /// Time within which requests are to be answered; none for `errors`.
    pub within_seconds: Option<f64>,
    /// Requests that missed it. A refused request misses every target. Where the histogram has no edge at the target, it
    /// is counted from the next lower edge, which is never too few.
    pub missed: f64,
}

impl Attainment {
    /// Judges a round. `window` holds the requests of the last minute.
    pub(crate) fn of(targets: Targets, scrape: &Scrape, round: &Round, window: &Window) -> Self {
        let delta = &round.delta;
        // No data is not zero: what no replica tells has not been kept.
        let errors_told = scrape.readings().any(crate::histogram::Snapshot::tells_errors);
        let targets = targets
            .each()
            .filter(|(_, target)| target.answer != Answer::WithoutError || errors_told)
            .map(|(name, target)| Judged {
                name,
                budget: target.budget(),
                within_seconds: target.latency_seconds(),
                missed: target.missed(delta) + delta.shed,
            });
        let latencies = Percentile::ALL
            .into_iter()
            .filter_map(|percentile| Some((percentile, window.percentile(1.0 - percentile.budget())?)));
        Self {
            requests: delta.total + delta.shed,
            targets: targets.collect(),
            latencies: latencies.collect(),
        }
    }
}
