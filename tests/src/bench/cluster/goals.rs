//! What was promised of the step on the real cluster, and of the simulator, held against what was found.

use super::step::{Step, Verdict};
use super::validate::Validation;
use crate::bench::goals::Goal;

/// Seconds until enough replicas are wanted.
const WANTED_SECONDS: f64 = 10.0;
/// Moves until then.
const MOVES: usize = 1;
/// Seconds until p99 is within the promise again.
const BACK_SECONDS: usize = 30;
/// Requests without an answer, of all that were due in the counted part of the load.
const UNSERVED: u64 = 500;
/// How far the simulation's replica-hours may be off, as a share.
const HOURS_OFF: f64 = 0.15;
/// How far its share of requests over the promise may be off, 0 to 1.
const OVER_OFF: f64 = 0.03;

/// Of the step.
pub fn of_step(step: &Step) -> Vec<Goal> {
    let verdict = step.verdict(&step.plimsoll);
    let enough = step.enough().map_or("enough".to_owned(), |enough| format!("enough replicas ({enough})"));
    let wanted = verdict.wanted.map_or("never".to_owned(), |(seconds, moves)| match moves {
        0 => "wanted before the step".to_owned(),
        1 => format!("after {seconds:.1} s, in one move"),
        _ => format!("after {seconds:.1} s, in {moves} moves"),
    });
    let in_time = verdict.wanted.is_some_and(|(seconds, moves)| seconds <= WANTED_SECONDS && moves <= MOVES);
    let back = verdict.back.seconds();
    vec![
        Goal {
            text: format!("the step: {enough} wanted within {WANTED_SECONDS:.0} s, in one move"),
            found: Some(wanted),
            met: step.enough().map(|_| in_time),
        },
        Goal {
            text: format!("the step: p99 within the promise again within {BACK_SECONDS} s"),
            found: Some(after(&verdict)),
            met: Some(back.is_some_and(|seconds| seconds <= BACK_SECONDS)),
        },
        Goal {
            text: format!(
                "the step: under {UNSERVED} of 18,000 requests refused, failed or not answered within 10 s"
            ),
            found: Some(format!("{} of {}", verdict.unserved, verdict.offered)),
            met: Some(verdict.unserved < UNSERVED),
        },
    ]
}

/// When p99 was back, in words.
pub fn after(verdict: &Verdict) -> String {
    use super::windows::Back;
    match verdict.back {
        Back::NeverLeft => "it never left it".to_owned(),
        Back::After(seconds) => format!("after {seconds} s"),
        Back::Never => "not within what was watched".to_owned(),
    }
}

/// Of the validation.
pub fn of_validation(validation: &Validation) -> Vec<Goal> {
    let beside = validation.beside();
    vec![
        Goal {
            text: format!(
                "the simulation's replica-hours within {:.0} % of the cluster's",
                HOURS_OFF * 100.0
            ),
            found: beside.map(|it| {
                format!(
                    "{:+.1} % ({:.3} beside {:.3})",
                    it.hours_off * 100.0,
                    it.simulated_hours.median,
                    it.hours.median
                )
            }),
            met: beside.map(|it| it.hours_off.abs() <= HOURS_OFF),
        },
        Goal {
            text: format!(
                "its share of requests over the promise within {:.0} points of the cluster's",
                OVER_OFF * 100.0
            ),
            found: beside.map(|it| {
                format!(
                    "{:+.2} points ({:.2} % beside {:.2} %)",
                    it.over_off * 100.0,
                    it.simulated_over.median * 100.0,
                    it.over.median * 100.0
                )
            }),
            met: beside.map(|it| it.over_off.abs() <= OVER_OFF),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::step::{Spans, testing as steps};
    use super::super::validate::testing::validation;
    use super::*;

    fn met(goals: &[Goal]) -> Vec<Option<bool>> {
        goals.iter().map(|goal| goal.met).collect()
    }

    #[test]
    fn a_step_that_is_answered_at_once_meets_all() {
        let goals = of_step(&steps::step(steps::run(Spans::FULL, 6.0, 7, 12), None));
        assert_eq!(met(&goals), [Some(true); 3]);
        assert_eq!(goals[0].found.as_deref(), Some("after 6.0 s, in one move"));
        assert_eq!(goals[1].found.as_deref(), Some("after 12 s"));
        assert_eq!(goals[2].found.as_deref(), Some("240 of 18000"));
    }

    #[test]
    fn a_step_that_is_answered_late_misses_all_with_what_was_found() {
        let goals = of_step(&steps::step(steps::run(Spans::FULL, 60.0, 7, 70), None));
        assert_eq!(met(&goals), [Some(false); 3]);
        assert_eq!(goals[0].found.as_deref(), Some("after 60.0 s, in one move"));
        assert_eq!(goals[2].found.as_deref(), Some("1400 of 18000"));
        let never = of_step(&steps::step(steps::run(Spans::FULL, 6.0, 4, 300), None));
        assert_eq!(never[0].found.as_deref(), Some("never"));
        assert_eq!(never[1].found.as_deref(), Some("not within what was watched"));
    }

    #[test]
    fn without_a_fleet_that_is_enough_the_first_goal_is_not_judged() {
        let mut step = steps::step(steps::run(Spans::FULL, 6.0, 7, 12), None);
        step.fleets.clear();
        assert_eq!(of_step(&step)[0].met, None);
    }

    #[test]
    fn a_simulation_is_held_to_its_bounds() {
        let goals = of_validation(&validation(&[20], 20, &[(23, 0.049)]));
        assert_eq!(met(&goals), [Some(true), Some(true)]);
        assert_eq!(goals[0].found.as_deref(), Some("+15.0 % (3.833 beside 3.333)"));
        assert_eq!(met(&of_validation(&validation(&[20], 20, &[(16, 0.06)]))), [Some(false), Some(false)]);
        assert_eq!(met(&of_validation(&validation(&[20], 20, &[]))), [None, None]);
    }
}
