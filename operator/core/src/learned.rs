//! What was learned, as the status keeps it: in words that change only when their meaning does.

use plimsoll_crds::{LearnedCapacityStatus, LearnedStatus, parse_duration};

use crate::engine::{Learned, LearnedCapacity, Likely, Target};
use crate::input::Targets;

/// A number that changed by less than this part is the same to the status.
const SAME: f64 = 0.1;

/// What the status keeps: what it has, unless something has changed by more than a tenth.
pub(crate) fn to_status(
    before: Option<&LearnedStatus>,
    learned: &Learned,
    targets: Targets,
) -> LearnedStatus {
    let capacity = |known: &LearnedCapacity| {
        let (name, target) = targets.each().find(|(_, target)| *target == known.target)?;
        Some(LearnedCapacityStatus {
            target: named(name, target),
            requests_per_second: three_digits(known.warm.per_second),
            uncertainty_percent: percent(known.warm.spread),
            cold_requests_per_second: known.cold.map(|cold| three_digits(cold.per_second)),
            cold_uncertainty_percent: known.cold.map(|cold| percent(cold.spread)),
        })
    };
    let next = LearnedStatus {
        template: format!("{:016x}", learned.template),
        capacities: learned.capacities.iter().filter_map(capacity).collect(),
        startup: learned.startup_seconds.map(|seconds| format!("{seconds:.1}s")),
        typical: format!("{}ms", three_digits(learned.typical_seconds * 1000.0)),
        shared_requests_per_second: learned.shared_per_second.map(three_digits),
    };
    match before {
        Some(before) if same(before, &next) => before.clone(),
        _ => next,
    }
}

/// What an engine may take over. None when something cannot be read: then it is learned again.
pub(crate) fn from_status(status: &LearnedStatus, targets: Targets) -> Option<Learned> {
    let seconds = |text: &str| Some(parse_duration(text).ok()?.as_secs_f64());
    let capacity = |known: &LearnedCapacityStatus| {
        let mut each = targets.each();
        let (_, target) = each.find(|&(name, target)| named(name, target) == known.target)?;
        let likely = |per_second: &str, percent: i32| {
            Some(Likely { per_second: per_second.parse().ok()?, spread: f64::from(percent) / 100.0 })
        };
        let cold = known.cold_requests_per_second.as_deref().zip(known.cold_uncertainty_percent);
        Some(LearnedCapacity {
            target,
            warm: likely(&known.requests_per_second, known.uncertainty_percent)?,
            cold: cold.and_then(|(per_second, percent)| likely(per_second, percent)),
        })
    };
    Some(Learned {
        template: u64::from_str_radix(&status.template, 16).ok()?,
        capacities: status.capacities.iter().filter_map(capacity).collect(),
        startup_seconds: status.startup.as_deref().and_then(seconds),
        typical_seconds: seconds(&status.typical)?,
        shared_per_second: status.shared_requests_per_second.as_deref().and_then(|text| text.parse().ok()),
    })
}

/// A target in one word, such as `p99<250ms` or `errors<0.1%`.
fn named(name: &str, target: Target) -> String {
    match target.latency_seconds() {
        Some(seconds) => format!("{name}<{}ms", seconds * 1000.0),
        None => format!("{name}<{}%", three_digits(target.budget() * 100.0)),
    }
}

fn same(before: &LearnedStatus, next: &LearnedStatus) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= SAME * a.abs().max(b.abs());
    let number = |text: &str| {
        let end = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<f64>().unwrap_or(f64::NAN)
    };
    let numbers = |before: Option<&str>, next: Option<&str>| match (before, next) {
        (Some(before), Some(next)) => near(number(before), number(next)),
        (before, next) => before == next,
    };
    let (shared, shared_next) = (&before.shared_requests_per_second, &next.shared_requests_per_second);
    before.template == next.template
        && before.capacities.len() == next.capacities.len()
        && before.capacities.iter().zip(&next.capacities).all(|(before, next)| {
            let (cold, cold_next) = (&before.cold_requests_per_second, &next.cold_requests_per_second);
            let spreads = |known: &LearnedCapacityStatus| {
                [known.uncertainty_percent, known.cold_uncertainty_percent.unwrap_or(1)]
            };
            before.target == next.target
                && near(number(&before.requests_per_second), number(&next.requests_per_second))
                && numbers(cold.as_deref(), cold_next.as_deref())
                // A spread is itself known badly; half or twice as much is news.
                && spreads(before).into_iter().zip(spreads(next)).all(|(a, b)| a <= 2 * b && b <= 2 * a)
        })
        && numbers(before.startup.as_deref(), next.startup.as_deref())
        && numbers(Some(&before.typical), Some(&next.typical))
        && numbers(shared.as_deref(), shared_next.as_deref())
}

