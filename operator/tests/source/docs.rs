//! docs/metrics-source.md says what the code does.

use plimsoll_crds::ApiDeploymentSpec;
use plimsoll_operator::source::servers::Servers;
use plimsoll_operator::source::tally;
use serde_json::{Value, json};

const DOCS: &str = include_str!("../../../docs/metrics-source.md");
const REASONS: &str = include_str!("../../../crds/src/condition.rs");

/// The YAML blocks.
fn examples() -> Vec<Value> {
    let blocks = DOCS.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|block| serde_yaml::from_str(block).unwrap()).collect()
}

#[test]
fn every_example_is_taken_as_it_stands() {
    let (mut servers, mut resources) = (0, 0);
    for example in examples() {
        if let Some(list) = example.pointer("/prometheus/servers") {
            Servers::parse(&json!({ "servers": list }).to_string()).unwrap();
            servers += 1;
            continue;
        }
        let metrics = example.pointer("/spec/metrics").or(example.get("metrics")).cloned();
        let metrics = metrics.unwrap_or_else(|| json!({ "prometheus": example["prometheus"] }));
        let spec = json!({ "latency": { "p99": "250ms" }, "metrics": metrics });
        let spec: ApiDeploymentSpec = serde_json::from_value(spec).unwrap();
        // A field that is misspelt would be gone.
        let read = serde_json::to_value(&spec.metrics).unwrap();
        for (field, value) in metrics.as_object().unwrap() {
            for (inner, value) in value.as_object().into_iter().flatten() {
                assert_eq!(read[field][inner], *value, "{field}.{inner}");
            }
            assert!(read.get(field).is_some(), "{field}");
        }
        resources += 1;
    }
    assert_eq!((servers, resources), (3, 4));
}

#[test]
fn every_reason_that_is_listed_is_one() {
    let table = DOCS.split("| Reason | What it means |").nth(1).unwrap();
    let mut reasons = 0;
    for row in table.lines().skip(2) {
        let names = row.trim_start_matches("| ").split(" | ").next().unwrap();
        for name in names.split(", ") {
            let name = name.trim_matches('`');
            assert!(REASONS.contains(&format!("\"{name}\"")), "{name}");
            reasons += 1;
        }
    }
    assert!(reasons >= 15, "{reasons}");
}

#[test]
fn every_metric_that_is_read_beside_the_histogram_is_listed() {
    let table = DOCS.split("| Metric | What it tells |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
    let names = rows.flat_map(|row| row.trim_start_matches("| ").split(" | ").next().unwrap().split(", "));
    let mut listed = names.map(|name| name.trim_matches('`')).collect::<Vec<_>>();
    let mut read = tally::SCALARS.to_vec();
    listed.sort_unstable();
    read.sort_unstable();
    assert_eq!(listed, read);
}

#[test]
fn every_key_of_a_server_is_listed() {
    let table = DOCS.split("| Key of a server | What it is for |").nth(1).unwrap();
    let keys = table.lines().skip(2).take_while(|row| row.starts_with('|'));
    for key in keys.map(|row| row.trim_start_matches("| `").split('`').next().unwrap()) {
        let refused = Servers::parse(&json!({ "servers": [{ key: {} }] }).to_string()).unwrap_err();
        assert!(!format!("{refused:#}").contains("unknown field"), "{key}: {refused:#}");
    }
}
