//! One pod: its queue, the CPU that it gets, and what it counts.

use std::collections::VecDeque;

use crate::clock::{Nanos, duration, nanos, nanos_of, seconds};
use crate::gate::Gate;
use crate::policy::{Counters, PodState};
use crate::service::{QUOTA_PERIOD, Server, Service, WarmUp};

/// The index of a request in the world's store.
pub(crate) type RequestId = u32;

#[derive(Debug)]
pub(crate) struct Pod {
    /// Which of the scenario's templates it runs.
    pub(crate) template: u32,
    pub(crate) state: PodState,
    pub(crate) created: Nanos,
    pub(crate) ready: Option<Nanos>,
    /// It was there, warm, before the run began.
    pub(crate) warm: bool,
    pub(crate) queue: VecDeque<RequestId>,
    /// Workers, or the event loop, that are busy.
    pub(crate) busy: u32,
    /// Requests in the pod, waiting ones too.
    pub(crate) load: u32,
    /// Requests taken from the queue and not answered.
    pub(crate) taken: u32,
    pub(crate) started: u64,
    counters: Counters,
    /// `counters.request_seconds` holds up to here.
    counted_until: Nanos,
    quota: Quota,
    gate: Option<Gate>,
}

impl Pod {
    pub(crate) fn new(id: u64, template: u32, service: &Service, edges: usize, created: Nanos) -> Self {
        let limit = match service.server {
            Server::Workers { .. } => 1.0,
            Server::EventLoop { cpu_limit } => cpu_limit,
        };
        Self {
            template,
            state: PodState::Pending,
            created,
            ready: None,
            warm: false,
            queue: VecDeque::new(),
            busy: 0,
            load: 0,
            taken: 0,
            started: 0,
            counters: Counters { buckets: vec![0; edges + 1], ..Counters::default() },
            counted_until: created,
            quota: Quota::new(limit, id),
            gate: service.patience.map(Gate::new),
        }
    }

    /// How much longer its work takes than that of a warm pod.
    pub(crate) fn coldness(&self, warm_up: WarmUp, now: Nanos) -> f64 {
        let young = self.ready.is_none_or(|ready| now < ready + nanos_of(warm_up.time));
        if !self.warm && (young || self.started < warm_up.requests) { warm_up.factor } else { 1.0 }
    }

    /// A request came in.
    pub(crate) fn arrive(&mut self, now: Nanos) {
        self.count_until(now);
        self.counters.arrived += 1;
        self.load += 1;
    }

    /// A request came and was refused.
    pub(crate) fn shed(&mut self) {
        self.counters.arrived += 1;
        self.counters.shed += 1;
    }

    /// Whether a request whose turn has come after `age` is served.
    pub(crate) fn admits(&mut self, now: Nanos, age: Nanos) -> bool {
        self.gate.as_mut().is_none_or(|gate| gate.admits(duration(now), duration(age)))
    }

    /// A request that had been taken was refused.
    pub(crate) fn refuse(&mut self, now: Nanos) {
        self.leave(now);
        self.taken -= 1;
        self.counters.shed += 1;
    }

    /// A request's work ended, which took `cpu` of CPU.
    pub(crate) fn worked(&mut self, cpu: f64) {
        self.counters.cpu_seconds += cpu;
    }

    /// A request was answered, after `latency` by the pod's own stopwatch.
    pub(crate) fn answer(&mut self, now: Nanos, latency: Nanos, edges: &[Nanos]) {
        self.leave(now);
        self.taken -= 1;
        self.counters.answered += 1;
        self.counters.buckets[edges.partition_point(|&edge| edge < latency)] += 1;
    }

    /// A request left the pod.
    pub(crate) fn leave(&mut self, now: Nanos) {
        self.count_until(now);
        self.load -= 1;
    }

    /// When CPU work of `work` that begins now ends, under the pod's quota.
    pub(crate) fn compute(&mut self, now: Nanos, work: Nanos) -> Nanos {
        self.quota.run(now, work)
    }

