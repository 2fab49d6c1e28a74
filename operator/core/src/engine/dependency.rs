//! Whether more replicas help: if what they all depend on is the bottleneck, they do not, and make it worse.
//!
//! A scale-up during a violation is a trial. Two in a row that relieve the pods and help nobody, or a bold one, are enough to go
//! back to the number before them, which was the useful one, until the promise has been kept for a while, or until that number
//! turns out to complete less than the others did. While a trial runs, small steps more wait for what it shows.

use crate::histogram::Share;

use super::capacity::{CAPACITY_OF_SATURATION, GROUPING};

/// Scale-ups in a row that may fail to help.
const UNHELPFUL_MAX: u32 = 2;
/// A share of late requests that fell below this part of the one before has been helped.
const HELPED: f64 = 0.8;
/// A scale-up to so many times as many replicas is a bold one: it shows as much as two do, and does not wait for another to be judged.
const BOLD_STEP: f64 = 1.5;
/// Nor does one of any size for so many times the load,
const MORE_LOAD: f64 = 1.1;
/// or where pods take longer than this to start: it would come too late.
const WAIT_SECONDS_MAX: f64 = 20.0;
/// The load of a pod must have fallen to this part of the one before: otherwise nothing was tried.
const RELIEVED: f64 = 0.9;
/// Seconds for which a scale-up has to show what it does, once its pods are ready and warm.
const JUDGED_AFTER_SECONDS: f64 = 15.0;
/// Fewer replicas that complete less than this part of what more did were not as good,
const AS_GOOD: f64 = 0.9;
/// once they have been alone for so many seconds: pods that go take a part of the requests with them.
const ALONE_SECONDS: f64 = 60.0;
/// and by more than chance explains: so many spreads of the number of requests that come in a round.
const CHANCE_SPREADS: f64 = 3.0;
/// Seconds without a violation after which everything is tried again.
const CALM_SECONDS: f64 = 120.0;

/// Watches what scale-ups do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Helpfulness {
    tried: Option<Tried>,
    unhelpful: u32,
    /// Replicas before the first scale-up that did not help.
    useful: Option<u32>,
    /// What more replicas than the useful number completed at most, in requests per second.
    completed_by_more: f64,
    /// Since when there are no more than the useful number.
    back_since_seconds: Option<f64>,
    /// Since when the promise has been kept.
    calm_since_seconds: Option<f64>,
}

/// A scale-up during a violation, and how it was before.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tried {
    before: u32,
    replicas: u32,
    /// Whether so many were asked for since.
    made: bool,
    settled_at_seconds: Option<f64>,
    late_share: f64,
    offered_per_second: f64,
    per_pod_per_second: f64,
    completed_per_second: f64,
    /// Whether its pods were kept busy.
    busy: bool,
}

impl Tried {
    /// Of the numbers from the one before to the one that was tried, the least that completes what is completed now: late or not,
    /// requests are to be answered. Pods that are busy still do not show what fewer of them could.
    fn useful(&self, state: State) -> u32 {
        let same = AS_GOOD * state.completed_per_second < self.completed_per_second;
        if same || state.busy_per_second.is_some() {
            return self.before;
        }
        let more = state.completed_per_second / self.completed_per_second.max(f64::MIN_POSITIVE);
        let room = if self.busy { 1.0 / CAPACITY_OF_SATURATION } else { 1.0 };
        ((f64::from(self.before) * more * room).ceil() as u32).clamp(self.before, self.replicas)
    }
}

/// How it is now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// The time, in seconds.
    pub now_seconds: f64,
    /// Replicas that are asked for.
    pub replicas: u32,
    /// Whether all of them are ready and warm.
    pub settled: bool,
    /// Requests that ended, and those of them that were late.
    pub total: f64,
    /// Late requests.
    pub late: f64,
    /// The share of requests that may be late.
    pub budget: f64,
    /// Load, in requests per second.
    pub offered_per_second: f64,
    /// What the pods completed together, in requests per second.
    pub completed_per_second: f64,
    /// The load of a pod, in requests per second.
    pub per_pod_per_second: f64,
    /// What a pod that was kept busy completed, in requests per second, if enough of them were.
    pub busy_per_second: Option<f64>,
    /// Whether pods take the place of others.
    pub rolling_out: bool,
}

impl State {
    /// Whether more requests are late than may be, and chance cannot explain it.
    pub fn violated(&self) -> bool {
        self.share().lower > self.budget
    }

    fn share(&self) -> Share {
        Share::wilson(self.late / GROUPING, self.total / GROUPING)
    }
}

impl Helpfulness {
    /// Looks at a round. When more replicas are known not to help: the number that was as good.
    pub fn follow(&mut self, state: State) -> Option<u32> {
        let violated = state.violated();
        if violated {
            self.calm_since_seconds = None;
        } else {
            let since = *self.calm_since_seconds.get_or_insert(state.now_seconds);
            if state.now_seconds - since > CALM_SECONDS {
                self.forget();
            }
        }
        if state.rolling_out {
            // What pods did before says nothing of what others do.
            self.tried = None;
        }
        self.judge(state, violated);
        if violated && self.was_better_with_more(state) {
            self.forget();
        }
        self.useful.filter(|_| self.unhelpful >= UNHELPFUL_MAX)
    }

