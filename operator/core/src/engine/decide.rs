//! The decision: observe, learn, look ahead, propose, brake.

mod restart;

use std::collections::VecDeque;
use std::time::Duration;

use super::belief::{self, Belief, Known};
use super::capacity::GROUPING;
use super::ceiling::{Ceiling, Seen};
use super::cold::Cold;
use super::cost::Cost;
use super::dependency::{Helpfulness, State};
use super::estimate::{Estimator, Round};
use super::forecast::Forecast;
use super::lessons::Taught;
use super::observation::Observation;
use super::propose::Stakes;
use super::record::{self, Bound, Decision, Inputs, Outlook, Rule};
use super::roster::Roster;
use super::settings::{REQUESTS_PER_BUDGET, Settings, Target};
use super::startup::Startup;
use super::templates::Templates;

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
/// and so many times where the promise was never seen kept: then it is not known either what a pod carries.
const FIRST_TRIAL_GROWTH: u32 = 4;
/// While the capacity is unsure, replicas are taken away this part at a time,
const DOWN_UNSURE: f64 = 0.12;
/// and so long after the last time, or as long as a pod takes to start: a step too far is undone no sooner.
const DOWN_UNSURE_SECONDS: f64 = 20.0;
/// Requests are counted back over this long.
const COUNTED_SECONDS: f64 = 600.0;

/// What is learned of one resource, from round to round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Engine {
    roster: Roster,
    estimator: Estimator,
    /// The newest round.
    round: Round,
    startup: Startup,
    forecast: Forecast,
    belief: Belief,
    helpfulness: Helpfulness,
    ceiling: Ceiling,
    cold: Cold,
    cost: Cost,
    /// More replicas did not help: the number that was as good.
    useful: Option<u32>,
    templates: Templates,
    /// What the belief is about.
    targets: Vec<Target>,
    /// Numbers that were the cheapest lately.
    wanted: VecDeque<Wanted>,
    /// Requests of recent rounds, and late ones, with the time of each.
    counted: VecDeque<(f64, f64, f64)>,
    clock_seconds: f64,
    down_at_seconds: f64,
}

/// A number that was the cheapest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Wanted {
    at_seconds: f64,
    replicas: u32,
    /// The bound beyond which it would have been cheaper still.
    beyond: Option<Bound>,
}

impl Engine {
    /// Takes one round and decides.
    pub fn decide(&mut self, observation: &Observation, settings: &Settings) -> Decision {
        self.roster.follow(observation);
        self.startup.follow(observation, &self.roster);
        self.follow_service(observation, settings);
        let round = self.estimator.round(observation, &self.roster, self.templates.staying(observation));
        let decision = self.weigh(&round, observation, settings);
        self.round = round;
        decision
    }

