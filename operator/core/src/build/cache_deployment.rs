//! The managed cache's Deployment: one Redis that holds nothing the database does not.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ExecAction, KeyToPath, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use plimsoll_crds::{ApiDeployment, Eviction, ManagedCache, quantity_bytes};

use super::cache_secret::{CERTIFICATE_KEYS, access_key};
use super::{
    Component, cache_annotations, cache_exporter, cache_name, container_security, empty_dir, label_selector,
    labels, metadata, mount, pod_security,
};
use crate::cache::max_memory_bytes;
use crate::input::Settings;

/// Port of Redis.
pub(super) const PORT: i32 = 6379;
/// Where its users and its certificates are.
const USERS_FOLDER: &str = "/etc/redis";
pub(super) const TLS_FOLDER: &str = "/etc/redis-tls";
pub(super) const TLS_VOLUME: &str = "tls";

/// Builds the Deployment. `cache_revision` names the credentials.
pub fn cache_deployment(
    app: &ApiDeployment,
    cache: &ManagedCache,
    settings: &Settings,
    cache_revision: &str,
) -> Deployment {
    Deployment {
        metadata: metadata(app, cache_name(app), Component::Cache),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(3),
            selector: label_selector(app, Component::Cache),
            // Two caches side by side would disagree; a cache that is gone for a moment only slows answers.
            strategy: Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    annotations: cache_annotations(app, cache_revision),
                    labels: Some(labels(app, Component::Cache)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(app, cache, settings)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// Builds the pod of one server.
pub(super) fn pod(app: &ApiDeployment, cache: &ManagedCache, settings: &Settings) -> PodSpec {
    let exporter = cache.exporter.as_ref();
    let exporter = exporter.map(|exporter| cache_exporter::container(app, exporter, cache.tls.is_some()));
    PodSpec {
        automount_service_account_token: Some(false),
        containers: std::iter::once(container(cache, settings)).chain(exporter).collect(),
        enable_service_links: Some(false),
        security_context: Some(pod_security()),
        termination_grace_period_seconds: Some(10),
        volumes: Some(volumes(app, cache)),
        ..PodSpec::default()
    }
}

fn volumes(app: &ApiDeployment, cache: &ManagedCache) -> Vec<Volume> {
    let secret = |volume: &str, name: String, keys: &[(&str, &str)]| Volume {
        name: volume.into(),
        secret: Some(SecretVolumeSource {
            default_mode: Some(0o440),
            items: Some(
                keys.iter()
                    .map(|(key, path)| KeyToPath { key: (*key).into(), path: (*path).into(), mode: None })
                    .collect(),
            ),
            secret_name: Some(name),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let users = secret("users", cache_name(app), &[(access_key(app), "users.acl")]);
    let tls = cache.tls.as_ref().map(|tls| {
        let name = tls.secret_name.clone().unwrap_or_else(|| cache_name(app));
        secret(TLS_VOLUME, name, &CERTIFICATE_KEYS.map(|key| (key, key)))
    });
    std::iter::once(users).chain(tls).chain(std::iter::once(empty_dir("tmp", None))).collect()
}

/// The command line of Redis: nothing is kept on a disk, and keys go before memory runs out.
fn arguments(cache: &ManagedCache) -> Vec<String> {
    // The schema has refused a quantity that cannot be read; without a limit of its own Redis would grow to the
    // container's and be killed there, so an unreadable one falls back to the smallest allowed.
    let memory_bytes = quantity_bytes(&cache.memory).unwrap_or(16 << 20);
    let max_memory = max_memory_bytes(memory_bytes, cache.fails_over()).to_string();
    let policy = match cache.eviction {
        Eviction::LRU => "allkeys-lru",
        Eviction::LFU => "allkeys-lfu",
    };
    let users = format!("{USERS_FOLDER}/users.acl");
    let [authority, server, key] = CERTIFICATE_KEYS.map(|key| format!("{TLS_FOLDER}/{key}"));
    let port = PORT.to_string();
    let mut arguments = vec!["--aclfile", &users, "--maxmemory", &max_memory, "--maxmemory-policy", policy];
    arguments.extend(["--save", "", "--appendonly", "no", "--dir", "/tmp"]);
    if cache.tls.is_some() {
        arguments.extend(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"]);
        arguments.extend([
            "--tls-ca-cert-file",
            &authority,
            "--tls-cert-file",
            &server,
            "--tls-key-file",
            &key,
        ]);
    } else {
        arguments.extend(["--port", &port]);
    }
    arguments.into_iter().map(String::from).collect()
}

fn container(cache: &ManagedCache, settings: &Settings) -> Container {
    let quantities = |cpu: Option<&str>| {
        let mut quantities = std::collections::BTreeMap::from([("memory".to_owned(), cache.memory.clone())]);
        quantities.extend(cpu.map(|cpu| ("cpu".to_owned(), Quantity(cpu.into()))));
        Some(quantities)
    };
    let tls =
        cache.tls.as_ref().map(|_| VolumeMount { read_only: Some(true), ..mount(TLS_VOLUME, TLS_FOLDER) });
    let mounts =
        [VolumeMount { read_only: Some(true), ..mount("users", USERS_FOLDER) }, mount("tmp", "/tmp")];
    Container {
        name: "redis".into(),
        image: Some(cache.image.clone().unwrap_or_else(|| settings.redis_image.clone())),
        // Not the image's entrypoint: it changes users, which the security context forbids.
        command: Some(vec!["redis-server".into()]),
        args: Some(arguments(cache)),
        ports: Some(vec![ContainerPort {
            name: Some("redis".into()),
            container_port: PORT,
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        liveness_probe: Some(probe(cache, 10, 5, 3)),
        readiness_probe: Some(probe(cache, 5, 2, 2)),
        resources: Some(ResourceRequirements {
            limits: quantities(None),
            requests: quantities(Some("20m")),
            ..ResourceRequirements::default()
        }),
        security_context: Some(container_security()),
        volume_mounts: Some(mounts.into_iter().chain(tls).collect()),
        ..Container::default()
    }
}

/// Whether Redis answers at all. Without a password every answer is a refusal, and each of them is a sign of life: one that
/// still loads, or waits for its primary, is not to be killed for it. One that hangs gives none.
fn probe(cache: &ManagedCache, period_seconds: i32, timeout_seconds: i32, failure_threshold: i32) -> Probe {
    let port = PORT.to_string();
    let mut command = vec!["redis-cli", "-p", &port];
    if cache.tls.is_some() {
        // Over the loopback, where nobody listens in: the certificate need not be for that name.
        command.extend(["--tls", "--insecure"]);
    }
    command.push("PING");
    Probe {
        exec: Some(ExecAction { command: Some(command.into_iter().map(String::from).collect()) }),
        failure_threshold: Some(failure_threshold),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(timeout_seconds),
        ..Probe::default()
    }
}
