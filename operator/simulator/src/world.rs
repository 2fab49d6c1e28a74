//! The simulated cluster: a run of a scenario under a policy, event by event.
//!
//! Guarantees: the outcome is a function of the scenario and of what the policy answers. Requests, what they take and how
//! long the n-th pod takes to start do not depend on the policy.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::arrivals::ArrivalStream;
use crate::balancer::Balancer;
use crate::clock::{Nanos, SECOND, duration, nanos, nanos_of, seconds};
use crate::deployment;
use crate::pod::{Pod, RequestId};
use crate::policy::{PodState, Policy, View};
use crate::random::{Purpose, Random};
use crate::scenario::Scenario;
use crate::score::{Fate, Outcome, Scaling, Tally};
use crate::scrape::Scraper;
use crate::service::{Changed, Server, Service};

/// `terminationGracePeriodSeconds`: a pod that has not finished by then is killed.
const GRACE: Duration = Duration::from_secs(30);

/// Simulates `scenario` under `policy`.
pub fn run(scenario: &Scenario, policy: &mut dyn Policy) -> Outcome {
    let mut world = World::new(scenario);
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
    due: Nanos,
    /// When the pod took it from the queue.
    taken: Nanos,
    /// Which quantile of the work it is.
    rank: f64,
    /// Which quantile of the dependency's work it is, if it makes a call.
    call: Option<f64>,
    /// CPU time of its work, or the time of a worker, in seconds.
    work: f64,
    pod: u32,
    state: RequestState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    Waiting,
    Taken,
    /// Its pod was killed while an event of it was still to come.
    Killed,
    Gone,
}