fn percent(spread: f64) -> i32 {
    (spread * 100.0).clamp(1.0, 999.0).round() as i32
}

fn three_digits(number: f64) -> String {
    let digits = (2.0 - number.abs().max(1e-9).log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{number:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets_of(spec: serde_json::Value) -> Targets {
        Targets::of(&serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn targets() -> Targets {
        targets_of(serde_json::json!({ "latency": { "p95": "100ms", "p99": "250ms" }, "errorRate": "0.1%" }))
    }

    fn learned(per_second: f64) -> Learned {
        let capacities = targets()
            .each()
            .map(|(_, target)| LearnedCapacity {
                target,
                warm: Likely { per_second, spread: 0.05 },
                cold: Some(Likely { per_second: 31.0, spread: 0.4 }),
            })
            .collect();
        Learned {
            template: 7,
            capacities,
            startup_seconds: Some(3.21),
            typical_seconds: 0.000_42,
            shared_per_second: Some(612.0),
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let status = to_status(None, &learned(57.34), targets());
        let told = status.capacities.iter().map(|known| known.target.as_str()).collect::<Vec<_>>();
        assert_eq!(told, ["p95<100ms", "p99<250ms", "errors<0.100%"]);
        let back = from_status(&status, targets()).unwrap();
        assert_eq!(back, Learned { startup_seconds: Some(3.2), ..learned(57.3) });
    }

    #[test]
    fn a_tenth_more_is_no_news_and_a_fifth_more_is() {
        let status = to_status(None, &learned(57.0), targets());
        assert_eq!(to_status(Some(&status), &learned(60.0), targets()), status);
        assert_ne!(to_status(Some(&status), &learned(69.0), targets()), status);
        let shared = Learned { shared_per_second: None, ..learned(57.0) };
        assert_ne!(to_status(Some(&status), &shared, targets()), status);
        let mut cold = learned(57.0);
        cold.capacities[1].cold = Some(Likely { per_second: 40.0, spread: 0.4 });
        assert_ne!(to_status(Some(&status), &cold, targets()), status);
        let other = Learned { template: 8, ..learned(57.0) };
        assert_ne!(to_status(Some(&status), &other, targets()), status);
    }

    #[test]
    fn what_is_kept_is_small_whatever_was_learned() {
        let all = ["p50", "p90", "p95", "p99", "p999"].map(|name| (name.to_owned(), "1234567ms".into()));
        let latency = serde_json::Map::from_iter(all);
        let targets = targets_of(serde_json::json!({ "latency": latency, "errorRate": "12.3456%" }));
        let bytes = |number: f64| {
            let likely = Likely { per_second: number, spread: number };
            let capacity = |(_, target)| LearnedCapacity { target, warm: likely, cold: Some(likely) };
            let learned = Learned {
                template: u64::MAX,
                capacities: targets.each().map(capacity).collect(),
                startup_seconds: Some(number),
                typical_seconds: number,
                shared_per_second: Some(number),
            };
            assert_eq!(learned.capacities.len(), 6);
            serde_json::to_string(&to_status(None, &learned, targets)).unwrap().len()
        };
        for number in [1e-9, 1.0 / 3.0, 1234.5678, 1e9] {
            assert!(bytes(number) < 1500, "{} of {number}", bytes(number));
        }
        assert!(bytes(f64::MAX) < 8192, "{}", bytes(f64::MAX));
    }

    #[test]
    fn another_promise_takes_nothing_over() {
        let status = to_status(None, &learned(57.0), targets());
        let other = targets_of(serde_json::json!({ "latency": { "p99": "300ms" }, "errorRate": "1%" }));
        assert_eq!(from_status(&status, other).unwrap().capacities, []);
        let broken = LearnedStatus { typical: "soon".into(), ..status };
        assert_eq!(from_status(&broken, targets()), None);
    }
}
