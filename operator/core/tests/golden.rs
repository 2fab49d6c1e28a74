//! The children, and the form of the engine's record, as committed files. `UPDATE_GOLDEN=1 cargo test -p plimsoll-core` writes them anew.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;

use common::{app, credentials, settings};
use plimsoll_core::build;
use plimsoll_core::engine::{
    Bound, CapacitySummary, Counterfactual, Decision, Inputs, Outlook, Rule, TargetSummary, VERSION,
};
use plimsoll_crds::{ApiDeployment, CacheKind};
use serde_json::json;

fn directory() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden"].iter().collect()
}

/// An image of somebody else's, with all that a workload can be told.
fn full() -> ApiDeployment {
    app(&json!({
        "image": "registry.example.com/acme/shop:1.4.2@sha256:0123",
        "imagePullSecrets": [{ "name": "registry" }],
        "command": ["/shop"], "args": ["serve"],
        "envFrom": [{ "configMapRef": { "name": "settings" } }, { "prefix": "S_", "secretRef": { "name": "keys", "optional": true } }],
        "metrics": { "port": 9090 },
        "probes": {
            "startup": { "exec": { "command": ["/shop", "check"] }, "initialDelaySeconds": 2 },
            "liveness": { "disabled": {} },
            "readiness": { "httpGet": { "path": "/ready", "port": "metrics", "scheme": "HTTPS", "httpHeaders": [{ "name": "Host", "value": "shop" }] } },
        },
        "workload": {
            "serviceAccountName": "shop", "automountServiceAccountToken": true, "priorityClassName": "high",
            "nodeSelector": { "kubernetes.io/os": "linux" },
            "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"] }] },
            ] } } },
            "tolerations": [{ "key": "dedicated", "operator": "Exists", "effect": "NoSchedule" }],
            "topologySpreadConstraints": [{ "maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule" }],
            "volumes": [
                { "name": "settings", "configMap": { "name": "settings", "items": [{ "key": "shop.yaml", "path": "shop.yaml" }] } },
                { "name": "keys", "secret": { "secretName": "keys", "defaultMode": 288, "optional": true } },
                { "name": "scratch", "emptyDir": { "sizeLimit": "64Mi" } },
                { "name": "files", "persistentVolumeClaim": { "claimName": "files" } },
                { "name": "about", "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
                { "name": "mixed", "projected": { "sources": [{ "configMap": { "name": "settings" } }, { "secret": { "name": "keys" } }] } },
            ],
            "volumeMounts": [
                { "name": "settings", "mountPath": "/etc/shop", "readOnly": true },
                { "name": "scratch", "mountPath": "/tmp" },
                { "name": "files", "mountPath": "/data" },
            ],
            "labels": { "team": "shop" }, "annotations": { "example.com/note": "hello" },
            "strategy": { "maxSurge": 2, "maxUnavailable": "10%" },
            "drain": { "sleepSeconds": 10, "graceSeconds": 70 },
        },
        "networkPolicy": {
            "from": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "ingress" } } }],
            "metricsFrom": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "monitoring" } } }],
        },
        "cache": { "managed": {} },
    }))
}

/// A decision with everything that one may hold.
fn decision() -> Decision {
    let counterfactual =
        |replicas| Counterfactual { replicas, violation_chance: 0.25, start_violation_chance: 0.5 };
    Decision {
        version: VERSION,
        from: 4,
        to: 6,
        rule: Rule::Load,
        limit: Some(Bound::Max),
        violated: true,
        inputs: Inputs {
            offered_per_second: 310.5,
            completed_per_second: 300.25,
            shed_per_second: 1.5,
            in_flight: 12.0,
            ready: 4,
            measured: 3,
            excluded: [("Timeout", 1)].into(),
            cost_factor: Some(1.25),
        },
        cheapest: 7,
        outlook: Outlook { expected_per_second: 320.0, p95_per_second: 350.0, horizon_seconds: 25.0 },
        capacity: Some(CapacitySummary {
            per_second: 57.0,
            low_per_second: 50.0,
            high_per_second: 64.0,
            unmeetable: false,
            target: TargetSummary { quantile: 0.99, within_seconds: Some(0.25) },
        }),
        counterfactuals: [5, 6, 7].map(counterfactual).to_vec(),
    }
}

