//! How the workload is run: probes, volumes, spread, protection, configuration. One rule a test; the rule is the name.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{app, carry_out, input, live, settings, start};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PodSpec;
use plimsoll_core::input::{Child, Configuration, Missing, Observed};
use plimsoll_core::memory::{Failure, Memory};
use plimsoll_core::plan::{ChildKind, Plan, Step};
use plimsoll_core::{build, decide, status};
use plimsoll_crds::{ApiDeployment, ConfigKind};
use serde_json::{Value, json};

const ZONE: &str = "topology.kubernetes.io/zone";
const CONNECTIONS: &str = "PLIMSOLL_DATABASE_CONNECTIONS";

fn pod(spec: &Value) -> PodSpec {
    let deployment = build::deployment(&app(spec), &settings(), "r1");
    deployment.spec.unwrap().template.spec.unwrap()
}

fn decided(app: &ApiDeployment, observed: Observed) -> Plan {
    decide(&input(app.clone(), observed, Memory::default(), start()))
}

fn wrote(plan: &Plan, kind: ChildKind) -> bool {
    plan.steps.iter().any(|step| step.kind() == kind)
}

/// The Deployment as the plan applies it.
fn applied(plan: &Plan) -> Option<&Deployment> {
    plan.steps.iter().find_map(|step| match step {
        Step::ApplyDeployment { kind: ChildKind::Deployment, deployment, .. } => Some(&**deployment),
        _ => None,
    })
}

/// A spec that uses a ConfigMap, and what was read of it.
fn configured(digest: &str, missing: Vec<Missing>) -> (ApiDeployment, Observed) {
    let app = app(&json!({ "envFrom": [{ "configMapRef": { "name": "settings" } }] }));
    let configuration = Configuration { digest: Some(digest.into()), missing, unread: None };
    (app, Observed { configuration, ..Observed::default() })
}

fn template_hash(deployment: &Deployment) -> Option<&str> {
    let metadata = deployment.spec.as_ref()?.template.metadata.as_ref()?;
    metadata.annotations.as_ref()?.get(build::CONFIG_ANNOTATION).map(String::as_str)
}

fn zones(deployment: &Deployment) -> usize {
    let pod = deployment.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let constraints = pod.topology_spread_constraints.iter().flatten();
    constraints.filter(|constraint| constraint.topology_key == ZONE).count()
}

fn connections(deployment: &Deployment) -> Option<&str> {
    let variables = deployment.spec.as_ref()?.template.spec.as_ref()?.containers[0].env.as_ref()?;
    variables.iter().find(|variable| variable.name == CONNECTIONS)?.value.as_deref()
}

/// The Deployment as an operator left it that did not spread over zones, knew no configuration and named no connections.
fn of_an_earlier_operator(app: &ApiDeployment) -> Deployment {
    let mut deployment = live(app, 3, 3);
    let pod = deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    pod.topology_spread_constraints.as_mut().unwrap().retain(|constraint| constraint.topology_key != ZONE);
    pod.containers[0].env.as_mut().unwrap().retain(|variable| variable.name != CONNECTIONS);
    deployment
}

#[test]
fn a_probe_that_is_switched_off_is_not_there() {
    let off = json!({ "disabled": {} });
    let pod = pod(&json!({ "probes": { "startup": off, "liveness": off, "readiness": off } }));
    let container = &pod.containers[0];
    assert!(container.startup_probe.is_none());
    assert!(container.liveness_probe.is_none() && container.readiness_probe.is_none());
}

#[test]
fn another_kind_of_probe_counts_before_the_stored_path() {
    for (kind, field) in [
        (json!({ "tcpSocket": {} }), "tcpSocket"),
        (json!({ "grpc": { "port": 9000 } }), "grpc"),
        (json!({ "exec": { "command": ["true"] } }), "exec"),
    ] {
        let mut probe = json!({ "path": "/readyz" });
        probe.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        let pod = pod(&json!({ "probes": { "readiness": probe } }));
        let built = serde_json::to_value(&pod.containers[0].readiness_probe).unwrap();
        assert!(built.get(field).is_some() && built.get("httpGet").is_none(), "{built}");
    }
}

#[test]
fn a_port_that_serves_both_has_one_name() {
    let probe = json!({ "httpGet": { "path": "/ready", "port": "metrics" } });
    let built = |metrics: Value| {
        let pod = pod(&json!({ "probes": { "readiness": probe }, "metrics": metrics }));
        serde_json::to_value(&pod.containers[0].readiness_probe).unwrap()["httpGet"]["port"].clone()
    };
    assert_eq!(built(json!({})), "http");
    assert_eq!(built(json!({ "port": 9090 })), "metrics");
}

