//! What is believed of the pods of one template, from round to round: their capacity, how sure that is, and their backlog.
//!
//! Three witnesses are heard. The share over the target at the load that pods had is exact where it matters
//! ([`capacity`](super::capacity)). What the CPU limit allows tells the order of magnitude at once. The shape of all
//! latencies, by the queue's model ([`queue_fit`](super::queue_fit)), tells how far the knee is before it is reached; it is
//! heard only while the first is unsure, for it is a model.

use std::collections::VecDeque;
use std::time::Duration;

use crate::histogram::Delta;

use super::base::LowLoad;
use super::capacity::{Capacity, Point};
use super::estimate::{PodRound, Round};
use super::latency_model::{Base, Tail};
use super::lesson::Shown;
use super::lessons::{Lessons, Taught};
use super::queue_fit::{self, QueueFit};
use super::settings::{Settings, Target};
use super::stopwatch::Stopwatch;

/// Rounds in a row that must surprise before what was learned is doubted.
const SURPRISES: u32 = 3;
/// Spread that a doubt widens to.
pub const DOUBT_SPREAD: f64 = 0.3;
/// When requests become dearer, the capacity may go with it by this part more or less.
const COST_SPREAD: f64 = 0.4;
/// Seconds between two doubts.
const DOUBT_SECONDS: f64 = 60.0;
/// A pod's capacity is about this part of what its CPU limit would let it complete, unless something else limits it:
/// then it is less. So the spread is wide below and narrow above.
const CAPACITY_OF_CPU: f64 = 0.75;
const CPU_SPREAD_BELOW: f64 = 0.7;
const CPU_SPREAD_ABOVE: f64 = 0.15;
/// From this part of the CPU limit on, most of what a pod uses is for its requests.
const CPU_TELLING: f64 = 0.2;
/// Where pods share a limit, a capacity below this part of what the CPU limit allows is taken for that limit's doing.
const HELD_BACK: f64 = 0.5;
/// Before anything was learned a pod is taken to carry between this part of what it has now, and as many times that.
const FIRST_LOWEST: f64 = 0.7;
const FIRST_HIGHEST: f64 = 12.0;
/// But it carries at least as much as this many workers would, who take the median time for a request.
const FIRST_WORKERS: f64 = 4.0;
/// And no less than this part of one that would: a load of next to nothing says nothing of what a pod carries.
const FIRST_WORKERS_LOWEST: f64 = 0.1;
/// Requests that must have come before anything is believed.
const FIRST_REQUESTS: f64 = 20.0;
/// A capacity known no better than this is unsure.
const SPREAD_UNSURE: f64 = 0.08;
/// More than this many times the budget at the lowest load: if more replicas do not help either, none do. A little more than the budget
/// is what one load shows of a capacity just below it.
const UNMEETABLE: f64 = 2.0;
/// How far the queue's model may be off.
const MODEL_SPREAD: f64 = 0.15;
/// Load of a pod below this part of its saturation is low: next to nothing waits.
const LOW_UTILIZATION: f64 = 0.4;
/// Seconds over which a pod's load is averaged: latencies follow the load of a little while.
const LOAD_SECONDS: f64 = 10.0;
/// Loads that differ by more than this part from their mean teach nothing: the queues are on their way.
const UNEVEN: f64 = 0.15;
/// A pod with so many requests, that stay for twice the longest target, is kept busy.
const BUSY_IN_FLIGHT: f64 = 8.0;
/// Share of the pods that must be kept busy.
const BUSY_SHARE: f64 = 1.0 / 3.0;
/// Requests in a pod are no backlog up to this many times what its capacity has there, and some.
const NORMAL_IN_FLIGHT: f64 = 3.0;
const NORMAL_IN_FLIGHT_MORE: f64 = 5.0;

