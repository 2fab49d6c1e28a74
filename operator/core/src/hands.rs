//! The user's hands on a number of replicas: floors, rates, pauses and the mode.

use std::time::Duration;

use crate::input::Input;
use crate::memory::Memory;
use crate::plan::Reason;
use crate::policy::{Hand, ScalingPolicy};
use crate::scale::{self, Verdict};

/// Puts the user's hands on a verdict, and returns what would be wanted without pauses and mode.
pub(crate) fn by_hand(
    input: &Input,
    policy: &ScalingPolicy,
    memory: &Memory,
    current: i32,
    verdict: &mut Verdict,
) -> i32 {
    if input.observed.deployment.scaled().is_none() {
        return verdict.to;
    }
    let wish = verdict.to.unsigned_abs();
    let recent = memory.changes.iter().copied().collect::<Vec<_>>();
    let ruling = policy.rule(input.now, current.unsigned_abs(), &recent, wish);
    let floor = policy.floor(input.now, Duration::ZERO);
    let hand = ruling.hand.filter(|_| ruling.replicas != wish);
    // The engine knows the floor as its fewest replicas.
    let floored = verdict.reason == Reason::AtMin && floor.schedule.is_some() && wish <= floor.replicas;
    if let Some(hand) = hand.or(floored.then_some(Hand::ScheduleFloor)) {
        verdict.message = format!("{}; {}", policy.explain(hand, input.now), verdict.message);
        if hand == Hand::Recommend {
            verdict.message = format!("{} replicas are recommended: {}", ruling.recommended, verdict.message);
        }
        verdict.reason = scale::reason_of(hand);
    }
    verdict.to = i32::try_from(ruling.replicas).unwrap_or(i32::MAX);
    i32::try_from(ruling.recommended).unwrap_or(i32::MAX)
}
