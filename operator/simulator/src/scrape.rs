//! How readings come from the pods to the policy, with all that goes wrong on the way.

use std::sync::Arc;

use plimsoll_core::histogram::Rejection;

use crate::clock::{Nanos, duration, nanos_of};
use crate::pod::Pod;
use crate::policy::{Counters, PodState, PodView, Reading};
use crate::random::{Purpose, Random};
use crate::scenario::{Fault, Lie, Scenario};
use crate::service::Service;

/// How much too high an inflated count is.
const INFLATION: u64 = 1_000_000_000;

pub(crate) struct Scraper {
    random: Random,
    loss: f64,
    faults: Vec<Fault>,
    edges: Arc<[f64]>,
    /// In order of creation.
    views: Vec<PodView>,
    /// Pods from this index on have no view yet.
    seen: usize,
}

impl Scraper {
    pub(crate) fn new(scenario: &Scenario, edges: Arc<[f64]>) -> Self {
        Self {
            random: Random::new(scenario.seed, Purpose::Scrapes),
            loss: scenario.scraping.loss,
            faults: scenario.scraping.faults.clone(),
            edges,
            views: Vec::new(),
            seen: 0,
        }
    }

    pub(crate) fn views(&self) -> &[PodView] {
        &self.views
    }

    /// A pod is gone.
    pub(crate) fn gone(&mut self, id: u64) {
        self.views.retain(|view| view.id != id);
    }

    /// Looks at every pod and asks those that are, or were, Ready.
    pub(crate) fn scrape(&mut self, now: Nanos, pods: &mut [Pod], templates: &[Service]) {
        for (index, pod) in pods.iter().enumerate().skip(self.seen) {
            if pod.created != Nanos::MAX {
                self.views.push(PodView {
                    id: index as u64,
                    template: u64::from(pod.template),
                    created: duration(pod.created),
                    ready: None,
                    state: PodState::Pending,
                    cpu_request: templates[pod.template as usize].cpu_request,
                    cpu_limit: templates[pod.template as usize].cpu_limit(),
                    reading: None,
                });
            }
        }
        self.seen = pods.len();
        for view in &mut self.views {
            let pod = &mut pods[view.id as usize];
            view.state = pod.state;
            view.ready = pod.ready.map(duration);
            if pod.ready.is_none() {
                continue;
            }
            let lie = self.faults.iter().find(|fault| {
                fault.pod == view.id && (nanos_of(fault.from)..nanos_of(fault.until)).contains(&now)
            });
            let lie = lie.map(|fault| fault.lie);
            if lie == Some(Lie::Silent) || (self.loss > 0.0 && self.random.unit() < self.loss) {
                view.reading = Some(Err(Rejection::Timeout));
                continue;
            }
            if lie == Some(Lie::NotANumber) {
                view.reading = Some(Err(Rejection::InvalidCount));
                continue;
            }
            let mut reading = match view.reading.take() {
                Some(Ok(reading)) if lie == Some(Lie::Frozen) => {
                    view.reading = Some(Ok(Reading { at: duration(now), ..reading }));
                    continue;
                }
                Some(Ok(reading)) => reading,
                Some(Err(_)) | None => Reading {
                    at: duration(now),
                    counters: Counters::default(),
                    edges: Arc::clone(&self.edges),
                },
            };
            reading.at = duration(now);
            let hides_wait = templates[pod.template as usize].stopwatch_hides_wait;
            pod.read(now, hides_wait, &mut reading.counters);
            match lie {
                Some(Lie::Inflated) => reading.counters.inflate(INFLATION),
                Some(Lie::Zero) => reading.counters.inflate(0),
                _ => {}
            }
            view.reading = Some(Ok(reading));
        }
    }
}

impl Counters {
    fn inflate(&mut self, factor: u64) {
        for count in self.buckets.iter_mut().chain([&mut self.answered, &mut self.arrived, &mut self.shed]) {
            *count = count.saturating_mul(factor);
        }
        self.in_flight = u64::from(self.in_flight).saturating_mul(factor).min(u64::from(u32::MAX)) as u32;
        self.cpu_seconds *= factor as f64;
        self.request_seconds *= factor as f64;
    }
}
