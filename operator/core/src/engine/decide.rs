//! The decision: observe, learn, look ahead, propose, brake.

use std::collections::VecDeque;

use super::belief::{self, Belief, Known};
use super::capacity::GROUPING;
use super::ceiling::Ceiling;
use super::dependency::{Helpfulness, State};
use super::estimate::{Estimator, Round};
use super::forecast::Forecast;
use super::observation::Observation;
use super::propose::Stakes;
use super::record::{Counterfactual, Decision, Inputs, Outlook, Rule};
use super::settings::Settings;
use super::startup::Startup;

/// How far beyond the start of new pods the load is looked at: a minute that begins then must be carried too.
const AHEAD_SECONDS: f64 = 15.0;
/// A backlog is to be gone after this long.
const DRAIN_SECONDS: f64 = 30.0;
/// Fewer replicas only when they have been enough for this long, or for this many times the start of a pod: one that is
/// needed again would come late.
const DOWN_SECONDS: f64 = 30.0;
const DOWN_STARTS: f64 = 2.0;
/// While it is not known whether more replicas help, one step is at most this many times as many, unless more load came.
const TRIAL_GROWTH: u32 = 2;
/// While the capacity is unsure, replicas are taken away this part at a time,
const DOWN_UNSURE: f64 = 0.12;
/// and so long after the last time.
const DOWN_UNSURE_SECONDS: f64 = 20.0;
/// Requests are counted back over this long.
const COUNTED_SECONDS: f64 = 600.0;
/// Fewer requests than this, for each one that may be late, prove nothing: with none late of 299, the share is below 1 %
/// at 95 % confidence.
const REQUESTS_PER_BUDGET: f64 = 2.99;

/// What is learned of one resource, from round to round.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    estimator: Estimator,
    startup: Startup,
    forecast: Forecast,
    belief: Belief,
    /// The belief of the last round in which the promise was kept: what is learned during a violation may be about what the
    /// pods depend on, and not about the pods.
    trusted: Belief,
    helpfulness: Helpfulness,
    ceiling: Ceiling,
    /// More replicas did not help: the number that was as good.
    useful: Option<u32>,
    template: Option<u64>,
    /// Numbers that were the cheapest, with the time of each.
    wanted: VecDeque<(f64, u32)>,
    /// Requests of recent rounds, and late ones, with the time of each.
    counted: VecDeque<(f64, f64, f64)>,
    clock_seconds: f64,
    down_at_seconds: f64,
}

impl Engine {
    /// Takes one round and decides.
    pub fn decide(&mut self, observation: &Observation, settings: &Settings) -> Decision {
        let round = self.estimator.round(observation);
        self.startup.follow(observation);
        if self.template.replace(observation.template).is_some_and(|before| before != observation.template) {
            self.belief.doubt();
        }
        let current = observation.current;
        let inputs = Inputs::of(&round);
        // No data is not low load.
        if round.measured == 0 || 2 * round.scraped < round.ready {
            return Decision::hold(current, Rule::Blind, inputs);
        }
        self.clock_seconds += round.seconds;
        let horizon_seconds = self.startup.p90_seconds() + settings.period.as_secs_f64() + AHEAD_SECONDS;
        let outlook = self.forecast.next(round.seconds, round.offered_per_second, horizon_seconds);
        let completed = round.completed_per_second;
        let busy = belief::busy(&round, settings);
        let reached = round.ready - round.unreached;
        if self.ceiling.follow(self.clock_seconds, reached, completed, busy) {
            self.restore();
        }
        if self.useful.is_none() && !self.ceiling.is_near(completed) {
            self.belief.learn(&round, settings);
        }
        let outlook = self.ceiling.per_second().map_or(outlook.clone(), |most| outlook.at_most(most));
        let Some(known) = self.belief.known(settings) else {
            return Decision::hold(current, Rule::FewRequests, inputs);
        };
        let state = self.state(observation, &round, &known);
        self.follow(state);
        let uneven = self.is_uneven(&round, state, &known, outlook.expected_per_second);
        let stakes = Stakes {
            outlook: &outlook,
            capacity: &known.points,
            minute_spread: minute_spread(&round, &known),
            violation_price: settings.violation_price,
            late_allowed: 60.0 * round.offered_per_second * known.target.budget(),
            backlog_per_second: self.backlog_per_second(&round, &known),
        };
        let cheapest = stakes.cheapest(settings.min, settings.highest());
        let capped = self.ceiling.per_second().is_some_and(|most| round.offered_per_second > most);
        let (to, rule) = self.brake(observation, settings, state, &known, cheapest, uneven);
        let rule = if capped && to <= current { Rule::DependencyBound } else { rule };
        let counterfactuals = [to.saturating_sub(1).max(1), to, to + 1]
            .map(|replicas| Counterfactual { replicas, violation_chance: stakes.chance(replicas) });
        Decision {
            from: current,
            to,
            rule,
            inputs,
            cheapest,
            outlook: Outlook { horizon_seconds, ..outlook.summary() },
            capacity: Some(known.summary()),
            counterfactuals: counterfactuals.to_vec(),
        }
    }

    /// Load on top until a backlog is gone. Below a ceiling more pods do not drain it.
    fn backlog_per_second(&self, round: &Round, known: &Known) -> f64 {
        let draining = self.belief.backlog(round, known) / DRAIN_SECONDS;
        let room = self.ceiling.per_second().map(|most| (most - round.completed_per_second).max(0.0));
        draining.min(room.unwrap_or(f64::INFINITY))
    }

