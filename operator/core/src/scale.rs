//! From what the engine decided to what the operator does and says: the spec comes first, and what cannot be read is held.

use std::fmt::Write as _;

use crate::edges;
use crate::engine::{self, Bound, Rule};
use crate::input::{Bounds, Scrape, Targets};
use crate::left_out::LeftOut;
use crate::plan::{Limit, MetricsState, Reason};
use crate::policy::Hand;

/// What a verdict depends on, beside the engine's decision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    pub bounds: Bounds,
    pub targets: Targets,
    /// Replicas that the live Deployment asks for.
    pub current: i32,
    pub ready: i32,
    pub scrape: &'a Scrape,
}

/// How many replicas, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub to: i32,
    pub reason: Reason,
    pub message: String,
    pub limit: Option<Limit>,
}

/// Judges one round.
pub(crate) fn judge(situation: &Situation<'_>, decided: &engine::Decision) -> Verdict {
    let current = situation.current;
    if let Some(verdict) = by_spec(situation.bounds, current) {
        return verdict;
    }
    match metrics_state(situation.scrape, situation.ready, situation.targets) {
        MetricsState::NoReadyPods => {
            return hold(current, Reason::PodsStarting, format!("none of {current} replicas is ready yet"));
        }
        MetricsState::Awaited => {
            let message = "the replicas are ready, and have not been scraped yet".into();
            return hold(current, Reason::PodsStarting, message);
        }
        MetricsState::Alike(left_out) => {
            return hold(current, Reason::MetricsUnavailable, left_out.seen.into());
        }
        MetricsState::Outage(outage) => return hold(current, Reason::MetricsUnavailable, outage.message),
        MetricsState::Failed(text) | MetricsState::NoEdge(text) => {
            return hold(current, Reason::MetricsUnavailable, text);
        }
        MetricsState::Scraped | MetricsState::Approximate(_) | MetricsState::ErrorsMissing => {}
    }
    let limit = limit(situation.bounds, decided);
    Verdict {
        // The engine was given the bounds, which are positive.
        to: i32::try_from(decided.to).unwrap_or(i32::MAX),
        reason: reason(situation, decided, limit),
        message: explain(situation, decided),
        limit,
    }
}

/// What the spec alone says, whatever the pods say.
pub(crate) fn by_spec(bounds: Bounds, current: i32) -> Option<Verdict> {
    let embedded = bounds.embedded_database.then_some(Limit::EmbeddedDatabase);
    let verdict = |to, reason, message| Some(Verdict { to, reason, message, limit: embedded });
    match bounds.pinned {
        Some(0) => return verdict(0, Reason::Hibernated, "spec.replicas.pinned is 0".into()),
        Some(pinned) => return verdict(pinned, Reason::Pinned, format!("spec.replicas.pinned is {pinned}")),
        None => {}
    }
    if current < bounds.min {
        let message = format!("{current} replicas are fewer than spec.replicas.min, which is {}", bounds.min);
        return verdict(bounds.min, Reason::AtMin, message);
    }
    if current > bounds.max && bounds.embedded_database {
        return verdict(bounds.max, Reason::EmbeddedDatabase, EMBEDDED_DATABASE.into());
    }
    if current > bounds.max {
        let message = format!("{current} replicas are more than spec.replicas.max, which is {}", bounds.max);
        return verdict(bounds.max, Reason::AtMax, message);
    }
    None
}

/// Says what to write for more than one replica.
pub(crate) const EMBEDDED_DATABASE: &str = "SQLite inside the pod cannot be shared, so one replica runs; for more, \
     point spec.database.external.urlFrom.secretKeyRef at a Secret with the URL of a PostgreSQL";

/// Whether enough ready pods could be read, and whether they tell what the targets are about. `ready` is what the
/// Deployment says: a pod that is not known yet could not be read.
pub(crate) fn metrics_state(scrape: &Scrape, ready: i32, targets: Targets) -> MetricsState {
    let known = scrape.ready().count();
    if known == 0 {
        return if scrape.awaited > 0 { MetricsState::Awaited } else { MetricsState::NoReadyPods };
    }
    if let Some(outage) = &scrape.outage {
        return MetricsState::Outage(outage.clone());
    }
    let ready = known.max(usize::try_from(ready).unwrap_or(0).saturating_sub(scrape.awaited));
    let rejections = scrape.rejections().collect::<Vec<_>>();
    let read = known - rejections.len();
    if read * 2 >= ready && read > 0 {
        return told(scrape, targets);
    }
    if let Some(&first) = rejections.first().filter(|_| rejections.len() == known)
        && rejections.iter().all(|rejection| *rejection == first)
        && let Some(left_out) = LeftOut::of(first)
    {
        return MetricsState::Alike(left_out);
    }
    let mut names = rejections.iter().map(|rejection| rejection.as_str()).collect::<Vec<_>>();
    names.sort_unstable();
    names.dedup();
    MetricsState::Failed(format!("{read} of {ready} ready replicas could be read: {}", names.join(", ")))
}

/// What the readings tell of the targets.
fn told(scrape: &Scrape, targets: Targets) -> MetricsState {
    let readings = scrape.readings().collect::<Vec<_>>();
    match edges::judged(&readings, targets) {
        edges::Judged::Nowhere(text) => MetricsState::NoEdge(text),
        _ if targets.limits_errors() && !readings.iter().any(|reading| reading.tells_errors()) => {
            MetricsState::ErrorsMissing
        }
        edges::Judged::Below(text) => MetricsState::Approximate(text),
        edges::Judged::Exactly => MetricsState::Scraped,
    }
}

