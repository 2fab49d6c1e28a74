//! The committed CustomResourceDefinition is the one that the types give.
#![allow(clippy::unwrap_used)]

use kube::CustomResourceExt;
use plimsoll_crds::{ApiDeployment, ApiDeploymentSpec, ConditionType};
use serde_json::Value;

#[test]
fn the_committed_definition_is_not_stale() {
    let committed: Value = serde_yaml::from_str(include_str!("../generated/apideployments.yaml")).unwrap();
    let generated = serde_json::to_value(ApiDeployment::crd()).unwrap();
    assert!(committed == generated, "run `cargo xtask generate` and commit what it writes");
}

#[test]
fn the_time_of_what_nobody_has_seen_is_text_to_every_reader() {
    assert!(plimsoll_crds::definition().unwrap().contains("lastTransitionTime: \"1970-01-01T00:00:00Z\"\n"));
}

#[test]
fn every_field_of_the_spec_and_status_is_described() {
    fn undescribed(path: &str, schema: &Value, found: &mut Vec<String>) {
        let properties = schema["properties"].as_object().into_iter().flatten();
        for (name, field) in properties {
            let path = format!("{path}.{name}");
            if field["description"].as_str().is_none_or(str::is_empty) {
                found.push(path.clone());
            }
            undescribed(&path, field, found);
            undescribed(&format!("{path}[]"), &field["items"], found);
        }
    }
    let definition = serde_json::to_value(ApiDeployment::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        undescribed(part, &schema[part], &mut found);
    }
    assert_eq!(found, Vec::<String>::new());
}

/// What a document shows as YAML, as a spec.
fn examples(document: &str) -> Vec<Value> {
    let blocks = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.map(|block| serde_yaml::from_str(block).unwrap()).collect()
}

/// Whether everything that is written was read, and read as it is written.
fn holds(read: &Value, written: &Value) -> bool {
    match (read, written) {
        (Value::Object(read), Value::Object(written)) => {
            written.iter().all(|(key, value)| read.get(key).is_some_and(|read| holds(read, value)))
        }
        (Value::Array(read), Value::Array(written)) => {
            read.len() == written.len()
                && read.iter().zip(written).all(|(read, written)| holds(read, written))
        }
        _ => read == written,
    }
}

#[test]
fn the_documents_show_fields_that_are_there() {
    let examples = examples(include_str!("../../docs/scaling.md"));
    assert_eq!(examples.len(), 3);
    for example in examples {
        let mut whole = serde_json::json!({ "latency": {} });
        whole.as_object_mut().unwrap().extend(example.as_object().unwrap().clone());
        let spec: ApiDeploymentSpec = serde_json::from_value(whole).unwrap();
        let read = serde_json::to_value(spec).unwrap();
        assert!(holds(&read, &example), "{example:#} was read as {read:#}");
    }
}

#[test]
fn scaling_is_stored_with_its_defaults() {
    let spec: ApiDeploymentSpec = serde_json::from_value(serde_json::json!({ "latency": {} })).unwrap();
    let stored = serde_json::to_value(spec).unwrap();
    assert_eq!(stored["scaling"], serde_json::json!({ "mode": "Auto", "violationPrice": 60 }));
    let definition = serde_json::to_value(ApiDeployment::crd()).unwrap();
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let scaling = &spec["properties"]["scaling"];
    assert_eq!(scaling["default"], stored["scaling"]);
    let schedule = &scaling["properties"]["schedules"]["items"]["properties"];
    assert_eq!(schedule["timeZone"]["default"], "UTC");
    assert_eq!(schedule["days"]["default"].as_array().unwrap().len(), 7);
    assert_eq!(scaling["properties"]["up"]["properties"]["periodSeconds"]["default"], 60);
}

#[test]
fn condition_types_are_listed_once() {
    let mut names = ConditionType::ALL.map(ConditionType::as_str).to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ConditionType::ALL.len());
}
