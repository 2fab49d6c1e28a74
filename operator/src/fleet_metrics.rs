//! Metrics of the process as one of a fleet: which shards it leads, and how long each of its watches has been silent.

use std::time::Duration;

use prometheus::proto::MetricType;
use prometheus::{GaugeVec, IntGaugeVec, Opts, Registry};

use crate::metrics::described;
use crate::metrics::live::Description;

/// Which shards the process leads.
pub const LEADER: Description = described(
    "plimsoll_operator_leader",
    MetricType::GAUGE,
    &["shard"],
    "1 while this process leads the shard.",
);
/// How long its watches have been silent.
pub const WATCH_AGE: Description = described(
    "plimsoll_operator_watch_age_seconds",
    MetricType::GAUGE,
    &["kind"],
    "Time since the API server last said anything on the watch: an event, a bookmark or a list.",
);

/// Gauges by shard and by watch.
#[derive(Clone, Debug)]
pub struct FleetMetrics {
    leader: IntGaugeVec,
    watch_age: GaugeVec,
}

impl FleetMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When another metric of `registry` has the same name, which a test rules out.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let leader = IntGaugeVec::new(Opts::new(LEADER.name, LEADER.help), LEADER.labels)?;
        registry.register(Box::new(leader.clone()))?;
        let watch_age = GaugeVec::new(Opts::new(WATCH_AGE.name, WATCH_AGE.help), WATCH_AGE.labels)?;
        registry.register(Box::new(watch_age.clone()))?;
        leader.with_label_values(&["0"]).set(0);
        Ok(Self { leader, watch_age })
    }

    /// Shows whether the process leads a shard.
    pub fn leads(&self, shard: u16, leads: bool) {
        self.leader.with_label_values(&[shard.to_string().as_str()]).set(i64::from(leads));
    }

    /// Shows how long a watch has been silent.
    pub fn watch_age(&self, kind: &str, age: Duration) {
        self.watch_age.with_label_values(&[kind]).set(age.as_secs_f64());
    }
}
