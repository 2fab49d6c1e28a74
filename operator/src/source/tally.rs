//! Adds up what one pod tells, series by series: one histogram, requests in flight, refused requests and CPU.
//!
//! It is the same for both sources, so that they cannot differ in what a series means. What replicas share, the cache and the
//! database, is told by the pods themselves only.

use plimsoll_core::engine::Cpu;
use plimsoll_core::histogram::{EDGES_MAX, Rejection, Snapshot};
use plimsoll_core::shared::Shared;

/// Gauge of requests being served; used when present.
pub const IN_FLIGHT: &str = "http_requests_in_flight";
/// Counter of requests refused because of load; used when present.
const SHED: &str = "http_requests_shed_total";
/// CPU seconds of the pod's cgroup; of the process alone, as Prometheus' client libraries tell them, when there is none.
const CPU_CGROUP: &str = "cgroup_cpu_usage_seconds_total";
const CPU_PROCESS: &str = "process_cpu_seconds_total";
/// CPUs that the cgroup may use; used when present.
const CPU_QUOTA: &str = "cgroup_cpu_quota_cores";
/// Periods of the CPU quota in which the cgroup ran, and those in which it was throttled; used when present.
const CPU_PERIODS: &str = "cgroup_cpu_periods_total";
const CPU_THROTTLED: &str = "cgroup_cpu_throttled_periods_total";

/// Metrics beside the histogram.
pub const SCALARS: [&str; 7] =
    [IN_FLIGHT, SHED, CPU_CGROUP, CPU_PROCESS, CPU_QUOTA, CPU_PERIODS, CPU_THROTTLED];

/// Look-ups in the layers of the cache, by what they found; those of the shared layer are used when present.
const CACHE_REQUESTS: &str = "cache_requests_total";
/// Connections that the database server takes; used when present.
const DATABASE_MAX: &str = "database_server_connections_max";

/// Labels by which a histogram tells the status of its requests, by custom and by OpenTelemetry's conventions; one is used
/// when present.
pub const STATUS_LABELS: [&str; 4] = ["status", "code", "status_code", "http_response_status_code"];

/// What a pod has counted since it started.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts {
    /// The histogram, and what goes with it.
    pub snapshot: Snapshot,
    /// CPU, if it is told.
    pub cpu: Option<Cpu>,
}

/// What was added up so far.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Upper edge and requests up to it, by edge.
    buckets: Vec<(f64, f64)>,
    failed: Option<f64>,
    scalars: [Option<f64>; SCALARS.len()],
    shared: Shared,
}

impl Tally {
    /// Whether a metric that is no histogram is added up.
    pub fn takes(name: &str) -> bool {
        SCALARS.contains(&name)
    }

    /// Adds a series of a metric that is no histogram; others are left out.
    pub fn scalar(&mut self, name: &str, value: f64) {
        if let Some(place) = SCALARS.iter().position(|scalar| *scalar == name) {
            *self.scalars[place].get_or_insert(0.0) += value;
        }
    }

    /// Whether a metric tells of what replicas share.
    pub fn takes_shared(name: &str) -> bool {
        [CACHE_REQUESTS, DATABASE_MAX].contains(&name)
    }

    /// Adds a series of such a metric; look-ups have the layer of the cache and what they found there.
    pub fn shared(&mut self, name: &str, layer: Option<&str>, result: Option<&str>, value: f64) {
        let place = match (name, layer, result) {
            (CACHE_REQUESTS, Some("redis"), Some("hit")) => &mut self.shared.cache_hits,
            (CACHE_REQUESTS, Some("redis"), Some("miss")) => &mut self.shared.cache_misses,
            (DATABASE_MAX, ..) => &mut self.shared.database_connections_max,
            _ => return,
        };
        *place.get_or_insert(0.0) += value;
    }

    /// Adds a bucket: requests up to an edge, with the status that they ended with, where that is told.
    pub fn bucket(&mut self, edge: f64, status: Option<&str>, value: f64) {
        if let Some(status) = status.filter(|_| edge == f64::INFINITY) {
            self.ended(status, value);
        }
        // A count that makes no sense spoils the sum, so that the whole is rejected.
        let value = if value >= 0.0 { value } else { f64::NAN };
        match self.buckets.binary_search_by(|(known, _)| known.total_cmp(&edge)) {
            Ok(place) => self.buckets[place].1 += value,
            // One more than there may be is enough to be rejected.
            Err(place) if self.buckets.len() <= EDGES_MAX => self.buckets.insert(place, (edge, value)),
            Err(_) => {}
        }
    }

    /// How many edges it holds: not more than are needed to reject too many.
    #[cfg(test)]
    pub fn buckets_kept(&self) -> usize {
        self.buckets.len()
    }

    /// Adds requests that ended with this status; they are in the buckets too.
    pub fn ended(&mut self, status: &str, value: f64) {
        *self.failed.get_or_insert(0.0) += if status.starts_with('5') { value } else { 0.0 };
    }

    /// Whether a bucket was added.
    pub fn has_buckets(&self) -> bool {
        !self.buckets.is_empty()
    }

    /// Whether anything tells of requests, beside the histogram.
    pub fn tells_requests(&self) -> bool {
        self.of(IN_FLIGHT).or(self.of(SHED)).is_some()
    }

    /// The sums.
    ///
    /// # Errors
    /// Those of [`Snapshot::new`].
    pub fn counts(self) -> Result<Counts, Rejection> {
        let cpu = self.cpu();
        let (in_flight, shed) = (self.of(IN_FLIGHT), self.of(SHED));
        let Shared { cache_hits, cache_misses, database_connections_max } = self.shared;
        let mut snapshot = Snapshot::new(self.buckets, in_flight, shed)?;
        snapshot.shared = Shared {
            cache_hits: sane(cache_hits),
            cache_misses: sane(cache_misses),
            database_connections_max: sane(database_connections_max),
        };
        let snapshot = match self.failed {
            Some(failed) => snapshot.with_failed(failed)?,
            None => snapshot,
        };
        Ok(Counts { snapshot, cpu })
    }

    fn of(&self, name: &str) -> Option<f64> {
        self.scalars[SCALARS.iter().position(|scalar| *scalar == name)?]
    }

    /// Nothing depends on CPU alone.
    fn cpu(&self) -> Option<Cpu> {
        let sane = |name| sane(self.of(name));
        Some(Cpu {
            used_seconds: sane(CPU_CGROUP).or(sane(CPU_PROCESS))?,
            limit_cores: sane(CPU_QUOTA).filter(|cores| *cores > 0.0),
            periods: sane(CPU_PERIODS).unwrap_or(0.0),
            throttled_periods: sane(CPU_THROTTLED).unwrap_or(0.0),
        })
    }
}

/// A number that makes no sense is as good as none.
fn sane(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite() && *value >= 0.0)
}

/// A number as Prometheus writes it: Go's forms of a float, which are Rust's but for the sign of infinity.
pub fn float(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        text => text.parse().ok(),
    }
}
