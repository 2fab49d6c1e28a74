//! Whether requests have become dearer or cheaper, by the CPU time that they take.
//!
//! A release, another mix of requests or an emptied cache changes at once what a request costs, and with it what a pod carries.
//! Latencies show that only as far as pods are near their capacity, and a cheaper request hardly at all; CPU time shows both
//! within seconds. It is compared with what pods used at about the same load before, for they use some without any request:
//! by which power their use grows with the load is taken from what was seen, and lies between 0 and 1. How much of the
//! capacity goes with it is not certain, for requests may wait for something else: what was learned is moved, and doubted. The
//! constants were chosen in the simulated cluster (ADR 15).

use std::collections::VecDeque;
use std::f64::consts::SQRT_2;

use super::estimate::Round;

/// Rounds that must agree: one alone may hold the work of requests that end in the next.
const RECENT: usize = 2;
/// Earlier rounds at about the same load, at least.
const EARLIER_MIN: usize = 6;
/// Rounds that are kept: five minutes at the default period.
const ROUNDS_MAX: usize = 60;
/// Loads are about the same while their logarithms differ by no more.
const SAME_LOAD: f64 = 0.3;
/// A change by less than this part is left to the latencies.
const CHANGE_MIN: f64 = 0.08;
/// And it must be so many times what chance does, by what the earlier rounds differ.
const BEYOND_CHANCE: f64 = 4.0;
/// By so many standard errors the power may be off.
const POWER_ERRORS: f64 = 2.0;
/// Loads that hardly differ tell nothing of the power: CPU use is taken to differ by this part for other reasons, at least.
const NOISE_MIN: f64 = 0.01;
/// A round in which the requests that came differ from those that ended by more (in logarithms) tells nothing: whether the work of those
/// that wait is done depends on the service.
const UNDONE: f64 = 0.05;
/// A pod that uses less of a core does not do so for its requests alone, and none uses more.
const CORES_MIN: f64 = 0.005;
const CORES_MAX: f64 = 1000.0;
/// A pod that says it used more than this many times what most did has something else to do, or lies.
const BUSIEST: f64 = 3.0;
/// No more than this factor, or one over it, is believed at once; the rest shows in the next rounds.
const FACTOR_MAX: f64 = 3.0;
/// Median distance from the middle of a normal distribution, in its spreads. Two of them differ by [`SQRT_2`] times as much.
const MEDIAN_DISTANCE: f64 = 0.674;

/// What requests have cost lately.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    rounds: VecDeque<Use>,
}

/// The logarithms of a pod's load, in requests per second, and of its CPU use, in cores.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Use {
    load: f64,
    cores: f64,
}

impl Cost {
    /// Looks at a round in which pods were not kept busy. How many times as dear a request has become, if it has.
    pub fn follow(&mut self, round: &Round) -> Option<f64> {
        self.rounds.push_back(Use::of(round)?);
        if self.rounds.len() > ROUNDS_MAX {
            self.rounds.pop_front();
        }
        let split = self.rounds.len().checked_sub(RECENT)?;
        let earlier = self.rounds.range(..split).copied().collect::<Vec<_>>();
        let power = Power::of(&earlier);
        let found = self.rounds.range(split..).map(|recent| recent.dearer_than(&earlier, power));
        let dearer = found.collect::<Option<Vec<_>>>()?.into_iter().reduce(Dearer::agreed)?;
        if dearer.log_factor.abs() < (1.0 + CHANGE_MIN).ln().max(dearer.by_chance()) {
            return None;
        }
        let log_factor = dearer.log_factor.clamp(-FACTOR_MAX.ln(), FACTOR_MAX.ln());
        // What is not found yet shows against them in the next rounds.
        for earlier in self.rounds.range_mut(..split) {
            earlier.cores += log_factor;
        }
        Some(log_factor.exp())
    }
}

/// By which power the CPU use grows with the load: 1 where all of it is for requests, 0 where none is. Between these two.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Power {
    least: f64,
    most: f64,
}

impl Power {
    /// As far as rounds tell, by least squares; anything where their loads hardly differ.
    fn of(rounds: &[Use]) -> Self {
        let count = rounds.len().max(1) as f64;
        let mean = |of: &dyn Fn(&Use) -> f64| rounds.iter().map(of).sum::<f64>() / count;
        let (load, cores) = (mean(&|at| at.load), mean(&|at| at.cores));
        let square = mean(&|at| (at.load - load).powi(2)).max(1e-12);
        let power = mean(&|at| (at.load - load) * (at.cores - cores)) / square;
        let off = mean(&|at| (at.cores - cores - power * (at.load - load)).powi(2));
        let error = POWER_ERRORS * ((off + NOISE_MIN.powi(2)) / (square * count)).sqrt();
        Self { least: (power - error).clamp(0.0, 1.0), most: (power + error).clamp(0.0, 1.0) }
    }

