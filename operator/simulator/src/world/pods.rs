//! The life of pods: made and removed as the Deployment's controllers say, and changed under way.

use std::collections::VecDeque;

use super::{GRACE, Happening, RequestState, World};
use crate::clock::{Nanos, nanos, nanos_of, seconds};
use crate::deployment;
use crate::pod::Pod;
use crate::policy::PodState;
use crate::score::Scaling;
use crate::service::Changed;
use crate::tally::Fate;

impl World<'_> {
    pub(super) fn add_pod(&mut self) -> u32 {
        let index = self.pods.len() as u32;
        let service = &self.templates[self.template as usize];
        self.pods.push(Pod::new(u64::from(index), self.template, service, self.edges.len(), self.now));
        self.live.push(index);
        index
    }

    /// Carries out what the policy wants.
    pub(super) fn scale(&mut self, replicas: u32) {
        let replicas = replicas.clamp(self.scenario.replicas_min, self.scenario.replicas_max);
        if replicas != self.wanted {
            self.scalings.push(Scaling { at: seconds(self.now), from: self.wanted, to: replicas });
            self.wanted = replicas;
            self.reconcile();
        }
    }

    pub(super) fn reconcile(&mut self) {
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

    pub(super) fn become_ready(&mut self, index: u32) {
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

    pub(super) fn drain(&mut self, index: u32) {
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

    pub(super) fn remove(&mut self, index: u32) {
        self.draining -= 1;
        self.scraper.gone(u64::from(index));
        let pod = &mut self.pods[index as usize];
        self.replica_nanos += self.now - pod.created;
        pod.queue = VecDeque::new();
        // Counted, and neither Ready nor terminating any more.
        pod.created = Nanos::MAX;
    }

    pub(super) fn kill(&mut self, index: u32) {
        if self.pods[index as usize].created == Nanos::MAX {
            return;
        }
        for id in 0..self.requests.len() as u32 {
            let request = self.requests[id as usize];
            if request.pod != index || !request.state.in_pod() {
                continue;
            }
            self.tally.end(request.incoming.due, Fate::Failed);
            if request.state == RequestState::Waiting {
                self.forget(id);
            } else {
                self.requests[id as usize].state = RequestState::Killed;
            }
        }
        self.remove(index);
    }

    pub(super) fn change(&mut self, index: usize) {
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
}
