//! What the service tells about itself, for Prometheus. Labels come from bounded sets, never from what a client sends.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, proto::MetricFamily,
};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    cgroup::{CpuFiles, CpuUse},
    overload::ShedReason,
    store::StoreMetrics,
};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// A decade of latencies: the series E24 (IEC 60063). Neighbours differ by at most 15 %, mostly by 10 %; a quantile is
/// read linearly between two of them, and so is off by half of that where latencies are spread at all evenly.
const DECADE: [f64; 24] = [
    1.0, 1.1, 1.2, 1.3, 1.5, 1.6, 1.8, 2.0, 2.2, 2.4, 2.7, 3.0, 3.3, 3.6, 3.9, 4.3, 4.7, 5.1, 5.6, 6.2, 6.8,
    7.5, 8.2, 9.1,
];

/// Milliseconds at which the decades of the latency histogram begin. A scrape carries about 10 KB for each route and
/// status; a finer ladder, or one below 1 ms, would tell what no promise asks for.
const DECADES_MS: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

/// Edges of the latency histogram below and above the decades, in milliseconds.
const OUTER_MS: [f64; 6] = [0.1, 0.2, 0.3, 0.5, 0.7, 10_000.0];

/// Edges in seconds for what is not judged by promises. Neighbours differ by at most a factor of 2.
const COARSE_SECONDS: [f64; 25] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0,
];

/// How often the event loop's lag is looked at: 20 wake-ups a second cost under 0.1 % of a CPU.
const LAG_PERIOD: Duration = Duration::from_millis(50);

/// Every metric of the service, registered once; a clone shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Time from a request's arrival to its response, by method, route template and status; without shed requests.
    pub request_duration: HistogramVec,
    /// The part of it that a stopwatch in the handler sees.
    pub handler_duration: Histogram,
    /// Requests that have a head and no response yet.
    pub requests_in_flight: IntGauge,
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
    requests_shed: [IntCounter; ShedReason::ALL.len()],
    process_cpu: Counter,
    process_memory: Gauge,
    cgroup: Option<CpuFiles>,
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
            "Time from when the kernel had received a request's head to its response: with every wait on this machine.",
        );
        let request_duration =
            HistogramVec::new(duration_opts.buckets(edges(targets)), &["method", "route", "status"])?;
        let requests_in_flight =
            IntGauge::new("http_requests_in_flight", "Requests that have no response yet.")?;
        let handler_opts = HistogramOpts::new(
            "http_handler_duration_seconds",
            "Time from when a request began to be handled; what is missing was spent waiting before it.",
        );
        let handler_duration = Histogram::with_opts(handler_opts.buckets(COARSE_SECONDS.to_vec()))?;
        let shed = IntCounterVec::new(
            Opts::new("http_requests_shed_total", "Requests refused because of load, by what was full."),
            &["reason"],
        )?;
        let requests_shed = ShedReason::ALL.map(|reason| shed.with_label_values(&[reason.as_str()]));
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
        let event_loop_lag = Histogram::with_opts(lag_opts.buckets(COARSE_SECONDS.to_vec()))?;
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
        registry.register(Box::new(shed))?;
        registry.register(Box::new(handler_duration.clone()))?;
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
            handler_duration,
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
            cgroup: CpuFiles::find(),
        })
    }

    /// Counts a request that was refused.
    pub fn shed(&self, reason: ShedReason) {
        self.requests_shed[reason as usize].inc();
    }

    /// All metrics in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// Never for metrics as they are registered here.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.read_process();
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        if let Some(files) = &self.cgroup {
            TextEncoder::new().encode(&cgroup_metrics(&files.read())?, &mut text)?;
        }
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

/// What is known of the cgroup's CPU. Of what is not, there is no metric: a zero would say that nothing was throttled.
fn cgroup_metrics(cpu: &CpuUse) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let registry = Registry::new();
    let counters = [
        (cpu.usage_seconds, "cgroup_cpu_usage_seconds_total", "CPU time used by this process's cgroup."),
        (
            cpu.throttled_seconds,
            "cgroup_cpu_throttled_seconds_total",
            "Time for which the quota kept the cgroup's threads from running.",
        ),
        (cpu.periods, "cgroup_cpu_periods_total", "Periods of the quota in which the cgroup ran."),
        (
            cpu.throttled_periods,
            "cgroup_cpu_throttled_periods_total",
            "Of these periods, those in which the quota was used up.",
        ),
    ];
    for (value, name, help) in counters {
        if let Some(value) = value {
            let counter = Counter::new(name, help)?;
            counter.inc_by(value.max(0.0));
            registry.register(Box::new(counter))?;
        }
    }
    if let Some(cores) = cpu.quota_cores {
        let gauge = Gauge::new("cgroup_cpu_quota_cores", "CPUs that the quota grants the cgroup.")?;
        gauge.set(cores);
        registry.register(Box::new(gauge))?;
    }
    Ok(registry.gather())
}

/// The ladder with each target as an edge, rising, without doubles.
fn edges(targets: &[Duration]) -> Vec<f64> {
    // Whole microseconds divided by a million give the float nearest to the decimal, as for a target: equal edges are
    // then equal, and print as people write them.
    let decades = DECADES_MS.into_iter().flat_map(|begin| DECADE.map(|step| begin * step));
    let ladder = decades.chain(OUTER_MS).map(|ms| (ms * 1000.0).round() / 1_000_000.0);
    let mut edges: Vec<f64> = ladder.chain(targets.iter().map(Duration::as_secs_f64)).collect();
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
        assert_eq!(edges.len(), DECADE.len() * DECADES_MS.len() + OUTER_MS.len());
        assert!(edges.contains(&0.12) && edges.contains(&0.1) && edges.contains(&10.0));
        assert!(edges.windows(2).all(|pair| pair[0] < pair[1] && pair[1] <= pair[0] * 2.0));
        let judged: Vec<f64> = edges.into_iter().filter(|edge| *edge >= 0.001).collect();
        assert!(judged.windows(2).all(|pair| pair[1] <= pair[0] * 1.16), "{judged:?}");
        // No edge is a float beside the decimal that it stands for, which would print as 0.0011000000000000001.
        assert!(judged.iter().all(|edge| edge.to_string().len() <= 6), "{judged:?}");
    }

    #[test]
    fn a_target_between_edges_is_one_more() {
        let with = edges(&[Duration::from_millis(105)]);
        assert_eq!(with.len(), edges(&[]).len() + 1);
        assert!(with.contains(&0.105));
    }

    #[test]
    fn what_the_cgroup_does_not_tell_is_absent() {
        let cpu = CpuUse { usage_seconds: Some(1.5), ..CpuUse::default() };
        let names: Vec<_> =
            cgroup_metrics(&cpu).unwrap().iter().map(|family| family.name().to_owned()).collect();
        assert_eq!(names, ["cgroup_cpu_usage_seconds_total"]);
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
