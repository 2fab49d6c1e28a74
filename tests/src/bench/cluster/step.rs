//! The step: from 15 to 100 requests a second, on pods with a tenth of a core, under Plimsoll and under the real HPA.

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use plimsoll_load::Trace;
use serde::{Deserialize, Serialize};

use super::hpa;
use super::load::{self, Connections};
use super::replicas::{Move, Replicas, direction_changes};
use super::stage::{BOUNDS, PLAIN, SCALED, Stage};
use super::watch::Watch;
use super::windows::{self, Back, Ended};
use crate::progress::{note, step};

/// Requests a second before the step and from it on.
pub const RATES: (f64, f64) = (15.0, 100.0);
/// What p99 leaves: one request of a hundred.
pub const BUDGET: f64 = 0.01;
/// Fixed fleets are tried for this long before it counts, until those who waited for a smaller one are gone.
const SETTLING_SECONDS: u32 = 5;
/// Fewest replicas that could be enough: two cannot have the CPU time.
const FLEET_MIN: u32 = 3;

/// How long the step's parts are, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spans {
    /// Load before the step.
    pub before: u32,
    /// Load from the step on, in which replicas are watched.
    pub after: u32,
    /// Of it, the first part, whose requests are counted.
    pub counted: u32,
    /// How long a fixed fleet is looked at.
    pub fleet: u32,
}

impl Spans {
    /// As it was measured when the goals were set.
    pub const FULL: Self = Self { before: 60, after: 300, counted: 180, fleet: 20 };
    /// Shows that it works.
    pub const QUICK: Self = Self { before: 20, after: 70, counted: 60, fleet: 5 };
}

/// A fixed fleet under the load after the step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fleet {
    /// Its replicas.
    pub replicas: u32,
    /// What ended.
    pub ended: Ended,
}

/// The step under one autoscaler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Replicas over time, in seconds since the load began.
    pub replicas: Replicas,
    /// What ended in each second of the load.
    pub seconds: Vec<Ended>,
    /// How late the generator itself was, 99 of 100 times, in milliseconds.
    pub generator_late_p99_ms: f64,
}

/// The step, under both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// How long its parts were.
    pub spans: Spans,
    /// Fixed fleets, smallest first, as far as one kept the promise.
    pub fleets: Vec<Fleet>,
    /// Under Plimsoll.
    pub plimsoll: Run,
    /// Under the HPA, if it could be had.
    pub hpa: Option<Run>,
    /// Why not.
    pub hpa_missing: Option<String>,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Seconds from the step until enough replicas were wanted, and moves until then.
    pub wanted: Option<(f64, usize)>,
    /// Seconds from the step until enough were Ready.
    pub ready: Option<f64>,
    /// When p99 was within the promise again.
    pub back: Back,
    /// Requests that were due in the counted part.
    pub offered: u64,
    /// Requests that were refused, failed or had timed out in it.
    pub unserved: u64,
    /// Requests over the promise in it, the unserved ones among them.
    pub over: u64,
    /// Moves after the step.
    pub moves: Vec<Move>,
    /// Of them, those that go the other way than the one before.
    pub direction_changes: usize,
    /// Wanted replicas, summed over the seconds after the step.
    pub replica_seconds: f64,
    /// The most replicas that were wanted after the step.
    pub most: u32,
}

impl Step {
    /// The smallest fixed fleet that kept the promise; absent when none did.
    pub fn enough(&self) -> Option<u32> {
        self.fleets.iter().find(|fleet| fleet.ended.kept(BUDGET)).map(|fleet| fleet.replicas)
    }

    /// What a run of it came to.
    pub fn verdict(&self, run: &Run) -> Verdict {
        let Spans { before, after, counted, .. } = self.spans;
        let (from, until) = (f64::from(before), f64::from(before + after));
        let from_second = before as usize;
        let ended = Ended::sum(run.seconds.iter().skip(from_second).take(counted as usize));
        let moves = run.replicas.moves(from, until);
        let at_step = run.replicas.at(from).map_or(0, |change| change.wanted);
        Verdict {
            wanted: self.enough().and_then(|enough| run.replicas.wanted(enough, from)),
            ready: self.enough().and_then(|enough| run.replicas.ready(enough, from)),
            back: windows::back(&run.seconds, from_second, BUDGET),
            offered: ended.offered,
            unserved: ended.unserved,
            over: ended.over,
            direction_changes: direction_changes(&moves),
            most: moves.iter().map(|to| to.to).fold(at_step, u32::max),
            moves,
            replica_seconds: run.replicas.replica_seconds(from, until),
        }
    }
}

/// Measures it.
///
/// # Errors
/// When Plimsoll's part cannot be measured. That the HPA cannot is told in the result.
pub async fn measure(stage: &Stage, spans: Spans) -> Result<Step> {
    step("Apply the ApiDeployment", stage.scale_by_plimsoll()).await?;
    let template = stage.template().await?;
    let plimsoll = step("The step under Plimsoll", run(stage, SCALED, spans)).await?;
    step("Remove it", stage.remove_scaled()).await?;
    step("Make a plain Deployment of the same pods", stage.apply_plain(&template, BOUNDS.0)).await?;
    let fleets = step("Find the smallest fixed fleet that keeps the promise", fleets(stage, spans)).await?;
    stage.resize_plain(BOUNDS.0).await?;
    let (hpa, hpa_missing) = match hpa::apply(stage).await {
        Ok(()) => {
            let run = step("The step under the HPA", run(stage, PLAIN, spans)).await?;
            hpa::remove(stage).await?;
            (Some(run), None)
        }
        Err(error) => {
            note(format!("the HPA cannot be measured here: {error:#}"));
            (None, Some(format!("{error:#}")))
        }
    };
    step("Remove the plain Deployment", stage.remove_plain()).await?;
    Ok(Step { spans, fleets, plimsoll, hpa, hpa_missing })
}