    /// Writes what it has counted over `counters`.
    pub(crate) fn read(&mut self, now: Nanos, hides_wait: bool, counters: &mut Counters) {
        self.count_until(now);
        self.counters.in_flight = if hides_wait { self.taken } else { self.load };
        self.counters.periods = self.quota.periods;
        self.counters.throttled_periods = self.quota.throttled;
        counters.clone_from(&self.counters);
    }

    fn count_until(&mut self, now: Nanos) {
        self.counters.request_seconds += f64::from(self.load) * seconds(now - self.counted_until);
        self.counted_until = now;
    }
}

/// CPU bandwidth control of one pod.
#[derive(Debug)]
struct Quota {
    /// CPU time in a period.
    budget: Nanos,
    /// When the pod's periods begin, within 100 ms.
    phase: Nanos,
    period: Nanos,
    used: Nanos,
    periods: u64,
    throttled: u64,
}

impl Quota {
    fn new(limit: f64, pod: u64) -> Self {
        let length = nanos_of(QUOTA_PERIOD);
        Self {
            budget: nanos(limit.clamp(0.001, 1.0) * seconds(length)),
            // Any phase will do that differs from pod to pod.
            phase: pod.wrapping_mul(0x9e37_79b9_7f4a_7c15) % length,
            period: 0,
            used: 0,
            periods: 0,
            throttled: 0,
        }
    }

    fn run(&mut self, mut now: Nanos, mut work: Nanos) -> Nanos {
        let length = nanos_of(QUOTA_PERIOD);
        if self.budget >= length {
            return now + work;
        }
        loop {
            let period = (now + self.phase) / length + 1;
            if period != self.period {
                self.period = period;
                self.used = 0;
                self.periods += 1;
            }
            let end = period * length - self.phase;
            let ran = work.min(self.budget - self.used).min(end - now);
            self.used += ran;
            now += ran;
            work -= ran;
            if work == 0 {
                return now;
            }
            if now < end {
                self.throttled += 1;
                now = end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Nanos = 1_000_000;

    #[test]
    fn a_quota_runs_at_full_speed_and_then_stalls_until_the_next_period() {
        let mut quota = Quota::new(0.1, 0);
        assert_eq!(quota.run(0, 4 * MILLI), 4 * MILLI);
        assert_eq!(quota.run(20 * MILLI, 6 * MILLI), 26 * MILLI);
        // The budget of 10 ms is used up: 3 ms more run in the next period.
        assert_eq!(quota.run(26 * MILLI, 3 * MILLI), 103 * MILLI);
        // 25 ms take what is left of this period, all of the next, and 8 ms of the one after.
        assert_eq!(quota.run(103 * MILLI, 25 * MILLI), 308 * MILLI);
        assert_eq!((quota.periods, quota.throttled), (4, 3));
    }

    #[test]
    fn an_unused_budget_is_not_saved_up() {
        let mut quota = Quota::new(0.1, 0);
        assert_eq!(quota.run(950 * MILLI, 20 * MILLI), 1010 * MILLI);
    }

    #[test]
    fn a_limit_of_a_core_does_not_bind_one_thread() {
        let mut quota = Quota::new(1.0, 3);
        assert_eq!(quota.run(5, 500 * MILLI), 5 + 500 * MILLI);
        assert_eq!(quota.throttled, 0);
    }

    #[test]
    fn a_pod_is_cold_for_a_time_and_for_its_first_requests() {
        let start_up = crate::distribution::Distribution::Constant { seconds: 1.0 };
        let service = Service::workers(1, start_up, start_up);
        let warm_up = WarmUp { time: std::time::Duration::from_millis(10), requests: 5, factor: 3.0 };
        let mut pod = Pod::new(0, 0, &service, 1, 0);
        pod.ready = Some(0);
        assert!((pod.coldness(warm_up, 20 * MILLI) - 3.0).abs() < 1e-9);
        pod.started = 5;
        assert!((pod.coldness(warm_up, 5 * MILLI) - 3.0).abs() < 1e-9);
        assert!((pod.coldness(warm_up, 20 * MILLI) - 1.0).abs() < 1e-9);
        pod.warm = true;
        assert!((pod.coldness(warm_up, 5 * MILLI) - 1.0).abs() < 1e-9);
    }
}
