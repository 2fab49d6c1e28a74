//! The numbers that are told of each `ApiDeployment`. They live as long as the operator's state of the object.
//!
//! Their labels come from enums, but for the object's namespace and name: an object adds some forty series at most, and
//! takes them away when it goes.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use plimsoll_core::Plan;
use plimsoll_core::attainment::Judged;
use plimsoll_core::cache::Effect;
use plimsoll_core::input::Bounds;
use plimsoll_core::plan::Reason;
use plimsoll_crds::{ApiDeployment, ApiDeploymentStatus, Percentile};
use prometheus::proto::MetricType::{self, COUNTER, GAUGE};

use super::live::{Description, Family};

/// What is told of one object.
#[derive(Clone, Debug, Default)]
pub struct ObjectMetrics {
    replicas: Option<Replicas>,
    requests: Option<f64>,
    missed: BTreeMap<&'static str, f64>,
    targets: Vec<Judged>,
    latencies: Vec<(Percentile, f64)>,
    offered_per_second: Option<f64>,
    capacity_per_second: Option<f64>,
    decisions: BTreeMap<&'static str, u64>,
    pods_excluded: BTreeMap<&'static str, u64>,
    conditions: Vec<Condition>,
    cache: Option<Effect>,
    scraped_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Replicas {
    wanted: i32,
    recommended: i32,
    ready: i32,
    bounds: Bounds,
}

impl ObjectMetrics {
    /// Takes in a plan that was carried out. `scraped_at` is the time of the round that it was made from, if there was one.
    pub fn planned(&mut self, app: &ApiDeployment, plan: &Plan, scraped_at: Option<Instant>) {
        let Plan { decision, findings, .. } = plan;
        self.cache = findings.cache;
        // Of a spec that cannot be read nothing is known; the last good state keeps serving.
        if decision.reason != Reason::InvalidSpec {
            self.replicas = Some(Replicas {
                wanted: findings.wanted,
                recommended: decision.recommended,
                ready: findings.ready,
                bounds: Bounds::of(&app.spec),
            });
        }
        if let Some(attainment) = &findings.attainment {
            *self.requests.get_or_insert_default() += attainment.requests;
            self.missed.retain(|name, _| attainment.targets.iter().any(|target| target.name == *name));
            for target in &attainment.targets {
                *self.missed.entry(target.name).or_default() += target.missed;
            }
            self.targets.clone_from(&attainment.targets);
            self.latencies.clone_from(&attainment.latencies);
        }
        if scraped_at.is_some() {
            self.scraped_at = scraped_at;
            self.offered_per_second = decision.evidence.requests_per_second;
            self.capacity_per_second = decision.evidence.capacity_per_replica;
            *self.decisions.entry(decision.reason.as_str()).or_default() += 1;
            for (reason, pods) in &decision.evidence.pods_excluded {
                *self.pods_excluded.entry(reason).or_default() += *pods as u64;
            }
        }
    }