    /// Keeps count of the requests, and of whether more replicas help.
    fn follow(&mut self, state: State) {
        self.counted.push_back((state.now_seconds, state.total, state.late));
        while self.counted.front().is_some_and(|count| state.now_seconds - count.0 > COUNTED_SECONDS) {
            self.counted.pop_front();
        }
        let useful = self.helpfulness.follow(state);
        if useful.is_some() && self.useful.is_none() {
            self.restore();
        } else if useful.is_none() && !state.violated() && !self.helpfulness.trying() {
            self.trusted = self.belief.clone();
        }
        self.useful = useful;
    }

    /// What was learned since the violation began was not about the pods.
    fn restore(&mut self) {
        if self.trusted.is_some() {
            self.belief = self.trusted.clone();
        }
    }

    /// Up at once; down when it would have been enough for a while, and nothing speaks against it.
    fn brake(
        &mut self,
        observation: &Observation,
        settings: &Settings,
        state: State,
        known: &Known,
        cheapest: u32,
        uneven: bool,
    ) -> (u32, Rule) {
        let now = self.clock_seconds;
        let held = observation.current.clamp(settings.min, settings.highest());
        if let Some(useful) = self.useful
            && cheapest.max(held) > useful
        {
            return (useful.clamp(settings.min, settings.highest()), Rule::DependencyBound);
        }
        let steady_seconds = (DOWN_STARTS * self.startup.p90_seconds()).max(DOWN_SECONDS);
        self.wanted.push_back((now, cheapest));
        while self.wanted.front().is_some_and(|(at, _)| now - at > steady_seconds) {
            self.wanted.pop_front();
        }
        if cheapest > held {
            if uneven {
                return (held, Rule::LoadUneven);
            }
            let to = self.at_most(state, settings, held, cheapest);
            self.helpfulness.scaled_up(state, to);
            return (to, if to == settings.highest() { Rule::Max } else { Rule::Load });
        }
        let steady = self.wanted.iter().map(|wanted| wanted.1).max().unwrap_or(cheapest);
        if steady >= held {
            return (held, Rule::Steady);
        }
        if observation.rolling_out {
            return (held, Rule::Rollout);
        }
        if self.too_few_requests(known) {
            return (held, Rule::FewRequests);
        }
        let to = if known.unsure {
            if now - self.down_at_seconds < DOWN_UNSURE_SECONDS {
                return (held, Rule::Unsure);
            }
            steady.max(held - ((f64::from(held) * DOWN_UNSURE) as u32).max(1))
        } else {
            steady
        };
        self.down_at_seconds = now;
        (to, if to == settings.min { Rule::Min } else { Rule::Load })
    }

    /// Of the cheapest number, no more than may be tried at once: a violation makes the capacity look small, and if it is
    /// not the pods' fault, any number would.
    fn at_most(&self, state: State, settings: &Settings, held: u32, cheapest: u32) -> u32 {
        let trusted = self.trusted.known(settings).filter(|_| state.violated());
        let Some(trusted) = trusted else { return cheapest };
        let by_load = (state.offered_per_second / trusted.middle_per_second().max(1e-9)).ceil();
        cheapest
            .min((held * TRIAL_GROWTH).max(TRIAL_GROWTH * by_load.min(f64::from(settings.highest())) as u32))
    }

    /// Whether the promise is missed, or was when replicas were added, only because the load has not reached the new pods:
    /// all that are ready, with an even load, would carry what is expected.
    fn is_uneven(&self, round: &Round, state: State, known: &Known, expected_per_second: f64) -> bool {
        let carried = known.summary().low_per_second * round.ready as f64;
        round.unreached > 0
            && (state.violated() || self.helpfulness.trying())
            && expected_per_second <= carried
    }

    fn state(&self, observation: &Observation, round: &Round, known: &Known) -> State {
        let warm = round.pods.iter().filter(|pod| pod.warm).count();
        State {
            now_seconds: self.clock_seconds,
            replicas: observation.current,
            settled: warm as u32 >= observation.current,
            total: round.delta.total + round.delta.shed,
            late: round.delta.slower_than(known.target.latency) + round.delta.shed,
            budget: known.target.budget(),
            offered_per_second: round.offered_per_second,
            per_pod_per_second: round.completed_per_second / (round.ready as f64).max(1.0),
        }
    }

    /// Whether too few requests came to tell that the promise is kept. None at all for long is no such doubt, nor are few
    /// of which none was late.
    fn too_few_requests(&self, known: &Known) -> bool {
        let (total, late) =
            self.counted.iter().fold((0.0, 0.0), |sum, count| (sum.0 + count.1, sum.1 + count.2));
        let long =
            self.counted.front().is_some_and(|count| self.clock_seconds - count.0 > 0.9 * COUNTED_SECONDS);
        total * known.target.budget() < REQUESTS_PER_BUDGET && !(long && late == 0.0)
    }
}

/// How far the load at which a minute misses the promise varies from minute to minute, as the spread of its logarithm:
/// the chance of the number of late requests, over the steepness with which their share grows with load.
fn minute_spread(round: &Round, known: &Known) -> f64 {
    let budget = known.target.budget();
    let requests = (60.0 * round.offered_per_second).max(1.0);
    let relative = (GROUPING * (1.0 - budget) / (budget * requests)).sqrt();
    (relative / known.steepness).clamp(0.01, 0.5)
}
