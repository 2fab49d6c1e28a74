//! The load on APIs that are made up, and what their pods tell of it. A pure function of the times that it is given.
//!
//! A pod answers as a queue with one server and exponential times would, so that more load on fewer pods is slower.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// What is promised: 99 of 100 requests within so many milliseconds. One of [`EDGES_SECONDS`].
pub const TARGET_MS: u64 = 250;
/// What a request takes on the mean without any load, in seconds, all of it CPU time.
const SERVICE_SECONDS: f64 = 0.02;
/// A pod is never busier than this: a queue that stands is not what is looked at here.
const UTILIZATION_MAX: f64 = 0.97;
/// Upper edges in seconds, as many as the bundled API has for one target.
const EDGES_SECONDS: [f64; 19] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0,
    10.0,
];
/// Routes, each with a histogram of its own.
const ROUTES: [&str; 8] = [
    "/health",
    "/posts",
    "/posts/{id}",
    "/posts/{id}/comments",
    "/authors",
    "/authors/{id}",
    "/tags",
    "/search",
];
/// Series that the operator has to read past.
const OTHERS: usize = 100;

/// The fewest pods that keep the promise under a load: of a queue with one server, `e^(-(µ-λ)t)` of requests take longer than `t`.
pub fn pods_for(requests_per_second: f64) -> i32 {
    let most = 1.0 / SERVICE_SECONDS - 100.0_f64.ln() / (TARGET_MS as f64 / 1000.0);
    (requests_per_second / most).ceil() as i32
}

/// All APIs, by their place.
#[derive(Debug)]
pub struct Traffic {
    apis: Vec<Api>,
    /// API of a pod, by its address.
    pods: BTreeMap<Ipv4Addr, usize>,
    /// So many APIs, the first ones, have pods that take a question and never answer it.
    silent: usize,
}

#[derive(Debug, Default)]
struct Api {
    requests_per_second: f64,
    /// Until when requests have been counted, in seconds.
    counted_until: f64,
    pods: BTreeMap<Ipv4Addr, Counts>,
}

/// Since the pod's start.
#[derive(Clone, Debug, Default)]
struct Counts {
    /// Requests at or under each of the edges, and all of them.
    below: [f64; EDGES_SECONDS.len()],
    all: f64,
}

impl Traffic {
    /// So many APIs, each under the same load, and none with a pod yet.
    pub fn new(apis: usize, requests_per_second: f64) -> Self {
        let api = || Api { requests_per_second, ..Api::default() };
        Self { apis: std::iter::repeat_with(api).take(apis).collect(), pods: BTreeMap::new(), silent: 0 }
    }

    /// From now on the pods of so many APIs, the first ones, take a question and never answer it.
    pub fn silence(&mut self, apis: usize) {
        self.silent = apis;
    }

    /// Whether a pod answers nothing.
    pub fn is_silent(&self, pod: Ipv4Addr) -> bool {
        self.pods.get(&pod).is_some_and(|&api| api < self.silent)
    }

    /// From `now` on each API has another load.
    pub fn set(&mut self, requests_per_second: f64, now: f64) {
        for api in &mut self.apis {
            api.count(now);
            api.requests_per_second = requests_per_second;
        }
    }

    /// A pod serves from `now` on.
    pub fn add(&mut self, api: usize, pod: Ipv4Addr, now: f64) {
        let Some(found) = self.apis.get_mut(api) else { return };
        found.count(now);
        found.pods.insert(pod, Counts::default());
        self.pods.insert(pod, api);
    }

    /// A pod serves no longer.
    pub fn remove(&mut self, pod: Ipv4Addr, now: f64) {
        let Some(api) = self.pods.remove(&pod).and_then(|api| self.apis.get_mut(api)) else { return };
        api.count(now);
        api.pods.remove(&pod);
    }

    /// What a pod tells in Prometheus' text format; absent where nobody serves.
    pub fn exposition(&mut self, pod: Ipv4Addr, now: f64) -> Option<String> {
        let api = self.apis.get_mut(*self.pods.get(&pod)?)?;
        api.count(now);
        Some(api.pods.get(&pod)?.exposition())
    }
}

