//! What the service tells about itself, for Prometheus. Labels come from bounded sets, never from what a client sends.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio::time::{Instant, MissedTickBehavior};

use crate::store::StoreMetrics;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Edges in seconds, 0.5 ms to 10 s. Neighbours differ by at most a factor of 2, so a quantile read between two
/// edges is off by at most that.
const LADDER_SECONDS: [f64; 25] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0,
];

/// How often the event loop's lag is looked at: 20 wake-ups a second cost under 0.1 % of a CPU.
const LAG_PERIOD: Duration = Duration::from_millis(50);

/// Every metric of the service, registered once; a clone shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Time from a request's head to its response, by method, route template and status; without shed requests.
    pub request_duration: HistogramVec,
    /// Requests that have a head and no response yet.
    pub requests_in_flight: IntGauge,
    /// Requests refused because of load.
    pub requests_shed: IntCounter,
    /// Reads answered from this process' memory.
    pub cache_local_hits: IntCounter,
    /// Reads answered from Redis.
    pub cache_hits: IntCounter,
    /// Reads that Redis had nothing for.
    pub cache_misses: IntCounter,
    /// Reads that could not ask Redis, or that it failed.
    pub cache_errors: IntCounter,
    /// Connections and statements of the store.
    pub database: StoreMetrics,
    /// Requests that the rate limit was asked about, by what it said and who said it.
    pub rate_limit_requests: IntCounterVec,
    /// How late the event loop runs a task that is due.
    pub event_loop_lag: Histogram,
    process_cpu: Counter,
    process_memory: Gauge,
}

impl Metrics {
    /// Registers every metric; each of `targets` becomes an exact edge of the latency histogram.
    ///
    /// # Errors
    /// Never for names and labels as they are here: [`prometheus::Error`] would be a defect of this function.
    pub fn new(targets: &[Duration]) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let duration_opts = HistogramOpts::new(
            "http_request_duration_seconds",
            "Time from a request's head to its response, including the wait for a CPU worker.",
        );
        let request_duration =
            HistogramVec::new(duration_opts.buckets(edges(targets)), &["method", "route", "status"])?;
        let requests_in_flight =
            IntGauge::new("http_requests_in_flight", "Requests that have no response yet.")?;
        let requests_shed = IntCounter::new("http_requests_shed_total", "Requests refused because of load.")?;
        let cache = IntCounterVec::new(
            Opts::new("cache_requests_total", "Reads that asked a layer of the cache, by what it said."),
            &["layer", "result"],
        )?;
        let database = StoreMetrics::new()?;
        let rate_limit_requests = IntCounterVec::new(
            Opts::new("rate_limit_requests_total", "Requests judged by the rate limit, by result and judge."),
            &["result", "by"],
        )?;
        let lag_opts =
            HistogramOpts::new("event_loop_lag_seconds", "How late the event loop runs a task that is due.");
        let event_loop_lag = Histogram::with_opts(lag_opts.buckets(LADDER_SECONDS.to_vec()))?;
        let process_cpu =
            Counter::new("process_cpu_seconds_total", "CPU time of the process, user and system.")?;
        let process_memory = Gauge::new("process_resident_memory_bytes", "Resident memory of the process.")?;
        let build_info = IntGaugeVec::new(
            Opts::new("plimsoll_api_build_info", "1, with the version as a label."),
            &["version"],
        )?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

        registry.register(Box::new(request_duration.clone()))?;
        registry.register(Box::new(requests_in_flight.clone()))?;
        registry.register(Box::new(requests_shed.clone()))?;
        registry.register(Box::new(cache.clone()))?;
        registry.register(Box::new(database.clone()))?;
        registry.register(Box::new(rate_limit_requests.clone()))?;
        registry.register(Box::new(event_loop_lag.clone()))?;
        registry.register(Box::new(process_cpu.clone()))?;
        registry.register(Box::new(process_memory.clone()))?;
        registry.register(Box::new(build_info))?;
        Ok(Self {
            registry,
            request_duration,
            requests_in_flight,
            requests_shed,
            cache_local_hits: cache.with_label_values(&["local", "hit"]),
            cache_hits: cache.with_label_values(&["redis", "hit"]),
            cache_misses: cache.with_label_values(&["redis", "miss"]),
            cache_errors: cache.with_label_values(&["redis", "error"]),
            database,
            rate_limit_requests,
            event_loop_lag,
            process_cpu,
            process_memory,
        })
    }

    /// All metrics in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// Never for metrics as they are registered here.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.read_process();
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn read_process(&self) {
        if let Ok(spent) = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID) {
            let more = Duration::from(spent).as_secs_f64() - self.process_cpu.get();
            // Two scrapes at once may read in either order; a counter never goes back.
            self.process_cpu.inc_by(more.max(0.0));
        }
        if let Some(bytes) = resident_memory_bytes() {
            self.process_memory.set(bytes);
        }
    }
}

/// The method as a label: one of HTTP's own, or `OTHER`.
pub fn method_label(method: &axum::http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}

/// Measures how late the event loop is, for ever.
pub async fn watch_event_loop(lag: Histogram) {
    let mut ticks = tokio::time::interval(LAG_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let due = ticks.tick().await;
        // Tokio's timer counts in milliseconds: up to one of them is rounding, not lag.
        lag.observe(Instant::now().saturating_duration_since(due).as_secs_f64());
    }
}

/// The ladder with each target as an edge, rising, without doubles.
fn edges(targets: &[Duration]) -> Vec<f64> {
    let mut edges: Vec<f64> =
        LADDER_SECONDS.into_iter().chain(targets.iter().map(Duration::as_secs_f64)).collect();
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    edges
}

fn resident_memory_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_become_edges_among_the_ladder() {
        let edges = edges(&[Duration::from_millis(120), Duration::from_millis(100)]);
        assert_eq!(edges.len(), LADDER_SECONDS.len() + 1);
        assert!(edges.contains(&0.12));
        assert!(edges.windows(2).all(|pair| pair[0] < pair[1] && pair[1] <= pair[0] * 2.0));
    }

    #[test]
    fn registers_and_encodes() {
        let metrics = Metrics::new(&[Duration::from_millis(120)]).unwrap();
        metrics.request_duration.with_label_values(&["GET", "/posts", "200"]).observe(0.01);
        let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
        assert!(text.contains(r#"status="200",le="0.12"} 1"#), "{text}");
        assert!(text.contains(r#"cache_requests_total{layer="redis",result="hit"} 0"#), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
