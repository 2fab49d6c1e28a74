//! The simulated cluster: a run of a scenario under a policy, event by event.
//!
//! Guarantees: the outcome is a function of the scenario and of what the policy answers. Requests, what they take and how
//! long the n-th pod takes to start do not depend on the policy.

mod pods;
mod requests;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::balancer::Balancer;
use crate::clock::{Nanos, SECOND, duration, nanos, nanos_of};
use crate::demand::{Incoming, Requests};
use crate::pod::{Pod, RequestId};
use crate::policy::{PodState, Policy, View};
use crate::random::{Purpose, Random};
use crate::scenario::Scenario;
use crate::score::{Outcome, Scaling};
use crate::scrape::Scraper;
use crate::service::Service;
use crate::tally::{Fate, Tally};

/// `terminationGracePeriodSeconds`: a pod that has not finished by then is killed.
const GRACE: Duration = Duration::from_secs(30);

/// Simulates `scenario` with its requests under `policy`.
pub(crate) fn run(scenario: &Scenario, incoming: Requests<'_>, policy: &mut dyn Policy) -> Outcome {
    let mut world = World::new(scenario, incoming);
    let period = nanos_of(policy.period()).max(1);
    world.schedule(period, Happening::Scrape);
    while let Some(event) = world.next_event() {
        match event {
            Happening::Scrape => {
                world.scrape();
                world.schedule(world.now + period, Happening::Scrape);
                world.schedule(world.now + nanos_of(scenario.scraping.delay), Happening::Decide);
            }
            Happening::Decide => {
                let replicas = policy.decide(&world.view());
                world.scale(replicas);
            }
            other => world.happen(other),
        }
    }
    world.finish(policy.name())
}

/// Something that is due at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Request,
    WorkDone(RequestId),
    CallDone(RequestId),
    Ready(u32),
    GraceOver(u32),
    Change(u32),
    Second,
    Scrape,
    Decide,
}

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct Request {
    /// When the pod took it from the queue.
    taken: Nanos,
    /// As it came.
    incoming: Incoming,
    /// CPU time of its work, or the time of a worker, in seconds; from when it is taken on.
    work: f64,
    pod: u32,
    state: RequestState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    Waiting,
    Taken,
    /// It had waited too long: its work is to say so.
    Refused,
    /// Its pod was killed while an event of it was still to come.
    Killed,
    Gone,
}

impl RequestState {
    /// Whether it is in a pod that is there.
    fn in_pod(self) -> bool {
        matches!(self, Self::Waiting | Self::Taken | Self::Refused)
    }
}