    fn weigh(&mut self, round: &Round, observation: &Observation, settings: &Settings) -> Decision {
        let current = observation.current;
        let mut inputs = Inputs::of(round);
        // No data is not low load.
        if round.measured == 0 || 2 * round.scraped < round.ready {
            return Decision::hold(current, Rule::Blind, inputs);
        }
        self.clock_seconds += round.seconds;
        let horizon_seconds = self.horizon(settings).as_secs_f64();
        let outlook = self.forecast.next(round.seconds, round.offered_per_second, horizon_seconds);
        let busy_per_second = belief::busy(round, settings);
        let seen = Seen {
            ready: round.ready,
            reached: round.ready - round.unreached,
            warm: round.warm(),
            per_second: round.completed_per_second,
            busy: busy_per_second.is_some(),
            replacing: round.replacing,
        };
        if self.ceiling.follow(self.clock_seconds, seen) {
            let ceiling = &self.ceiling;
            let theirs = |taught: &Taught| 1.0 - ceiling.nearness(taught.together_per_second);
            self.belief.learn_again(round, settings, theirs);
        }
        inputs.cost_factor = if seen.busy { None } else { self.cost.follow(round) };
        // A release that costs less is not waited for: replicas go step by step after it, and latencies tell how far.
        if let Some(factor) = inputs.cost_factor.filter(|factor| *factor > 1.0 || !round.replacing) {
            self.belief.cost_changed(factor);
            self.trust(settings);
        }
        let shared = if self.useful.is_some() { 1.0 } else { self.ceiling.blame() };
        self.belief.learn(round, settings, 1.0 - shared);
        let outlook = self.ceiling.per_second().map_or(outlook.clone(), |most| outlook.at_most(most));
        self.cold.follow(self.clock_seconds, self.roster.just_started(), round, settings);
        let Some(mut known) = self.belief.known(settings) else {
            return Decision::hold(current, Rule::FewRequests, inputs);
        };
        let state = self.state(observation, round, &known, busy_per_second);
        self.follow(state, round, &known, settings);
        known.unmeetable |=
            self.useful.is_some() && !seen.busy && self.belief.misses_at_lowest_load(known.target);
        let uneven = self.is_uneven(round, state, &known, outlook.expected_per_second);
        let starts = self.cold.starts(self.clock_seconds, known.target, settings);
        let stakes = Stakes {
            starts: starts.as_ref(),
            outlook: &outlook,
            capacity: &known.points,
            minute_spread: minute_spread(round, &known),
            violation_price: settings.violation_price,
            late_allowed: 60.0 * round.offered_per_second * known.target.budget(),
            backlog_per_second: self.backlog_per_second(round, &known),
        };
        let cheapest = stakes.cheapest(settings.min, settings.highest());
        let beyond = stakes.beyond(cheapest, settings.min, settings.highest());
        let capped = self.ceiling.per_second().is_some_and(|most| round.offered_per_second > most);
        let wanted = Wanted { at_seconds: self.clock_seconds, replicas: cheapest, beyond };
        let (to, rule) = self.brake(observation, settings, state, &known, wanted, uneven);
        let (rule, limit) = match self.limit() {
            _ if capped && to <= current => (Rule::DependencyBound, None),
            _ if rule == Rule::DependencyBound => (rule, None),
            Some(Bound::Max) if to == settings.highest() => (Rule::Max, Some(Bound::Max)),
            Some(Bound::Min) if to == settings.min => (Rule::Min, Some(Bound::Min)),
            _ => (rule, None),
        };
        let counterfactuals =
            [to.saturating_sub(1).max(1), to, to + 1].map(|replicas| stakes.counterfactual(replicas));
        Decision {
            version: record::VERSION,
            from: current,
            to,
            rule,
            limit,
            violated: state.violated(),
            inputs,
            cheapest,
            outlook: Outlook { horizon_seconds, ..outlook.summary() },
            capacity: Some(known.summary()),
            counterfactuals: counterfactuals.to_vec(),
        }
    }

    /// The newest round, as it was measured.
    pub fn round(&self) -> &Round {
        &self.round
    }

    /// How far ahead load is looked at: until pods that are wanted now would be ready, and a little more.
    pub fn horizon(&self, settings: &Settings) -> Duration {
        settings.period + Duration::from_secs_f64(self.startup.p90_seconds() + AHEAD_SECONDS)
    }

    /// What was learned is about one template, and about one promise.
    fn follow_service(&mut self, observation: &Observation, settings: &Settings) {
        if self.templates.current().is_some_and(|before| before != observation.template) {
            self.templates.keep(self.learned(settings));
            self.belief.doubt_template();
            self.trust(settings);
            self.cold.doubt(belief::DOUBT_SPREAD);
        }
        if let Some(again) = self.templates.follow(observation) {
            self.take_over(&again, settings);
        }
        if self.targets != settings.targets {
            self.targets.clone_from(&settings.targets);
            self.belief = Belief::default();
            self.cold = Cold::default();
            self.useful = None;
        }
    }

    /// The bound that keeps the replicas from the cheapest number: the upper one as soon as it does, the lower one once it
    /// has for a while.
    fn limit(&self) -> Option<Bound> {
        let mut beyond = self.wanted.iter().map(|wanted| wanted.beyond);
        if beyond.clone().any(|bound| bound == Some(Bound::Max)) {
            return Some(Bound::Max);
        }
        (!self.wanted.is_empty() && beyond.all(|bound| bound == Some(Bound::Min))).then_some(Bound::Min)
    }

    /// Load on top until a backlog is gone. Below a ceiling more pods do not drain it.
    fn backlog_per_second(&self, round: &Round, known: &Known) -> f64 {
        let draining = self.belief.backlog(round, known) / DRAIN_SECONDS;
        let theirs = 1.0 - self.ceiling.blame();
        let room =
            self.ceiling.per_second().map(|most| theirs * (most - round.completed_per_second).max(0.0));
        draining.min(room.unwrap_or(f64::INFINITY))
    }

