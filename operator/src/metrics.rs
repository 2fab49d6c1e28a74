//! The operator's own metrics: those of the process here, and those of each object in [`object`].
//!
//! `docs/operator-metrics.md` lists them; a test holds it to [`descriptions`].

pub mod live;
pub mod object;
pub mod requests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::plan::Decision;
use prometheus::proto::MetricType::{self, COUNTER, GAUGE, HISTOGRAM};
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use self::live::{Description, Live};
use self::requests::ApiRequests;
use crate::fleet_metrics::{self, FleetMetrics};
use crate::state;

const RECONCILIATIONS: Description =
    described("plimsoll_operator_reconciliations_total", COUNTER, &["outcome"], "Reconciles, by outcome.");
const RECONCILE_DURATION: Description =
    described("plimsoll_operator_reconcile_duration_seconds", HISTOGRAM, &[], "Duration of reconciles.");
const DECISIONS: Description = described(
    "plimsoll_operator_decisions_total",
    COUNTER,
    &["reason"],
    "Decisions on replicas of all objects that were made from a scrape, by reason.",
);
const PODS_EXCLUDED: Description = described(
    "plimsoll_operator_pods_excluded_total",
    COUNTER,
    &["reason"],
    "Ready pods of all objects whose answer was not used in a scrape, by reason.",
);
const WATCH_ERRORS: Description =
    described("plimsoll_operator_watch_errors_total", COUNTER, &["kind"], "Errors of watches, by kind.");
const API_REQUESTS: Description = described(
    "plimsoll_operator_api_requests_total",
    COUNTER,
    &["verb", "resource", "code"],
    "Requests to the API server. The code is the HTTP status, `NoAnswer`, or `GivenUp` when the operator waited no longer.",
);
const LAST_DECISION: Description = described(
    "plimsoll_operator_last_decision_timestamp_seconds",
    GAUGE,
    &[],
    "Unix time of the last decision that was made from a scrape.",
);
const BUILD_INFO: Description =
    described("plimsoll_operator_build_info", GAUGE, &["version"], "Always 1; the version is a label.");

/// Describes a metric.
pub(crate) const fn described(
    name: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    help: &'static str,
) -> Description {
    Description { name, help, kind, labels }
}

/// Every metric that there is: those of the process, then those of each object.
pub fn descriptions() -> impl Iterator<Item = Description> {
    let process = [
        RECONCILIATIONS,
        RECONCILE_DURATION,
        DECISIONS,
        PODS_EXCLUDED,
        WATCH_ERRORS,
        API_REQUESTS,
        fleet_metrics::LEADER,
        fleet_metrics::WATCH_AGE,
        LAST_DECISION,
        BUILD_INFO,
    ];
    process.into_iter().chain(object::descriptions())
}

/// All metrics of the process.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    reconciliations: IntCounterVec,
    reconcile_duration: Histogram,
    decisions: IntCounterVec,
    pods_excluded: IntCounterVec,
    /// Watch errors, by kind.
    pub watch_errors: IntCounterVec,
    /// Requests to the API server; a layer for its clients.
    pub api_requests: ApiRequests,
    /// Shards and watches.
    pub fleet: FleetMetrics,
    last_decision: Gauge,
}

impl Metrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When two metrics share a name, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |Description { name, help, labels, .. }: Description| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let reconciliations = counter(RECONCILIATIONS)?;
        let decisions = counter(DECISIONS)?;
        let pods_excluded = counter(PODS_EXCLUDED)?;
        let watch_errors = counter(WATCH_ERRORS)?;
        let api_requests = ApiRequests::new(counter(API_REQUESTS)?);
        let reconcile_duration = Histogram::with_opts(
            HistogramOpts::new(RECONCILE_DURATION.name, RECONCILE_DURATION.help)
                .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
        )?;
        registry.register(Box::new(reconcile_duration.clone()))?;
        let fleet = FleetMetrics::new(&registry)?;
        let last_decision = Gauge::new(LAST_DECISION.name, LAST_DECISION.help)?;
        registry.register(Box::new(last_decision.clone()))?;
        let build_info = IntGauge::with_opts(
            Opts::new(BUILD_INFO.name, BUILD_INFO.help).const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        build_info.set(1);
        registry.register(Box::new(build_info))?;
        Ok(Self {
            registry,
            reconciliations,
            reconcile_duration,
            decisions,
            pods_excluded,
            watch_errors,
            api_requests,
            fleet,
            last_decision,
        })
    }

    /// Tells of these objects too, as long as they are there.
    ///
    /// # Errors
    /// When it was called before.
    pub fn tell_of(&self, objects: Arc<state::Registry>) -> Result<(), prometheus::Error> {
        let read = move || object::read(&objects.metrics(), Instant::now());
        self.registry.register(Box::new(Live::new(object::descriptions(), read)?))
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, outcome: &str, duration: Duration) {
        self.reconciliations.with_label_values(&[outcome]).inc();
        self.reconcile_duration.observe(duration.as_secs_f64());
    }

    /// Counts a decision and the pods that were left out of it.
    pub fn decided(&self, decision: &Decision) {
        self.decisions.with_label_values(&[decision.reason.as_str()]).inc();
        for (reason, pods) in &decision.evidence.pods_excluded {
            self.pods_excluded.with_label_values(&[reason]).inc_by(*pods as u64);
        }
        self.last_decision.set(decision.time.as_millisecond() as f64 / 1000.0);
    }

    /// The exposition in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_every_scalar_from_the_start() {
        let text = String::from_utf8(Metrics::new().unwrap().render().unwrap()).unwrap();
        for name in ["plimsoll_operator_leader{shard=\"0\"} 0", "plimsoll_operator_build_info{version="] {
            assert!(text.contains(name), "{name}: {text}");
        }
    }
}
