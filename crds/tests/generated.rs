//! The committed CustomResourceDefinition is the one that the types give.

use kube::CustomResourceExt;
use plimsoll_crds::{ApiDeployment, ConditionType};
use serde_json::Value;

#[test]
fn the_committed_definition_is_not_stale() {
    let committed: Value = serde_yaml::from_str(include_str!("../generated/apideployments.yaml")).unwrap();
    let generated = serde_json::to_value(ApiDeployment::crd()).unwrap();
    assert!(committed == generated, "run `cargo xtask generate` and commit what it writes");
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

#[test]
fn condition_types_are_listed_once() {
    let mut names = ConditionType::ALL.map(ConditionType::as_str).to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ConditionType::ALL.len());
}
