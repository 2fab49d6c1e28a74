//! Holds `docs/gitops.md` to what the operator writes: Argo CD's health of a resource, by the script that the page gives.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use plimsoll_tests::paths;
use serde_json::{Value, json};

const KEY: &str = "resource.customizations.health.plimsoll.dev_ApiDeployment";

/// The script as Argo CD gets it from the ConfigMap.
fn script() -> String {
    let page = std::fs::read_to_string(paths::project().join("docs/gitops.md")).unwrap();
    let block = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let config: Value = serde_yaml::from_str(block).unwrap();
    config["data"][KEY].as_str().unwrap().to_owned()
}

/// A value as Lua writes it.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".into(),
        Value::Array(items) => format!("{{{}}}", items.iter().map(lua).collect::<Vec<_>>().join(",")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("[{name:?}]={}", lua(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        scalar => scalar.to_string(),
    }
}

/// Health and message of a resource, by the Lua that Argo CD speaks, which is that of version 5.1.
fn health(object: &Value) -> (String, String) {
    let program = format!(
        "obj = {}\nlocal health = (function()\n{}\nend)()\nprint(health.status)\nprint(health.message)",
        lua(object),
        script()
    );
    let mut lua = Command::new("lua5.1")
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the package lua5.1; `cargo xtask test` installs it");
    lua.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    let output = lua.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}");
    let said = String::from_utf8(output.stdout).unwrap();
    let (status, message) = said.trim_end().split_once('\n').unwrap();
    (status.into(), message.into())
}

fn resource(observed: Option<i64>, conditions: &[(&str, &str, &str)]) -> Value {
    let conditions = conditions.iter().map(|(type_, status, reason)| {
        json!({ "type": type_, "status": status, "reason": reason, "message": format!("{type_}: {reason}") })
    });
    let mut status = json!({ "conditions": conditions.collect::<Vec<_>>() });
    if let Some(observed) = observed {
        status["observedGeneration"] = observed.into();
    }
    json!({ "metadata": { "name": "posts", "generation": 2 }, "status": status })
}

fn of(conditions: &[(&str, &str, &str)]) -> (String, String) {
    health(&resource(Some(2), conditions))
}

#[test]
fn argo_cd_tells_what_the_conditions_say() {
    let quiet = [("Reconciling", "False", "Reconciled"), ("Stalled", "False", "Reconciled")];
    let with = |more: &[(&'static str, &'static str, &'static str)]| of(&[more, &quiet].concat());
    assert_eq!(with(&[("Ready", "True", "Available")]), ("Healthy".into(), "Ready: Available".into()));
    assert_eq!(with(&[("Ready", "True", "Hibernated")]).0, "Suspended");
    assert_eq!(with(&[("Ready", "False", "ReplicasUnavailable")]).0, "Progressing");
    assert_eq!(
        of(&[("Ready", "True", "Available"), ("Reconciling", "True", "RolloutInProgress")]),
        ("Progressing".into(), "Reconciling: RolloutInProgress".into())
    );
    assert_eq!(
        of(&[("Ready", "False", "SecretNotFound"), ("Stalled", "True", "SecretNotFound")]),
        ("Degraded".into(), "Stalled: SecretNotFound".into())
    );
}

#[test]
fn what_the_operator_has_not_seen_is_not_healthy() {
    let ready = [("Ready", "True", "Available")];
    assert_eq!(health(&resource(Some(1), &ready)).0, "Progressing");
    assert_eq!(health(&resource(None, &[("Ready", "Unknown", "Pending")])).0, "Progressing");
    assert_eq!(health(&json!({ "metadata": { "generation": 1 } })).0, "Progressing");
}
