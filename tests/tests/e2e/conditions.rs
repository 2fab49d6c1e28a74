//! Bad input: refused by the API server with what to write instead, or told by a condition while the last good state
//! keeps serving.

use anyhow::ensure;
use kube::Api;
use plimsoll_crds::ApiDeployment;
use plimsoll_tests::sample;
use serde_json::{Value, json};

use crate::world::{self, SOON};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn resources(resources: &Value) -> Value {
    json!({ "latency": { "p99": "1s" }, "resources": resources })
}

fn cache_memory(memory: &Value) -> Value {
    json!({ "latency": { "p99": "1s" }, "cache": { "managed": { "memory": memory } } })
}

fn scaling(scaling: &Value) -> Value {
    json!({ "latency": { "p99": "1s" }, "scaling": scaling })
}

/// Schedules of a name, a beginning, an end and a time zone.
fn schedules(schedules: &[(&str, &str, &str, &str)]) -> Value {
    let schedules = schedules.iter().map(|(name, from, to, zone)| {
        json!({ "name": name, "from": from, "to": to, "timeZone": zone, "replicas": 3 })
    });
    scaling(&json!({ "schedules": schedules.collect::<Vec<_>>() }))
}

#[test]
fn takes_every_hand_on_scaling_and_stores_its_defaults() {
    world::run("hands", async |world| {
        let full = json!({
            "latency": { "p50": "20ms", "p90": "20ms", "p95": "0.1s", "p99": "250ms", "p999": "1s" },
            "errorRate": "0.05%",
            "scaling": {
                "pause": { "up": { "until": "2030-12-01T18:00:00+01:00", "reason": "a migration" } },
                "schedules": [{ "name": "night", "from": "22:00", "to": "24:00", "replicas": 3, "rampSeconds": 900 }],
                "up": { "replicas": 4, "percent": 100 }, "down": { "percent": 10, "periodSeconds": 300 },
            },
        });
        let app = json!({
            "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
            "metadata": { "name": world::NAME, "namespace": world.namespace }, "spec": full,
        });
        sample::apply_all(&world.client, &[app]).await?;
        let apps: Api<ApiDeployment> = Api::namespaced(world.client.clone(), &world.namespace);
        let stored = serde_json::to_value(apps.get(world::NAME).await?.spec.scaling)?;
        let schedule = &stored["schedules"][0];
        ensure!(stored["mode"] == "Auto" && stored["violationPrice"] == 60, "{stored}");
        ensure!(schedule["timeZone"] == "UTC" && schedule["days"] == json!(DAYS), "{stored}");
        ensure!(stored["up"]["periodSeconds"] == 60, "{stored}");
        Ok(())
    });
}

#[test]
fn takes_resources_that_are_written_in_different_units() {
    world::run("units", async |world| {
        for (name, written) in [
            (
                "text",
                json!({ "requests": { "cpu": "500m", "memory": "1G" }, "limits": { "cpu": 1, "memory": "1Gi" } }),
            ),
            (
                "numbers",
                json!({ "requests": { "cpu": 1, "memory": 67_108_864 }, "limits": { "cpu": "1", "memory": "64Mi" } }),
            ),
            ("apart", json!({ "requests": { "cpu": 0 }, "limits": { "memory": "64Mi" } })),
            ("none", json!({})),
        ] {
            let app = json!({
                "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
                "metadata": { "name": name, "namespace": world.namespace }, "spec": resources(&written),
            });
            sample::apply_all(&world.client, &[app]).await?;
        }
        Ok(())
    });
}

fn errors(rate: &str) -> Value {
    json!({ "latency": { "p99": "1s" }, "errorRate": rate })
}

