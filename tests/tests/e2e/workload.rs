//! How the pods run: a spec with everything in it, configuration that changes, and authors with few rights.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use plimsoll_crds::ApiDeployment;
use plimsoll_tests::{paths, sample};
use serde_json::{Value, json};

use crate::world::{self, NAME, SOON, World, is_ready};

const HASH: &str = "plimsoll.dev/config-hash";

fn config_map(namespace: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "settings", "namespace": namespace }, "data": data,
    })
}

/// The annotation by which configuration rolls out, of each pod that is ready.
async fn hashes(world: &World) -> Result<Vec<Option<String>>> {
    let pods = world.api_pods().await?;
    let hash = |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|all| all.get(HASH).cloned());
    Ok(pods.iter().filter(|pod| is_ready(pod)).map(hash).collect())
}

#[test]
fn a_full_spec_runs_under_the_restricted_profile_and_changed_configuration_rolls_out() {
    world::run("workload", async |world| {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "shop", "namespace": world.namespace },
        });
        sample::apply_all(&world.client, &[account]).await?;
        let changes = json!({
            "replicas": { "min": 2, "max": 4, "pinned": 2 },
            "envFrom": [{ "configMapRef": { "name": "settings" } }],
            "probes": {
                "startup": { "tcpSocket": { "port": "http" }, "periodSeconds": 1, "failureThreshold": 60 },
                "liveness": { "disabled": {} },
                "readiness": { "httpGet": { "path": "/readyz", "httpHeaders": [{ "name": "X-Probe", "value": "e2e" }] }, "periodSeconds": 1 },
            },
            "workload": {
                "serviceAccountName": "shop", "automountServiceAccountToken": true,
                "nodeSelector": { "kubernetes.io/os": "linux" },
                "tolerations": [
                    { "key": "dedicated", "operator": "Exists" },
                    { "key": "example.com/slow", "value": "true", "effect": "NoExecute", "tolerationSeconds": 60 },
                ],
                "topologySpreadConstraints": [
                    { "maxSkew": 2, "minDomains": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "nodeTaintsPolicy": "Honor" },
                ],
                "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
                    { "weight": 1, "podAffinityTerm": { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "team": "shop" } } } },
                ] } },
                "volumes": [
                    { "name": "settings", "configMap": { "name": "settings" } },
                    { "name": "url", "secret": { "secretName": "postgres", "defaultMode": 288 } },
                    { "name": "about", "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
                    { "name": "scratch", "emptyDir": { "sizeLimit": "8Mi" } },
                ],
                "volumeMounts": [
                    { "name": "settings", "mountPath": "/etc/settings", "readOnly": true },
                    { "name": "url", "mountPath": "/etc/url" },
                    { "name": "about", "mountPath": "/etc/about" },
                    { "name": "scratch", "mountPath": "/tmp" },
                ],
                "labels": { "team": "shop" }, "annotations": { "example.com/note": "hello" },
                "drain": { "sleepSeconds": 1, "graceSeconds": 30 },
            },
            "networkPolicy": {},
        });
        sample::apply_all(&world.client, &[world.app(changes)]).await?;
        let message = world.until_condition("Ready", "False", "ConfigMapNotFound").await?;
        ensure!(message.contains("ConfigMap settings"), "the message does not name it: {message}");

        let first = config_map(&world.namespace, &json!({ "LOG_LEVEL": "info" }));
        sample::apply_all(&world.client, &[first]).await?;
        world.until(NAME, SOON, sample::ready, "is Ready").await?;
        world.until_ready_replicas(2, SOON).await?;
        let before = hashes(world).await?;
        ensure!(before.len() == 2 && before[0].is_some() && before[0] == before[1], "{before:?}");
        let policies = world.kubectl(&["get", "networkpolicies,poddisruptionbudgets", "-o", "name"]).await?;
        ensure!(policies.lines().count() == 3, "two policies and a budget: {policies}");

        let second = config_map(&world.namespace, &json!({ "LOG_LEVEL": "debug" }));
        sample::apply_all(&world.client, &[second]).await?;
        world
            .eventually(Duration::from_mins(2), "both pods are of the new configuration", async || {
                let now = hashes(world).await?;
                Ok(now.len() == 2 && now.iter().all(|hash| hash.is_some() && *hash != before[0]))
            })
            .await?;
        let configured = hashes(world).await?;
        let kept = json!({ "stringData": { "note": "a key more" } }).to_string();
        world.kubectl(&["patch", "secret", "postgres", "--type", "merge", "--patch", &kept]).await?;
        world
            .eventually(Duration::from_mins(2), "both pods are of the changed Secret", async || {
                let now = hashes(world).await?;
                Ok(now.len() == 2 && now.iter().all(|hash| hash.is_some() && *hash != configured[0]))
            })
            .await?;
        let off = json!({
            "networkPolicy": Value::Null, "disruptionBudget": { "disabled": {} },
            "cache": { "managed": Value::Null, "disabled": {} },
        });
        world.patch(off).await?;
        world
            .eventually(SOON, "what is switched off is gone", async || {
                let kinds = "networkpolicies,poddisruptionbudgets";
                let guards = world.kubectl(&["get", kinds, "-o", "name"]).await?;
                let cache = "app.kubernetes.io/component=cache";
                let cache =
                    world.kubectl(&["get", "deployments,services", "-l", cache, "-o", "name"]).await?;
                Ok(guards.trim().is_empty() && cache.trim().is_empty())
            })
            .await
    });
}

