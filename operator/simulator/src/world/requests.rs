//! The way of a request: to a pod, through its queue and its work, to the dependency, and back.

use super::{Happening, Request, RequestState, World};
use crate::clock::{nanos, nanos_of};
use crate::demand::Incoming;
use crate::pod::RequestId;
use crate::policy::PodState;
use crate::service::Server;
use crate::tally::Fate;

impl World<'_> {
    pub(super) fn arrive(&mut self) {
        let now = self.now;
        let Some(incoming) = self.next_request else { return };
        self.next_request = self.incoming.next();
        self.tally.due(now);
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
        let request = Request { incoming, taken: now, work: 0.0, pod: index, state };
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
    pub(super) fn take(&mut self, id: RequestId) {
        let now = self.now;
        let factor = self.work_factor();
        let request = &mut self.requests[id as usize];
        let pod = &mut self.pods[request.pod as usize];
        let service = &self.templates[pod.template as usize];
        let Incoming { rank, work, .. } = request.incoming;
        let as_first = service.work == self.scenario.service.work;
        let unslowed = if as_first { work } else { service.work.quantile(rank) };
        let refusal = service.patience.filter(|_| !pod.admits(now, now - request.incoming.due));
        let work = match refusal {
            Some(patience) => patience.refusal_seconds,
            None => unslowed * factor * pod.coldness(service.warm_up, now),
        };
        request.taken = now;
        request.work = work;
        request.state = if refusal.is_some() { RequestState::Refused } else { RequestState::Taken };
        pod.busy += 1;
        pod.taken += 1;
        pod.started += 1;
        let done = match service.server {
            Server::Workers { .. } => now + nanos(work),
            Server::EventLoop { .. } => pod.compute(now, nanos(work)),
        };
        self.schedule(done, Happening::WorkDone(id));
    }

    pub(super) fn work_done(&mut self, id: RequestId) {
        let request = self.requests[id as usize];
        if request.state == RequestState::Killed {
            return self.forget(id);
        }
        let pod = &mut self.pods[request.pod as usize];
        let service = &self.templates[pod.template as usize];
        let event_loop = matches!(service.server, Server::EventLoop { .. });
        pod.worked(if event_loop { request.work } else { request.work * service.cpu_share });
        if event_loop || request.state == RequestState::Refused {
            pod.busy -= 1;
        }
        if request.state == RequestState::Refused {
            pod.refuse(self.now);
            self.tally.end(request.incoming.due, Fate::Shed);
            self.forget(id);
            self.take_next(request.pod);
        } else if request.incoming.call.is_some() {
            self.call(id);
            if event_loop {
                self.take_next(request.pod);
            }
        } else {
            self.answer(id);
        }
    }

    /// A request calls the dependency, or waits for its turn.
    pub(super) fn call(&mut self, id: RequestId) {
        let Some(dependency) = &self.scenario.dependency else { return };
        if self.calls >= dependency.concurrency {
            self.calls_waiting.push_back(id);
            return;
        }
        self.calls += 1;
        let call = self.requests[id as usize].incoming.call.unwrap_or_default();
        let work = nanos(call * self.call_factor);
        self.schedule(self.now + work, Happening::CallDone(id));
    }

    pub(super) fn call_done(&mut self, id: RequestId) {
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
    pub(super) fn answer(&mut self, id: RequestId) {
        let now = self.now;
        let request = self.requests[id as usize];
        let pod = &mut self.pods[request.pod as usize];
        let service = &self.templates[pod.template as usize];
        let since = if service.stopwatch_hides_wait { request.taken } else { request.incoming.due };
        pod.answer(now, now - since, &self.edges);
        if matches!(service.server, Server::Workers { .. }) {
            pod.busy -= 1;
        }
        let latency = now - request.incoming.due;
        let in_time = self.scenario.client_timeout.is_none_or(|timeout| latency <= nanos_of(timeout));
        self.tally.end(request.incoming.due, if in_time { Fate::Answered(latency) } else { Fate::TimedOut });
        self.forget(id);
        self.take_next(request.pod);
    }

    /// A pod with an idle worker takes what waits.
    pub(super) fn take_next(&mut self, index: u32) {
        let patience = self.scenario.client_timeout.filter(|_| self.scenario.drops_abandoned).map(nanos_of);
        while let Some(id) = self.pods[index as usize].queue.pop_front() {
            let due = self.requests[id as usize].incoming.due;
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

    pub(super) fn forget(&mut self, id: RequestId) {
        self.requests[id as usize].state = RequestState::Gone;
        self.free.push(id);
    }

    pub(super) fn work_factor(&self) -> f64 {
        let (factor, since, fades_within) = self.work_factor;
        match fades_within {
            None => factor,
            Some(within) => {
                let left = 1.0 - (self.now - since) as f64 / within.max(1) as f64;
                1.0 + (factor - 1.0) * left.max(0.0)
            }
        }
    }
}