#[test]
fn refuses_what_cannot_work_and_says_what_to_write() {
    world::run("refusals", async |world| {
        for (spec, message) in [
            (json!({}), "spec.latency"),
            (json!({ "latency": {} }), "write at least one target, such as p99: 250ms"),
            (json!({ "latency": { "p99": "250" } }), "write a duration from 1ms to 60s with its unit"),
            (json!({ "latency": { "p999": "1h" } }), "write a duration from 1ms to 60s with its unit"),
            (json!({ "latency": { "p95": "2s", "p99": "1s" } }), "raise the target of the higher percentile"),
            (
                json!({ "latency": { "p50": "2s", "p999": "1s" } }),
                "raise the target of the higher percentile",
            ),
            (errors("0.1"), "write a percentage from 0.001% to 50%"),
            (errors("0%"), "write a percentage from 0.001% to 50%"),
            (errors("51%"), "write a percentage from 0.001% to 50%"),
            (scaling(&json!({ "mode": "auto" })), "supported values: \"Auto\", \"Recommend\""),
            (scaling(&json!({ "violationPrice": 0 })), "spec.scaling.violationPrice"),
            (scaling(&json!({ "pause": {} })), "write the direction to pause"),
            (scaling(&json!({ "pause": { "down": {} } })), "spec.scaling.pause.down.until"),
            (
                scaling(&json!({ "pause": { "up": { "until": "tomorrow" } } })),
                "write until as a time with its zone",
            ),
            (
                scaling(&json!({ "pause": { "up": { "until": "2030-02-30T00:00:00Z" } } })),
                "write until as a time with its zone",
            ),
            (scaling(&json!({ "up": {} })), "write replicas, percent or both"),
            (
                scaling(&json!({ "down": { "percent": 10, "periodSeconds": 3600 } })),
                "spec.scaling.down.periodSeconds",
            ),
            (schedules(&[("a", "8:00", "18:00", "UTC")]), "write from as a time of day"),
            (schedules(&[("a", "08:00", "24:01", "UTC")]), "write to as a time of day"),
            (schedules(&[("a", "08:00", "08:00", "UTC")]), "write from and to that differ"),
            (schedules(&[("a", "08:00", "18:00", "+02:00")]), "write timeZone as the IANA database names it"),
            (schedules(&[("a", "08:00", "18:00", "Europe/Berlim")]), "unknown time zone Europe/Berlim"),
            (
                schedules(&[("a", "08:00", "18:00", "UTC"), ("a", "19:00", "20:00", "UTC")]),
                // The API server's own words: the list is a map by name.
                ".spec.scaling.schedules: duplicate entries for key [name=\"a\"]",
            ),
            (
                json!({ "latency": { "p99": "1s" }, "replicas": { "min": 5, "max": 2 } }),
                "raise replicas.max or lower replicas.min",
            ),
            (
                json!({ "latency": { "p99": "1s" }, "cache": { "managed": {}, "disabled": {} } }),
                "write exactly one of cache.managed",
            ),
            (
                json!({ "latency": { "p99": "1s" }, "cache": { "managed": { "memory": "1Mi" } } }),
                "from 16Mi to 1Ti",
            ),
            (
                resources(&json!({ "requests": { "cpu": "2" }, "limits": { "cpu": "1500m" } })),
                "lower resources.requests",
            ),
            (
                resources(&json!({ "requests": { "cpu": 2 }, "limits": { "cpu": "1500m" } })),
                "lower resources.requests",
            ),
            (
                resources(&json!({ "requests": { "memory": "1Gi" }, "limits": { "memory": "1G" } })),
                "lower resources.requests",
            ),
            (resources(&json!({ "requests": { "cpu": "much" } })), "write each of resources.requests"),
            (resources(&json!({ "requests": { "memory": "-1Mi" } })), "write each of resources.requests"),
            (resources(&json!({ "limits": { "memory": 0 } })), "write each of resources.limits"),
            (resources(&json!({ "limits": { "cpu": "-1" } })), "write each of resources.limits"),
            (resources(&json!({ "claims": [{ "name": "gpu" }] })), "leave resources.claims out"),
            (cache_memory(&json!("0")), "from 16Mi to 1Ti"),
            (cache_memory(&json!("-64Mi")), "from 16Mi to 1Ti"),
            (cache_memory(&json!("plenty")), "from 16Mi to 1Ti"),
            (cache_memory(&json!(64)), "from 16Mi to 1Ti"),
            (
                json!({ "latency": { "p99": "1s" }, "env": [{ "name": "PLIMSOLL_LISTEN", "value": "x" }] }),
                "rename the variable",
            ),
            (json!({ "latency": { "p99": "1s" }, "image": "" }), "write an image reference"),
            (
                json!({ "latency": { "p99": "1s" }, "metrics": { "path": "metrics" } }),
                "write a path that begins with /",
            ),
        ] {
            let app = json!({
                "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
                "metadata": { "name": world::NAME, "namespace": world.namespace }, "spec": spec,
            });
            let error = sample::apply_all(&world.client, std::slice::from_ref(&app)).await.err();
            let said = error.map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(said.contains(message), "{app} should be refused with {message:?}, but: {said:?}");
        }
        Ok(())
    });
}

