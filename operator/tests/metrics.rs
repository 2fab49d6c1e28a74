//! What `/metrics` shows, and that docs/operator-metrics.md lists it, no more and no less.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plimsoll_core::attainment::{Attainment, Judged};
use plimsoll_core::cache::Effect;
use plimsoll_core::memory::Memory;
use plimsoll_core::plan::{Decision, Evidence, Findings, Plan, Reason};
use plimsoll_core::status;
use plimsoll_crds::{ApiDeployment, Percentile};
use plimsoll_operator::metrics::{Metrics, descriptions};
use plimsoll_operator::state::Registry;
use serde_json::json;

fn app() -> ApiDeployment {
    serde_json::from_value(json!({
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "ApiDeployment",
        "metadata": { "name": "posts", "namespace": "shop", "uid": "u", "generation": 1 },
        "spec": {
            "latency": { "p99": "250ms" },
            "replicas": { "min": 2, "max": 9 },
            "database": { "external": { "urlFrom": { "secretKeyRef": { "name": "db", "key": "url" } } } },
        },
    }))
    .unwrap()
}

/// A plan of a round in which 3 of 200 requests were slower than the target.
fn plan() -> Plan {
    let missed = |name, budget, within_seconds| Judged { name, budget, within_seconds, missed: 3.0 };
    Plan {
        steps: Vec::new(),
        decision: Decision {
            time: Timestamp::UNIX_EPOCH,
            from: 3,
            to: 4,
            recommended: 5,
            reason: Reason::LatencyOverTarget,
            message: String::new(),
            evidence: Evidence {
                requests_per_second: Some(40.0),
                capacity_per_replica: Some(12.5),
                pods_excluded: [("Timeout", 2)].into(),
                ..Evidence::default()
            },
            engine: None,
        },
        findings: Findings {
            wanted: 4,
            ready: 3,
            attainment: Some(Attainment {
                requests: 200.0,
                targets: vec![
                    missed("p99", Percentile::P99.budget(), Some(0.25)),
                    missed("errors", 0.001, None),
                ],
                latencies: vec![(Percentile::P50, 0.02), (Percentile::P99, 0.3)],
            }),
            cache: Some(Effect {
                hit_ratio: Some(0.75),
                evictions_per_second: Some(2.0),
                memory_bytes: 47,
                memory_max_bytes: 48,
                too_small: false,
                enough_bytes: None,
            }),
            ..Findings::default()
        },
        memory: Memory::default(),
    }
}

struct World {
    metrics: Metrics,
    registry: Arc<Registry>,
}

impl World {
    /// One object with one round, and everything else that is counted, once.
    fn new() -> Self {
        let world = Self { metrics: Metrics::new().unwrap(), registry: Arc::default() };
        world.metrics.tell_of(world.registry.clone()).unwrap();
        world.metrics.reconciled("ok", Duration::from_millis(3));
        world.metrics.decided(&plan().decision);
        world.metrics.fleet.leads(0, true);
        world.metrics.fleet.watch_age("Pod", Duration::from_secs(3));
        world.metrics.watch_errors.with_label_values(&["Pod"]).inc();
        world.round(&plan());
        world
    }

    fn round(&self, plan: &Plan) {
        let outcome = status::Outcome::Planned { findings: &plan.findings, decision: &plan.decision };
        let status = status::next(&app(), outcome, Timestamp::UNIX_EPOCH);
        self.registry.object("shop", "posts").tell(|metrics| {
            metrics.planned(&app(), plan, Some(Instant::now()));
            metrics.reported(&status);
        });
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The series of the objects, without those whose value is a time.
    fn of_objects(&self) -> BTreeSet<String> {
        let lines = self.lines().into_iter().filter(|line| line.starts_with("plimsoll_apideployment_"));
        lines.filter(|line| !line.contains("_age_seconds")).collect()
    }
}

/// Counts a list of pods as the API server's client would.
async fn list_pods(metrics: &Metrics) {
    use tower::{Layer as _, Service as _};
    let mut client = metrics.api_requests.layer(tower::service_fn(async |_: http::Request<_>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(()))
    }));
    let request = http::Request::get("/api/v1/pods?limit=500").body(kube::client::Body::empty()).unwrap();
    client.call(request).await.unwrap();
    // Nobody waits for this one.
    let request = http::Request::get("/api/v1/pods?limit=500").body(kube::client::Body::empty()).unwrap();
    drop(client.call(request));
}

