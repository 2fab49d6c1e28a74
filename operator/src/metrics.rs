//! The operator's own metrics. Labels come from enums; no object's name is ever one.

use std::time::Duration;

use plimsoll_core::plan::Decision;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::fleet_metrics::FleetMetrics;

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
        let counter = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let reconciliations =
            counter("plimsoll_operator_reconciliations_total", "Reconciles, by outcome.", "outcome")?;
        let decisions =
            counter("plimsoll_operator_decisions_total", "Decisions on replicas, by reason.", "reason")?;
        let pods_excluded = counter(
            "plimsoll_operator_pods_excluded_total",
            "Pods whose answer was not used, by reason.",
            "reason",
        )?;
        let watch_errors =
            counter("plimsoll_operator_watch_errors_total", "Errors of watches, by kind.", "kind")?;
        let reconcile_duration = Histogram::with_opts(
            HistogramOpts::new("plimsoll_operator_reconcile_duration_seconds", "Duration of reconciles.")
                .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
        )?;
        registry.register(Box::new(reconcile_duration.clone()))?;
        let fleet = FleetMetrics::new(&registry)?;
        let last_decision = Gauge::new(
            "plimsoll_operator_last_decision_timestamp_seconds",
            "Unix time of the last decision that was made from a scrape.",
        )?;
        registry.register(Box::new(last_decision.clone()))?;
        let build_info = IntGauge::with_opts(
            Opts::new("plimsoll_operator_build_info", "Always 1; the version is a label.")
                .const_label("version", env!("CARGO_PKG_VERSION")),
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
            fleet,
            last_decision,
        })
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