/// An example as its file has it.
fn example(name: &str) -> Result<Value> {
    let path = paths::project().join("crds/examples").join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_yaml::from_str(&text).with_context(|| format!("read {} as YAML", path.display()))
}

#[test]
fn the_examples_run() {
    world::run("examples", async |world| {
        let files = std::fs::read_dir(paths::project().join("crds/examples")).context("list the examples")?;
        let names = files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<Result<Vec<_>>>()?;
        names.sort_unstable();
        ensure!(names == ["minimal.yaml", "own-image.yaml", "scaled.yaml"], "one is not run here: {names:?}");

        let in_namespace = |mut object: Value| {
            object["metadata"]["namespace"] = world.namespace.clone().into();
            object
        };
        sample::apply_all(&world.client, &[in_namespace(example("minimal.yaml")?)]).await?;
        world.until(NAME, SOON, sample::ready, "is Ready with the first example").await?;

        // What the examples tell to make first.
        let url = world.kubectl(&["get", "secret", "postgres", "-o", "jsonpath={.data.url}"]).await?;
        let object = |kind: &str, name: &str| {
            in_namespace(json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } }))
        };
        let mut database = object("Secret", "posts-database");
        database["data"] = json!({ "url": url });
        let mut settings = object("ConfigMap", "shop-settings");
        settings["data"] = json!({ "LOG_LEVEL": "info", "shop.yaml": "currency: EUR" });
        let mut keys = object("Secret", "shop-keys");
        keys["stringData"] = json!({ "PAYMENT_KEY": "none" });
        sample::apply_all(&world.client, &[database, settings, keys]).await?;

        sample::apply_all(&world.client, &[in_namespace(example("scaled.yaml")?)]).await?;
        let grown = |app: Option<&ApiDeployment>| {
            let ready = app.and_then(|app| app.status.as_ref()?.ready_replicas);
            sample::ready(app) && ready.is_some_and(|ready| ready >= 2)
        };
        world.until(NAME, SOON, grown, "is Ready with two replicas of the second example").await?;

        // Nobody can pull its image: everything is made, and no replica of it.
        let mut own = in_namespace(example("own-image.yaml")?);
        own["spec"]["replicas"]["pinned"] = 0.into();
        sample::apply_all(&world.client, &[own]).await?;
        world.until("shop", SOON, sample::ready, "is Ready, hibernated").await?;
        for child in ["deployment/shop", "service/shop", "networkpolicy/shop", "poddisruptionbudget/shop"] {
            world.kubectl(&["get", child]).await?;
        }
        Ok(())
    });
}

/// What may write ApiDeployments here, and nothing else.
fn author(namespace: &str) -> Vec<Value> {
    let metadata = json!({ "name": "author", "namespace": namespace });
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
            "rules": [
                { "apiGroups": ["plimsoll.dev"], "resources": ["apideployments"], "verbs": ["create", "get", "patch", "update"] },
                { "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["granted"], "verbs": ["get"] },
                { "apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["granted"], "verbs": ["update"] },
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "author" },
            "subjects": [{ "kind": "ServiceAccount", "name": "author", "namespace": namespace }],
        }),
    ]
}

/// What the API server says to an author's spec; empty when it takes it.
async fn said_to_author(world: &World, verb: &str, spec: Value) -> Result<String> {
    let mut whole = json!({ "latency": { "p99": "250ms" }, "image": "any", "cache": { "disabled": {} } });
    if let (Value::Object(whole), Value::Object(spec)) = (&mut whole, spec) {
        whole.extend(spec);
        whole.retain(|_, value| !value.is_null());
    }
    let app = json!({
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
        "metadata": { "name": "theirs", "namespace": world.namespace }, "spec": whole,
    });
    serde_json::from_value::<ApiDeployment>(app.clone()).context("a spec that the types know")?;
    let file = tempfile::NamedTempFile::new().context("make a file")?;
    std::fs::write(file.path(), app.to_string()).context("write the manifest")?;
    let author = format!("--as=system:serviceaccount:{}:author", world.namespace);
    let path = file.path().to_str().context("a path that is text")?;
    let said = world.kubectl(&[verb, &author, "--dry-run=server", "--filename", path]).await;
    Ok(said.err().map(|error| format!("{error:#}")).unwrap_or_default())
}