/// Sends the step's load to a Service while its Deployment is watched.
async fn run(stage: &Stage, name: &str, spans: Spans) -> Result<Run> {
    let watch = Watch::start(stage.api::<Deployment>(), name).await?;
    let felt = load::send(&stage.address(name).await?, trace(spans)?, Connections::Kept, 1).await?;
    Ok(Run {
        replicas: watch.since(felt.summary.started),
        seconds: felt.ended(),
        generator_late_p99_ms: felt.summary.late_p99_ms,
    })
}

fn trace(spans: Spans) -> Result<Trace> {
    let (low, high) = RATES;
    let at = f64::from(spans.before);
    let half = f64::from(spans.after) / 2.0;
    // The last of two points holds as long as the one before did.
    Trace::parse(&format!("0,{low}\n{at},{high}\n{},{high}\n", at + half))
}

async fn fleets(stage: &Stage, spans: Spans) -> Result<Vec<Fleet>> {
    let address = stage.address(PLAIN).await?;
    let mut fleets: Vec<Fleet> = Vec::new();
    for replicas in FLEET_MIN..=BOUNDS.1 {
        stage.resize_plain(replicas).await?;
        let trace = load::constant(RATES.1, SETTLING_SECONDS + spans.fleet)?;
        let felt = load::send(&address, trace, Connections::Kept, 1).await?;
        let ended = Ended::sum(felt.ended().iter().skip(SETTLING_SECONDS as usize));
        note(format!("{replicas} replicas: {:.1} % over the promise", 100.0 * ended.over_share()));
        fleets.push(Fleet { replicas, ended });
        if ended.kept(BUDGET) {
            break;
        }
    }
    Ok(fleets)
}

#[cfg(test)]
pub mod testing {
    //! Steps for tests.

    use super::*;
    use crate::bench::cluster::replicas::Change;

    /// A run that wants `to` replicas so many seconds after the step and breaks the promise until so many after it.
    pub fn run(spans: Spans, wanted_after: f64, to: u32, broken: u32) -> Run {
        let seconds = (0..spans.before + spans.after).map(|second| {
            let bad = (spans.before..spans.before + broken).contains(&second);
            let offered = if second < spans.before { 15 } else { 100 };
            let (over, unserved) = if bad { (40, 20) } else { (0, 0) };
            Ended { offered, all: offered, over, unserved }
        });
        let at = f64::from(spans.before) + wanted_after;
        let change = |second, wanted, ready| Change { second, wanted, ready };
        let replicas = Replicas(vec![change(-1.0, 2, 2), change(at, to, 2), change(at + 2.0, to, to)]);
        Run { replicas, seconds: seconds.collect(), generator_late_p99_ms: 0.5 }
    }

    /// A step for which five replicas are enough.
    pub fn step(plimsoll: Run, hpa: Option<Run>) -> Step {
        let fleet =
            |replicas, over| Fleet { replicas, ended: Ended { offered: 2000, all: 2000, over, unserved: 0 } };
        let hpa_missing = hpa.is_none().then(|| "no Go toolchain".to_owned());
        Step { spans: Spans::FULL, fleets: vec![fleet(4, 90), fleet(5, 3)], plimsoll, hpa, hpa_missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_that_of_the_spans() {
        let trace = trace(Spans::FULL).unwrap();
        assert_eq!(trace.duration().as_secs(), 360);
        assert!((trace.mean(59) - 15.0).abs() < 1e-9 && (trace.mean(60) - 100.0).abs() < 1e-9);
        assert!((trace.mean(359) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_verdict_counts_from_the_step() {
        let step = testing::step(testing::run(Spans::FULL, 4.5, 6, 12), None);
        assert_eq!(step.enough(), Some(5));
        let verdict = step.verdict(&step.plimsoll);
        assert_eq!((verdict.wanted, verdict.ready), (Some((4.5, 1)), Some(6.5)));
        assert_eq!((verdict.back, verdict.offered), (Back::After(12), 18_000));
        assert_eq!((verdict.unserved, verdict.over), (240, 480));
        assert_eq!((verdict.moves.len(), verdict.direction_changes, verdict.most), (1, 0, 6));
        assert!((verdict.replica_seconds - (4.5 * 2.0 + 295.5 * 6.0)).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_enough_was_never_wanted_enough() {
        let mut step = testing::step(testing::run(Spans::FULL, 4.5, 4, 300), None);
        let verdict = step.verdict(&step.plimsoll);
        assert_eq!((verdict.wanted, verdict.ready, verdict.back), (None, None, Back::Never));
        step.fleets.truncate(1);
        assert_eq!(step.enough(), None);
    }
}
