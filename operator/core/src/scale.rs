//! The rule that sets the number of replicas: latency says when there are too few, load says how many.
//!
//! It never takes missing data for low load, never leaves the bounds, and never removes a replica within the cooldown.

use jiff::Timestamp;

use crate::input::{Bounds, Scrape, Targets};
use crate::memory::{Capacity, Change, Memory, seconds_between};
use crate::plan::{Limit, MetricsState, Reason, Rollout};
use crate::window::{Window, peak_per_second};

/// The window that finds a violation.
pub(crate) const FAST_SECONDS: f64 = 10.0;
/// The window that has to be good before a replica is removed.
pub(crate) const SLOW_SECONDS: f64 = 60.0;
/// Seconds after any change in which no replica is removed.
const COOLDOWN_SECONDS: f64 = 60.0;
/// Load may have been this long ago and still counts as the peak that fewer replicas must carry.
const PEAK_SECONDS: f64 = 120.0;
/// New replicas are wanted for this part of the load at which a replica failed: queues grow steeply above it.
const PLANNED_UTILIZATION: f64 = 0.7;
/// Above this part of that load there are too few replicas, though latency is still good.
const NEAR_UTILIZATION: f64 = 0.85;
/// Fewer replicas must stay below this part of it: far enough from [`NEAR_UTILIZATION`] that noise cannot turn back.
const LOWER_UTILIZATION: f64 = 0.65;
/// What was learned of a replica's capacity holds for this long after it was last seen.
const CAPACITY_AGE_SECONDS_MAX: f64 = 900.0;
/// A backlog is to be gone after this long.
const DRAIN_SECONDS: f64 = 30.0;
/// Requests in flight for each replica that are no backlog.
const IN_FLIGHT_NORMAL: f64 = 2.0;
/// Load has grown when it exceeds the former by this factor.
const GROWN: f64 = 1.1;
/// Clients keep their connections to old replicas for this long, with jitter (the API closes them after 30 s).
const SPREADING_SECONDS: f64 = 45.0;
/// Replicas may take this long to start before a violation counts against those that are ready.
const STARTING_SECONDS: f64 = 60.0;
/// Scale-ups in a row that may fail to help.
const UNHELPFUL_UPS_MAX: u32 = 2;
/// A share of slow requests that fell below this part of the former has been helped.
const HELPED: f64 = 0.8;
/// Requests in the fast window from which a load counts as carried.
const CARRIED_REQUESTS_MIN: f64 = 50.0;
/// Without one slow request for this long, few requests are evidence enough.
const QUIET_SECONDS: f64 = 540.0;

/// What the rule looks at, beside the memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    pub now: Timestamp,
    pub bounds: Bounds,
    pub targets: Targets,
    /// Replicas that the live Deployment asks for.
    pub current: i32,
    pub ready: i32,
    pub rollout: Rollout,
    pub scrape: &'a Scrape,
}

/// What the rule says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub to: i32,
    pub reason: Reason,
    pub message: String,
    pub limit: Option<Limit>,
}

