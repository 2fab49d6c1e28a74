//! Pods that all do the same under a load that hardly moves, as the engine is shown them every five seconds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use plimsoll_core::engine::{Cpu, Observation, Pod, Sample, Settings, Target, VIOLATION_PRICE_DEFAULT};
use plimsoll_core::histogram::{EDGES_MAX, Rejection, Snapshot};

/// Seconds between two scrapes.
const PERIOD_SECONDS: u32 = 5;
/// Requests per second at which a pod just keeps its targets.
const CAPACITY_PER_SECOND: f64 = 600.0;
/// What a request takes on the mean, without any load.
const MEAN_SECONDS: f64 = 0.03;
/// A request is answered within this on average 95 and 99 of 100 times at the capacity; both are edges.
const TARGETS: [(f64, f64); 2] = [(0.95, 0.17), (0.99, 0.25)];
/// The edges beside the targets lie between these, in seconds.
const EDGES_SECONDS: (f64, f64) = (0.001, 10.0);
/// The load goes up and down by this part.
const WOBBLE: f64 = 0.03;
/// CPU time of a request, in seconds.
const CPU_SECONDS: f64 = 0.001;

/// The pods.
#[derive(Clone, Debug)]
pub struct Fleet {
    uids: Vec<String>,
    /// Upper edges in seconds, ascending, the infinite one last.
    edges: Vec<f64>,
    /// Load of a pod as a part of its capacity.
    utilization: f64,
    round: u32,
    /// Requests of one pod between each edge and the one below it, with the part of one that is still to come.
    counts: Vec<f64>,
}

impl Fleet {
    /// So many pods with so many finite edges in each histogram, which are used to a part of their capacity.
    ///
    /// # Errors
    /// When there are fewer edges than targets, or more than the engine takes.
    pub fn new(pods: usize, edges: usize, utilization: f64) -> Result<Self> {
        let more = edges.checked_sub(TARGETS.len()).context("there is an edge at each target")?;
        ensure!(edges < EDGES_MAX, "a histogram has fewer than {EDGES_MAX} finite edges");
        let (low, high) = EDGES_SECONDS;
        let apart = (high / low).powf(1.0 / (more.max(2) - 1) as f64);
        let mut all: Vec<f64> = (0..more).map(|index| low * apart.powf(index as f64)).collect();
        all.extend(TARGETS.map(|(_, seconds)| seconds));
        all.push(f64::INFINITY);
        all.sort_by(f64::total_cmp);
        Ok(Self {
            uids: (0..pods).map(|pod| format!("5d0c7a1e-4c1b-4d52-9c0e-{pod:012x}")).collect(),
            counts: vec![0.0; all.len()],
            edges: all,
            utilization,
            round: 0,
        })
    }

    /// The promise, and bounds that are out of the way.
    pub fn settings(&self) -> Settings {
        let target = |(quantile, seconds)| Target::latency(quantile, Duration::from_secs_f64(seconds));
        Settings {
            targets: TARGETS.map(target).to_vec(),
            min: 1,
            max: 2 * self.replicas() + 10,
            period: Duration::from_secs(u64::from(PERIOD_SECONDS)),
            violation_price: VIOLATION_PRICE_DEFAULT,
        }
    }

    /// The next round of scrapes.
    ///
    /// # Errors
    /// When the readings are none that the engine takes: they are made wrongly.
    pub fn scrape(&mut self) -> Result<Observation> {
        self.round += 1;
        let seconds = f64::from(self.round * PERIOD_SECONDS);
        let utilization = self.utilization * (1.0 + WOBBLE * (0.7 * f64::from(self.round)).sin());
        let requests = utilization * CAPACITY_PER_SECOND * f64::from(PERIOD_SECONDS);
        let mut above = 1.0;
        let mut served = 0.0;
        let mut cumulative = Vec::with_capacity(self.edges.len());
        for (count, edge) in self.counts.iter_mut().zip(&self.edges) {
            let over = over(*edge, utilization);
            *count += requests * (above - over);
            above = over;
            // Whole requests: the sums of parts would not add up to the last bit.
            served += count.floor();
            cumulative.push((*edge, served));
        }
        let in_flight = utilization * CAPACITY_PER_SECOND * MEAN_SECONDS;
        // Each pod has a reading of its own, as one that was scraped: clones would share what is counted.
        let reading = || {
            Snapshot::new(cumulative.clone(), Some(in_flight), Some(0.0)).map_err(|rejection: Rejection| {
                anyhow::anyhow!("a reading was refused: {}", rejection.as_str())
            })
        };
        let cpu = Cpu {
            used_seconds: CPU_SECONDS * served,
            limit_cores: Some(1.0),
            periods: 10.0 * seconds,
            throttled_periods: 0.0,
        };
        let started = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(500_000);
        let now = started + SignedDuration::from_mins(10) + SignedDuration::from_secs(seconds as i64);
        let pod = |uid: &String| {
            Ok(Pod {
                uid: uid.clone(),
                template: String::new(),
                created_at: started,
                ready_at: Some(started + SignedDuration::from_secs(3)),
                sample: Some(Sample { at: now, reading: Ok(reading()?), cpu: Some(cpu) }),
            })
        };
        Ok(Observation {
            now,
            current: self.replicas(),
            template: 1,
            rolling_out: false,
            pods: self.uids.iter().map(pod).collect::<Result<_>>()?,
        })
    }

    fn replicas(&self) -> u32 {
        self.uids.len() as u32
    }
}

/// The share of requests that take longer than `seconds`.
fn over(seconds: f64, utilization: f64) -> f64 {
    (-seconds / (MEAN_SECONDS * (1.0 + 0.8 * utilization.powi(6)))).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_have_the_asked_edges_and_one_at_each_target() {
        for edges in [12, 50, 200, 500] {
            let fleet = Fleet::new(1, edges, 0.5).unwrap();
            assert_eq!(fleet.edges.len(), edges + 1);
            assert!(fleet.edges.windows(2).all(|pair| pair[0] < pair[1]), "{edges}");
            assert!(TARGETS.iter().all(|target| fleet.edges.contains(&target.1)), "{edges}");
        }
        assert!(Fleet::new(1, 1, 0.5).is_err());
    }

    #[test]
    fn the_targets_are_just_kept_at_the_capacity() {
        for (quantile, seconds) in TARGETS {
            let share = over(seconds, 1.0);
            assert!((0.8..=1.0).contains(&(share / (1.0 - quantile))), "{share} over {seconds}");
        }
    }
}
