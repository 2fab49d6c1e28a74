//! Where latency is read: of pods by label and with a token, and of a real Prometheus.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use plimsoll_tests::demo::decisions;
use plimsoll_tests::images::{self, PAUSE_IMAGE};
use plimsoll_tests::{chart, sample};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::world::{self, SOON, World};

const WORK: &str = "/work?cpu=2ms";

/// The most requests a second that a decision was made from.
async fn most_read(world: &World) -> Result<Option<f64>> {
    let decisions = decisions(&world.client, &world.namespace, world::NAME).await?;
    let rates = decisions.iter().filter_map(|decision| decision.rest.get("requestsPerSecond")?.as_f64());
    Ok(rates.max_by(f64::total_cmp))
}

/// Whether a decision was made from requests that were read under load.
async fn has_read_requests(world: &World) -> Result<bool> {
    Ok(most_read(world).await?.is_some_and(|rate| rate > 5.0))
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

/// A Deployment of a program of somebody else, which tells its latency in its second container, over TLS, on a port with a
/// name; and what it needs.
async fn encrypted(world: &World) -> Result<[Value; 3]> {
    let certificate = rcgen::generate_simple_self_signed(vec!["prometheus.test".to_owned()])?;
    let metadata = json!({ "name": world::NAME, "namespace": world.namespace });
    let tls = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": metadata,
        "stringData": { "tls.crt": certificate.cert.pem(), "tls.key": certificate.signing_key.serialize_pem() },
    });
    let files = json!({ "cert_file": "/etc/tls/tls.crt", "key_file": "/etc/tls/tls.key" });
    let settings = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
        "data": { "prometheus.yml": "{}", "web.yml": json!({ "tls_server_config": files }).to_string() },
    });
    let security = json!({
        "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true,
    });
    let resources = |memory: &str| json!({ "requests": { "cpu": "10m", "memory": memory } });
    let containers = json!([
        {
            "name": "first", "image": PAUSE_IMAGE, "securityContext": security, "resources": resources("8Mi"),
            "ports": [{ "name": "other", "containerPort": 9091 }],
        },
        {
            "name": "second", "image": images::prometheus().await?, "securityContext": security,
            "args": [
                "--config.file=/etc/prometheus/prometheus.yml", "--web.config.file=/etc/prometheus/web.yml",
                "--storage.tsdb.path=/data",
            ],
            "ports": [{ "name": "web", "containerPort": 9090 }],
            "readinessProbe": { "httpGet": { "path": "/-/ready", "port": "web", "scheme": "HTTPS" }, "periodSeconds": 2 },
            "volumeMounts": [
                { "name": "settings", "mountPath": "/etc/prometheus" }, { "name": "tls", "mountPath": "/etc/tls" },
                { "name": "data", "mountPath": "/data" },
            ],
            "resources": resources("64Mi"),
        },
    ]);
    let pod = json!({
        "automountServiceAccountToken": false, "containers": containers,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": 65534, "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumes": [
            { "name": "settings", "configMap": { "name": world::NAME } },
            { "name": "tls", "secret": { "secretName": world::NAME } }, { "name": "data", "emptyDir": {} },
        ],
    });
    let labels = json!({ "app": "theirs" });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {
            "replicas": 1, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    });
    Ok([tls, settings, deployment])
}

#[test]
fn reads_somebody_elses_program_over_tls_in_its_second_container() {
    world::run("encrypted", async |world| {
        sample::apply_all(&world.client, &encrypted(world).await?).await?;
        let authority = json!({ "secretKeyRef": { "name": world::NAME, "key": "tls.crt" } });
        let app = |server_name: &str| {
            json!({
                "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
                "metadata": { "name": world::NAME, "namespace": world.namespace },
                "spec": {
                    "workload": { "attachTo": { "name": world::NAME } },
                    "latency": { "p99": "400ms" }, "replicas": { "min": 1, "max": 3 },
                    "metrics": {
                        "histogram": "prometheus_http_request_duration_seconds", "labels": { "handler": "/metrics" },
                        "container": "second", "portName": "web", "scrapePeriodSeconds": 1,
                        "scheme": "https", "tls": { "caFrom": authority, "serverName": server_name },
                    },
                },
            })
        };
        sample::apply_all(&world.client, &[app("another.test")]).await?;
        let told = world.until_condition("MetricsAvailable", "False", "Untrusted").await?;
        ensure!(told.contains("spec.metrics.tls"), "{told}");
        sample::apply_all(&world.client, &[app("prometheus.test")]).await?;
        world.until_condition("MetricsAvailable", "True", "Scraped").await?;
        world.until(world::NAME, SOON, sample::ready, "is Ready").await?;
        // The operator's own questions are what it serves.
        let read = async || Ok(most_read(world).await?.is_some_and(|rate| rate > 0.5));
        world.eventually(SOON, "its requests are read", read).await
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
    finding: JoinHandle<()>,
    _folder: TempDir,
}

/// Tells Prometheus of the pods as they come and go: Debian's build cannot ask Kubernetes itself.
async fn find_pods(pods: Api<Pod>, file: PathBuf) {
    let api = ListParams::default().labels("app.kubernetes.io/component=api");
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let Ok(found) = pods.list(&api).await else { continue };
        let target = |pod: &Pod| {
            let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
            let labels = json!({ "namespace": pod.metadata.namespace, "pod": pod.metadata.name });
            Some(json!({ "targets": [format!("{ip}:8080")], "labels": labels }))
        };
        let targets = Value::from(found.iter().filter_map(target).collect::<Vec<_>>()).to_string();
        let draft = file.with_extension("draft");
        if std::fs::write(&draft, targets).is_ok() {
            let _ = std::fs::rename(&draft, &file);
        }
    }
}

impl Prometheus {
    fn start(world: &World) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let targets = folder.path().join("targets.json");
        let finding = tokio::spawn(find_pods(world.pods(), targets.clone()));
        let config = json!({
            "global": { "scrape_interval": "2s", "scrape_timeout": "1s" },
            "scrape_configs": [{
                "job_name": "pods",
                "file_sd_configs": [{ "files": [targets], "refresh_interval": "1s" }],
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
        Ok(Self { child, finding, _folder: folder })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.finding.abort();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