#[test]
fn more_than_one_replica_on_the_embedded_database_is_told_so() {
    world::run("embedded", async |world| {
        let app = json!({
            "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
            "metadata": { "name": world::NAME, "namespace": world.namespace },
            "spec": { "latency": { "p99": "250ms" }, "replicas": { "min": 2, "max": 5 }, "cache": { "disabled": {} } },
        });
        sample::apply_all(&world.client, &[app]).await?;
        let message = world.until_condition("ScalingLimited", "True", "EmbeddedDatabase").await?;
        ensure!(message.contains("database.external"), "the message does not say what to write: {message}");
        world.until_ready_replicas(1, SOON).await
    });
}

#[test]
fn a_missing_secret_is_named_and_its_coming_heals() {
    world::run("secret", async |world| {
        let changes =
            json!({ "database": { "external": { "urlFrom": { "secretKeyRef": { "name": "later" } } } } });
        sample::apply_all(&world.client, &[world.app(changes)]).await?;
        let message = world.until_condition("Ready", "False", "SecretNotFound").await?;
        ensure!(message.contains("later"), "the message does not name the Secret: {message}");
        let url = format!("postgres://postgres:{}@postgres:5432/posts", "loaded-to-the-line");
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "later", "namespace": world.namespace }, "stringData": { "url": url },
        });
        sample::apply_all(&world.client, &[secret]).await?;
        world.until(world::NAME, SOON, sample::ready, "is Ready").await.map(drop)
    });
}

#[test]
fn an_image_that_does_not_exist_leaves_the_last_good_one_serving() {
    world::run("bad-image", async |world| {
        world.apply_ready(json!({})).await?;
        world.until_ready_replicas(2, SOON).await?;
        let load = world.load("0,10\n20,10\n", &[("/posts/{post}", 1)]).await?;
        world.patch(json!({ "image": "docker.io/plimsoll/none:1" })).await?;
        let not_ready = |app: Option<&ApiDeployment>| {
            world::condition(app, "Reconciling").is_some_and(|it| it.status == "True")
        };
        world.until(world::NAME, SOON, not_ready, "is Reconciling").await?;
        let (summary, _) = load.finish().await?;
        ensure!(
            summary.ends.unserved() == 0,
            "{} requests failed: {:?}",
            summary.ends.unserved(),
            summary.failures
        );
        world.patch(json!({ "image": Value::Null })).await?;
        world.until(world::NAME, SOON, sample::ready, "is Ready again").await?;
        world.until_ready_replicas(2, SOON).await
    });
}

#[test]
fn the_first_reconcile_already_says_ready_or_not() {
    world::run("first", async |world| {
        sample::apply_all(&world.client, &[world.app(json!({}))]).await?;
        let any = |app: Option<&ApiDeployment>| {
            let seen = |app: &ApiDeployment| app.status.as_ref()?.observed_generation;
            app.and_then(seen).is_some()
        };
        let app = world.until(world::NAME, SOON, any, "has a status of the operator").await?;
        for type_ in ["Ready", "Reconciling", "Stalled"] {
            let condition = world::condition(app.as_ref(), type_);
            ensure!(
                condition.is_some_and(|it| it.observed_generation == Some(1)),
                "{type_} is not there at first: {condition:?}"
            );
        }
        Ok(())
    });
}