#[test]
fn no_sleep_is_no_hook() {
    let pod = pod(&json!({ "workload": { "drain": { "sleepSeconds": 0, "graceSeconds": 30 } } }));
    assert!(pod.containers[0].lifecycle.is_none());
    assert_eq!(pod.termination_grace_period_seconds, Some(30));
}

#[test]
fn a_mount_over_an_own_folder_takes_its_place() {
    let pod = pod(&json!({ "workload": {
        "volumes": [{ "name": "files", "persistentVolumeClaim": { "claimName": "files" } }],
        "volumeMounts": [{ "name": "files", "mountPath": "/data/" }],
    } }));
    let names = pod.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["tmp", "files"]);
}

#[test]
fn a_users_label_never_hides_a_pod_from_its_selector() {
    let app = app(&json!({ "workload": { "labels": { "plimsoll.dev/app": "other", "team": "shop" } } }));
    let template = build::deployment(&app, &settings(), "r1").spec.unwrap().template;
    let labels = template.metadata.unwrap().labels.unwrap();
    assert_eq!((labels["plimsoll.dev/app"].as_str(), labels["team"].as_str()), ("posts", "shop"));
}

#[test]
fn the_version_of_an_image_is_a_label_of_the_deployment_and_not_of_its_pods() {
    let version = |image: &str| {
        let deployment = build::deployment(&app(&json!({ "image": image })), &settings(), "r1");
        let labels = |labels: Option<&std::collections::BTreeMap<String, String>>| {
            labels.unwrap().get("app.kubernetes.io/version").cloned()
        };
        let template = deployment.spec.as_ref().unwrap().template.metadata.as_ref().unwrap();
        assert_eq!(labels(template.labels.as_ref()), None);
        labels(deployment.metadata.labels.as_ref())
    };
    assert_eq!(version("localhost:5000/shop:1.4_2@sha256:01").as_deref(), Some("1.4_2"));
    assert_eq!(version("localhost:5000/shop@sha256:01"), None);
    assert_eq!(version("shop"), None);
    assert_eq!(version("shop:1.").as_deref(), None);
    assert_eq!(version(&format!("shop:{}", "1".repeat(64))), None);
}

#[test]
fn an_empty_spread_is_none_and_a_written_one_is_completed() {
    assert_eq!(
        pod(&json!({ "workload": { "topologySpreadConstraints": [] } })).topology_spread_constraints,
        None
    );
    let constraint = json!({ "maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule" });
    let pod = pod(&json!({ "workload": { "topologySpreadConstraints": [constraint] } }));
    let [constraint] = &pod.topology_spread_constraints.unwrap()[..] else { panic!("one") };
    assert_eq!(constraint.match_label_keys.as_deref(), Some(&["pod-template-hash".to_owned()][..]));
    let selector = constraint.label_selector.as_ref().unwrap().match_labels.as_ref().unwrap();
    assert_eq!(selector["plimsoll.dev/app"], "posts");
}

#[test]
fn a_budget_is_kept_once_there_may_be_more_than_one_replica() {
    let budget = |spec: &Value| build::disruption_budget(&app(spec));
    assert!(budget(&json!({ "replicas": { "min": 1, "max": 1 } })).is_none());
    assert!(budget(&json!({ "replicas": { "min": 1, "max": 1, "pinned": 2 } })).is_some());
    assert!(budget(&json!({ "database": { "embedded": {} } })).is_none(), "one replica, whatever max says");
    assert!(budget(&json!({ "disruptionBudget": { "maxUnavailable": 1, "disabled": {} } })).is_none());
    let percent = budget(&json!({ "disruptionBudget": { "maxUnavailable": "20%" } })).unwrap();
    assert_eq!(serde_json::to_value(percent).unwrap()["spec"]["maxUnavailable"], "20%");
}

