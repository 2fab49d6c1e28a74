//! What was promised of the API's speed, held against what was found.

use super::case::Case;
use super::results::{Rate, Results};
use super::server::Server;
use super::stats::ratio;

/// A promise.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    /// In words.
    pub text: String,
    /// What was found, in words; absent when it was not measured.
    pub found: Option<String>,
    /// Whether it was kept; absent when it was not measured.
    pub met: Option<bool>,
}

/// All of them, with what these results say of each.
pub fn goals(results: &Results) -> Vec<Goal> {
    let cpu = |server, case| results.closed(server, case, |closed| closed.cpu_us).map(|cpu| cpu.median);
    let less_cpu = |server, case| ratio(cpu(Server::Express, case)?, cpu(server, case)?);
    let mut goals = Vec::new();
    for (case, times) in
        [(Case::Health, 12.0), (Case::Post, 12.0), (Case::ListGzip, 40.0), (Case::NotModified, 20.0)]
    {
        let text = format!("{}: at least {times:.0}× less CPU a request than Express", case.title());
        goals.push(at_least(text, times, less_cpu(Server::Plimsoll, case)));
    }
    for case in [Case::Health, Case::Post, Case::ListGzip, Case::NotModified] {
        let text =
            format!("{}, in-process layer off: at least 4× less CPU a request than Express", case.title());
        goals.push(at_least(text, 4.0, less_cpu(Server::PlimsollNoLocal, case)));
    }
    let of_nginx = cpu(Server::Plimsoll, Case::Health)
        .and_then(|plimsoll| ratio(plimsoll, cpu(Server::Nginx, Case::Health)?));
    goals.push(at_most("`/health`: at most 2× the CPU a request of nginx".into(), 2.0, of_nginx));
    for case in Case::ALL {
        let p99 = |server| {
            let valid = results.valid(server, case, Rate::Equal);
            results
                .open(server, case, Rate::Equal, |open| open.p99_ms)
                .filter(|_| valid)
                .map(|p99| p99.median)
        };
        let fraction = p99(Server::Plimsoll).and_then(|plimsoll| ratio(plimsoll, p99(Server::Express)?));
        let text = format!("{}: p99 at 80 % of what Express sustains at most 0.2× Express's", case.title());
        goals.push(at_most(text, 0.2, fraction));
    }
    let memory = |server| results.memory(server).map(|memory| memory.median);
    let fraction = memory(Server::Plimsoll).and_then(|plimsoll| ratio(plimsoll, memory(Server::Express)?));
    goals.push(at_most("peak memory: at most 0.2× Express's".into(), 0.2, fraction));
    goals
}

fn at_least(text: String, bound: f64, found: Option<f64>) -> Goal {
    Goal { text, found: found.map(times), met: found.map(|found| found >= bound) }
}

fn at_most(text: String, bound: f64, found: Option<f64>) -> Goal {
    Goal { text, found: found.map(times), met: found.map(|found| found <= bound) }
}

fn times(value: f64) -> String {
    if value < 1.0 { format!("{value:.2}×") } else { format!("{value:.1}×") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_at_its_bound_is_met_and_one_that_was_not_measured_is_neither() {
        assert_eq!(at_least(String::new(), 12.0, Some(12.0)).met, Some(true));
        assert_eq!(at_least(String::new(), 12.0, Some(11.9)).met, Some(false));
        assert_eq!(at_most(String::new(), 0.2, Some(0.21)).met, Some(false));
        assert_eq!(at_most(String::new(), 0.2, None).met, None);
    }
}