/// The reason for which a hand of the user's holds the number.
pub(crate) const fn reason_of(hand: Hand) -> Reason {
    match hand {
        Hand::Recommend => Reason::Recommended,
        Hand::PausedUp | Hand::PausedDown => Reason::Paused,
        Hand::RateUp | Hand::RateDown => Reason::RateLimited,
        Hand::ScheduleFloor => Reason::ScheduleFloor,
    }
}

/// How the number that the engine would choose was cut. What stands in the way of the promise goes before a bound.
fn limit(bounds: Bounds, decided: &engine::Decision) -> Option<Limit> {
    if decided.capacity.is_some_and(|capacity| capacity.unmeetable) {
        return Some(Limit::TargetUnmeetable);
    }
    if decided.rule == Rule::DependencyBound {
        return Some(Limit::Dependency);
    }
    match decided.limit? {
        Bound::Max if bounds.embedded_database => Some(Limit::EmbeddedDatabase),
        Bound::Max if let Some(connections) = bounds.connections => {
            Some(Limit::DatabaseConnections(connections))
        }
        Bound::Max => Some(Limit::Max(bounds.max)),
        Bound::Min => Some(Limit::Min(i32::try_from(decided.to).unwrap_or(bounds.min))),
    }
}

fn reason(situation: &Situation<'_>, decided: &engine::Decision, limit: Option<Limit>) -> Reason {
    if limit == Some(Limit::TargetUnmeetable) && decided.violated {
        return Reason::TargetUnmeetable;
    }
    if decided.rule == Rule::DependencyBound {
        return Reason::DependencyBound;
    }
    match decided.to.cmp(&decided.from) {
        std::cmp::Ordering::Greater if decided.violated && of_errors(decided) => {
            return Reason::ErrorsOverTarget;
        }
        std::cmp::Ordering::Greater if decided.violated => return Reason::LatencyOverTarget,
        std::cmp::Ordering::Greater => return Reason::LoadNearCapacity,
        std::cmp::Ordering::Less => return Reason::LoadBelowCapacity,
        std::cmp::Ordering::Equal => {}
    }
    match decided.rule {
        Rule::Max if situation.bounds.embedded_database => Reason::EmbeddedDatabase,
        Rule::Max if situation.bounds.connections.is_some() => Reason::DatabaseConnections,
        Rule::Max => Reason::AtMax,
        Rule::FewRequests | Rule::Blind => Reason::HoldingTooFewRequests,
        Rule::Rollout => Reason::RolloutInProgress,
        Rule::LoadUneven => Reason::LoadUneven,
        _ if situation.ready < situation.current => Reason::PodsStarting,
        Rule::Trial => Reason::HoldingTrial,
        _ if decided.violated => Reason::HoldingEnoughReplicas,
        Rule::Min => Reason::AtMin,
        Rule::Unsure => Reason::HoldingCapacityUnsure,
        Rule::Cooldown => Reason::CoolingDown,
        Rule::Load | Rule::Steady | Rule::DependencyBound => Reason::HoldingWithinTarget,
    }
}

/// Whether the target that binds is about errors.
fn of_errors(decided: &engine::Decision) -> bool {
    decided.capacity.is_some_and(|capacity| capacity.target.within_seconds.is_none())
}

/// The numbers behind a decision, in words.
fn explain(situation: &Situation<'_>, decided: &engine::Decision) -> String {
    let engine::Decision { inputs, outlook, capacity, cheapest, .. } = decided;
    if decided.rule == Rule::Blind {
        return "the first readings of the replicas are only where the next ones are counted from".into();
    }
    let mut text =
        format!("{} requests/s on {} ready replicas", rate(inputs.offered_per_second), inputs.ready);
    let Some(capacity) = capacity else {
        return text + ", too few to tell what one of them carries";
    };
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        ", {} to {} expected within {:.0} s; one carries {} ({} to {})",
        rate(outlook.expected_per_second),
        rate(outlook.p95_per_second),
        outlook.horizon_seconds,
        rate(capacity.per_second),
        rate(capacity.low_per_second),
        rate(capacity.high_per_second),
    );
    if decided.violated {
        let missed = if of_errors(decided) { "failed" } else { "were slow" };
        let _ = write!(text, "; more {missed} than the target allows");
    }
    if capacity.unmeetable {
        text.push_str("; requests miss the target without any load");
    }
    let counts = match (decided.rule, decided.limit) {
        (Rule::DependencyBound, _) => "; more replicas did not help".to_owned(),
        (Rule::Trial, None) => {
            format!("; {cheapest} replicas may be needed, once it is seen whether those that were added help")
        }
        (Rule::LoadUneven, _) => "; replicas that are ready get little of it yet".to_owned(),
        (_, Some(Bound::Max)) if let Some(connections) = situation.bounds.connections => format!(
            "; more than {} replicas are needed: {}",
            situation.bounds.max,
            connections.explain_limit()
        ),
        (_, Some(Bound::Max)) => format!("; more than {} replicas are needed", situation.bounds.max),
        (_, Some(Bound::Min)) => format!("; fewer than {} replicas would do", decided.to),
        _ if *cheapest != decided.to => format!("; {cheapest} replicas would do"),
        _ => String::new(),
    };
    text + &counts
}

/// A rate with as many digits as matter.
fn rate(per_second: f64) -> String {
    if per_second < 100.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

fn hold(current: i32, reason: Reason, message: String) -> Verdict {
    Verdict { to: current, reason, message, limit: None }
}