#[test]
fn what_is_switched_off_is_deleted_and_then_nothing_is_left_to_do() {
    let on = app(&json!({ "networkPolicy": {}, "cache": { "managed": {} } }));
    let plan = decided(&on, Observed::default());
    let kinds = [ChildKind::DisruptionBudget, ChildKind::NetworkPolicy, ChildKind::CacheNetworkPolicy];
    assert!(kinds.iter().all(|kind| wrote(&plan, *kind)), "{:?}", plan.steps);
    let mut observed = Observed::default();
    let memory = carry_out(&plan, &mut observed);

    let off = app(&json!({ "disruptionBudget": { "disabled": {} }, "cache": { "managed": {} } }));
    let plan = decide(&input(off.clone(), observed.clone(), memory, start()));
    let deleted = plan.steps.iter().filter_map(|step| match step {
        Step::Delete { kind, .. } => Some(*kind),
        _ => None,
    });
    let mut deleted = deleted.collect::<Vec<_>>();
    deleted.sort_unstable();
    assert_eq!(
        deleted,
        [ChildKind::CacheNetworkPolicy, ChildKind::DisruptionBudget, ChildKind::NetworkPolicy]
    );
    let memory = carry_out(&plan, &mut observed);
    assert!(decide(&input(off, observed, memory, start())).steps.is_empty());
}

#[test]
fn a_name_that_is_taken_is_told_and_keeps_nothing_else_back() {
    let observed = Observed { disruption_budget: Child::Foreign, ..Observed::default() };
    let plan = decided(&app(&json!({})), observed.clone());
    assert_eq!(plan.findings.name_conflicts, ["PodDisruptionBudget posts"]);
    assert!(!wrote(&plan, ChildKind::DisruptionBudget) && wrote(&plan, ChildKind::Deployment));
    let off = decided(&app(&json!({ "disruptionBudget": { "disabled": {} } })), observed);
    assert_eq!(off.findings.name_conflicts, [] as [&str; 0], "nothing is wanted of that name");
}

#[test]
fn a_policy_lets_the_operator_read_the_metrics_and_only_whom_it_names() {
    let ingress = |spec: &Value| {
        let policy = build::network_policy(&app(spec), &settings()).unwrap();
        serde_json::to_value(policy).unwrap()["spec"]["ingress"].clone()
    };
    let operator = json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "plimsoll-system" } } });
    let peer = json!({ "podSelector": { "matchLabels": { "app": "gateway" } } });
    let port = |port: i32| json!([{ "port": port, "protocol": "TCP" }]);

    let open = ingress(&json!({ "networkPolicy": {} }));
    assert_eq!(open, json!([{ "ports": port(8080) }]));
    let one_port = ingress(&json!({ "networkPolicy": { "from": [peer] } }));
    assert_eq!(one_port, json!([{ "from": [operator, peer], "ports": port(8080) }]));
    let two_ports = ingress(&json!({ "networkPolicy": { "from": [peer] }, "metrics": { "port": 9090 } }));
    assert_eq!(
        two_ports,
        json!([{ "from": [peer], "ports": port(8080) }, { "from": [operator], "ports": port(9090) }])
    );
}

#[test]
fn the_caches_exporter_is_read_by_whom_the_policy_names_and_by_nobody_else() {
    let ports = |policy: &Value, cache: &Value| {
        let app = app(&json!({ "networkPolicy": policy, "cache": { "managed": cache } }));
        let policy = build::cache_network_policy(&app, &settings()).unwrap();
        let ingress = serde_json::to_value(policy).unwrap()["spec"]["ingress"].clone();
        ingress.as_array().unwrap().iter().skip(1).cloned().collect::<Vec<_>>()
    };
    let peer = json!({ "namespaceSelector": { "matchLabels": { "team": "monitoring" } } });
    let (named, exporter) = (json!({ "metricsFrom": [peer] }), json!({ "exporter": {} }));
    let rule = json!({ "from": [peer], "ports": [{ "port": 9121, "protocol": "TCP" }] });
    assert_eq!(ports(&named, &exporter), [rule]);
    // The operator's namespace reaches every port by the first rule.
    assert_eq!(ports(&json!({}), &exporter), [] as [Value; 0], "a rule without peers would let everybody in");
    assert_eq!(ports(&named, &json!({})), [] as [Value; 0], "nothing is served there");
}

#[test]
fn a_change_of_configuration_changes_the_template() {
    let (app, mut observed) = configured("one", Vec::new());
    let plan = decided(&app, observed.clone());
    assert_eq!(template_hash(applied(&plan).unwrap()), Some("one"));
    let memory = carry_out(&plan, &mut observed);
    assert!(decide(&input(app.clone(), observed.clone(), memory.clone(), start())).steps.is_empty());
    observed.configuration.digest = Some("two".into());
    let plan = decide(&input(app, observed, memory, start()));
    assert_eq!(template_hash(applied(&plan).unwrap()), Some("two"));
}

