//! `spec.workload.attachTo`: an existing Deployment of which only the replicas are scaled, and the rules that refuse what
//! says nothing about such a Deployment.
//!
//! The rules are made from the schema itself: a field that is added to the spec is refused for an attached Deployment
//! unless [`APPLIES`] names it. The API server stores defaults before it judges, so a default is taken for nothing said.
//! Whoever changes a default names the former one in [`FITS_TOO`]: attached resources have it stored.

use kube::KubeSchema;
use kube::core::Rule;
use schemars::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An existing Deployment, in the namespace of the resource.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AttachTo {
    /// Name of the Deployment.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')")
        .message("write attachTo.name as the Deployment has it, such as checkout"))]
    #[schemars(length(max = 253))]
    pub name: String,
}

/// Fields of the spec that mean the same for an attached Deployment.
const APPLIES: [&str; 7] = ["latency", "errorRate", "replicas", "scaling", "port", "metrics", "workload"];
/// What fits too, beside the default.
const FITS_TOO: [(&str, &str); 1] = [("self.cache", "has(self.cache.disabled)")];

/// Adds the rules about `workload.attachTo` to the schema of the spec.
pub(crate) fn add_rules(spec: &mut Schema) {
    let fields = spec.get("properties").cloned().unwrap_or_default();
    let workload = object_of(&fields["workload"])["properties"].clone();
    let whole = refusals("self", &fields, &APPLIES);
    let parts = refusals("self.workload", &workload, &["attachTo"]);
    // By plain paths, whose lengths the API server knows when it estimates what a rule may cost.
    let immutable = Rule::new(
        "(has(self.workload) && has(self.workload.attachTo)) == (has(oldSelf.workload) && has(oldSelf.workload.attachTo)) && \
         (!has(self.workload) || !has(self.workload.attachTo) || self.workload.attachTo.name == oldSelf.workload.attachTo.name)",
    )
    .message(
        "make another ApiDeployment: workload.attachTo cannot be added, changed or removed. Deleting this one leaves the \
         Deployment that it is attached to as it is",
    );
    for rule in whole.into_iter().chain(parts).chain([immutable]) {
        // The schema is an object, which is all that this asks for.
        let _ = kube::core::validate(spec, rule);
    }
}

/// A rule for each field but those that apply.
fn refusals(path: &str, fields: &Value, apply: &[&str]) -> Vec<Rule> {
    let fields = fields.as_object().into_iter().flatten();
    let refused = fields.filter(|(name, _)| !apply.contains(&name.as_str()));
    let rule = |(name, schema): (&String, &Value)| {
        let field = format!("{path}.{name}");
        let shown = field.trim_start_matches("self.");
        let mut fits = unsaid(&field, schema, schema.get("default"));
        if let Some((_, too)) = FITS_TOO.iter().find(|(of, _)| *of == field) {
            fits = format!("{too} || {fits}");
        }
        let rule = Rule::new(format!("!has(self.workload) || !has(self.workload.attachTo) || {fits}"));
        let message = format!(
            "leave {shown} out, or set it to null: with workload.attachTo nothing but the replicas of the Deployment is written"
        );
        rule.message(message.as_str())
    };
    refused.map(rule).collect()
}

/// CEL that holds while a field has its default, or is absent if it has none. A part that is not there makes it an error,
/// which the API server takes for a refusal.
fn unsaid(path: &str, schema: &Value, default: Option<&Value>) -> String {
    let schema = object_of(schema);
    let Some(default) = default.or_else(|| schema.get("default")) else {
        let list = schema["type"].as_str() == Some("array")
            || schema["type"].as_array().is_some_and(|types| types.iter().any(|kind| kind == "array"));
        return if list { format!("(!has({path}) || size({path}) == 0)") } else { format!("!has({path})") };
    };
    let parts = match (default, schema["properties"].as_object()) {
        (Value::Object(default), Some(fields)) => fields
            .iter()
            .map(|(name, schema)| unsaid(&format!("{path}.{name}"), schema, default.get(name)))
            .collect(),
        (Value::Object(map), None) => {
            let entry =
                |(key, value)| format!("{path}[{}] == {}", literal(&Value::from(key)), literal(value));
            let each = map.iter().map(|(key, value)| entry((key.as_str(), value)));
            std::iter::once(format!("size({path}) == {}", map.len())).chain(each).collect()
        }
        (Value::Array(list), _) => {
            vec![format!("{path} == [{}]", list.iter().map(literal).collect::<Vec<_>>().join(", "))]
        }
        (scalar, _) => vec![format!("{path} == {}", literal(scalar))],
    };
    let parts: Vec<String> = parts;
    if parts.is_empty() { format!("has({path})") } else { format!("({})", parts.join(" && ")) }
}

/// The schema of what an optional field holds.
fn object_of(schema: &Value) -> &Value {
    let some = schema["anyOf"].as_array().and_then(|any| any.iter().find(|one| one["type"] != "null"));
    some.unwrap_or(schema)
}

/// A scalar as CEL writes it.
fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        other => other.to_string(),
    }
}
