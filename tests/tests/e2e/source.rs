//! Where latency is read: of pods by label and with a token, and of a real Prometheus.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use plimsoll_tests::cluster::layout;
use plimsoll_tests::demo::decisions;
use plimsoll_tests::{chart, sample};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::{self, SOON, World};

const WORK: &str = "/work?cpu=2ms";

/// Whether a decision was made from requests that were read.
async fn has_read_requests(world: &World) -> Result<bool> {
    let decisions = decisions(&world.client, &world.namespace, world::NAME).await?;
    let rates = decisions.iter().filter_map(|decision| decision.rest.get("requestsPerSecond")?.as_f64());
    Ok(rates.max_by(f64::total_cmp).is_some_and(|rate| rate > 5.0))
}

#[test]
fn reads_the_chosen_labels_with_a_token_that_a_secret_holds() {
    world::run("labels", async |world| {
        let source = json!({ "secretKeyRef": { "name": "scrape", "key": "token" } });
        let metrics = json!({ "labels": { "route": "/work", "method": "GET" }, "bearerTokenFrom": source });
        world.apply_ready(json!({ "replicas": { "min": 1, "max": 2 }, "metrics": metrics })).await?;
        let told = world.until_condition("MetricsAvailable", "False", "SecretNotFound").await?;
        ensure!(told.contains("Secret scrape with the key token is not there"), "{told}");

        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "scrape", "namespace": world.namespace }, "stringData": { "token": "s3cret" },
        });
        sample::apply_all(&world.client, &[secret]).await?;
        let _load = world.load("0,20\n120,20\n", &[(WORK, 1)]).await?;
        world.until_condition("MetricsAvailable", "True", "Scraped").await?;
        world
            .eventually(SOON, "requests of the route are read", async || has_read_requests(world).await)
            .await?;

        world.patch(json!({ "metrics": { "labels": { "route": "/nowhere" } } })).await?;
        let told = world.until_condition("MetricsAvailable", "False", "LabelsMissing").await?;
        ensure!(told.contains("correct spec.metrics.labels"), "{told}");
        world.until_condition("ScalingActive", "False", "MetricsUnavailable").await.map(drop)
    });
}

#[test]
fn scales_by_what_a_prometheus_has_scraped_and_holds_when_it_is_gone() {
    world::run("prometheus", async |world| {
        let metrics = json!({ "prometheus": {}, "scrapePeriodSeconds": 2 });
        sample::apply_all(
            &world.client,
            &[world.app(json!({ "replicas": { "min": 1, "max": 4 }, "metrics": metrics }))],
        )
        .await?;
        let told = world.until_condition("MetricsAvailable", "False", "PrometheusUnreachable").await?;
        ensure!(told.contains("ask the Prometheus default"), "{told}");

        let prometheus = Prometheus::start(world)?;
        world.until_condition("MetricsAvailable", "True", "Scraped").await?;
        let _load = world.load("0,5\n5,80\n120,80\n", &[(WORK, 1)]).await?;
        world
            .eventually(SOON, "more replicas are wanted under load", async || {
                let deployment = world.deployments().get(world::NAME).await?;
                Ok(deployment.spec.and_then(|spec| spec.replicas).is_some_and(|replicas| replicas >= 2))
            })
            .await?;
        ensure!(has_read_requests(world).await?, "it was not scaled by requests that were read");

        drop(prometheus);
        world.until_condition("MetricsAvailable", "False", "PrometheusUnreachable").await?;
        world.until_condition("ScalingActive", "False", "MetricsUnavailable").await?;

        world.patch(json!({ "metrics": { "prometheus": { "server": "elsewhere" } } })).await?;
        let told = world.until_condition("MetricsAvailable", "False", "PrometheusNotAllowed").await?;
        ensure!(told.contains("write one of default as"), "{told}");
        Ok(())
    });
}

#[test]
fn refuses_a_source_that_is_only_half_written() {
    world::run("source-spec", async |world| {
        let secret = json!({ "secretKeyRef": { "name": "s", "key": "k" } });
        let refused: [(Value, &str); 9] = [
            (json!({ "port": 9090, "portName": "prom" }), "write metrics.port or metrics.portName, not both"),
            (json!({ "scheme": "https" }), "write metrics.tls together with scheme: https"),
            (
                json!({ "tls": { "insecureSkipVerify": true } }),
                "write metrics.tls together with scheme: https",
            ),
            (
                json!({ "scheme": "https", "tls": { "caFrom": secret } }),
                "tls.serverName, a name that is in them",
            ),
            (json!({ "labels": { "le": "0.1" } }), "le is the edge of a bucket"),
            (json!({ "prometheus": {}, "port": 9090 }), "the pods are not asked"),
            (
                json!({ "prometheus": { "query": "up" } }),
                "write prometheus.query and timestampQuery together",
            ),
            (
                json!({ "prometheus": { "bearerTokenFrom": secret, "basicAuth": { "username": "u", "passwordFrom": secret } } }),
                "not both",
            ),
            (json!({ "prometheus": { "tenant": "a\nb" } }), "write a tenant in letters"),
        ];
        for (metrics, message) in refused {
            let error = sample::apply_all(&world.client, &[world.app(json!({ "metrics": metrics }))])
                .await
                .err()
                .with_context(|| format!("it was taken: {metrics}"))?;
            ensure!(format!("{error:#}").contains(message), "{metrics}: {message}\n{error:#}");
        }
        Ok(())
    });
}

/// A real Prometheus on the node's address, which scrapes the pods of one namespace. It ends with the value.
struct Prometheus {
    child: Child,
    _folder: TempDir,
}

impl Prometheus {
    fn start(world: &World) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = json!({
            "global": { "scrape_interval": "2s", "scrape_timeout": "1s" },
            "scrape_configs": [{
                "job_name": "pods",
                "kubernetes_sd_configs": [{
                    "role": "pod", "kubeconfig_file": layout::kubeconfig(), "namespaces": { "names": [world.namespace] },
                }],
                "relabel_configs": [
                    { "source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": "http", "action": "keep" },
                    { "source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace" },
                    { "source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod" },
                ],
            }],
        });
        std::fs::write(folder.path().join("prometheus.yaml"), serde_yaml::to_string(&config)?)?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={}", chart::PROMETHEUS))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start Debian's package prometheus, which `cargo xtask test` installs")?;
        Ok(Self { child, _folder: folder })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