#[test]
fn children_and_the_record_are_as_committed() {
    let bundled = app(&json!({
        "cache": { "managed": { "memory": "64Mi" } },
        "env": [{ "name": "RUST_LOG", "value": "debug" }],
        "metrics": { "port": 9090 },
    }));
    let foreign = app(&json!({ "image": "ghcr.io/acme/shop:1", "database": null, "port": 3000 }));
    let full = full();
    let CacheKind::Managed(cache) = bundled.spec.cache.kind() else { panic!("no cache") };
    let options = app(&json!({
        "cache": { "managed": { "memory": "1Gi", "eviction": "LFU", "exporter": {}, "tls": {} } },
        "database": { "external": { "urlFrom": { "secretKeyRef": { "name": "db", "key": "url" } }, "connectionsPerReplica": 10 } },
    }));
    let CacheKind::Managed(with_options) = options.spec.cache.kind() else { panic!("no cache") };
    let fails_over =
        app(&json!({ "cache": { "managed": { "replicas": 3, "tls": { "secretName": "certificates" } } } }));
    let CacheKind::Managed(several) = fails_over.spec.cache.kind() else { panic!("no cache") };
    let elsewhere = app(&json!({ "image": "ghcr.io/acme/shop:1", "cache": { "external": {
        "urlFrom": { "secretKeyRef": { "name": "redis", "key": "url" } },
        "caFrom": { "secretKeyRef": { "name": "redis", "key": "authority.pem" } },
    } } }));
    let yaml = |value: &serde_json::Value| serde_yaml::to_string(value).unwrap();
    let of = |object: serde_json::Result<serde_json::Value>| yaml(&object.unwrap());
    let api = |app| of(serde_json::to_value(build::deployment(app, &settings(), "r1")));
    let redis = |app, cache| of(serde_json::to_value(build::cache_deployment(app, cache, &settings(), "r1")));
    let children = [
        ("decision.json", serde_json::to_string_pretty(&decision()).unwrap() + "\n"),
        ("deployment.yaml", api(&bundled)),
        ("deployment-foreign-image.yaml", api(&foreign)),
        ("deployment-full.yaml", api(&full)),
        ("disruption-budget.yaml", of(serde_json::to_value(build::disruption_budget(&full).unwrap()))),
        ("network-policy.yaml", of(serde_json::to_value(build::network_policy(&full, &settings()).unwrap()))),
        (
            "cache-network-policy.yaml",
            of(serde_json::to_value(build::cache_network_policy(&full, &settings()).unwrap())),
        ),
        ("service.yaml", of(serde_json::to_value(build::service(&bundled)))),
        ("cache-deployment.yaml", redis(&bundled, cache)),
        ("cache-deployment-options.yaml", redis(&options, with_options)),
        ("deployment-cache-options.yaml", api(&options)),
        ("deployment-external-cache.yaml", api(&elsewhere)),
        (
            "cache-stateful-set.yaml",
            of(serde_json::to_value(build::cache_stateful_set(&fails_over, several, &settings(), "r1"))),
        ),
        (
            "cache-disruption-budget.yaml",
            of(serde_json::to_value(build::cache_disruption_budget(&fails_over).unwrap())),
        ),
        ("cache-nodes-service.yaml", of(serde_json::to_value(build::cache_nodes_service(&fails_over)))),
        ("cache-service.yaml", of(serde_json::to_value(build::cache_service(&bundled)))),
        ("cache-secret.yaml", of(serde_json::to_value(build::cache_secret(&bundled, &credentials())))),
    ];
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        for (file, text) in &children {
            std::fs::write(directory().join(file), text).unwrap();
        }
    }
    for (file, text) in &children {
        let committed = std::fs::read_to_string(directory().join(file)).unwrap_or_default();
        assert_eq!(&committed, text, "{file} is stale: UPDATE_GOLDEN=1 cargo test -p plimsoll-core");
    }
    let used = children.iter().map(|(file, _)| (*file).to_owned()).collect::<BTreeSet<_>>();
    let there = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(there.collect::<BTreeSet<_>>(), used, "a golden file that no test uses");
}

#[test]
fn credentials_do_not_show_in_debug_output() {
    assert!(!format!("{:?}", credentials()).contains("secret"));
}

#[test]
fn no_child_blocks_the_deletion_of_its_owner() {
    let files = std::fs::read_dir(directory()).unwrap();
    let files = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    let owned = files.filter(|file| file.contains("ownerReferences:")).inspect(|file| {
        assert!(!file.contains("blockOwnerDeletion"), "{file}");
    });
    assert!(owned.count() > 10);
}