/// What is believed of the pods of one template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Belief {
    /// One for each target.
    capacities: Vec<Capacity>,
    queue_fit: Option<QueueFit>,
    low_load: LowLoad,
    /// Load of one pod in recent rounds, with the rounds' seconds.
    loads: VecDeque<(f64, f64)>,
    /// Median time of a request at its best, in seconds.
    typical_seconds: Option<f64>,
    cpu_seconds_per_request: Option<f64>,
    /// Whether what the CPU limit allows has been heard, since the last doubt.
    cpu_heard: bool,
    stopwatch: Stopwatch,
    surprises: u32,
    seconds: f64,
    requests: f64,
    doubted_at_seconds: Option<f64>,
    lessons: Lessons,
    trusted: Option<Trusted>,
}

/// What was believed when the promise was last kept: what is learned during a violation may be about what the pods depend on,
/// and not about the pods.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Trusted {
    at_seconds: f64,
    per_second: f64,
}

/// The capacity of a pod as a decision needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Likely capacities, lowest first.
    pub points: Vec<Point>,
    /// By which power the share over the target grows with load there.
    pub steepness: f64,
    /// The target that binds.
    pub target: Target,
    /// Whether the capacity is known too badly to act on at once.
    pub unsure: bool,
    /// Whether no number of replicas meets the target.
    pub unmeetable: bool,
}

impl Known {
    /// The middle of the likely capacities, in requests per second.
    pub fn middle_per_second(&self) -> f64 {
        self.points.iter().map(|point| point.weight * point.per_second.ln()).sum::<f64>().exp()
    }
}

/// What a pod of a round completed, in requests per second, if enough of them were kept busy for that to be all that they can.
pub fn busy(round: &Round, settings: &Settings) -> Option<f64> {
    kept_busy(&round.pods.iter().collect::<Vec<_>>(), settings)
}

impl Belief {
    /// Something may have changed: keeps what is believed, and is no longer sure of it.
    pub fn doubt(&mut self) {
        for capacity in &mut self.capacities {
            capacity.doubt(DOUBT_SPREAD);
        }
        self.lessons.doubt(DOUBT_SPREAD);
        (self.surprises, self.doubted_at_seconds) = (0, Some(self.seconds));
        (self.cpu_seconds_per_request, self.cpu_heard) = (None, false);
    }

    /// A request takes so many times the CPU that it did. Most of what a pod carries goes with it, but not for certain.
    pub fn cost_changed(&mut self, factor: f64) {
        for capacity in &mut self.capacities {
            capacity.cost_changed(factor, COST_SPREAD * factor.ln().abs());
        }
        if let Some(fit) = &mut self.queue_fit {
            fit.cost_changed(factor);
        }
        if let Some(cost) = &mut self.cpu_seconds_per_request {
            *cost *= factor;
        }
        self.lessons = Lessons::begin(&self.capacities);
        self.surprises = 0;
    }

    /// Pods of another template come: what was measured of the queue is about the old ones.
    pub fn doubt_template(&mut self) {
        self.doubt();
        (self.queue_fit, self.low_load) = (None, LowLoad::default());
        self.lessons = Lessons::begin(&self.capacities);
    }

    /// What is believed now may be believed later, whatever is learned until then.
    pub fn trust(&mut self, known: &Known) {
        self.trusted = Some(Trusted { at_seconds: self.seconds, per_second: known.middle_per_second() });
    }

    /// The middle of the capacities that were last trusted, in requests per second.
    pub fn trusted_per_second(&self) -> Option<f64> {
        self.trusted.map(|trusted| trusted.per_second)
    }

    /// Late requests since what is believed was last trusted were not the pods' doing.
    pub fn unlearn_since_trusted(&mut self, round: &Round, settings: &Settings) {
        let trusted = self.trusted.map_or(f64::INFINITY, |trusted| trusted.at_seconds);
        self.learn_again(round, settings, |taught| f64::from(taught.at_seconds <= trusted));
    }

    /// Learns again from what is kept, late requests being due to the pods only as far as `theirs` says, 0 to 1.
    pub fn learn_again(&mut self, round: &Round, settings: &Settings, theirs: impl Fn(&Taught) -> f64) {
        if self.capacities.is_empty() {
            return;
        }
        self.capacities = self.lessons.again(settings, theirs);
        self.lessons = Lessons::begin(&self.capacities);
        (self.queue_fit, self.surprises) = (None, 0);
        self.was_held_back(round, settings);
        if let Some(known) = self.known(settings) {
            self.trust(&known);
        }
    }