    /// Whether the number that was taken for as good as more completes less than they did.
    fn was_better_with_more(&mut self, state: State) -> bool {
        let Some(useful) = self.useful else { return false };
        if state.replicas > useful {
            self.back_since_seconds = None;
            self.completed_by_more = self.completed_by_more.max(state.completed_per_second);
            return false;
        }
        let since = *self.back_since_seconds.get_or_insert(state.now_seconds);
        let by_chance = 1.0 + CHANCE_SPREADS / state.total.max(1.0).sqrt();
        state.now_seconds - since > ALONE_SECONDS
            && by_chance * state.completed_per_second
                < AS_GOOD * self.completed_by_more.min(state.offered_per_second)
    }

    fn forget(&mut self) {
        *self = Self { calm_since_seconds: self.calm_since_seconds, ..Self::default() };
    }

    /// Whether a scale-up has still to show what it does.
    pub fn trying(&self) -> bool {
        self.tried.is_some()
    }

    /// Whether a scale-up to `replicas` is to wait until the one before has shown what it does; new pods take so long to start.
    pub fn is_to_wait(&self, state: State, replicas: u32, start_seconds: f64) -> bool {
        let Some(tried) = self.tried.filter(|_| state.violated() && start_seconds <= WAIT_SECONDS_MAX) else {
            return false;
        };
        // Nothing is waited for where a step was not made: while it is paused, or only numbers are wanted.
        tried.made
            && f64::from(replicas) < BOLD_STEP * f64::from(tried.replicas)
            && state.offered_per_second < MORE_LOAD * tried.offered_per_second
    }

    /// Replicas before the scale-up that has still to show what it does.
    pub fn tried_from(&self) -> Option<u32> {
        self.tried.map(|tried| tried.before)
    }

    /// Notes a scale-up to `replicas`. One before it that has not been judged stands, with more replicas.
    pub fn scaled_up(&mut self, state: State, replicas: u32) {
        match &mut self.tried {
            Some(tried) => {
                (tried.replicas, tried.made, tried.settled_at_seconds) = (replicas, false, None);
                tried.late_share = tried.late_share.max(state.share().value);
                tried.offered_per_second = state.offered_per_second;
            }
            None if state.violated() => {
                self.tried = Some(Tried {
                    before: state.replicas,
                    replicas,
                    made: false,
                    settled_at_seconds: None,
                    late_share: state.share().value,
                    offered_per_second: state.offered_per_second,
                    per_pod_per_second: state.per_pod_per_second,
                    completed_per_second: state.completed_per_second,
                    busy: state.busy_per_second.is_some(),
                });
            }
            None => {}
        }
    }

