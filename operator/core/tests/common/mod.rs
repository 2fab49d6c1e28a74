//! Builders in domain words, and a small world of pods with queues. It decides nothing.
#![allow(dead_code, clippy::missing_panics_doc, missing_docs, clippy::unwrap_used)]

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use plimsoll_core::cache::CacheReading;
use plimsoll_core::engine::{Pod, Sample};
use plimsoll_core::histogram::Snapshot;
use plimsoll_core::input::{
    CacheSecret, Certificates, Child, Credentials, Input, Observed, Scrape, Settings,
};
use plimsoll_core::memory::{Applied, Memory};
use plimsoll_core::plan::{ChildKind, Plan, Step};
use plimsoll_core::shared::Shared;
use plimsoll_core::{build, replicas_hash, version_of};
use plimsoll_crds::ApiDeployment;
use serde_json::{Value, json};

pub fn start() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().unwrap()
}

pub fn settings() -> Settings {
    Settings {
        api_image: "plimsoll-api:test".into(),
        redis_image: "redis:test".into(),
        operator_namespace: Some("plimsoll-system".into()),
    }
}

pub fn credentials() -> Credentials {
    Credentials {
        password: "secret".into(),
        operator_password: "secret-of-the-operator".into(),
        exporter_password: "secret-of-the-exporter".into(),
        replication_password: "secret-of-replicas".into(),
        sentinel_password: "secret-of-sentinels".into(),
        certificates: Some(Certificates {
            authority: "authority".into(),
            server: "server".into(),
            server_key: "secret-key".into(),
        }),
        revision: "r1".into(),
    }
}

/// A resource with an external database, no cache and `spec` merged over it.
pub fn app(spec: &Value) -> ApiDeployment {
    let mut whole = json!({
        "latency": { "p95": "100ms", "p99": "250ms" },
        "replicas": { "min": 1, "max": 20 },
        "cache": { "disabled": {} },
        "database": { "external": { "urlFrom": { "secretKeyRef": { "name": "db", "key": "url" } } } },
    });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "ApiDeployment",
        "metadata": { "name": "posts", "namespace": "shop", "uid": "app-uid", "generation": 1 },
        "spec": whole,
    }))
    .unwrap()
}

pub fn input(app: ApiDeployment, observed: Observed, memory: Memory, now: Timestamp) -> Input {
    Input {
        now,
        app,
        settings: settings(),
        observed,
        cache: None,
        cache_silence: None,
        scrape: None,
        memory,
        fresh_credentials: credentials(),
    }
}

/// The API's Deployment as a cluster would show it.
pub fn live(app: &ApiDeployment, replicas: i32, ready: i32) -> Deployment {
    let mut deployment = build::deployment(app, &settings(), "r1");
    deployment.metadata.uid = Some("deployment-uid".into());
    deployment.metadata.generation = Some(1);
    deployment.metadata.resource_version = Some("1".into());
    deployment.spec.as_mut().unwrap().replicas = Some(replicas);
    deployment.status = Some(DeploymentStatus {
        observed_generation: Some(1),
        replicas: Some(replicas),
        updated_replicas: Some(replicas),
        ready_replicas: Some(ready),
        ..DeploymentStatus::default()
    });
    deployment
}