impl Api {
    fn count(&mut self, now: f64) {
        let seconds = (now - self.counted_until).max(0.0);
        self.counted_until = self.counted_until.max(now);
        let share = self.requests_per_second / self.pods.len().max(1) as f64;
        let idle = 1.0 - (share * SERVICE_SECONDS).min(UTILIZATION_MAX);
        for counts in self.pods.values_mut() {
            counts.all += share * seconds;
            for (below, edge) in counts.below.iter_mut().zip(EDGES_SECONDS) {
                *below += share * seconds * -(-idle * edge / SERVICE_SECONDS).exp_m1();
            }
        }
    }
}

impl Counts {
    fn exposition(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let _ = writeln!(out, "# TYPE http_request_duration_seconds histogram");
        for route in ROUTES {
            let labels = format!("method=\"GET\",route=\"{route}\",status=\"200\"");
            let part = |count: f64| (count / ROUTES.len() as f64).floor();
            for (below, edge) in self.below.iter().zip(EDGES_SECONDS) {
                let count = part(*below);
                let _ =
                    writeln!(out, "http_request_duration_seconds_bucket{{{labels},le=\"{edge}\"}} {count}");
            }
            let all = part(self.all);
            let _ = writeln!(out, "http_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {all}");
            let _ = writeln!(out, "http_request_duration_seconds_count{{{labels}}} {all}");
        }
        let cpu_seconds = self.all * SERVICE_SECONDS;
        let _ = writeln!(out, "# TYPE process_cpu_seconds_total counter");
        let _ = writeln!(out, "process_cpu_seconds_total {cpu_seconds:.3}");
        let _ = writeln!(out, "# TYPE runtime_events_total counter");
        for other in 0..OTHERS {
            let _ = writeln!(out, "runtime_events_total{{kind=\"{other}\"}} {:.0}", self.all);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Ipv4Addr = Ipv4Addr::new(198, 18, 128, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(198, 18, 128, 2);

    fn sum(exposition: &str, edge: &str) -> f64 {
        let of_edge = exposition.lines().filter(|line| line.contains(&format!("le=\"{edge}\"}}")));
        of_edge.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    #[test]
    fn pods_share_the_load_from_when_each_serves() {
        let mut traffic = Traffic::new(1, 20.0);
        traffic.add(0, ONE, 10.0);
        traffic.add(0, TWO, 110.0);
        let read = |traffic: &mut Traffic, pod| sum(&traffic.exposition(pod, 210.0).unwrap(), "+Inf");
        assert!((read(&mut traffic, ONE) - 3000.0).abs() <= 8.0);
        assert!((read(&mut traffic, TWO) - 1000.0).abs() <= 8.0);
        traffic.remove(TWO, 210.0);
        assert_eq!(traffic.exposition(TWO, 211.0), None);
    }

    /// The share of late requests that one pod tells of, under this load.
    fn late(requests_per_second: f64) -> f64 {
        let mut traffic = Traffic::new(1, requests_per_second);
        traffic.add(0, ONE, 0.0);
        let told = traffic.exposition(ONE, 10_000.0).unwrap();
        1.0 - sum(&told, "0.25") / sum(&told, "+Inf")
    }

    #[test]
    fn more_load_is_slower() {
        assert!(late(10.0) < 0.001);
        // One server at four fifths: 8 of 100 wait longer than 250 ms, by theory.
        assert!((late(40.0) - 0.082).abs() < 0.002, "{}", late(40.0));
    }

    #[test]
    fn so_many_pods_keep_the_promise_and_no_fewer() {
        for load in [60.0, 120.0] {
            let pods = f64::from(pods_for(load));
            assert!(late(load / pods) <= 0.0101 && late(load / (pods - 1.0)) > 0.0101, "{load}: {pods}");
        }
    }

    #[test]
    fn the_first_are_silent() {
        let mut traffic = Traffic::new(2, 20.0);
        traffic.add(0, ONE, 0.0);
        traffic.add(1, TWO, 0.0);
        traffic.silence(1);
        assert_eq!((traffic.is_silent(ONE), traffic.is_silent(TWO)), (true, false));
    }

    #[test]
    fn the_target_is_an_edge() {
        assert!(EDGES_SECONDS.iter().any(|edge| (edge * 1000.0 - TARGET_MS as f64).abs() < 1e-9));
    }
}
