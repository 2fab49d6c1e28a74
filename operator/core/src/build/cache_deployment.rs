//! The managed cache's Deployment: one Redis that holds nothing the database does not.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, KeyToPath, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
    SecretVolumeSource, TCPSocketAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plimsoll_crds::{ApiDeployment, ManagedCache, quantity_bytes};

use super::{
    Component, cache_annotations, cache_name, container_security, empty_dir, label_selector, labels,
    metadata, mount, pod_security,
};
use crate::input::Settings;

/// Port of Redis.
pub(super) const PORT: i32 = 6379;
/// Share of the container's memory that keys may take; the rest is for buffers, fragmentation and Redis itself.
const MAX_MEMORY_PERCENT: u64 = 75;

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

fn pod(app: &ApiDeployment, cache: &ManagedCache, settings: &Settings) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        containers: vec![container(cache, settings)],
        enable_service_links: Some(false),
        security_context: Some(pod_security()),
        termination_grace_period_seconds: Some(10),
        volumes: Some(vec![
            Volume {
                name: "users".into(),
                secret: Some(SecretVolumeSource {
                    default_mode: Some(0o440),
                    items: Some(vec![KeyToPath {
                        key: "users.acl".into(),
                        path: "users.acl".into(),
                        mode: None,
                    }]),
                    secret_name: Some(cache_name(app)),
                    ..SecretVolumeSource::default()
                }),
                ..Volume::default()
            },
            empty_dir("tmp", None),
        ]),
        ..PodSpec::default()
    }
}

fn container(cache: &ManagedCache, settings: &Settings) -> Container {
    // The schema has refused a quantity that cannot be read; without a limit of its own Redis would grow to the
    // container's and be killed there, so an unreadable one falls back to the smallest allowed.
    let memory_bytes = quantity_bytes(&cache.memory).unwrap_or(16 << 20);
    let max_memory_bytes = memory_bytes / 100 * MAX_MEMORY_PERCENT;
    let arguments = [
        "--aclfile",
        "/etc/redis/users.acl",
        "--maxmemory",
        &max_memory_bytes.to_string(),
        "--maxmemory-policy",
        "allkeys-lru",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        "/tmp",
        "--port",
        &PORT.to_string(),
    ];
    let quantities = |cpu: Option<&str>| {
        let mut quantities = std::collections::BTreeMap::from([("memory".to_owned(), cache.memory.clone())]);
        quantities.extend(cpu.map(|cpu| ("cpu".to_owned(), Quantity(cpu.into()))));
        Some(quantities)
    };
    Container {
        name: "redis".into(),
        image: Some(cache.image.clone().unwrap_or_else(|| settings.redis_image.clone())),
        // Not the image's entrypoint: it changes users, which the security context forbids.
        command: Some(vec!["redis-server".into()]),
        args: Some(arguments.map(String::from).to_vec()),
        ports: Some(vec![ContainerPort {
            name: Some("redis".into()),
            container_port: PORT,
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        liveness_probe: Some(probe(10, 5, 3)),
        readiness_probe: Some(probe(2, 1, 3)),
        resources: Some(ResourceRequirements {
            limits: quantities(None),
            requests: quantities(Some("20m")),
            ..ResourceRequirements::default()
        }),
        security_context: Some(container_security()),
        volume_mounts: Some(vec![
            VolumeMount { read_only: Some(true), ..mount("users", "/etc/redis") },
            mount("tmp", "/tmp"),
        ]),
        ..Container::default()
    }
}

fn probe(period_seconds: i32, timeout_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        failure_threshold: Some(failure_threshold),
        period_seconds: Some(period_seconds),
        tcp_socket: Some(TCPSocketAction { port: IntOrString::String("redis".into()), host: None }),
        timeout_seconds: Some(timeout_seconds),
        ..Probe::default()
    }
}