/// Carries a plan out against `observed` as an API server would, without its controllers.
pub fn carry_out(plan: &Plan, observed: &mut Observed) -> Memory {
    let mut memory = plan.memory.clone();
    let confirmed = |hash, metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| Applied {
        hash,
        uid: metadata.uid.clone().unwrap(),
        version: version_of(metadata),
    };
    for step in &plan.steps {
        match step.clone() {
            Step::CreateSecret(secret) => {
                let revision = secret.metadata.annotations.unwrap()[build::REVISION_ANNOTATION].clone();
                observed.cache_secret = Child::Owned(Box::new(CacheSecret { revision }));
            }
            Step::ApplyService { kind, mut service, hash } => {
                service.metadata.uid.get_or_insert(format!("{kind:?}"));
                service.metadata.resource_version = Some("1".into());
                memory.record_applied(kind, confirmed(hash, &service.metadata));
                let slot = match kind {
                    ChildKind::Service => &mut observed.service,
                    ChildKind::CacheNodes => &mut observed.cache_nodes,
                    _ => &mut observed.cache_service,
                };
                *slot = Child::Owned(service);
            }
            Step::ApplyDisruptionBudget { kind, mut budget, hash } => {
                budget.metadata.uid.get_or_insert(format!("{kind:?}"));
                budget.metadata.generation = Some(1);
                memory.record_applied(kind, confirmed(hash, &budget.metadata));
                let slot = if kind == ChildKind::DisruptionBudget {
                    &mut observed.disruption_budget
                } else {
                    &mut observed.cache_disruption_budget
                };
                *slot = Child::Owned(budget);
            }
            Step::ApplyNetworkPolicy { kind, mut policy, hash } => {
                policy.metadata.uid.get_or_insert(format!("{kind:?}"));
                policy.metadata.generation = Some(1);
                memory.record_applied(kind, confirmed(hash, &policy.metadata));
                let slot = if kind == ChildKind::NetworkPolicy {
                    &mut observed.network_policy
                } else {
                    &mut observed.cache_network_policy
                };
                *slot = Child::Owned(policy);
            }
            Step::ApplyStatefulSet { mut stateful_set, hash } => {
                stateful_set.metadata.uid.get_or_insert("stateful-set-uid".into());
                stateful_set.metadata.generation = Some(1);
                memory.record_applied(ChildKind::CacheStatefulSet, confirmed(hash, &stateful_set.metadata));
                observed.cache_stateful_set = Child::Owned(stateful_set);
            }
            Step::CreateDeployment { mut deployment, .. } => {
                assert!(matches!(observed.deployment, Child::Absent), "created over an existing one");
                deployment.metadata.uid = Some("deployment-uid".into());
                deployment.metadata.generation = Some(1);
                observed.deployment = Child::Owned(deployment);
            }
            Step::ApplyDeployment { kind, mut deployment, hash } => {
                let slot = if kind == ChildKind::Deployment {
                    &mut observed.deployment
                } else {
                    &mut observed.cache_deployment
                };
                if let Child::Owned(existing) = slot {
                    deployment.metadata.uid.clone_from(&existing.metadata.uid);
                    deployment.metadata.generation.clone_from(&existing.metadata.generation);
                    deployment.status.clone_from(&existing.status);
                    if kind == ChildKind::Deployment {
                        deployment.spec.as_mut().unwrap().replicas = existing.spec.as_ref().unwrap().replicas;
                    }
                } else {
                    deployment.metadata.uid = Some(format!("{kind:?}"));
                    deployment.metadata.generation = Some(1);
                }
                memory.record_applied(kind, confirmed(hash, &deployment.metadata));
                *slot = Child::Owned(deployment);
            }
            Step::Scale { change, .. } => {
                let Child::Owned(deployment) = &mut observed.deployment else { panic!("scaled nothing") };
                deployment.spec.as_mut().unwrap().replicas = Some(change.to);
                memory.record_applied(
                    ChildKind::Replicas,
                    confirmed(replicas_hash(change.to), &deployment.metadata),
                );
                if change.from != change.to {
                    memory.record_change(plan.decision.time, change);
                }
            }
            Step::Delete { kind, .. } => delete(kind, observed),
        }
    }
    memory
}

fn delete(kind: ChildKind, observed: &mut Observed) {
    match kind {
        ChildKind::CacheDeployment => observed.cache_deployment = Child::Absent,
        ChildKind::CacheService => observed.cache_service = Child::Absent,
        ChildKind::DisruptionBudget => observed.disruption_budget = Child::Absent,
        ChildKind::NetworkPolicy => observed.network_policy = Child::Absent,
        ChildKind::CacheNetworkPolicy => observed.cache_network_policy = Child::Absent,
        ChildKind::CacheDisruptionBudget => observed.cache_disruption_budget = Child::Absent,
        ChildKind::CacheNodes => observed.cache_nodes = Child::Absent,
        ChildKind::CacheStatefulSet => observed.cache_stateful_set = Child::Absent,
        other => panic!("deleted {other}"),
    }
}

/// Pseudo-random numbers of a seed.
pub struct Random(pub u64);

impl Random {
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 / (1_u64 << 53) as f64).max(1e-12)
    }
}

/// Pods with one server each, that a random balancer feeds; queues of 64, more is refused.
pub struct World {
    pub app: ApiDeployment,
    pub observed: Observed,
    pub memory: Memory,
    pub now_seconds: f64,
    /// Whether one pod is of a new template, and the others are still to be replaced.
    pub rolling_out: bool,
    /// How far the operator's clock has been set back.
    pub clock_behind_seconds: f64,
    pods: Vec<PodQueue>,
    next_uid: usize,
    random: Random,
    /// CPU seconds that a request takes of a pod.
    pub service_seconds: f64,
    /// From ordered to ready.
    pub start_seconds: f64,
    /// What each pod tells of what all share.
    pub shared: Shared,
    /// What the managed cache said last.
    pub cache: Option<CacheReading>,
    pub history: Vec<Plan>,
    pub late: f64,
    pub served: f64,
}

struct PodQueue {
    uid: String,
    created_at: f64,
    ready_at: f64,
    free_at: f64,
    /// End and duration of requests that are being served.
    waiting: VecDeque<(f64, f64)>,
    counts: [f64; 8],
    shed: f64,
}

const EDGES: [f64; 7] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

impl World {
    pub fn new(app: ApiDeployment, seed: u64) -> Self {
        Self {
            app,
            observed: Observed::default(),
            memory: Memory::default(),
            now_seconds: 0.0,
            rolling_out: false,
            clock_behind_seconds: 0.0,
            pods: Vec::new(),
            next_uid: 0,
            random: Random(seed),
            service_seconds: 0.02,
            start_seconds: 3.0,
            shared: Shared::default(),
            cache: None,
            history: Vec::new(),
            late: 0.0,
            served: 0.0,
        }
    }

