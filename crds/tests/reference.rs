//! docs/resource.md lists every field, as the schema has it. `UPDATE_GOLDEN=1 cargo test -p plimsoll-crds` writes it anew.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::path::PathBuf;

use kube::CustomResourceExt;
use plimsoll_crds::{ApiDeployment, ConditionType};
use serde_json::{Map, Value, json};

/// Fields that hold an object of Kubernetes' own, which its documentation describes.
const KUBERNETES: [(&str, &str); 12] = [
    ("spec.env[]", "EnvVar"),
    ("spec.resources", "ResourceRequirements"),
    ("spec.workload.affinity", "Affinity"),
    ("spec.workload.tolerations[]", "Toleration"),
    ("spec.workload.topologySpreadConstraints[]", "TopologySpreadConstraint"),
    ("spec.workload.volumes[].emptyDir", "EmptyDirVolumeSource"),
    ("spec.workload.volumes[].downwardAPI.items[]", "DownwardAPIVolumeFile"),
    ("spec.workload.volumes[].projected.sources[].downwardAPI.items[]", "DownwardAPIVolumeFile"),
    ("spec.networkPolicy.from[]", "NetworkPolicyPeer"),
    ("spec.networkPolicy.metricsFrom[]", "NetworkPolicyPeer"),
    ("spec.cache.managed.memory", "Quantity"),
    ("status.conditions[]", "Condition"),
];

const HEAD: &str = "# The resource\n\n<!-- Written from the schema by `cargo xtask generate`; do not edit. -->\n\n\
Every field of an `ApiDeployment` (`plimsoll.dev/v1alpha1`), as `kubectl explain apid` tells it too. A default is stored with the \
object. A list is written as `field[]`, a map as `field.*`. What an object of Kubernetes' own holds is told in \
[Kubernetes' reference](https://kubernetes.io/docs/reference/kubernetes-api/).\n\n\
A field that is left out has the default of its row; of one that is written, the fields that are left out have those of theirs. \
`crds/examples/` has manifests to begin with. Who may write what is told in\n\
[ADR 9](adr/0009-an-author-reaches-no-further.md).\n";

struct Reference {
    text: String,
    kubernetes: Vec<String>,
}

impl Reference {
    /// The rows of a field and of all fields under it.
    fn rows(&mut self, path: &str, schema: &Value) {
        let known = KUBERNETES.iter().find(|(known, _)| *known == path || *known == format!("{path}[]"));
        if let Some((known, _)) = known {
            self.kubernetes.push((*known).to_owned());
        }
        self.row(path, schema, known.map(|(_, kind)| *kind));
        if known.is_none() {
            self.below(path, schema);
        }
    }

    fn below(&mut self, path: &str, schema: &Value) {
        let properties = |schema: &Value| schema["properties"].as_object().cloned().unwrap_or_default();
        for (name, field) in properties(schema) {
            self.rows(&format!("{path}.{name}"), &field);
        }
        for (name, field) in properties(&schema["items"]) {
            self.rows(&format!("{path}[].{name}"), &field);
        }
    }

    fn row(&mut self, path: &str, schema: &Value, kubernetes: Option<&str>) {
        let cell = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
        let default = match &schema["default"] {
            Value::Null => String::new(),
            Value::Object(value) if kubernetes.is_none() => beside_fields(value, schema),
            value => format!("`{value}`"),
        };
        let meaning = cell(schema["description"].as_str().unwrap_or_default());
        writeln!(self.text, "| `{path}` | {} | {default} | {meaning} |", type_of(schema, kubernetes))
            .unwrap();
    }

    fn table(&mut self) {
        self.text += "\n| Field | Type | Default | Meaning |\n|---|---|---|---|\n";
    }
}

/// What an object is when it is left out, but for what its fields are when they are.
fn beside_fields(value: &Map<String, Value>, schema: &Value) -> String {
    let differs = |(name, value): &(&String, &Value)| {
        !value.is_null() && schema["properties"][name.as_str()]["default"] != **value
    };
    let beside = value.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone()));
    let beside = Value::Object(beside.collect());
    if beside == json!({}) { String::new() } else { format!("`{beside}`") }
}

/// The type as a person reads it, with its bounds.
fn type_of(schema: &Value, kubernetes: Option<&str>) -> String {
    if schema["type"] == "array" {
        let inner = kubernetes.map_or_else(|| type_of(&schema["items"], None), ToOwned::to_owned);
        let most = schema["maxItems"].as_u64().map(|most| format!(", at most {most}"));
        return format!("list of {inner}{}", most.unwrap_or_default());
    }
    if let Some(kind) = kubernetes {
        return kind.to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().filter(|value| !value.is_null()).map(|value| format!("`{value}`"));
        return values.collect::<Vec<_>>().join(", ").replace('"', "");
    }
    let kind = match schema["type"].as_str() {
        _ if schema["x-kubernetes-int-or-string"] == true => "integer or string",
        Some("object") if !schema["additionalProperties"].is_null() => "map of strings",
        Some(kind) => kind,
        None => "any",
    };
    let bounds = match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some(min), Some(max)) => format!(", {min} to {max}"),
        (Some(min), None) => format!(", from {min}"),
        _ => String::new(),
    };
    format!("{kind}{bounds}")
}

/// Whether a field has a section of its own.
fn is_deep(schema: &Value) -> bool {
    schema["properties"].is_object() || schema["items"]["properties"].is_object()
}

fn reference() -> Reference {
    let definition = serde_json::to_value(ApiDeployment::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut reference = Reference { text: HEAD.to_owned(), kubernetes: Vec::new() };
    for part in ["spec", "status"] {
        let description = schema[part]["description"].as_str().unwrap();
        write!(reference.text, "\n## {part}\n\n{description}\n").unwrap();
        let fields = schema[part]["properties"].as_object().unwrap();
        reference.table();
        for (name, field) in fields.iter().filter(|(_, field)| !is_deep(field)) {
            reference.rows(&format!("{part}.{name}"), field);
        }
        for (name, field) in fields.iter().filter(|(_, field)| is_deep(field)) {
            write!(reference.text, "\n### {part}.{name}\n").unwrap();
            reference.table();
            reference.rows(&format!("{part}.{name}"), field);
        }
    }
    reference.text += "\n## Conditions\n\nIn `status.conditions`, in this order: ";
    let types = ConditionType::ALL.map(|type_| format!("`{}`", type_.as_str()));
    writeln!(
        reference.text,
        "{}. [conditions.md](conditions.md) tells what to do about each.",
        types.join(", ")
    )
    .unwrap();
    reference
}

#[test]
fn the_document_lists_every_field() {
    let path = [env!("CARGO_MANIFEST_DIR"), "..", "docs", "resource.md"].iter().collect::<PathBuf>();
    let text = reference().text;
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/resource.md is stale: run `cargo xtask generate` and commit what it writes"
    );
}

#[test]
fn what_is_left_to_kubernetes_documentation_is_there() {
    let mut found = reference().kubernetes;
    found.sort_unstable();
    let mut listed = KUBERNETES.map(|(path, _)| path.to_owned()).to_vec();
    listed.sort_unstable();
    assert_eq!(found, listed);
}