    /// What was learned may be too low, for something that the pods share was the limit: lets the CPU limit speak once more,
    /// and where it allows far more, begins again.
    fn was_held_back(&mut self, round: &Round, settings: &Settings) {
        self.cpu_heard = false;
        let pods = round.pods.iter().collect::<Vec<_>>();
        let Some(per_second) = self.per_second_by_cpu(&pods) else { return };
        let allowed = (HELD_BACK * CAPACITY_OF_CPU * per_second).ln();
        if self.capacities.iter().any(|capacity| capacity.log_moments().0 < allowed) {
            let load = pods.iter().map(|pod| pod.completed_per_second).sum::<f64>() / pods.len() as f64;
            self.begin(load, settings);
        }
    }

    /// Takes over what was learned before: one capacity for each target, in their order, and the median time of a request.
    pub fn restore(&mut self, capacities: Vec<Capacity>, typical_seconds: f64) {
        self.capacities = capacities;
        self.lessons = Lessons::begin(&self.capacities);
        self.typical_seconds = Some(typical_seconds);
    }

    /// What is known, one for each target in their order, and the median time of a request. None before anything was
    /// learned.
    pub fn learned(&self) -> Option<(&[Capacity], f64)> {
        (!self.capacities.is_empty()).then_some((&self.capacities, self.typical_seconds?))
    }

    /// Learns from a round. Late requests speak against the pods as far as they are `theirs`, 0 to 1; the others are due to
    /// what the pods share. That a load was carried is learned in any case.
    pub fn learn(&mut self, round: &Round, settings: &Settings, theirs: f64) {
        self.seconds += round.seconds;
        let telling = round.pods.iter().filter(|pod| pod.telling).collect::<Vec<_>>();
        let (pods, counts) = if round.telling.total > 0.0 {
            (telling, &round.telling)
        } else if round.replacing {
            return;
        } else {
            (round.pods.iter().collect(), &round.delta)
        };
        if pods.is_empty() || counts.total < 1.0 {
            return;
        }
        self.learn_cpu(&pods);
        self.learn_typical(counts);
        let median = counts.quantile(0.5).map_or(0.0, |median| median.seconds);
        self.stopwatch.follow(self.seconds, &pods, median);
        let now = pods.iter().map(|pod| pod.completed_per_second).sum::<f64>() / pods.len() as f64;
        let (load, even) = self.average(now, round.seconds);
        self.requests += counts.total;
        if self.capacities.is_empty() {
            if self.requests < FIRST_REQUESTS {
                return;
            }
            self.begin(load, settings);
        }
        self.hear_cpu(&pods);
        if self.capacities.iter().any(|capacity| capacity.log_moments().1 > SPREAD_UNSURE) {
            self.fit_queue(round.seconds, counts, load, even, settings);
        }
        let shown = Shown {
            counts,
            per_pod_per_second: load,
            even,
            busy_per_second: kept_busy(&pods, settings),
            cpu_per_second: self.per_second_by_cpu(&pods).filter(|_| self.stopwatch.hides_wait(self.seconds)),
            theirs,
        };
        let mut surprised = false;
        let mut lessons = Vec::with_capacity(settings.targets.len());
        self.lessons.make_room(&self.capacities);
        for (capacity, target) in self.capacities.iter_mut().zip(&settings.targets) {
            capacity.forget(round.seconds);
            let (lesson, surprise) = shown.lesson(capacity, *target);
            lesson.teach(capacity);
            surprised |= surprise;
            lessons.push(lesson);
        }
        self.lessons.keep(Taught {
            at_seconds: self.seconds,
            seconds: round.seconds,
            together_per_second: round.completed_per_second,
            lessons,
            doubted: None,
        });
        self.surprises = if surprised { self.surprises + 1 } else { 0 };
        let recently = self.doubted_at_seconds.is_some_and(|at| self.seconds - at < DOUBT_SECONDS);
        if self.surprises >= SURPRISES && !recently {
            self.doubt();
        }
    }