    pub fn replicas(&self) -> i32 {
        self.observed.deployment.owned().map_or(0, plimsoll_core::wanted_replicas)
    }

    /// Serves `per_second` for a scrape period, then decides.
    pub fn round(&mut self, per_second: f64) -> &Plan {
        let period = f64::from(self.app.spec.metrics.scrape_period_seconds);
        let end = self.now_seconds + period;
        let mut at = self.now_seconds - self.random.uniform().ln() / per_second.max(1e-9);
        while at < end {
            self.request(at);
            at -= self.random.uniform().ln() / per_second.max(1e-9);
        }
        self.now_seconds = end;
        self.finish(end);
        let scrape = self.scrape();
        self.decide(Some(scrape))
    }

    pub fn decide(&mut self, scrape: Option<Scrape>) -> &Plan {
        self.follow();
        let now = self.timestamp();
        let mut input = input(self.app.clone(), self.observed.clone(), self.memory.clone(), now);
        input.cache = self.cache;
        input.scrape = scrape.filter(|_| self.observed.deployment.owned().is_some());
        let plan = plimsoll_core::decide(&input);
        self.memory = carry_out(&plan, &mut self.observed);
        self.follow();
        self.history.push(plan);
        self.history.last().unwrap()
    }

    pub fn timestamp(&self) -> Timestamp {
        self.at(self.now_seconds)
    }

    /// A time as the operator's clock tells it.
    fn at(&self, seconds: f64) -> Timestamp {
        start() + SignedDuration::from_secs_f64(seconds - self.clock_behind_seconds)
    }

    /// What the kubelet and the Deployment's controller would do.
    fn follow(&mut self) {
        let wanted = usize::try_from(self.replicas()).unwrap();
        self.pods.truncate(wanted);
        while self.pods.len() < wanted {
            self.next_uid += 1;
            self.pods.push(PodQueue {
                uid: self.next_uid.to_string(),
                created_at: self.now_seconds,
                ready_at: self.now_seconds + self.start_seconds,
                free_at: 0.0,
                waiting: VecDeque::new(),
                counts: [0.0; 8],
                shed: 0.0,
            });
        }
        let ready = self.pods.iter().filter(|pod| pod.ready_at <= self.now_seconds).count();
        let ready = i32::try_from(ready).unwrap();
        if let Child::Owned(deployment) = &mut self.observed.deployment {
            let wanted = i32::try_from(wanted).unwrap();
            deployment.status = Some(DeploymentStatus {
                observed_generation: deployment.metadata.generation,
                replicas: Some(wanted),
                updated_replicas: Some(if self.rolling_out { 1 } else { wanted }),
                ready_replicas: Some(ready),
                ..DeploymentStatus::default()
            });
        }
    }

    fn request(&mut self, at: f64) {
        self.finish(at);
        let mut ready = self.pods.iter_mut().filter(|pod| pod.ready_at <= at).collect::<Vec<_>>();
        if ready.is_empty() {
            return;
        }
        let chosen = (self.random.uniform() * ready.len() as f64) as usize;
        let last = ready.len() - 1;
        let pod = ready.swap_remove(chosen.min(last));
        self.served += 1.0;
        if pod.waiting.len() >= 65 {
            pod.shed += 1.0;
            self.late += 1.0;
            return;
        }
        pod.free_at = pod.free_at.max(at) + self.service_seconds;
        let duration = pod.free_at - at;
        if duration > 0.25 {
            self.late += 1.0;
        }
        pod.waiting.push_back((pod.free_at, duration));
    }

    fn finish(&mut self, now: f64) {
        for pod in &mut self.pods {
            while pod.waiting.front().is_some_and(|&(end, _)| end <= now) {
                let (_, duration) = pod.waiting.pop_front().unwrap();
                let bucket = EDGES.iter().position(|&edge| duration <= edge).unwrap_or(EDGES.len());
                pod.counts[bucket] += 1.0;
            }
        }
    }

    pub fn scrape(&self) -> Scrape {
        let pods = self.pods.iter().map(|pod| {
            let mut up_to = 0.0;
            let edges = EDGES.into_iter().chain([f64::INFINITY]);
            let cumulative = edges
                .zip(pod.counts)
                .map(|(edge, count)| {
                    up_to += count;
                    (edge, up_to)
                })
                .collect();
            let mut snapshot =
                Snapshot::new(cumulative, Some(pod.waiting.len() as f64), Some(pod.shed)).unwrap();
            snapshot.shared = self.shared;
            let ready = pod.ready_at <= self.now_seconds;
            Pod {
                uid: pod.uid.clone(),
                template: String::new(),
                created_at: self.at(pod.created_at),
                ready_at: ready.then(|| self.at(pod.ready_at)),
                sample: ready.then(|| Sample { at: self.timestamp(), reading: Ok(snapshot), cpu: None }),
            }
        });
        Scrape { pods: pods.collect(), ..Scrape::default() }
    }
}