    /// Takes in the status that tells of the object, whether or not it was worth writing.
    pub fn reported(&mut self, status: &ApiDeploymentStatus) {
        self.conditions.clone_from(&status.conditions);
    }
}

/// Values of labels after namespace and name, and the number.
type Sample = (Vec<String>, f64);

/// One metric, and how it is read of an object at a time.
struct Told {
    description: Description,
    read: fn(&ObjectMetrics, Instant) -> Vec<Sample>,
}

const fn told(
    name: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    help: &'static str,
    read: fn(&ObjectMetrics, Instant) -> Vec<Sample>,
) -> Told {
    Told { description: Description { name, help, kind, labels }, read }
}

const OBJECT: &[&str] = &["namespace", "name"];
const QUANTILE: &[&str] = &["namespace", "name", "quantile"];
const TARGET: &[&str] = &["namespace", "name", "target"];
const REASON: &[&str] = &["namespace", "name", "reason"];
const CONDITION: &[&str] = &["namespace", "name", "type", "status", "reason"];

const METRICS: [Told; 20] = [
    told(
        "plimsoll_apideployment_replicas_wanted",
        GAUGE,
        OBJECT,
        "Replicas that the operator wants.",
        |object, _| replicas(object, |replicas| replicas.wanted),
    ),
    told(
        "plimsoll_apideployment_replicas_recommended",
        GAUGE,
        OBJECT,
        "Replicas that would be wanted if `spec.scaling` neither paused nor only recommended.",
        |object, _| replicas(object, |replicas| replicas.recommended),
    ),
    told(
        "plimsoll_apideployment_replicas_ready",
        GAUGE,
        OBJECT,
        "Replicas that pass their readiness probe.",
        |object, _| replicas(object, |replicas| replicas.ready),
    ),
    told(
        "plimsoll_apideployment_replicas_min",
        GAUGE,
        OBJECT,
        "Fewest replicas that the spec allows.",
        |object, _| replicas(object, |replicas| replicas.bounds.min),
    ),
    told(
        "plimsoll_apideployment_replicas_max",
        GAUGE,
        OBJECT,
        "Most replicas that the spec allows; 1 with the embedded database.",
        |object, _| replicas(object, |replicas| replicas.bounds.max),
    ),
    told(
        "plimsoll_apideployment_requests_total",
        COUNTER,
        OBJECT,
        "Requests of the replicas that could be read, those refused because of load included.",
        |object, _| one(object.requests),
    ),
    told(
        "plimsoll_apideployment_requests_over_target_total",
        COUNTER,
        TARGET,
        "Those of the requests that missed a target: were slower than it, failed for `errors`, or were refused.",
        |object, _| object.missed.iter().map(|(target, missed)| sample(target, *missed)).collect(),
    ),
    told(
        "plimsoll_apideployment_target_budget_ratio",
        GAUGE,
        TARGET,
        "Share of requests that may miss a target, such as 0.01 for p99.",
        |object, _| object.targets.iter().map(|target| sample(target.name, rounded(target.budget))).collect(),
    ),
    told(
        "plimsoll_apideployment_latency_target_seconds",
        GAUGE,
        QUANTILE,
        "Latency that the spec promises for a quantile.",
        |object, _| {
            let within = |target: &Judged| Some((vec![quantile(target.budget)], target.within_seconds?));
            object.targets.iter().filter_map(within).collect()
        },
    ),
    told(
        "plimsoll_apideployment_latency_seconds",
        GAUGE,
        QUANTILE,
        "Latency of the last minute, by quantile. Absent while too few requests come to tell.",
        |object, _| {
            let latency =
                |&(percentile, seconds): &(Percentile, f64)| (vec![quantile(percentile.budget())], seconds);
            object.latencies.iter().map(latency).collect()
        },
    ),
    told(
        "plimsoll_apideployment_offered_requests_per_second",
        GAUGE,
        OBJECT,
        "Load: requests that ended, were refused or are newly waiting, per second. Absent while it cannot be read.",
        |object, _| one(object.offered_per_second),
    ),
    told(
        "plimsoll_apideployment_replica_capacity_requests_per_second",
        GAUGE,
        OBJECT,
        "Requests per second that one replica is believed to carry within the targets. Absent while it is not known.",
        |object, _| one(object.capacity_per_second),
    ),
    told(
        "plimsoll_apideployment_decisions_total",
        COUNTER,
        REASON,
        "Decisions on replicas that were made from a scrape, by reason.",
        |object, _| counts(&object.decisions),
    ),
    told(
        "plimsoll_apideployment_pods_excluded_total",
        COUNTER,
        REASON,
        "Ready pods whose answer was not used in a scrape, by reason.",
        |object, _| counts(&object.pods_excluded),
    ),
    told(
        "plimsoll_apideployment_condition",
        GAUGE,
        CONDITION,
        "1 for the present status and reason of each condition in `status.conditions`.",
        |object, _| {
            let labels = |condition: &Condition| {
                vec![condition.type_.clone(), condition.status.clone(), condition.reason.clone()]
            };
            object.conditions.iter().map(|condition| (labels(condition), 1.0)).collect()
        },
    ),
    told(
        "plimsoll_apideployment_cache_hit_ratio",
        GAUGE,
        OBJECT,
        "Share of look-ups in the managed cache that found something, over five minutes. Absent while there are too few.",
        |object, _| one(object.cache.and_then(|cache| cache.hit_ratio)),
    ),
    told(
        "plimsoll_apideployment_cache_evictions_per_second",
        GAUGE,
        OBJECT,
        "Keys of the managed cache that made room for others, per second, over five minutes.",
        |object, _| one(object.cache.and_then(|cache| cache.evictions_per_second)),
    ),
    told(
        "plimsoll_apideployment_cache_memory_used_bytes",
        GAUGE,
        OBJECT,
        "Memory that the managed cache uses.",
        |object, _| one(object.cache.map(|cache| cache.memory_bytes as f64)),
    ),
    told(
        "plimsoll_apideployment_cache_memory_max_bytes",
        GAUGE,
        OBJECT,
        "Memory at which the managed cache evicts keys.",
        |object, _| one(object.cache.map(|cache| cache.memory_max_bytes as f64)),
    ),
    told(
        "plimsoll_apideployment_scrape_age_seconds",
        GAUGE,
        OBJECT,
        "Time since the replicas were last asked. It stays near `spec.metrics.scrapePeriodSeconds`.",
        |object, now| {
            let age = object.scraped_at.map(|at| now.saturating_duration_since(at).as_secs_f64());
            one(age)
        },
    ),
];

/// What is told of each object.
pub fn descriptions() -> impl Iterator<Item = Description> {
    METRICS.into_iter().map(|told| told.description)
}

/// All metrics of these objects, each with its namespace and name, at a time.
pub fn read(objects: &[(String, String, ObjectMetrics)], now: Instant) -> Vec<Family> {
    let family = |Told { description, read }: Told| {
        let samples = objects.iter().flat_map(|(namespace, name, object)| {
            read(object, now).into_iter().map(|(labels, number)| {
                let object = [namespace.clone(), name.clone()];
                (object.into_iter().chain(labels).collect(), number)
            })
        });
        Family { description, samples: samples.collect() }
    };
    METRICS.into_iter().map(family).collect()
}

fn one(number: Option<f64>) -> Vec<Sample> {
    number.map(|number| (Vec::new(), number)).into_iter().collect()
}

fn sample(label: &str, number: f64) -> Sample {
    (vec![label.to_owned()], number)
}

fn counts(counts: &BTreeMap<&'static str, u64>) -> Vec<Sample> {
    counts.iter().map(|(label, count)| sample(label, *count as f64)).collect()
}

fn replicas(object: &ObjectMetrics, read: fn(Replicas) -> i32) -> Vec<Sample> {
    one(object.replicas.map(|replicas| read(replicas).into()))
}

/// The quantile whose share of slower requests is `budget`, as Prometheus writes it: `0.99`.
fn quantile(budget: f64) -> String {
    rounded(1.0 - budget).to_string()
}

/// Without what is left over of decimal fractions in binary: `0.01`, not `0.010000000000000009`.
fn rounded(share: f64) -> f64 {
    (share * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_written_as_prometheus_writes_them() {
        let written = Percentile::ALL.map(|percentile| quantile(percentile.budget()));
        assert_eq!(written, ["0.5", "0.9", "0.95", "0.99", "0.999"]);
    }

    #[test]
    fn an_object_of_which_nothing_is_known_has_no_series() {
        let nothing = [("shop".to_owned(), "posts".to_owned(), ObjectMetrics::default())];
        assert!(read(&nothing, Instant::now()).iter().all(|family| family.samples.is_empty()));
    }
}