/// Judges one round. The round must have been learned by the memory before.
pub(crate) fn judge(situation: &Situation<'_>, memory: &mut Memory) -> Verdict {
    memory.not_after(situation.now);
    settle(situation, memory);
    let Situation { now, current, .. } = *situation;
    if let Some(verdict) = by_spec(situation.bounds, current) {
        return verdict;
    }
    match metrics_state(situation.scrape, situation.ready) {
        MetricsState::NoReadyPods => {
            return hold(current, Reason::PodsStarting, format!("none of {current} replicas is ready yet"));
        }
        MetricsState::HistogramMissing => {
            return hold(
                current,
                Reason::MetricsUnavailable,
                "the replicas answer without the histogram".into(),
            );
        }
        MetricsState::Failed(text) => return hold(current, Reason::MetricsUnavailable, text),
        MetricsState::Scraped => {}
    }
    if memory.capacity.is_some_and(|capacity| seconds_between(capacity.at, now) > CAPACITY_AGE_SECONDS_MAX) {
        memory.capacity = None;
    }
    let starting = starting(situation, memory);
    let fast = fast_window(situation, memory, starting);
    let verdict = match more(situation, memory, &fast, starting) {
        Some(verdict) => verdict,
        None if starting => {
            let rolling = situation.rollout == Rollout::InProgress;
            let reason = if rolling { Reason::RolloutInProgress } else { Reason::PodsStarting };
            hold(current, reason, format!("{} of {current} replicas are ready", situation.ready))
        }
        None => fewer(situation, memory),
    };
    bounded(situation, verdict)
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

/// Whether enough ready pods could be read. `ready` is what the Deployment says: a pod that is not known yet could not.
pub(crate) fn metrics_state(scrape: &Scrape, ready: i32) -> MetricsState {
    if scrape.pods.is_empty() {
        return MetricsState::NoReadyPods;
    }
    let known = scrape.pods.len();
    let ready = known.max(usize::try_from(ready).unwrap_or(0));
    let rejections = scrape.pods.iter().filter_map(|pod| pod.reading.as_ref().err()).collect::<Vec<_>>();
    let read = known - rejections.len();
    if read * 2 >= ready && read > 0 {
        return MetricsState::Scraped;
    }
    if rejections.len() == known
        && rejections.iter().all(|rejection| **rejection == crate::histogram::Rejection::HistogramMissing)
    {
        return MetricsState::HistogramMissing;
    }
    let mut names = rejections.iter().map(|rejection| rejection.as_str()).collect::<Vec<_>>();
    names.sort_unstable();
    names.dedup();
    MetricsState::Failed(format!("{read} of {ready} ready replicas could be read: {}", names.join(", ")))
}

/// The rounds that a violation is looked for in: once the last change has settled, only those that began after it.
pub(crate) fn fast_window(situation: &Situation<'_>, memory: &Memory, starting: bool) -> Window {
    let from = if starting { None } else { memory.settled_at };
    let rounds = memory
        .rounds
        .iter()
        .rev()
        .filter(|round| from.is_none_or(|from| seconds_between(from, round.at) >= round.seconds));
    Window::covering(
        rounds.take_while(|round| seconds_between(round.at, situation.now) <= SLOW_SECONDS),
        FAST_SECONDS,
    )
}

/// Whether replicas that were ordered may still come to help.
pub(crate) fn starting(situation: &Situation<'_>, memory: &Memory) -> bool {
    let since = memory.unready_since;
    since.is_some_and(|since| seconds_between(since, situation.now) < STARTING_SECONDS)
}

/// Notes since when the last change has been in effect: all replicas are ready, or those that are not have had their
/// time. One that cannot be scheduled must not stop the others from being judged.
fn settle(situation: &Situation<'_>, memory: &mut Memory) {
    let all_ready = situation.ready >= situation.current && situation.rollout == Rollout::Done;
    if all_ready {
        memory.unready_since = None;
    } else {
        memory.unready_since.get_or_insert(situation.now);
    }
    if matches!(situation.rollout, Rollout::InProgress | Rollout::Unseen) {
        memory.settled_at = None;
    } else if all_ready || !starting(situation, memory) {
        memory.settled_at.get_or_insert(situation.now);
    }
}

/// More replicas, or a reason to hold in spite of a violation. None when there is no violation and room for load.
fn more(situation: &Situation<'_>, memory: &mut Memory, fast: &Window, starting: bool) -> Option<Verdict> {
    let Situation { now, targets, current, ready, .. } = *situation;
    let slow = Window::covering(
        memory.rounds.iter().rev().filter(|round| {
            memory.settled_at.is_some_and(|settled| seconds_between(settled, round.at) >= round.seconds)
        }),
        SLOW_SECONDS,
    );
    let violation = fast
        .violation(targets, f64::from(ready))
        .or_else(|| slow.newest_bad.then(|| slow.violation(targets, f64::from(ready)))?);
    let newest = memory.rounds.back()?;
    let offered = newest.offered_per_second.max(fast.offered_per_second);
    let bad_share = worst_share(fast, targets);

    if violation.is_some() {
        let seen = fast.busiest_per_second;
        let per_second = match memory.capacity {
            // While more load arrives, a round that began before it shows less than the pods can do.
            Some(known) if starting => known.per_second.max(seen),
            Some(known) => known.per_second.min(seen),
            None => seen,
        };
        if per_second > 0.0 {
            memory.capacity = Some(Capacity { per_second, at: now });
        }
    } else {
        if fast.delta.total >= CARRIED_REQUESTS_MIN {
            memory.unhelpful_ups = 0;
        }
        let carried = fast.completed_per_second / f64::from(ready.max(1));
        if let Some(known) = memory.capacity.as_mut()
            && !starting
            && fast.delta.total >= CARRIED_REQUESTS_MIN
            && carried > known.per_second
        {
            known.per_second = carried;
        }
    }

    let backlog = (fast.in_flight - IN_FLIGHT_NORMAL * f64::from(ready)).max(0.0);
    let wanted_load = offered + if violation.is_some() { backlog / DRAIN_SECONDS } else { 0.0 };
    let needed =
        memory.capacity.map(|capacity| replicas_for(wanted_load, capacity.per_second * PLANNED_UTILIZATION));
    let near = memory
        .capacity
        .is_some_and(|capacity| offered > f64::from(current) * capacity.per_second * NEAR_UTILIZATION);
    if violation.is_none() && !near {
        return None;
    }

    let numbers = || {
        let one = memory
            .capacity
            .map_or(String::new(), |capacity| format!("; one fails at {:.1}", capacity.per_second));
        format!("{offered:.1} requests/s on {ready} ready replicas{one}")
    };
    let grown = memory.last_change.is_none_or(|change| offered > GROWN * change.offered_per_second);
    let (reason, what) = match &violation {
        Some(violation) => (Reason::LatencyOverTarget, format!("{violation}; {}", numbers())),
        None => (Reason::LoadNearCapacity, numbers()),
    };
    let wanted = if starting {
        let recent =
            memory.last_change.is_some_and(|change| seconds_between(change.at, now) < STARTING_SECONDS);
        if !(recent && grown) {
            return None;
        }
        needed.unwrap_or(current)
    } else if violation.is_some() {
        let enough = needed.is_some_and(|needed| needed <= current);
        let fresh = memory.settled_at.is_some_and(|at| seconds_between(at, now) < SPREADING_SECONDS);
        let raised = memory.last_change.is_some_and(|change| change.to > change.from && change.from > 0);
        if enough && fresh && raised {
            return Some(hold(current, Reason::HoldingLoadSpreading, what));
        }
        let unhelpful = memory
            .last_change
            .filter(|change| raised && !grown && ready >= current && bad_share > HELPED * change.bad_share);
        match unhelpful {
            // At the bound nothing was tried, so nothing has failed to help.
            Some(change) if current < situation.bounds.max => {
                if memory.judged_change.replace(change.at) != Some(change.at) {
                    memory.unhelpful_ups += 1;
                }
                if memory.unhelpful_ups > UNHELPFUL_UPS_MAX {
                    return Some(hold(current, Reason::DependencyBound, what));
                }
            }
            _ => memory.unhelpful_ups = 0,
        }
        needed.unwrap_or(0).max(current + 1)
    } else {
        needed.unwrap_or(current)
    };
    let most = (current * 2).max(current + 4);
    (wanted > current).then(|| Verdict { to: wanted.min(most), reason, message: what, limit: None })
}

/// Fewer replicas if that is safe, otherwise why not.
fn fewer(situation: &Situation<'_>, memory: &Memory) -> Verdict {
    let Situation { now, bounds, targets, current, .. } = *situation;
    let held = |reason, message| hold(current, reason, message);
    match situation.rollout {
        Rollout::Done => {}
        Rollout::Unseen | Rollout::InProgress | Rollout::Stuck => {
            return held(Reason::RolloutInProgress, "the rollout of a new pod template has not ended".into());
        }
    }
    let peak = peak_per_second(memory.rounds.iter().rev(), now, PEAK_SECONDS);
    let offered = memory.rounds.back().map_or(0.0, |round| round.offered_per_second);
    // The peak is of rounds put together: a single round may be above it, and noise.
    let load = format!("{offered:.1} requests/s now, {:.1} at the peak of two minutes", peak.max(offered));
    if current <= bounds.min {
        return held(Reason::HoldingWithinTarget, format!("{load}; the fewest replicas run"));
    }

    let evidence = evidence(situation, memory);
    if !evidence.complete {
        return held(
            Reason::HoldingWithinTarget,
            format!("{load}; not every replica could be read in the last minute"),
        );
    }
    let idle = evidence.delta.total == 0.0 && evidence.in_flight == 0.0 && evidence.delta.shed == 0.0;
    let unblemished = evidence.bad.iter().all(|&bad| bad <= 0.0) && evidence.seconds >= QUIET_SECONDS;
    let step = (current / 4).max(1);
    let (good, lowest) = match memory.capacity {
        _ if idle => (true, bounds.min),
        Some(capacity) => {
            (evidence.within(targets, 1.0), replicas_for(peak, capacity.per_second * LOWER_UTILIZATION))
        }
        None => (evidence.within(targets, 0.5), current - 1),
    };
    let to = lowest.max(current - step).max(bounds.min);
    if to >= current {
        return held(
            Reason::HoldingWithinTarget,
            format!("{load}; {} replicas might not carry it", current - 1),
        );
    }
    if recently_changed(now, memory) {
        return held(
            Reason::CoolingDown,
            format!("{load}; {to} replicas would do, a minute after the last change"),
        );
    }
    if evidence.seconds < SLOW_SECONDS - evidence_slack(memory) {
        return held(
            Reason::HoldingTooFewRequests,
            format!("{load}; read for {:.0} s, not yet a minute", evidence.seconds),
        );
    }
    if !good && !unblemished {
        let message = format!(
            "{load}; {:.0} requests in {:.0} s are too few to tell",
            evidence.delta.total, evidence.seconds
        );
        return held(Reason::HoldingTooFewRequests, message);
    }
    Verdict { to, reason: Reason::LoadBelowCapacity, message: load, limit: None }
}

/// Rounds since the last change settled: a minute of them, and more while they are too few to tell.
fn evidence(situation: &Situation<'_>, memory: &Memory) -> Window {
    let part = if memory.capacity.is_some() { 1.0 } else { 0.5 };
    let mut window = Window { complete: true, ..Window::default() };
    let settled = memory.settled_at.unwrap_or(situation.now);
    for round in
        memory.rounds.iter().rev().filter(|round| seconds_between(settled, round.at) >= round.seconds)
    {
        let enough = window.within(situation.targets, part) || window.delta.total == 0.0;
        if window.seconds >= SLOW_SECONDS && enough {
            break;
        }
        if window.seconds >= SLOW_SECONDS && !(round.measured > 0 && round.scraped == round.ready) {
            break;
        }
        // The first reading after a start is a baseline: it says nothing, good or bad.
        if round.measured == 0 && round.scraped == round.ready {
            break;
        }
        window.add(round);
    }
    window
}

/// Rounds do not fill a minute to the second.
fn evidence_slack(memory: &Memory) -> f64 {
    memory.rounds.back().map_or(0.0, |round| round.seconds)
}

fn recently_changed(now: Timestamp, memory: &Memory) -> bool {
    memory.last_change.is_some_and(|change| seconds_between(change.at, now) < COOLDOWN_SECONDS)
}

fn bounded(situation: &Situation<'_>, verdict: Verdict) -> Verdict {
    let Bounds { min, max, embedded_database, .. } = situation.bounds;
    let wanted = verdict.to;
    let to = wanted.clamp(min, max);
    let (limit, cut_reason) = if embedded_database {
        (Some(Limit::EmbeddedDatabase), Reason::EmbeddedDatabase)
    } else if wanted > max {
        (Some(Limit::Max(max)), Reason::AtMax)
    } else if wanted < min {
        (Some(Limit::Min(min)), Reason::AtMin)
    } else {
        (verdict.limit, verdict.reason)
    };
    if wanted == to || to != situation.current {
        return Verdict { to, limit, ..verdict };
    }
    let message = format!("{wanted} replicas are needed, the bound is {to}: {}", verdict.message);
    Verdict { to, limit, reason: cut_reason, message }
}

fn hold(current: i32, reason: Reason, message: String) -> Verdict {
    Verdict { to: current, reason, message, limit: None }
}

fn replicas_for(per_second: f64, per_replica: f64) -> i32 {
    // The cast saturates, and the bounds of the spec cut it.
    (per_second / per_replica.max(f64::MIN_POSITIVE)).ceil().max(1.0) as i32
}

fn worst_share(window: &Window, targets: Targets) -> f64 {
    window.shares(targets).map(|(_, share, _)| share.value).fold(0.0, f64::max)
}

/// The change that a verdict asks for.
pub(crate) fn change(situation: &Situation<'_>, memory: &Memory, to: i32) -> Change {
    let fast = fast_window(situation, memory, true);
    let newest = memory.rounds.back().map_or(0.0, |round| round.offered_per_second);
    Change {
        at: situation.now,
        offered_per_second: newest.max(fast.offered_per_second),
        bad_share: worst_share(&fast, situation.targets),
        from: situation.current,
        to,
    }
}