    /// What of `more` CPU is not due to a load that has grown by so much. All are logarithms.
    fn unexplained(self, more: f64, grown: f64) -> f64 {
        let (one, other) = (self.least * grown, self.most * grown);
        more - more.clamp(one.min(other), one.max(other))
    }
}

/// How much dearer a request is in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Dearer {
    /// The logarithm of how many times as dear.
    log_factor: f64,
    /// How far the earlier rounds differ by chance.
    spread: f64,
}

impl Dearer {
    /// What two rounds agree on: the smaller change, and none if one is dearer and the other cheaper.
    fn agreed(self, other: Self) -> Self {
        let smaller = if self.log_factor.abs() < other.log_factor.abs() { self } else { other };
        let opposed = self.log_factor * other.log_factor <= 0.0;
        let log_factor = if opposed { 0.0 } else { smaller.log_factor };
        Self { log_factor, spread: self.spread.max(other.spread) }
    }

    /// A change that chance may have made.
    fn by_chance(self) -> f64 {
        BEYOND_CHANCE * self.spread / (RECENT as f64).sqrt()
    }
}

impl Use {
    /// Of the pods that show what pods do from now on. None where that is not known, or where requests were refused, which take
    /// some CPU too.
    fn of(round: &Round) -> Option<Self> {
        let undone = (round.offered_per_second / round.completed_per_second).ln().abs();
        let refused = round.pods.iter().any(|pod| pod.telling && pod.shed_per_second > 0.0);
        let telling = round.pods.iter().filter(|pod| pod.telling);
        let told =
            telling.filter_map(|pod| Some((pod.completed_per_second, pod.cpu?.cores))).collect::<Vec<_>>();
        if told.is_empty() || refused || undone.is_nan() || undone > UNDONE {
            return None;
        }
        let usual = median(told.iter().map(|pod| pod.1).collect());
        let (mut pods, mut load, mut cores) = (0.0, 0.0, 0.0);
        for pod in told.into_iter().filter(|pod| pod.1 <= BUSIEST * usual) {
            (pods, load, cores) = (pods + 1.0, load + pod.0, cores + pod.1);
        }
        (load > 0.0 && cores > CORES_MIN * pods && cores < CORES_MAX * pods)
            .then(|| Self { load: (load / pods).ln(), cores: (cores / pods).ln() })
    }

    /// Beside the rounds at about its load. None when they are too few.
    fn dearer_than(self, rounds: &[Self], power: Power) -> Option<Dearer> {
        let alike = rounds.iter().filter(|at| (at.load - self.load).abs() < SAME_LOAD);
        let off = alike.map(|at| power.unexplained(self.cores - at.cores, self.load - at.load));
        let off = Some(off.collect::<Vec<_>>()).filter(|off| off.len() >= EARLIER_MIN)?;
        // From one to the next: a change that goes on is no noise.
        let apart = median(off.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect());
        Some(Dearer { log_factor: median(off), spread: apart / (MEDIAN_DISTANCE * SQRT_2) })
    }
}

/// The one in the middle, and the smaller one of two; there must be one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

#[cfg(test)]
mod tests {
    use super::super::estimate::{CpuRound, PodRound};
    use super::*;

    /// CPU that a pod uses without any request.
    const IDLE_CORES: f64 = 0.02;
    const COST_SECONDS: f64 = 0.004;

    /// Pods with this load whose requests take so many times [`COST_SECONDS`].
    fn round(per_second: f64, times: f64) -> Round {
        let cpu = |cores| Some(CpuRound { cores, limit_cores: None, throttled_share: 0.0 });
        let pod = PodRound {
            completed_per_second: per_second,
            shed_per_second: 0.0,
            in_flight: 1.0,
            warm: true,
            telling: true,
            cpu: cpu(IDLE_CORES + per_second * times * COST_SECONDS),
        };
        let new = PodRound { telling: false, cpu: cpu(3.0), ..pod.clone() };
        let all_per_second = 3.0 * per_second;
        Round {
            offered_per_second: all_per_second,
            completed_per_second: all_per_second,
            pods: vec![pod.clone(), pod, new],
            ..Round::default()
        }
    }

    /// All changes that are found in these rounds.
    fn found(rounds: impl IntoIterator<Item = Round>) -> Vec<f64> {
        let mut cost = Cost::default();
        rounds.into_iter().filter_map(|round| cost.follow(&round)).collect()
    }

    /// A load that wavers, and is known to.
    fn wavering(times: f64) -> impl Iterator<Item = Round> + Clone {
        [8.0, 9.0, 10.0, 11.0, 12.0, 11.0, 10.0, 9.0, 8.0, 7.0].map(|load| round(load, times)).into_iter()
    }

