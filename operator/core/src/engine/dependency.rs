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
/// Longest wait for the rest of its pods, once half of them are there, beyond the time that pods take to start, in seconds: one that
/// cannot start, or tells nothing, must not keep the others from being judged, nor more from being added.
const STRAGGLERS_SECONDS: f64 = 60.0;
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
    /// Since when so many have been asked for.
    made_at_seconds: Option<f64>,
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
        ((f64::from(self.before) * more * room).ceil() as u32).min(self.replicas).max(self.before)
    }
}

/// How it is now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// The time, in seconds.
    pub now_seconds: f64,
    /// Replicas that are asked for.
    pub replicas: u32,
    /// Those that are ready and warm.
    pub warm: u32,
    /// Time that new pods take to start, in seconds.
    pub start_seconds: f64,
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

    /// Whether a scale-up to `replicas` is to wait until the one before has shown what it does.
    pub fn is_to_wait(&self, state: State, replicas: u32) -> bool {
        let waits = state.violated() && state.start_seconds <= WAIT_SECONDS_MAX;
        let Some(tried) = self.tried.filter(|_| waits) else {
            return false;
        };
        // Nothing is waited for where a step was not made: while it is paused, or only numbers are wanted.
        tried.made_at_seconds.is_some()
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
                (tried.replicas, tried.made_at_seconds, tried.settled_at_seconds) = (replicas, None, None);
                tried.late_share = tried.late_share.max(state.share().value);
                tried.offered_per_second = state.offered_per_second;
            }
            None if state.violated() => {
                self.tried = Some(Tried {
                    before: state.replicas,
                    replicas,
                    made_at_seconds: None,
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
        let made = state.replicas >= tried.replicas;
        if made {
            tried.made_at_seconds.get_or_insert(state.now_seconds);
        }
        let overdue = tried
            .made_at_seconds
            .is_some_and(|at| state.now_seconds - at > state.start_seconds + STRAGGLERS_SECONDS);
        if state.replicas < tried.before || (overdue && !made) {
            // It was taken back, by the spec or by hand.
            self.tried = None;
            return;
        }
        let half = tried.before + tried.replicas.saturating_sub(tried.before).div_ceil(2);
        if !made || !(state.warm >= state.replicas || (overdue && state.warm >= half)) {
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
            warm: replicas,
            start_seconds: 3.0,
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
        assert!(!helpfulness.is_to_wait(before, 10), "nothing is being tried");
        helpfulness.scaled_up(before, 10);
        assert!(!helpfulness.is_to_wait(before, 11), "the step was not made");
        let now = state(5.0, 10, 300.0);
        helpfulness.follow(now);
        let waits = |state, replicas| helpfulness.is_to_wait(state, replicas);
        assert_eq!([11, 14, 15].map(|replicas| waits(now, replicas)), [true, true, false]);
        assert!(!waits(State { start_seconds: 45.0, ..now }, 11), "it would come too late");
        assert!(!waits(State { late: 0.0, ..now }, 11), "the promise is kept");
        let loads = [430.0, 450.0].map(|offered_per_second| State { offered_per_second, ..now });
        assert_eq!(loads.map(|state| waits(state, 11)), [true, false]);
    }

    /// Rounds of a scale-up from 8 to 10, of which so many come; how many of them a step more waits, and what is known then.
    fn with_stragglers(warm: u32, per_pod_per_second: f64) -> (usize, Helpfulness) {
        let mut helpfulness = Helpfulness::default();
        helpfulness.scaled_up(state(0.0, 8, 300.0), 10);
        let mut waited = 0;
        for round in 1..40 {
            let now = State { warm, per_pod_per_second, ..state(5.0 * f64::from(round), 10, 300.0) };
            helpfulness.follow(now);
            waited += usize::from(helpfulness.is_to_wait(now, 11));
        }
        (waited, helpfulness)
    }

    #[test]
    fn a_pod_that_never_settles_holds_nothing_up_for_ever() {
        let (waited, judged) = with_stragglers(9, 40.0);
        assert!((12..20).contains(&waited), "{waited}");
        assert_eq!((judged.unhelpful, judged.useful), (1, Some(8)), "the others show that more do not help");
        let (waited, judged) = with_stragglers(9, 50.0);
        assert!((12..20).contains(&waited), "{waited}");
        assert_eq!(
            (judged.unhelpful, judged.useful),
            (0, None),
            "nothing was tried: the pods have as much to do"
        );
        assert_eq!(with_stragglers(8, 50.0).0, 39, "none of them has come, and more would not either");
    }

    #[test]
    fn a_scale_up_that_is_taken_back_is_tried_no_longer() {
        for (replicas, rounds) in [(7, 1), (9, 14)] {
            let mut helpfulness = Helpfulness::default();
            helpfulness.scaled_up(state(0.0, 8, 300.0), 10);
            helpfulness.follow(state(5.0, 10, 300.0));
            for round in 0..rounds {
                helpfulness.follow(state(10.0 + 5.0 * f64::from(round), replicas, 300.0));
            }
            assert!(!helpfulness.trying(), "{replicas} replicas");
        }
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
