//! The worst minutes of a run, and why they came.

use plimsoll_simulator::score::Second;
use plimsoll_simulator::{Outcome, Scenario};
use serde::Serialize;

/// So many of them are told.
const TOLD: usize = 3;
/// Load that rose by this factor within two minutes is told.
const RISE: f64 = 1.2;

/// One of the worst minutes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorstMinute {
    /// Minutes since the start.
    pub minute: usize,
    /// Share of its requests over the target, 0 to 1.
    pub over_share: f64,
    /// Why, as far as the simulation tells.
    pub why: String,
}

/// The minutes in violation that had the most requests over the target, the worst first.
pub fn minutes(outcome: &Outcome, scenario: &Scenario) -> Vec<WorstMinute> {
    let share =
        |index: usize| outcome.minutes[index].over as f64 / outcome.minutes[index].offered.max(1) as f64;
    let mut violated: Vec<usize> =
        (0..outcome.minutes.len()).filter(|&index| outcome.minutes[index].violated).collect();
    violated.sort_by(|&a, &b| share(b).total_cmp(&share(a)).then(a.cmp(&b)));
    violated
        .into_iter()
        .take(TOLD)
        .map(|minute| WorstMinute { minute, over_share: share(minute), why: why(outcome, scenario, minute) })
        .collect()
}

fn why(outcome: &Outcome, scenario: &Scenario, minute: usize) -> String {
    let seconds = |from: usize, until: usize| {
        let end = outcome.seconds.len();
        &outcome.seconds[from.min(end)..until.min(end)]
    };
    let begin = minute * 60;
    let now = seconds(begin, begin + 60);
    let load = rate(now);
    let before = seconds(begin.saturating_sub(120), begin.saturating_sub(60));
    let mut reasons = Vec::new();
    if !before.is_empty() && load > RISE * rate(before) {
        reasons.push(format!("load rose from {:.0} to {load:.0}/s within two minutes", rate(before)));
    }
    let wanted = now.iter().map(|second| second.wanted).max().unwrap_or_default();
    let fewest = now.iter().map(|second| second.ready).min().unwrap_or_default();
    let pod_max = scenario.service.throughput_max();
    let each = load / f64::from(fewest.max(1));
    if wanted >= scenario.replicas_max {
        reasons.push(format!("it is at replicas.max, {wanted}: raise it"));
    } else if fewest < wanted {
        reasons.push(format!("{fewest} of {wanted} wanted replicas were Ready"));
    } else {
        reasons.push(format!("it wanted {wanted} replicas, for {load:.0}/s"));
    }
    reasons.push(format!("{each:.0}/s for a pod that serves {pod_max:.0}/s at most"));
    reasons.join("; ")
}

/// Requests a second.
fn rate(seconds: &[Second]) -> f64 {
    seconds.iter().map(|second| f64::from(second.offered)).sum::<f64>() / seconds.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plimsoll_simulator::distribution::Distribution;
    use plimsoll_simulator::peers::fixed::Fixed;
    use plimsoll_simulator::service::Service;
    use plimsoll_simulator::{Target, generate, run};

    use super::*;

    /// Pods of 80 requests a second; the load is 50 and then 300.
    fn scenario() -> Scenario {
        let constant = |seconds| Distribution::Constant { seconds };
        let service = Service::workers(4, constant(0.05), constant(12.0));
        let target = Target { quantile: 0.99, latency: Duration::from_millis(300) };
        Scenario::new("worst", generate::step(600, 240, 50.0, 300.0), service, target)
    }

    #[test]
    fn the_worst_minutes_come_first_and_say_that_the_bound_binds() {
        let mut scenario = scenario();
        scenario.replicas_max = 2;
        let outcome = run(&scenario, &mut Fixed { replicas: 2 });
        let worst = minutes(&outcome, &scenario);
        assert_eq!(worst.len(), TOLD);
        assert!(worst.is_sorted_by(|a, b| a.over_share >= b.over_share));
        assert!(worst.iter().all(|worst| worst.minute >= 4), "{worst:?}");
        assert!(worst[0].why.contains("it is at replicas.max, 2: raise it"), "{worst:?}");
    }

    #[test]
    fn too_few_wanted_is_told_apart_from_not_ready_yet() {
        let scenario = scenario();
        let few = minutes(&run(&scenario, &mut Fixed { replicas: 2 }), &scenario);
        assert!(
            few[0].why.contains("it wanted 2 replicas, for 30") || few[0].why.contains("for 29"),
            "{few:?}"
        );
        assert!(few.iter().any(|worst| worst.why.contains("load rose from 5")), "{few:?}");
        let mut late = run(&scenario, &mut Fixed { replicas: 2 });
        late.seconds.iter_mut().for_each(|second| second.wanted = 7);
        let late = minutes(&late, &scenario);
        assert!(late[0].why.contains("2 of 7 wanted replicas were Ready"), "{late:?}");
    }

    #[test]
    fn a_run_that_keeps_the_promise_has_none() {
        let mut scenario = scenario();
        scenario.replicas_initial = 20;
        let outcome = run(&scenario, &mut Fixed { replicas: 20 });
        assert_eq!(minutes(&outcome, &scenario), []);
    }
}