#[test]
fn missing_configuration_is_told_and_the_last_template_goes_on() {
    let missing = Missing { kind: ConfigKind::ConfigMap, name: "settings".into(), key: None };
    let (app, mut observed) = configured("one", vec![missing]);
    observed.deployment = Child::Owned(Box::new(live(&app, 2, 2)));
    let plan = decided(&app, observed);
    assert!(!wrote(&plan, ChildKind::Deployment), "{:?}", plan.steps);
    let outcome = status::Outcome::Planned { findings: &plan.findings, decision: &plan.decision };
    let status = status::next(&app, outcome, start());
    let stalled = status.conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap();
    assert_eq!((stalled.status.as_str(), stalled.reason.as_str()), ("True", "ConfigMapNotFound"));
    assert!(stalled.message.contains("ConfigMap settings"), "{}", stalled.message);
}

#[test]
fn configuration_that_cannot_be_read_holds_the_template_back_and_is_told() {
    let (app, mut observed) = configured("one", Vec::new());
    observed.configuration = Configuration {
        unread: Some(Failure::of_read("read ConfigMap settings: no".into(), true)),
        ..Configuration::default()
    };
    observed.deployment = Child::Owned(Box::new(live(&app, 2, 2)));
    let plan = decided(&app, observed);
    assert!(!wrote(&plan, ChildKind::Deployment));
    assert!(plan.findings.failures.iter().any(|failure| failure.message.contains("ConfigMap settings")));
}

#[test]
fn an_upgrade_of_the_operator_restarts_no_pod() {
    let (app, mut observed) = configured("one", Vec::new());
    let before = of_an_earlier_operator(&app);
    observed.deployment = Child::Owned(Box::new(before.clone()));
    let plan = decided(&app, observed.clone());
    let written = applied(&plan).unwrap();
    assert_eq!(written.spec.as_ref().unwrap().template, before.spec.as_ref().unwrap().template);
    let memory = carry_out(&plan, &mut observed);
    assert!(decide(&input(app.clone(), observed.clone(), memory.clone(), start())).steps.is_empty());

    // What was found is the measure from here on, after a restart too.
    observed.configuration.digest = Some("two".into());
    let plan = decided(&app, observed.clone());
    assert_eq!(template_hash(applied(&plan).unwrap()), Some("two"));
    carry_out(&plan, &mut observed);
    observed.configuration.digest = Some("one".into());
    assert_eq!(template_hash(applied(&decided(&app, observed)).unwrap()), Some("one"));
}

#[test]
fn the_next_image_brings_in_what_an_upgrade_left_out() {
    let (mut app, mut observed) = configured("one", Vec::new());
    let before = of_an_earlier_operator(&app);
    assert_eq!(zones(&before), 0);
    observed.deployment = Child::Owned(Box::new(before));
    app.spec.image = Some("posts:2".into());
    let plan = decided(&app, observed.clone());
    let written = applied(&plan).unwrap();
    assert_eq!((zones(written), template_hash(written), connections(written)), (1, Some("one"), Some("3")));
    let memory = carry_out(&plan, &mut observed);
    let again = decide(&input(app, observed, memory, start()));
    assert!(again.steps.is_empty(), "{:?}", again.steps);
}

#[test]
fn connections_that_the_spec_names_do_not_wait_for_the_next_image() {
    let external =
        json!({ "urlFrom": { "secretKeyRef": { "name": "db", "key": "url" } }, "connectionsPerReplica": 5 });
    let app = app(&json!({ "database": { "external": external } }));
    let deployment = Child::Owned(Box::new(of_an_earlier_operator(&app)));
    let plan = decided(&app, Observed { deployment, ..Observed::default() });
    assert_eq!(connections(applied(&plan).unwrap()), Some("5"));
}

#[test]
fn nothing_in_the_resource_loosens_the_pods_security() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/deployment-full.yaml");
    let deployment = std::fs::read_to_string(golden).unwrap();
    for word in
        ["hostPath", "hostNetwork", "hostPort", "hostPID", "privileged", "serviceAccountToken", "hostIP"]
    {
        assert!(!deployment.contains(&format!("{word}:")), "{word}");
    }
    let pod = pod(&json!({ "workload": { "labels": { "a": "b" } } }));
    let security = pod.security_context.unwrap();
    assert_eq!((security.run_as_non_root, security.run_as_user), (Some(true), Some(10001)));
    let container = pod.containers[0].security_context.as_ref().unwrap();
    assert_eq!(container.allow_privilege_escalation, Some(false));
    assert_eq!(container.read_only_root_filesystem, Some(true));
    assert_eq!(pod.automount_service_account_token, Some(false));
}