    /// The capacity for the target that binds. None before anything was learned.
    pub fn known(&self, settings: &Settings) -> Option<Known> {
        let (capacity, target) = self
            .capacities
            .iter()
            .zip(&settings.targets)
            .min_by(|a, b| a.0.log_moments().0.total_cmp(&b.0.log_moments().0))?;
        let unsure = capacity.log_moments().1 > SPREAD_UNSURE;
        let witness = if unsure { self.by_model(*target, settings) } else { None };
        Some(Known {
            points: capacity.points(witness),
            steepness: capacity.steepness(),
            target: *target,
            unsure,
            unmeetable: capacity.floor() >= 1.0,
        })
    }

    /// Whether requests missed the target at the lowest load that was seen, and not by a little.
    pub fn misses_at_lowest_load(&self, target: Target) -> bool {
        self.low_load.missed_share(target).is_some_and(|share| share > UNMEETABLE * target.budget())
    }

    /// Requests that wait beyond those that would at the capacity.
    pub fn backlog(&self, round: &Round, known: &Known) -> f64 {
        let Some(typical_seconds) = self.typical_seconds else { return 0.0 };
        let normal = NORMAL_IN_FLIGHT * known.middle_per_second() * typical_seconds + NORMAL_IN_FLIGHT_MORE;
        (round.in_flight - normal * round.ready as f64).max(0.0)
    }

    fn begin(&mut self, load: f64, settings: &Settings) {
        let by_worker = 1.0 / self.typical_seconds.unwrap_or(1.0).max(1e-3);
        let lowest = (FIRST_LOWEST * load).max(FIRST_WORKERS_LOWEST * by_worker);
        let highest = (FIRST_HIGHEST * load).max(FIRST_WORKERS * by_worker);
        self.capacities = settings
            .targets
            .iter()
            .map(|target| Capacity::between(target.budget(), lowest, highest))
            .collect();
        self.lessons = Lessons::begin(&self.capacities);
    }

    /// Hears once what the CPU limit allows.
    fn hear_cpu(&mut self, pods: &[&PodRound]) {
        let used = pods.iter().filter_map(|pod| pod.cpu);
        let (cores, limit) =
            used.fold((0.0, 0.0), |sum, cpu| (sum.0 + cpu.cores, sum.1 + cpu.limit_cores.unwrap_or(0.0)));
        if self.cpu_heard || cores <= CPU_TELLING * limit {
            return;
        }
        let Some(per_second) = self.per_second_by_cpu(pods) else { return };
        self.cpu_heard = true;
        for capacity in &mut self.capacities {
            capacity.learn_about(CAPACITY_OF_CPU * per_second, CPU_SPREAD_BELOW, CPU_SPREAD_ABOVE);
        }
    }

    /// Requests per second that the CPU limit lets a pod complete at most.
    fn per_second_by_cpu(&self, pods: &[&PodRound]) -> Option<f64> {
        let limit = pods.iter().find_map(|pod| pod.cpu?.limit_cores)?;
        Some(limit / self.cpu_seconds_per_request?.max(1e-9))
    }

    /// The load of a pod over a little while, and whether it was even.
    fn average(&mut self, load: f64, seconds: f64) -> (f64, bool) {
        self.loads.push_back((load, seconds));
        let covered = |loads: &VecDeque<(f64, f64)>| loads.iter().map(|load| load.1).sum::<f64>();
        while covered(&self.loads) > LOAD_SECONDS + 1e-9 && self.loads.len() > 1 {
            self.loads.pop_front();
        }
        let mean =
            self.loads.iter().map(|(load, seconds)| load * seconds).sum::<f64>() / covered(&self.loads);
        (mean, self.loads.iter().all(|(load, _)| (load - mean).abs() < UNEVEN * mean.max(1e-9)))
    }

    fn learn_typical(&mut self, counts: &Delta) {
        if let Some(median) = counts.quantile(0.5) {
            let typical = self.typical_seconds.get_or_insert(median.seconds);
            // It follows a service that becomes slower, but slowly: most often it is a queue.
            *typical = (*typical * 1.002).min(median.seconds);
        }
    }

