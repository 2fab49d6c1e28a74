//! What the chart gives to Prometheus and Grafana: alerts under `promtool`, queries that ask for what there is, and
//! monitors that find the operator. It needs Debian's package `prometheus`, which `cargo xtask test` installs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use plimsoll_tests::{chart, command, paths, tools};
use serde_json::{Value, json};

const RULES_TEST: &str = include_str!("rules_test.yaml");

fn read(path: &str) -> String {
    let path = paths::project().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// The one object of a kind that the chart renders with these values.
async fn rendered(kind: &str, values: &[&str]) -> Value {
    let options = values.iter().flat_map(|value| ["--set", value]).collect::<Vec<_>>();
    let text = chart::template(&options).await.unwrap();
    let objects = text.split("---\n").filter(|text| !text.trim().is_empty());
    let mut objects = objects
        .map(|text| serde_yaml::from_str::<Value>(text).unwrap())
        .filter(|object| object["kind"] == kind);
    let object = objects.next().unwrap_or_else(|| panic!("no {kind} with {values:?}"));
    assert!(objects.next().is_none(), "more than one {kind}");
    object
}

/// The groups of rules that the chart renders.
async fn groups() -> Value {
    rendered("PrometheusRule", &["prometheusRule.enabled=true"]).await["spec"].clone()
}

fn rules(groups: &Value) -> Vec<&Value> {
    groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect()
}

fn promtool(folder: &Path, arguments: &[&str]) {
    let output = Command::new("promtool").current_dir(folder).args(arguments).output();
    let output =
        output.expect("promtool, of Debian's package prometheus; `cargo xtask test --fast` installs it");
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "promtool {}:\n{said}", arguments.join(" "));
}

/// Names of Plimsoll's own metrics in a text, without the endings that a histogram's series have.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && !"_:".contains(character));
    let ours = words.filter(|word| word.starts_with("plimsoll_"));
    ours.map(|word| word.strip_suffix("_bucket").unwrap_or(word)).collect()
}

/// The metrics of docs/operator-metrics.md, which a test of the operator holds to its code, with their labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("docs/operator-metrics.md");
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let rows = text.lines().filter(|line| line.starts_with("| `plimsoll_"));
    let metrics = rows.map(|row| {
        let cells = row.split('|').collect::<Vec<_>>();
        (cell(cells[1]), cells[3].split(',').map(cell).filter(|label| !label.is_empty()).collect())
    });
    metrics.collect()
}

/// All queries of the dashboard, those of its variables included.
fn queries() -> Vec<String> {
    fn walk(value: &Value, queries: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                queries.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| walk(value, queries));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, queries)),
            _ => {}
        }
    }
    let board: Value = serde_json::from_str(&read("charts/plimsoll/files/dashboard.json")).unwrap();
    let mut queries = Vec::new();
    walk(&board["panels"], &mut queries);
    for variable in board["templating"]["list"].as_array().unwrap() {
        let query = variable["definition"].as_str().unwrap_or_default();
        let metric = query.strip_prefix("label_values(").and_then(|query| query.rsplit_once(", "));
        queries.extend(metric.map(|(metric, _)| metric.to_owned()));
    }
    assert!(queries.len() > 20, "{queries:?}");
    queries
}

#[tokio::test]
async fn alerts_fire_when_they_should_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut groups = groups().await;
    std::fs::write(folder.path().join("whole.yaml"), serde_yaml::to_string(&groups).unwrap()).unwrap();
    promtool(folder.path(), &["check", "rules", "--lint=all", "--lint-fatal", "whole.yaml"]);
    // A test has to repeat every annotation; one is enough to see that its labels are there.
    for group in groups["groups"].as_array_mut().unwrap() {
        for rule in group["rules"].as_array_mut().unwrap().iter_mut().filter(|rule| rule["alert"].is_string())
        {
            rule["annotations"] = json!({ "summary": rule["annotations"]["summary"] });
        }
    }
    std::fs::write(folder.path().join("rules.yaml"), serde_yaml::to_string(&groups).unwrap()).unwrap();
    std::fs::write(folder.path().join("rules_test.yaml"), RULES_TEST).unwrap();
    promtool(folder.path(), &["test", "rules", "rules_test.yaml"]);
}