#[test]
fn an_object_tells_of_its_promise_and_its_replicas() {
    let world = World::new();
    world.round(&plan());
    let expected = [
        r#"replica_capacity_requests_per_second{namespace="shop",name="posts"} 12.5"#,
        r#"cache_evictions_per_second{namespace="shop",name="posts"} 2"#,
        r#"cache_hit_ratio{namespace="shop",name="posts"} 0.75"#,
        r#"cache_memory_max_bytes{namespace="shop",name="posts"} 48"#,
        r#"cache_memory_used_bytes{namespace="shop",name="posts"} 47"#,
        r#"decisions_total{namespace="shop",name="posts",reason="LatencyOverTarget"} 2"#,
        r#"latency_seconds{namespace="shop",name="posts",quantile="0.5"} 0.02"#,
        r#"latency_seconds{namespace="shop",name="posts",quantile="0.99"} 0.3"#,
        r#"latency_target_seconds{namespace="shop",name="posts",quantile="0.99"} 0.25"#,
        r#"offered_requests_per_second{namespace="shop",name="posts"} 40"#,
        r#"pods_excluded_total{namespace="shop",name="posts",reason="Timeout"} 4"#,
        r#"replicas_max{namespace="shop",name="posts"} 9"#,
        r#"replicas_min{namespace="shop",name="posts"} 2"#,
        r#"replicas_ready{namespace="shop",name="posts"} 3"#,
        r#"replicas_recommended{namespace="shop",name="posts"} 5"#,
        r#"replicas_wanted{namespace="shop",name="posts"} 4"#,
        r#"requests_over_target_total{namespace="shop",name="posts",target="errors"} 6"#,
        r#"requests_over_target_total{namespace="shop",name="posts",target="p99"} 6"#,
        r#"requests_total{namespace="shop",name="posts"} 400"#,
        r#"target_budget_ratio{namespace="shop",name="posts",target="errors"} 0.001"#,
        r#"target_budget_ratio{namespace="shop",name="posts",target="p99"} 0.01"#,
    ];
    let told = world.of_objects();
    let (conditions, others): (BTreeSet<_>, BTreeSet<_>) =
        told.iter().partition(|line| line.starts_with("plimsoll_apideployment_condition{"));
    let others =
        others.iter().map(|line| line.replacen("plimsoll_apideployment_", "", 1)).collect::<BTreeSet<_>>();
    assert_eq!(others, BTreeSet::from(expected.map(str::to_owned)));
    let reconciling =
        r#"{namespace="shop",name="posts",type="Reconciling",status="True",reason="RolloutInProgress"} 1"#;
    assert!(conditions.iter().any(|line| line.ends_with(reconciling)), "{conditions:?}");
}

#[test]
fn a_target_that_is_no_longer_promised_is_no_longer_told() {
    let world = World::new();
    let mut plan = plan();
    plan.findings.attainment.as_mut().unwrap().targets.pop();
    world.round(&plan);
    assert!(!world.of_objects().iter().any(|line| line.contains("errors")), "{:?}", world.of_objects());
}

#[test]
fn a_spec_that_cannot_be_read_leaves_what_was_known() {
    let world = World::new();
    let before = world.lines().into_iter().filter(|line| line.contains("_replicas_")).collect::<Vec<_>>();
    let mut plan = plan();
    plan.decision.reason = Reason::InvalidSpec;
    plan.findings = Findings { invalid_spec: Some("spec.latency".into()), ..Findings::default() };
    world.round(&plan);
    let after = world.lines().into_iter().filter(|line| line.contains("_replicas_")).collect::<Vec<_>>();
    assert_eq!(before, after);
    assert!(
        world
            .of_objects()
            .iter()
            .any(|line| line.contains(r#"type="Stalled",status="True",reason="InvalidSpec""#))
    );
}

#[test]
fn an_object_that_is_gone_leaves_no_series() {
    let world = World::new();
    assert!(!world.of_objects().is_empty());
    world.registry.forget("shop", "posts");
    assert_eq!(world.of_objects(), BTreeSet::new());
    let world = World::new();
    world.registry.retain(|_, _| false);
    assert_eq!(world.of_objects(), BTreeSet::new());
}

#[tokio::test]
async fn requests_are_counted_by_their_answer_even_if_nobody_waits_for_it() {
    let world = World::new();
    list_pods(&world.metrics).await;
    let lines = world.lines();
    for line in [
        r#"plimsoll_operator_api_requests_total{code="200",resource="pods",verb="list"} 1"#,
        r#"plimsoll_operator_api_requests_total{code="GivenUp",resource="pods",verb="list"} 1"#,
    ] {
        assert!(lines.iter().any(|told| told == line), "{line} is not in {lines:#?}");
    }
}

#[tokio::test]
async fn the_document_lists_every_metric() {
    let world = World::new();
    list_pods(&world.metrics).await;
    // `# TYPE name kind`
    let shown = world.lines().into_iter().filter_map(|line| line.strip_prefix("# TYPE ").map(str::to_owned));
    let kind = |kind: prometheus::proto::MetricType| format!("{kind:?}").to_lowercase();
    let described = descriptions().map(|metric| format!("{} {}", metric.name, kind(metric.kind)));
    assert_eq!(shown.collect::<BTreeSet<_>>(), described.collect(), "what is shown, and what is described");

    let mut table = String::from("\n| Metric | Type | Labels | What it tells |\n|---|---|---|---|\n");
    for metric in descriptions() {
        let labels = metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        writeln!(table, "| `{}` | {} | {labels} | {} |", metric.name, kind(metric.kind), metric.help)
            .unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operator-metrics.md");
    let before = std::fs::read_to_string(path).unwrap();
    let (head, rest) = before.split_once("<!-- metrics: begin").expect("where the table begins");
    let (begin, rest) = rest.split_once("-->\n").expect("the end of the mark");
    let (_, tail) = rest.split_once("<!-- metrics: end -->").expect("where the table ends");
    let now = format!("{head}<!-- metrics: begin{begin}-->\n{table}\n<!-- metrics: end -->{tail}");
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(path, now).unwrap();
    } else {
        assert!(before == now, "docs/operator-metrics.md is stale: cargo xtask generate");
    }
}