struct World<'a> {
    scenario: &'a Scenario,
    now: Nanos,
    end: Nanos,
    /// The next request's moment: apart from the heap, for it is the most frequent event.
    next_request: Option<Nanos>,
    events: BinaryHeap<Reverse<(Nanos, u64, Happening)>>,
    scheduled: u64,
    arrivals: ArrivalStream,
    ranks: Random,
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
    fn new(scenario: &'a Scenario) -> Self {
        let seed = scenario.seed;
        let mut edges = scenario.edges.clone();
        edges.extend(scenario.targets.iter().map(|target| target.latency.as_secs_f64()));
        edges.sort_by(f64::total_cmp);
        edges.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
        let mut world = Self {
            scenario,
            now: 0,
            end: nanos_of(scenario.trace.duration()),
            next_request: None,
            events: BinaryHeap::new(),
            scheduled: 0,
            arrivals: ArrivalStream::new(&scenario.trace, scenario.arrivals, seed),
            ranks: Random::new(seed, Purpose::Service),
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
        world.next_request = world.arrivals.next();
        world
    }

    fn schedule(&mut self, at: Nanos, happening: Happening) {
        self.scheduled += 1;
        self.events.push(Reverse((at, self.scheduled, happening)));
    }

    /// The next event; none at the end of the trace.
    fn next_event(&mut self) -> Option<Happening> {
        let queued = self.events.peek().map(|&Reverse((at, ..))| at);
        if let Some(at) = self.next_request.filter(|&at| queued.is_none_or(|queued| at < queued)) {
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

    // Requests.

    fn arrive(&mut self) {
        let now = self.now;
        self.next_request = self.arrivals.next();
        self.tally.due(now);
        let rank = self.ranks.unit();
        let call = self.scenario.dependency.as_ref().and_then(|dependency| {
            let (chance, rank) = (self.ranks.unit(), self.ranks.unit());
            (chance < dependency.share).then_some(rank)
        });
        let Some(index) = self.balancer.pick(now, &self.endpoints, &self.pods) else {
            self.tally.end(now, Fate::Failed);
            return;
        };
        let pod = &mut self.pods[index as usize];
        let service = &self.templates[pod.template as usize];
        let workers = match service.server {
            Server::Workers { count } => count,
            Server::EventLoop { .. } => 1,
        };
        let idle = pod.busy < workers;
        if !idle && service.queue_limit.is_some_and(|limit| pod.queue.len() >= limit as usize) {
            pod.shed();
            self.tally.end(now, Fate::Shed);
            return;
        }
        pod.arrive(now);
        let state = RequestState::Waiting;
        let request = Request { due: now, taken: now, rank, call, work: 0.0, pod: index, state };
        let id = if let Some(id) = self.free.pop() {
            self.requests[id as usize] = request;
            id
        } else {
            self.requests.push(request);
            self.requests.len() as u32 - 1
        };
        if idle {
            self.take(id);
        } else {
            self.pods[index as usize].queue.push_back(id);
        }
    }

    /// A pod begins the work of a request.
    fn take(&mut self, id: RequestId) {
        let now = self.now;
        let factor = self.work_factor();
        let request = &mut self.requests[id as usize];
        let pod = &mut self.pods[request.pod as usize];
        let service = &self.templates[pod.template as usize];
        let work = service.work.quantile(request.rank) * factor * pod.coldness(service.warm_up, now);
        request.taken = now;
        request.work = work;
        request.state = RequestState::Taken;
        pod.busy += 1;
        pod.taken += 1;
        pod.started += 1;
        let done = match service.server {
            Server::Workers { .. } => now + nanos(work),
            Server::EventLoop { .. } => pod.compute(now, nanos(work)),
        };
        self.schedule(done, Happening::WorkDone(id));
    }

    fn work_done(&mut self, id: RequestId) {
        let request = self.requests[id as usize];
        if request.state == RequestState::Killed {
            return self.forget(id);
        }
        let pod = &mut self.pods[request.pod as usize];
        let service = &self.templates[pod.template as usize];
        let event_loop = matches!(service.server, Server::EventLoop { .. });
        pod.worked(if event_loop { request.work } else { request.work * service.cpu_share });
        if event_loop {
            pod.busy -= 1;
        }
        if request.call.is_some() {
            self.call(id);
            if event_loop {
                self.take_next(request.pod);
            }
        } else {
            self.answer(id);
        }
    }

    /// A request calls the dependency, or waits for its turn.
    fn call(&mut self, id: RequestId) {
        let Some(dependency) = &self.scenario.dependency else { return };
        if self.calls >= dependency.concurrency {
            self.calls_waiting.push_back(id);
            return;
        }
        self.calls += 1;
        let rank = self.requests[id as usize].call.unwrap_or(0.5);
        let work = nanos(dependency.work.quantile(rank) * self.call_factor);
        self.schedule(self.now + work, Happening::CallDone(id));
    }

    fn call_done(&mut self, id: RequestId) {
        self.calls -= 1;
        while let Some(next) = self.calls_waiting.pop_front() {
            if self.requests[next as usize].state == RequestState::Killed {
                self.forget(next);
            } else {
                self.call(next);
                break;
            }
        }
        if self.requests[id as usize].state == RequestState::Killed {
            return self.forget(id);
        }
        self.answer(id);
    }

    /// A request is answered, and its pod goes on.
    fn answer(&mut self, id: RequestId) {
        let now = self.now;
        let request = self.requests[id as usize];
        let pod = &mut self.pods[request.pod as usize];
        let service = &self.templates[pod.template as usize];
        let since = if service.stopwatch_hides_wait { request.taken } else { request.due };
        pod.answer(now, now - since, &self.edges);
        if matches!(service.server, Server::Workers { .. }) {
            pod.busy -= 1;
        }
        let latency = now - request.due;
        let in_time = self.scenario.client_timeout.is_none_or(|timeout| latency <= nanos_of(timeout));
        self.tally.end(request.due, if in_time { Fate::Answered(latency) } else { Fate::TimedOut });
        self.forget(id);
        self.take_next(request.pod);
    }

    /// A pod with an idle worker takes what waits.
    fn take_next(&mut self, index: u32) {
        let patience = self.scenario.client_timeout.filter(|_| self.scenario.drops_abandoned).map(nanos_of);
        while let Some(id) = self.pods[index as usize].queue.pop_front() {
            let due = self.requests[id as usize].due;
            if patience.is_none_or(|patience| self.now - due <= patience) {
                self.take(id);
                return;
            }
            self.pods[index as usize].leave(self.now);
            self.tally.end(due, Fate::TimedOut);
            self.forget(id);
        }
        let pod = &self.pods[index as usize];
        if pod.state == PodState::Draining && pod.load == 0 {
            self.remove(index);
        }
    }

    fn forget(&mut self, id: RequestId) {
        self.requests[id as usize].state = RequestState::Gone;
        self.free.push(id);
    }

    fn work_factor(&self) -> f64 {
        let (factor, since, fades_within) = self.work_factor;
        match fades_within {
            None => factor,
            Some(within) => {
                let left = 1.0 - (self.now - since) as f64 / within.max(1) as f64;
                1.0 + (factor - 1.0) * left.max(0.0)
            }
        }
    }

    // Pods.

    fn add_pod(&mut self) -> u32 {
        let index = self.pods.len() as u32;
        let service = &self.templates[self.template as usize];
        self.pods.push(Pod::new(u64::from(index), self.template, service, self.edges.len(), self.now));
        self.live.push(index);
        index
    }

    /// Carries out what the policy wants.
    fn scale(&mut self, replicas: u32) {
        let replicas = replicas.clamp(self.scenario.replicas_min, self.scenario.replicas_max);
        if replicas != self.wanted {
            self.scalings.push(Scaling { at: seconds(self.now), from: self.wanted, to: replicas });
            self.wanted = replicas;
            self.reconcile();
        }
    }

    fn reconcile(&mut self) {
        loop {
            let steps = deployment::steps(&self.pods, &self.live, self.template, self.wanted);
            if steps == deployment::Steps::default() {
                return;
            }
            for _ in 0..steps.create {
                let index = self.add_pod();
                let service = &self.templates[self.template as usize];
                let start_up = nanos(service.start_up.quantile(self.start_ups.unit()));
                self.schedule(self.now + start_up, Happening::Ready(index));
            }
            for index in steps.delete {
                self.drain(index);
            }
        }
    }

    fn become_ready(&mut self, index: u32) {
        let pod = &mut self.pods[index as usize];
        if pod.state != PodState::Pending {
            return;
        }
        pod.state = PodState::Ready;
        pod.ready = Some(self.now);
        let place = self.endpoints.partition_point(|&other| other < index);
        self.endpoints.insert(place, index);
        self.reconcile();
    }

    fn drain(&mut self, index: u32) {
        let pod = &mut self.pods[index as usize];
        pod.state = PodState::Draining;
        let load = pod.load;
        self.draining += 1;
        self.live.retain(|&other| other != index);
        self.endpoints.retain(|&other| other != index);
        if load == 0 {
            self.remove(index);
        } else {
            self.schedule(self.now + nanos_of(GRACE), Happening::GraceOver(index));
        }
    }

    fn remove(&mut self, index: u32) {
        self.draining -= 1;
        self.scraper.gone(u64::from(index));
        let pod = &mut self.pods[index as usize];
        self.replica_nanos += self.now - pod.created;
        pod.queue = VecDeque::new();
        // Counted, and neither Ready nor terminating any more.
        pod.created = Nanos::MAX;
    }

    fn kill(&mut self, index: u32) {
        if self.pods[index as usize].created == Nanos::MAX {
            return;
        }
        for id in 0..self.requests.len() as u32 {
            let request = self.requests[id as usize];
            let alive = matches!(request.state, RequestState::Waiting | RequestState::Taken);
            if request.pod != index || !alive {
                continue;
            }
            self.tally.end(request.due, Fate::Failed);
            if request.state == RequestState::Taken {
                self.requests[id as usize].state = RequestState::Killed;
            } else {
                self.forget(id);
            }
        }
        self.remove(index);
    }

    fn change(&mut self, index: usize) {
        match &self.scenario.changes[index].what {
            Changed::Rollout { service } => {
                self.templates.push((**service).clone());
                self.template = self.templates.len() as u32 - 1;
                self.reconcile();
            }
            Changed::Work { factor, fades_within } => {
                self.work_factor = (*factor, self.now, fades_within.map(nanos_of));
            }
            Changed::Dependency { factor } => self.call_factor = *factor,
        }
    }

    // What is seen.

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
            if matches!(request.state, RequestState::Waiting | RequestState::Taken) {
                let latency = self.end - request.due;
                let late = self.scenario.client_timeout.is_some_and(|timeout| latency > nanos_of(timeout));
                self.tally.end(request.due, if late { Fate::TimedOut } else { Fate::Answered(latency) });
            }
        }
        let there = self.pods.iter().filter(|pod| pod.created != Nanos::MAX);
        let replica_nanos = self.replica_nanos + there.map(|pod| self.end - pod.created).sum::<Nanos>();
        self.tally.outcome(self.scenario, policy, replica_nanos, self.scalings)
    }
}