#[test]
fn an_author_without_pods_reaches_no_further_than_before() {
    world::run("authors", async |world| {
        sample::apply_all(&world.client, &author(&world.namespace)).await?;
        let url = |name: &str| json!({ "database": { "external": { "urlFrom": { "secretKeyRef": { "name": name, "key": "url" } } } } });
        let volume = |source: Value| {
            let mut volume = json!({ "name": "v" });
            if let (Value::Object(volume), Value::Object(source)) = (&mut volume, source) {
                volume.extend(source);
            }
            json!({ "workload": { "volumes": [volume] } })
        };
        // The rights have to reach the authorizer first.
        world
            .eventually(SOON, "the author may write a plain spec", async || {
                Ok(said_to_author(world, "create", json!({})).await?.is_empty())
            })
            .await?;
        let attached = |name: &str| json!({ "image": null, "cache": null, "workload": { "attachTo": { "name": name } } });
        for (what, spec) in
            [("a Secret it may get", url("granted")), ("a Deployment it may scale", attached("granted"))]
        {
            let said = said_to_author(world, "create", spec).await?;
            ensure!(said.is_empty(), "{what}: {said}");
        }
        let refused = [
            (url("postgres"), "names a Secret"),
            (json!({ "imagePullSecrets": [{ "name": "registry" }] }), "names a Secret"),
            (
                json!({ "metrics": { "bearerTokenFrom": { "secretKeyRef": { "name": "postgres", "key": "url" } } } }),
                "names a Secret",
            ),
            (json!({ "envFrom": [{ "secretRef": { "name": "postgres" } }] }), "names a Secret"),
            (
                json!({ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "postgres", "key": "url" } } }] }),
                "names a Secret",
            ),
            (volume(json!({ "secret": { "secretName": "postgres" } })), "names a Secret"),
            (
                volume(json!({ "projected": { "sources": [{ "secret": { "name": "postgres" } }] } })),
                "for those who may create deployments",
            ),
            (json!({ "envFrom": [{ "configMapRef": { "name": "settings" } }] }), "names a ConfigMap"),
            (
                volume(json!({ "projected": { "sources": [{ "configMap": { "name": "settings" } }] } })),
                "for those who may create deployments",
            ),
            (json!({ "workload": { "serviceAccountName": "admin" } }), "an account that you may not act as"),
            (
                json!({ "workload": { "priorityClassName": "system-node-critical" } }),
                "for those who may create deployments",
            ),
            (json!({ "workload": { "labels": { "app": "other" } } }), "for those who may create deployments"),
            (
                json!({ "workload": { "tolerations": [{ "operator": "Exists" }] } }),
                "for those who may create deployments",
            ),
            (
                volume(json!({ "persistentVolumeClaim": { "claimName": "other" } })),
                "for those who may create deployments",
            ),
            (json!({ "networkPolicy": {} }), "for those who may create networkpolicies"),
            (attached("postgres"), "names a Deployment that you may not scale"),
        ];
        for (spec, message) in refused {
            let said = said_to_author(world, "create", spec.clone()).await?;
            ensure!(said.contains(message), "{spec} should be refused with {message:?}, but: {said:?}");
        }
        // Neither may it give another image to what somebody else has given a Secret.
        let theirs = json!({
            "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
            "metadata": { "name": "theirs", "namespace": world.namespace },
            "spec": { "latency": { "p99": "250ms" }, "image": "first", "cache": { "disabled": {} }, "replicas": { "min": 1, "max": 1, "pinned": 0 },
                "envFrom": [{ "secretRef": { "name": "postgres" } }] },
        });
        sample::apply_all(&world.client, &[theirs]).await?;
        let spec = json!({ "image": "other", "envFrom": [{ "secretRef": { "name": "postgres" } }] });
        world
            .eventually(SOON, "the API server has decided on an update", async || {
                let said = said_to_author(world, "replace", spec.clone()).await?;
                // The operator's write of the status came in between.
                let modified = said.contains("the object has been modified");
                ensure!(
                    modified || said.contains("names a Secret"),
                    "an update that keeps the reference: {said:?}"
                );
                Ok(!modified)
            })
            .await
    });
}

fn tolerations(toleration: &Value) -> Value {
    json!({ "workload": { "tolerations": [toleration] } })
}

/// A constraint that is right but for `changes`.
fn spread(changes: &Value) -> Value {
    let mut constraint = json!({
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
    });
    world::merge(&mut constraint, changes.clone());
    json!({ "workload": { "topologySpreadConstraints": [constraint] } })
}