    /// Keeps count of the requests, and of whether more replicas help.
    fn follow(&mut self, state: State, round: &Round, known: &Known, settings: &Settings) {
        self.counted.push_back((state.now_seconds, state.total, state.late));
        while self.counted.front().is_some_and(|count| state.now_seconds - count.0 > COUNTED_SECONDS) {
            self.counted.pop_front();
        }
        let useful = self.helpfulness.follow(state);
        if useful.is_some() && self.useful.is_none() {
            self.belief.unlearn_since_trusted(round, settings);
        } else if useful.is_none() && !state.violated() && !self.helpfulness.trying() {
            self.belief.trust(known);
        }
        self.useful = useful;
    }

    /// Up at once; down when it would have been enough for a while, and nothing speaks against it.
    fn brake(
        &mut self,
        observation: &Observation,
        settings: &Settings,
        state: State,
        known: &Known,
        wanted: Wanted,
        uneven: bool,
    ) -> (u32, Rule) {
        let Wanted { at_seconds: now, replicas: cheapest, .. } = wanted;
        let held = observation.current.clamp(settings.min, settings.highest());
        if let Some(useful) = self.useful
            && cheapest.max(held) > useful
        {
            return (useful.clamp(settings.min, settings.highest()), Rule::DependencyBound);
        }
        let steady_seconds = (DOWN_STARTS * self.startup.p90_seconds()).max(DOWN_SECONDS);
        self.wanted.push_back(wanted);
        while self.wanted.front().is_some_and(|wanted| now - wanted.at_seconds > steady_seconds) {
            self.wanted.pop_front();
        }
        if cheapest > held {
            if uneven {
                return (held, Rule::LoadUneven);
            }
            let useful = self.ceiling.enough().map_or(cheapest, |enough| cheapest.min(enough.max(held)));
            if useful == held {
                return (held, Rule::DependencyBound);
            }
            let to = self.at_most(state, settings, held, useful);
            if to == held || self.helpfulness.is_to_wait(state, to) {
                return (held, Rule::Trial);
            }
            self.helpfulness.scaled_up(state, to);
            return (to, Rule::Load);
        }
        let steady = self.wanted.iter().map(|wanted| wanted.replicas).max().unwrap_or(cheapest);
        if steady >= held {
            return (held, if cheapest < held { Rule::Cooldown } else { Rule::Steady });
        }
        if observation.rolling_out {
            return (held, Rule::Rollout);
        }
        if self.too_few_requests(known) {
            return (held, Rule::FewRequests);
        }
        let to = if known.unsure {
            if now - self.down_at_seconds < DOWN_UNSURE_SECONDS.max(self.startup.p90_seconds()) {
                return (held, Rule::Unsure);
            }
            steady.max(held - ((f64::from(held) * DOWN_UNSURE) as u32).max(1))
        } else {
            steady
        };
        self.down_at_seconds = now;
        (to, Rule::Load)
    }

    /// Of the cheapest number, no more than may be tried until it is seen whether more help: a violation makes the capacity look
    /// small, and if it is not the pods' fault, any number would.
    fn at_most(&self, state: State, settings: &Settings, held: u32, cheapest: u32) -> u32 {
        if !state.violated() {
            return cheapest;
        }
        let (growth, carried) = match self.belief.trusted_per_second() {
            Some(trusted) => (TRIAL_GROWTH, Some(trusted)),
            None => (FIRST_TRIAL_GROWTH, state.busy_per_second),
        };
        let by_load = carried.map_or(0.0, |carried| (state.offered_per_second / carried.max(1e-9)).ceil());
        let from = self.helpfulness.tried_from().unwrap_or(held);
        let most = growth.saturating_mul(from.max(by_load.min(f64::from(settings.highest())) as u32));
        cheapest.min(most.max(held))
    }

    /// Whether the promise is missed, or was when replicas were added, only because the load has not reached the new pods:
    /// all that are ready, with an even load, would carry what is expected.
    fn is_uneven(&self, round: &Round, state: State, known: &Known, expected_per_second: f64) -> bool {
        let carried = known.summary().low_per_second * round.ready as f64;
        round.unreached > 0
            && (state.violated() || self.helpfulness.trying())
            && expected_per_second <= carried
    }

    fn state(
        &self,
        observation: &Observation,
        round: &Round,
        known: &Known,
        busy_per_second: Option<f64>,
    ) -> State {
        State {
            now_seconds: self.clock_seconds,
            replicas: observation.current,
            warm: round.warm() as u32,
            start_seconds: self.startup.p90_seconds(),
            total: round.delta.total + round.delta.shed,
            late: known.target.missed(&round.delta) + round.delta.shed,
            budget: known.target.budget(),
            offered_per_second: round.offered_per_second,
            completed_per_second: round.completed_per_second,
            busy_per_second,
            rolling_out: observation.rolling_out,
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