struct World<'a> {
    scenario: &'a Scenario,
    now: Nanos,
    end: Nanos,
    /// Apart from the heap, for it is the most frequent event.
    next_request: Option<Incoming>,
    events: BinaryHeap<Reverse<(Nanos, u64, Happening)>>,
    scheduled: u64,
    incoming: Requests<'a>,
    start_ups: Random,
    balancer: Balancer,
    templates: Vec<Service>,
    template: u32,
    wanted: u32,
    pods: Vec<Pod>,
    /// Indices of the pods that are not terminating, in order of creation.
    live: Vec<u32>,
    /// Indices of the pods that are Ready, in order of creation.
    endpoints: Vec<u32>,
    draining: u32,
    requests: Vec<Request>,
    free: Vec<RequestId>,
    calls: u32,
    calls_waiting: VecDeque<RequestId>,
    call_factor: f64,
    /// The factor to all work, when it began, and within which time it fades.
    work_factor: (f64, Nanos, Option<Nanos>),
    edges: Vec<Nanos>,
    scraper: Scraper,
    tally: Tally,
    scalings: Vec<Scaling>,
    replica_nanos: Nanos,
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario, mut incoming: Requests<'a>) -> Self {
        let seed = scenario.seed;
        let mut edges = scenario.edges.clone();
        edges.extend(scenario.targets.iter().map(|target| target.latency.as_secs_f64()));
        edges.sort_by(f64::total_cmp);
        edges.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
        let mut world = Self {
            scenario,
            now: 0,
            end: nanos_of(scenario.trace.duration()),
            next_request: incoming.next(),
            incoming,
            events: BinaryHeap::new(),
            scheduled: 0,
            start_ups: Random::new(seed, Purpose::StartUp),
            balancer: Balancer::new(scenario.balancing, seed),
            templates: vec![scenario.service.clone()],
            template: 0,
            wanted: scenario.replicas_initial,
            pods: Vec::new(),
            live: Vec::new(),
            endpoints: Vec::new(),
            draining: 0,
            requests: Vec::new(),
            free: Vec::new(),
            calls: 0,
            calls_waiting: VecDeque::new(),
            call_factor: 1.0,
            work_factor: (1.0, 0, None),
            edges: edges.iter().map(|&edge| nanos(edge)).collect(),
            scraper: Scraper::new(scenario, Arc::from(edges)),
            tally: Tally::new(scenario),
            scalings: Vec::new(),
            replica_nanos: 0,
        };
        for _ in 0..scenario.replicas_initial {
            let index = world.add_pod();
            let pod = &mut world.pods[index as usize];
            pod.warm = true;
            pod.ready = Some(0);
            pod.state = PodState::Ready;
            world.endpoints.push(index);
        }
        for (index, change) in scenario.changes.iter().enumerate() {
            world.schedule(nanos_of(change.at), Happening::Change(index as u32));
        }
        world.schedule(SECOND, Happening::Second);
        world
    }

    fn schedule(&mut self, at: Nanos, happening: Happening) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, happening)));
    }

    /// The next event; none at the end of the trace.
    fn next_event(&mut self) -> Option<Happening> {
        let queued = self.events.peek().map(|&Reverse((at, ..))| at);
        let next = self.next_request.map(|request| request.due);
        if let Some(at) = next.filter(|&at| queued.is_none_or(|queued| at < queued)) {
            self.now = at;
            return Some(Happening::Request);
        }
        let Reverse((at, _, happening)) = self.events.pop()?;
        if at >= self.end {
            return None;
        }
        self.now = at;
        Some(happening)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Request => self.arrive(),
            Happening::WorkDone(request) => self.work_done(request),
            Happening::CallDone(request) => self.call_done(request),
            Happening::Ready(pod) => self.become_ready(pod),
            Happening::GraceOver(pod) => self.kill(pod),
            Happening::Change(index) => self.change(index as usize),
            Happening::Second => self.second(),
            Happening::Scrape | Happening::Decide => {}
        }
    }

    fn second(&mut self) {
        self.tell((self.now / SECOND) as usize - 1);
        self.schedule(self.now + SECOND, Happening::Second);
    }

    /// Writes the pods down as they are at the end of a second.
    fn tell(&mut self, second: usize) {
        let pods = self.live.len() as u32 + self.draining;
        if let Some(second) = self.tally.seconds.get_mut(second) {
            (second.wanted, second.ready, second.pods) = (self.wanted, self.endpoints.len() as u32, pods);
        }
    }

    fn scrape(&mut self) {
        self.scraper.scrape(self.now, &mut self.pods, &self.templates);
    }

    fn view(&self) -> View<'_> {
        View {
            now: duration(self.now),
            wanted: self.wanted,
            template: u64::from(self.template),
            bounds: (self.scenario.replicas_min, self.scenario.replicas_max),
            pods: self.scraper.views(),
        }
    }

    fn finish(mut self, policy: String) -> Outcome {
        self.now = self.end;
        self.tell(self.tally.seconds.len().saturating_sub(1));
        // What is still in a pod has taken this long at least.
        for request in &self.requests {
            if request.state.in_pod() {
                let latency = self.end - request.incoming.due;
                let late = self.scenario.client_timeout.is_some_and(|timeout| latency > nanos_of(timeout));
                self.tally
                    .end(request.incoming.due, if late { Fate::TimedOut } else { Fate::Answered(latency) });
            }
        }
        let there = self.pods.iter().filter(|pod| pod.created != Nanos::MAX);
        let replica_nanos = self.replica_nanos + there.map(|pod| self.end - pod.created).sum::<Nanos>();
        self.tally.outcome(self.scenario, policy, replica_nanos, self.scalings)
    }
}