#[test]
fn what_cannot_work_or_reaches_beyond_the_namespace_is_refused() {
    world::run("reach", async |world| {
        for (volume, message) in [
            (json!({ "name": "host", "hostPath": { "path": "/" } }), "unknown field"),
            (json!({ "name": "data", "emptyDir": {} }), "other than data, tmp and cache-ca"),
            (json!({ "name": "none" }), "write exactly one of configMap"),
            (
                json!({ "name": "token", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } }),
                "unknown field",
            ),
        ] {
            let app = world.app(json!({ "workload": { "volumes": [volume] } }));
            let file = tempfile::NamedTempFile::new().context("make a file")?;
            std::fs::write(file.path(), app.to_string()).context("write the manifest")?;
            let path = file.path().to_str().context("a path that is text")?;
            let said = world.kubectl(&["create", "--dry-run=server", "--filename", path]).await;
            let said = said.err().map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(said.contains(message), "{volume} should be refused with {message:?}, but: {said:?}");
        }
        for (spec, message) in [
            (
                json!({ "workload": { "strategy": { "maxSurge": 0, "maxUnavailable": "0%" } } }),
                "raise maxSurge",
            ),
            (json!({ "workload": { "strategy": { "maxSurge": "1.5" } } }), "spec.workload.strategy.maxSurge"),
            (
                json!({ "workload": { "drain": { "sleepSeconds": 10, "graceSeconds": 20 } } }),
                "at least sleepSeconds + 25",
            ),
            (
                json!({ "image": "any", "workload": { "drain": { "sleepSeconds": 20, "graceSeconds": 20 } } }),
                "above sleepSeconds",
            ),
            (json!({ "workload": { "automountServiceAccountToken": true } }), "name the account"),
            (json!({ "workload": { "labels": { "plimsoll.dev/app": "x" } } }), "rename the label"),
            (json!({ "workload": { "labels": { "a team": "x" } } }), "write a label's key"),
            (json!({ "workload": { "labels": { "team": "a shop" } } }), "spec.workload.labels"),
            (json!({ "workload": { "annotations": { "example.com/": "x" } } }), "write an annotation's key"),
            (
                json!({ "workload": { "nodeSelector": { "Example.com/zone": "x" } } }),
                "write the keys of nodeSelector",
            ),
            (json!({ "workload": { "nodeSelector": { "zone": "-a" } } }), "spec.workload.nodeSelector"),
            (
                json!({ "workload": { "volumeMounts": [{ "name": "v", "mountPath": "/x" }] } }),
                "write under volumes",
            ),
            (json!({ "workload": { "serviceAccountName": "No_name" } }), "write serviceAccountName"),
            (json!({ "workload": { "priorityClassName": "High!" } }), "write priorityClassName"),
            (tolerations(&json!({ "key": "a", "operator": "Is" })), "write each toleration's operator"),
            (tolerations(&json!({ "key": "a", "effect": "NoScheduling" })), "write each toleration's effect"),
            (tolerations(&json!({ "value": "a" })), "write each toleration's key"),
            (
                tolerations(&json!({ "key": "a", "operator": "Exists", "value": "a" })),
                "with Exists leave value out",
            ),
            (
                tolerations(&json!({ "key": "a", "effect": "NoSchedule", "tolerationSeconds": 5 })),
                "only with effect: NoExecute",
            ),
            (spread(&json!({ "maxSkew": 0 })), "its maxSkew and minDomains from 1 on"),
            (spread(&json!({ "topologyKey": "" })), "write each constraint's topologyKey"),
            (spread(&json!({ "whenUnsatisfiable": "Never" })), "write each constraint's whenUnsatisfiable"),
            (spread(&json!({ "minDomains": 2 })), "with which alone minDomains goes"),
            (spread(&json!({ "nodeTaintsPolicy": "Obey" })), "nodeTaintsPolicy as Honor or Ignore"),
            (json!({ "disruptionBudget": { "maxUnavailable": 0 } }), "spec.disruptionBudget.maxUnavailable"),
            (
                json!({ "disruptionBudget": { "maxUnavailable": "0%" } }),
                "spec.disruptionBudget.maxUnavailable",
            ),
            (json!({ "envFrom": [{ "prefix": "A" }] }), "exactly one of configMapRef"),
            (json!({ "probes": { "readiness": { "periodSeconds": 1 } } }), "write what is asked"),
            (
                json!({ "probes": { "readiness": { "exec": { "command": ["a"] }, "tcpSocket": {} } } }),
                "at most one of httpGet",
            ),
            (
                json!({ "probes": { "readiness": { "tcpSocket": { "port": "other" } } } }),
                "spec.probes.readiness.tcpSocket.port",
            ),
        ] {
            let error = sample::apply_all(&world.client, &[world.app(spec.clone())]).await.err();
            let said = error.map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(said.contains(message), "{spec} should be refused with {message:?}, but: {said:?}");
        }
        Ok(())
    });
}