    fn close(found: &[f64], factor: f64) -> bool {
        found.len() == 1 && (found[0] / factor - 1.0).abs() < 0.02
    }

    #[test]
    fn a_request_that_becomes_dearer_is_found_in_two_rounds() {
        for factor in [0.6, 0.85, 1.2, 2.0] {
            let one = found(wavering(1.0).chain([round(10.0, factor)]));
            assert_eq!(one, [0.0; 0], "one round may be chance");
            let after = [9.5, 10.0].map(|load| round(load, factor));
            let two = found(wavering(1.0).chain(after));
            // A third of the use at this load is without requests.
            let whole = (IDLE_CORES + 9.75 * factor * COST_SECONDS) / (IDLE_CORES + 9.75 * COST_SECONDS);
            assert!(close(&two, whole), "{two:?} for {whole}");
        }
    }

    #[test]
    fn another_load_is_no_other_cost() {
        let loads = [6.0, 7.5, 9.0, 14.0, 13.0, 12.0, 8.0, 7.0];
        assert_eq!(found(wavering(1.0).chain(loads.map(|load| round(load, 1.0)))), [0.0; 0]);
        // A load that never differed may be for the most part, or not at all, what the CPU is used for.
        let still = (0..20).map(|_| round(10.0, 1.0));
        assert_eq!(found(still.clone().chain([12.0, 12.5, 8.0, 8.5].map(|load| round(load, 1.0)))), [0.0; 0]);
        let by_requests = [round(12.5, 1.0), round(12.5, 1.0)];
        assert_eq!(found(still.chain(by_requests)), [0.0; 0]);
    }

    #[test]
    fn what_is_found_is_not_found_again() {
        assert_eq!(found(wavering(1.0).chain(wavering(1.5)).chain(wavering(1.5))).len(), 1);
    }

    #[test]
    fn a_change_that_goes_on_is_found_on() {
        for (rounds, factor) in [(20, 2.0), (60, 1.6), (60, 0.6)] {
            let part = |step: i32| f64::from(step.min(rounds)) / f64::from(rounds);
            let steps = (0..rounds + 20).map(|step| round(10.0, 1.0 + (factor - 1.0) * part(step)));
            let all = found(wavering(1.0).chain(steps)).into_iter().map(f64::ln).sum::<f64>();
            let whole =
                ((IDLE_CORES + 10.0 * factor * COST_SECONDS) / (IDLE_CORES + 10.0 * COST_SECONDS)).ln();
            // The rest is twice what is too little to be found, at most.
            assert!((whole - all).abs() < 0.16, "{} of {}", all.exp(), whole.exp());
        }
    }

    #[test]
    fn what_differs_from_round_to_round_hides_a_small_change() {
        let noisy =
            |times: f64| (0..30).map(move |index| round(10.0, times * [0.8, 1.1, 0.95, 1.2][index % 4]));
        assert_eq!(found(noisy(1.0).chain(noisy(1.15))), [0.0; 0]);
        assert_eq!(found(noisy(1.0).chain(noisy(3.0))).len(), 1);
    }

    /// What is found where requests take three times the CPU, and the rounds that say so are changed.
    fn found_with(change: impl Fn(&mut Round)) -> Vec<f64> {
        let mut round = round(10.0, 3.0);
        change(&mut round);
        found(wavering(1.0).chain([round.clone(), round.clone(), round]))
    }

    fn use_cores(pods: &mut [PodRound], cores: f64) {
        pods.iter_mut().flat_map(|pod| &mut pod.cpu).for_each(|cpu| cpu.cores = cores);
    }

    #[test]
    fn rounds_that_do_not_tell_are_left_out() {
        assert_eq!(found_with(|_| {}).len(), 1, "it would be found");
        assert_eq!(found_with(|round| round.pods[0].shed_per_second = 0.1), [0.0; 0], "refused");
        assert_eq!(found_with(|round| round.offered_per_second *= 1.1), [0.0; 0], "newly waiting");
        let silent = |round: &mut Round| round.pods.iter_mut().for_each(|pod| pod.cpu = None);
        assert_eq!(found_with(silent), [0.0; 0], "not exported");
        assert_eq!(found_with(|round| use_cores(&mut round.pods, 1e-4)), [0.0; 0], "next to nothing");
        assert_eq!(found_with(|round| use_cores(&mut round.pods, 1e9)), [0.0; 0], "impossible");
    }

    #[test]
    fn one_pod_that_lies_is_left_out() {
        for lie in [0.5, 10.0, 1e9] {
            let found = found_with(|lying| {
                *lying = round(10.0, 1.0);
                use_cores(&mut lying.pods[..1], lie);
            });
            assert_eq!(found, [0.0; 0], "{lie} cores, and 0.06 of the other");
        }
    }
}