    fn learn_cpu(&mut self, pods: &[&PodRound]) {
        let known = pods.iter().filter_map(|pod| Some((pod.cpu?.cores, pod.completed_per_second)));
        let (cores, completed) = known.fold((0.0, 0.0), |sum, pod| (sum.0 + pod.0, sum.1 + pod.1));
        if completed > 1.0 && cores > 0.0 {
            let cost = cores / completed;
            let known = self.cpu_seconds_per_request.get_or_insert(cost);
            *known += 0.2 * (cost - *known);
        }
    }

    fn fit_queue(&mut self, seconds: f64, counts: &Delta, load: f64, even: bool, settings: &Settings) {
        let fit = self
            .queue_fit
            .get_or_insert_with(|| QueueFit::between(0.9 * load, FIRST_HIGHEST * load.max(0.1)));
        fit.forget(seconds);
        let (mean, spread) = fit.saturation();
        self.low_load.learn(counts, load, LOW_UTILIZATION * (mean - spread).exp());
        let Some(base) = self.low_load.base(&latencies(settings)) else { return };
        if even {
            let edges = telling_edges(&base, counts, settings);
            let tails = edges.iter().map(|&edge| Tail::new(&base, edge)).collect::<Vec<_>>();
            let counts = &between(counts, &edges);
            fit.learn(&tails, queue_fit::Evidence { seconds, per_pod_per_second: load, counts });
        }
    }

    /// What the queue's model says of the capacity: mean and spread of the logarithm.
    fn by_model(&self, target: Target, settings: &Settings) -> Option<(f64, f64)> {
        let (fit, base) = (self.queue_fit.as_ref()?, self.low_load.base(&latencies(settings))?);
        let tail = Tail::new(&base, target.latency_seconds()?);
        let (mean, spread) = fit.capacity(&base, target, &tail);
        Some((mean, spread.hypot(MODEL_SPREAD)))
    }
}

/// What pods that were kept busy complete, if enough of them were.
fn kept_busy(pods: &[&PodRound], settings: &Settings) -> Option<f64> {
    let longest = latencies(settings).into_iter().fold(0.0, f64::max);
    let busy = pods
        .iter()
        .filter(|pod| {
            let long = 2.0 * longest * pod.completed_per_second.max(0.01);
            pod.shed_per_second > 0.0 || (pod.in_flight > BUSY_IN_FLIGHT && pod.in_flight > long)
        })
        .map(|pod| pod.completed_per_second)
        .collect::<Vec<_>>();
    (busy.len() as f64 > BUSY_SHARE * pods.len() as f64).then(|| busy.iter().sum::<f64>() / busy.len() as f64)
}

fn latencies(settings: &Settings) -> Vec<f64> {
    settings.targets.iter().filter_map(|target| target.latency_seconds()).collect()
}

/// Edges at which latencies tell of waiting: where a quarter and a twenty-fifth of requests are slower without a wait, and
/// the targets.
fn telling_edges(base: &Base, counts: &Delta, settings: &Settings) -> Vec<f64> {
    let mut edges = latencies(settings);
    let lowest = edges.iter().copied().fold(f64::INFINITY, f64::min);
    for share in [0.25, 0.04] {
        let at = base.exceeded_by(share);
        let edge = counts.edges().iter().copied().find(|edge| *edge >= at);
        edges.extend(edge.filter(|edge| *edge < 0.9 * lowest));
    }
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    edges
}

/// Requests up to the first edge, between each two, and over the last.
fn between(counts: &Delta, edges: &[f64]) -> Vec<f64> {
    let mut parts = Vec::with_capacity(edges.len() + 1);
    let mut above = counts.total;
    for &edge in edges {
        // An edge may be longer than a Duration can be.
        let edge = Duration::try_from_secs_f64(edge).unwrap_or(Duration::MAX);
        let over = counts.slower_than(edge).min(above);
        parts.push(above - over);
        above = over;
    }
    parts.push(above);
    parts
}
