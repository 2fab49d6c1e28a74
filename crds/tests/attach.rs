//! The rules about `spec.workload.attachTo`, which are made from the schema.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use kube::CustomResourceExt;
use plimsoll_crds::ApiDeployment;
use serde_json::{Value, json};

/// Rules of the spec, by what their message begins with.
fn rules() -> BTreeMap<String, String> {
    let definition = serde_json::to_value(ApiDeployment::crd()).unwrap();
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let rules = spec["x-kubernetes-validations"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    rules.map(|rule| (text(&rule["message"]), text(&rule["rule"]))).collect()
}

fn rule_of(field: &str) -> String {
    let begin = format!("leave {field} out, or set it to null");
    rules().into_iter().find(|(message, _)| message.starts_with(&begin)).unwrap().1
}

#[test]
fn every_field_applies_to_an_attached_deployment_or_is_refused() {
    let definition = serde_json::to_value(ApiDeployment::crd()).unwrap();
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let applies = ["errorRate", "latency", "metrics", "port", "replicas", "scaling", "workload"];
    for field in spec["properties"].as_object().unwrap().keys() {
        let refused = rules().keys().any(|message| message.starts_with(&format!("leave {field} out")));
        assert_eq!(refused, !applies.contains(&field.as_str()), "{field}");
    }
    for field in spec["properties"]["workload"]["properties"].as_object().unwrap().keys() {
        let refused =
            rules().keys().any(|message| message.starts_with(&format!("leave workload.{field} out")));
        assert_eq!(refused, field != "attachTo", "workload.{field}");
    }
}

#[test]
fn what_has_no_default_must_be_absent() {
    assert!(rule_of("image").contains("|| !has(self.image)"), "{}", rule_of("image"));
    assert!(rule_of("env").contains("(!has(self.env) || size(self.env) == 0)"), "{}", rule_of("env"));
}

#[test]
fn a_stored_default_is_taken_for_nothing_said() {
    for (field, part) in [
        ("cache", "has(self.cache.disabled)"),
        ("cache", "self.cache.managed.memory == '64Mi'"),
        ("resources", "self.resources.limits['memory'] == '256Mi'"),
        ("resources", "size(self.resources.requests) == 2"),
        ("probes", "self.probes.startup.failureThreshold == 60"),
        ("probes", "self.probes.readiness.path == '/readyz'"),
    ] {
        let rule = rule_of(field);
        assert!(rule.contains(part), "{part} is not in {rule}");
    }
}

#[test]
fn attaching_is_for_the_life_of_the_resource() {
    let rules = rules();
    let (message, _) = rules.iter().find(|(_, rule)| rule.contains("oldSelf.workload")).unwrap();
    assert!(message.contains("make another ApiDeployment"), "{message}");
}

#[test]
fn the_document_shows_a_resource_that_can_be_read() {
    let document = include_str!("../../docs/attach.md");
    let block = document.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let app: ApiDeployment = serde_yaml::from_str(block).unwrap();
    assert_eq!(app.spec.attached_to(), Some("checkout"));
    let written: Value = serde_yaml::from_str(block).unwrap();
    assert_eq!(written["spec"]["workload"], json!({ "attachTo": { "name": "checkout" } }));
}