    fn judge(&mut self, state: State, violated: bool) {
        let Some(tried) = &mut self.tried else { return };
        tried.made |= state.replicas >= tried.replicas;
        if !state.settled || state.replicas < tried.replicas {
            return;
        }
        let since = *tried.settled_at_seconds.get_or_insert(state.now_seconds);
        if state.now_seconds - since < JUDGED_AFTER_SECONDS {
            return;
        }
        let relieved = state.per_pod_per_second < RELIEVED * tried.per_pod_per_second;
        if !violated || state.share().value < HELPED * tried.late_share {
            self.forget();
        } else if relieved {
            let bold = f64::from(tried.replicas) >= BOLD_STEP * f64::from(tried.before);
            self.unhelpful += if bold { UNHELPFUL_MAX } else { 1 };
            self.useful.get_or_insert(tried.useful(state));
        }
        self.tried = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(now_seconds: f64, replicas: u32, late: f64) -> State {
        State {
            now_seconds,
            replicas,
            settled: true,
            total: 1000.0,
            late,
            budget: 0.01,
            offered_per_second: 400.0,
            completed_per_second: 400.0,
            per_pod_per_second: 400.0 / f64::from(replicas),
            busy_per_second: None,
            rolling_out: false,
        }
    }

    /// What is known after these scale-ups, while `late` tells the late requests of each number.
    fn after_scale_ups(steps: &[(u32, u32)], late: impl Fn(u32) -> f64) -> Option<u32> {
        let mut helpfulness = Helpfulness::default();
        let mut now = 0.0;
        let mut useful = None;
        for &(from, to) in steps {
            helpfulness.scaled_up(state(now, from, late(from)), to);
            for _ in 0..5 {
                now += 5.0;
                useful = helpfulness.follow(state(now, to, late(to)));
            }
        }
        useful
    }

    #[test]
    fn two_scale_ups_that_change_nothing_are_enough_and_one_bold_one_is() {
        let changing_nothing = |steps: &[(u32, u32)]| after_scale_ups(steps, |_| 300.0);
        assert_eq!(changing_nothing(&[(4, 5)]), None);
        assert_eq!(changing_nothing(&[(4, 5), (5, 6)]), Some(4));
        assert_eq!(changing_nothing(&[(4, 6)]), Some(4));
    }

    #[test]
    fn a_step_waits_for_the_one_before_unless_it_is_bold_or_urgent() {
        let mut helpfulness = Helpfulness::default();
        let before = state(0.0, 8, 300.0);
        assert!(!helpfulness.is_to_wait(before, 10, 3.0), "nothing is being tried");
        helpfulness.scaled_up(before, 10);
        assert!(!helpfulness.is_to_wait(before, 11, 3.0), "the step was not made");
        let now = state(5.0, 10, 300.0);
        helpfulness.follow(now);
        let waits = |state, replicas, start_seconds| helpfulness.is_to_wait(state, replicas, start_seconds);
        assert_eq!([11, 14, 15].map(|replicas| waits(now, replicas, 3.0)), [true, true, false]);
        assert!(!waits(now, 11, 45.0), "it would come too late");
        assert!(!waits(State { late: 0.0, ..now }, 11, 3.0), "the promise is kept");
        let loads = [430.0, 450.0].map(|offered_per_second| State { offered_per_second, ..now });
        assert_eq!(loads.map(|state| waits(state, 11, 3.0)), [true, false]);
    }

    /// The useful number after a scale-up from 4 busy replicas to 9, which are late as before and answer so many of 400
    /// requests a second, where the 4 answered 200.
    fn useful_after(completed_per_second: f64, busy_per_second: Option<f64>) -> Option<u32> {
        let busy = State { busy_per_second: Some(50.0), completed_per_second: 200.0, ..state(0.0, 4, 900.0) };
        let mut helpfulness = Helpfulness::default();
        helpfulness.scaled_up(busy, 9);
        let tried = |round| State {
            completed_per_second,
            busy_per_second,
            ..state(5.0 * f64::from(round), 9, 900.0)
        };
        (1..6).map(|round| helpfulness.follow(tried(round))).last().flatten()
    }

    #[test]
    fn the_useful_number_answers_what_more_replicas_do() {
        let useful = [200.0, 210.0, 300.0, 400.0].map(|completed| useful_after(completed, None));
        assert_eq!(useful, [4, 4, 8, 9].map(Some));
        assert_eq!(useful_after(300.0, Some(33.0)), Some(4), "they are busy still");
    }

    #[test]
    fn a_scale_up_that_helps_is_not_held_against_the_next() {
        let steps = [(4, 5), (5, 6)];
        assert_eq!(after_scale_ups(&steps, |replicas| 3000.0 / f64::from(replicas.pow(2))), None);
        assert_eq!(after_scale_ups(&steps, |replicas| if replicas < 6 { 300.0 } else { 0.0 }), None);
    }

    #[test]
    fn load_that_grows_as_fast_as_the_replicas_proves_nothing() {
        let mut helpfulness = Helpfulness::default();
        let mut now = 0.0;
        for _ in 0..3 {
            let constant = |now| State { per_pod_per_second: 100.0, ..state(now, 6, 300.0) };
            helpfulness.scaled_up(constant(now), 6);
            for _ in 0..5 {
                now += 5.0;
                assert_eq!(helpfulness.follow(constant(now)), None);
            }
        }
    }

    /// What is known two minutes after the replicas went back from 9 to 4, which complete so much of 400 requests a second.
    fn after_going_back(completed_per_second: f64) -> Option<u32> {
        let mut helpfulness =
            Helpfulness { unhelpful: UNHELPFUL_MAX, useful: Some(4), ..Helpfulness::default() };
        helpfulness.follow(state(0.0, 9, 300.0));
        let back = |round| State { completed_per_second, ..state(5.0 * f64::from(round), 4, 300.0) };
        (1..24).map(|round| helpfulness.follow(back(round))).last().flatten()
    }

    #[test]
    fn a_number_that_completes_less_than_more_did_was_not_as_good() {
        assert_eq!((after_going_back(398.0), after_going_back(280.0)), (Some(4), None));
    }

    #[test]
    fn a_scale_up_is_compared_with_the_worst_before_it() {
        let mut helpfulness = Helpfulness::default();
        helpfulness.scaled_up(state(0.0, 4, 30.0), 8);
        // It became worse before the rest of them was added, and is as at first now.
        helpfulness.scaled_up(state(5.0, 8, 900.0), 9);
        for round in 2..10 {
            assert_eq!(helpfulness.follow(state(5.0 * f64::from(round), 9, 30.0)), None);
        }
    }

    #[test]
    fn a_rollout_ends_what_was_tried() {
        let mut helpfulness = Helpfulness::default();
        helpfulness.scaled_up(state(0.0, 4, 300.0), 9);
        helpfulness.follow(State { rolling_out: true, ..state(5.0, 9, 300.0) });
        assert!(!helpfulness.trying());
    }

    #[test]
    fn it_is_tried_again_after_a_calm() {
        let mut helpfulness =
            Helpfulness { unhelpful: UNHELPFUL_MAX, useful: Some(4), ..Helpfulness::default() };
        assert_eq!(helpfulness.follow(state(0.0, 9, 300.0)), Some(4));
        let calm = (1..40).map(|round| helpfulness.follow(state(5.0 * f64::from(round), 9, 0.0)));
        assert_eq!(calm.last(), Some(None));
    }
}