#[tokio::test]
async fn every_alert_fires_in_a_test_and_has_a_runbook() {
    let groups = groups().await;
    let tests: Value = serde_yaml::from_str(RULES_TEST).unwrap();
    let cases =
        tests["tests"].as_array().unwrap().iter().filter_map(|test| test["alert_rule_test"].as_array());
    let fired = cases.flatten().filter(|case| !case["exp_alerts"].as_array().unwrap().is_empty());
    let fired = fired.map(|case| case["alertname"].as_str().unwrap()).collect::<BTreeSet<_>>();
    let mut alerts = BTreeSet::new();
    for rule in rules(&groups) {
        let Some(alert) = rule["alert"].as_str() else { continue };
        alerts.insert(alert);
        for text in ["summary", "description"] {
            assert!(
                rule["annotations"][text].as_str().is_some_and(|text| text.len() > 20),
                "{alert}: {text}"
            );
        }
        let link = rule["annotations"]["runbook_url"].as_str().unwrap();
        assert!(link.ends_with(&format!("/docs/alerts.md#{}", alert.to_lowercase())), "{alert}: {link}");
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("critical" | "warning")), "{alert}");
    }
    assert_eq!(fired, alerts, "alerts that fire in rules_test.yaml, and alerts");
    let doc = read("docs/alerts.md");
    let sections = doc.lines().filter_map(|line| line.strip_prefix("## ")).collect::<BTreeSet<_>>();
    assert_eq!(sections, alerts, "sections of docs/alerts.md, and alerts");
}

#[tokio::test]
async fn values_reach_the_rules() {
    let values = [
        "prometheusRule.enabled=true",
        "prometheusRule.alertLabels.severity=info",
        "prometheusRule.alertLabels.team=platform",
        r#"prometheusRule.operatorSelector=job="mine""#,
        "prometheusRule.runbookUrl=https://wiki.example.com/plimsoll",
    ];
    let groups = rendered("PrometheusRule", &values).await["spec"].clone();
    for rule in rules(&groups).into_iter().filter(|rule| rule["alert"].is_string()) {
        assert_eq!(rule["labels"], json!({ "severity": "info", "team": "platform" }));
        assert!(
            rule["annotations"]["runbook_url"]
                .as_str()
                .unwrap()
                .starts_with("https://wiki.example.com/plimsoll#plimsoll")
        );
        let expr = rule["expr"].as_str().unwrap();
        assert_eq!(expr.contains("plimsoll_operator_"), expr.contains(r#"job="mine""#), "{expr}");
    }
}

#[tokio::test]
async fn rules_ask_for_metrics_that_there_are() {
    let known = documented();
    assert!(known.len() > 20, "{known:?}");
    for rule in rules(&groups().await) {
        let expr = rule["expr"].as_str().unwrap();
        for metric in metrics_in(expr) {
            assert!(known.contains_key(metric), "{metric} of `{expr}` is not in docs/operator-metrics.md");
        }
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let known = documented();
    let mut shown = BTreeSet::new();
    let queries = queries();
    for query in &queries {
        for metric in metrics_in(query) {
            assert!(known.contains_key(metric), "{metric} of `{query}` is not in docs/operator-metrics.md");
            shown.insert(metric);
        }
        // What it groups by and shows is a label of the metric, or one that Prometheus adds.
        let labels = query.split(" by (").skip(1).filter_map(|rest| rest.split_once(')'));
        for label in labels.flat_map(|(labels, _)| labels.split(',').map(str::trim)) {
            let told = |metric: &str| matches!(label, "le" | "pod") || known[metric].contains(label);
            assert!(metrics_in(query).iter().any(|metric| told(metric)), "{label} of `{query}`");
        }
    }
    let hidden = known.keys().filter(|metric| !shown.contains(metric.as_str())).collect::<Vec<_>>();
    assert_eq!(
        hidden,
        [
            "plimsoll_operator_build_info",
            "plimsoll_operator_decisions_total",
            "plimsoll_operator_last_decision_timestamp_seconds",
            "plimsoll_operator_pods_excluded_total",
        ],
        "metrics that the dashboard does not show: sums of what it shows by object, and two for other uses"
    );
}

#[test]
fn the_dashboards_queries_are_promql() {
    let rules = queries().into_iter().enumerate().map(|(index, query)| {
        json!({ "record": format!("query:{index}"), "expr": query.replace("$__rate_interval", "5m") })
    });
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules.collect::<Vec<_>>() }] });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dashboard.yaml"), serde_yaml::to_string(&groups).unwrap()).unwrap();
    promtool(folder.path(), &["check", "rules", "dashboard.yaml"]);
}

#[tokio::test]
async fn the_dashboard_is_rendered_as_it_is() {
    let map = rendered("ConfigMap", &["dashboard.enabled=true"]).await;
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let rendered = parsed(map["data"]["plimsoll.json"].as_str().unwrap());
    assert_eq!(rendered, parsed(&read("charts/plimsoll/files/dashboard.json")));
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
}

#[tokio::test]
async fn the_prometheus_operator_knows_every_field() {
    let program = tools::MONITORING.ensure().await.unwrap().join("monitoring");
    let field = "serviceMonitor.interval=15s,serviceMonitor.scrapeTimeout=10s,serviceMonitor.relabelings[0].targetLabel=zone";
    let rules = rendered("PrometheusRule", &["prometheusRule.enabled=true"]).await;
    let services = rendered("ServiceMonitor", &["serviceMonitor.enabled=true", field]).await;
    let pods =
        rendered("PodMonitor", &["podMonitor.enabled=true", &field.replace("serviceMonitor", "podMonitor")])
            .await;
    let mut text = String::new();
    for object in [rules, services, pods] {
        text.extend(["---\n", &serde_yaml::to_string(&object).unwrap()]);
    }
    let check = async |text: &str| {
        let mut program = tokio::process::Command::new(&program);
        command::run_with_input(&mut program, text.as_bytes(), std::time::Duration::from_mins(1)).await
    };
    assert_eq!(check(&text).await.unwrap(), "PrometheusRule\nServiceMonitor\nPodMonitor\n");
    let misspelt = check(&text.replace("honorLabels", "honourLabels")).await.unwrap_err();
    assert!(format!("{misspelt:#}").contains(r#"unknown field "honourLabels""#), "{misspelt:#}");
}

#[tokio::test]
async fn monitors_find_the_operator_and_leave_its_labels_alone() {
    let service = rendered("Service", &[]).await;
    let pods = rendered("Deployment", &[]).await["spec"]["template"].clone();
    let ports = pods["spec"]["containers"][0]["ports"].as_array().unwrap().clone();
    for (kind, value, endpoints, found, ports) in [
        (
            "ServiceMonitor",
            "serviceMonitor",
            "endpoints",
            &service,
            service["spec"]["ports"].as_array().unwrap(),
        ),
        ("PodMonitor", "podMonitor", "podMetricsEndpoints", &pods, &ports),
    ] {
        let set = |field: &str| format!("{value}.{field}");
        let monitor = rendered(
            kind,
            &[
                &set("enabled=true"),
                &set("interval=15s"),
                &set("scrapeTimeout=10s"),
                &set("labels.release=prometheus"),
            ],
        )
        .await;
        for (key, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(&found["metadata"]["labels"][key], value, "{kind} selects by {key}");
        }
        let endpoint = &monitor["spec"][endpoints][0];
        assert!(ports.iter().any(|port| port["name"] == endpoint["port"]), "{kind}: {endpoint}");
        assert_eq!(endpoint["path"], "/metrics");
        assert_eq!(endpoint["honorLabels"], true, "a series keeps the namespace of its ApiDeployment");
        assert_eq!((&endpoint["interval"], &endpoint["scrapeTimeout"]), (&json!("15s"), &json!("10s")));
        assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    }
    let both = ["--set", "serviceMonitor.enabled=true,podMonitor.enabled=true"];
    let said = format!("{:#}", chart::template(&both).await.unwrap_err());
    assert!(said.contains("everything would be counted twice"), "{said}");
}
