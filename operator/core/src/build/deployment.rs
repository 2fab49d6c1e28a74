//! The API's Deployment, without its replicas.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, HTTPGetAction, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec,
    Probe as PodProbe, SleepAction, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plimsoll_crds::{ApiDeployment, ApiDeploymentSpec, DatabaseKind, Percentile, Probe};

use super::{
    Component, cache_annotations, cache_client, container_security, empty_dir, env, env_from_secret,
    label_selector, labels, metadata, mount, name_of, pod_security,
};
use crate::input::{Settings, Targets};

/// Time in which endpoints hear that a pod is going, before it is told.
const PRE_STOP_SECONDS: i64 = 5;
/// The pre-stop sleep, the API's own drain (5 s) and its limit for requests in flight (20 s), with room to spare.
const TERMINATION_GRACE_SECONDS: i64 = 45;
/// After this long without a new ready pod a rollout counts as stuck.
const PROGRESS_DEADLINE_SECONDS: i32 = 120;

/// Builds the Deployment. `cache_revision` names the credentials of the managed cache.
pub fn deployment(app: &ApiDeployment, settings: &Settings, cache_revision: &str) -> Deployment {
    Deployment {
        metadata: metadata(app, name_of(app).into(), Component::Api),
        spec: Some(DeploymentSpec {
            min_ready_seconds: None,
            progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECONDS),
            // Another field manager's: a template that is applied must never reset the scale.
            replicas: None,
            revision_history_limit: Some(3),
            selector: label_selector(app, Component::Api),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::String("25%".into())),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    annotations: cache_annotations(app, cache_revision),
                    labels: Some(labels(app, Component::Api)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(app, settings)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn pod(app: &ApiDeployment, settings: &Settings) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        containers: vec![container(app, settings)],
        enable_service_links: Some(false),
        security_context: Some(pod_security()),
        termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            label_selector: Some(label_selector(app, Component::Api)),
            match_label_keys: Some(vec!["pod-template-hash".into()]),
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            ..TopologySpreadConstraint::default()
        }]),
        volumes: Some(
            [empty_dir("data", None), empty_dir("tmp", None)]
                .into_iter()
                .chain(cache_client::volume(app).map(|(volume, _)| volume))
                .collect(),
        ),
        ..PodSpec::default()
    }
}

fn container(app: &ApiDeployment, settings: &Settings) -> Container {
    let spec = &app.spec;
    let port = |name: &str, number| ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    let mut ports = vec![port("http", spec.port)];
    if spec.metrics_port() != spec.port {
        ports.push(port("metrics", spec.metrics_port()));
    }
    Container {
        name: "api".into(),
        image: Some(spec.image.clone().unwrap_or_else(|| settings.api_image.clone())),
        image_pull_policy: spec.image_pull_policy.clone(),
        env: Some(environment(app)),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: PRE_STOP_SECONDS }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        ports: Some(ports),
        startup_probe: Some(probe(&spec.probes.startup)),
        liveness_probe: Some(probe(&spec.probes.liveness)),
        readiness_probe: Some(probe(&spec.probes.readiness)),
        resources: Some(spec.resources.clone()),
        security_context: Some(container_security()),
        volume_mounts: Some(
            [mount("data", "/data"), mount("tmp", "/tmp")]
                .into_iter()
                .chain(cache_client::volume(app).map(|(_, mount)| mount))
                .collect(),
        ),
        ..Container::default()
    }
}

/// How long a request may wait before it is refused, where the API would judge that by a median. Half of the requests may be
/// slower than a median's target, so its half is no time to refuse after: that of the next target is, or all of its own.
fn shed_after(spec: &ApiDeploymentSpec) -> Option<Duration> {
    let targets = Targets::of(spec).ok()?;
    let mut each = targets.latencies();
    let (_, median) = each.next().filter(|(percentile, _)| *percentile == Percentile::P50)?;
    Some(each.map(|(_, target)| target / 2).min().unwrap_or(median).max(Duration::from_millis(1)))
}

/// The operator's own variables, then the user's.
fn environment(app: &ApiDeployment) -> Vec<EnvVar> {
    let spec = &app.spec;
    let targets = spec.latency.each().map(|(_, target)| target).collect::<Vec<_>>();
    let mut variables = vec![
        env("PLIMSOLL_LISTEN", format!("0.0.0.0:{}", spec.port)),
        env("PLIMSOLL_LATENCY_TARGETS", targets.join(",")),
    ];
    variables
        .extend(shed_after(spec).map(|wait| env("PLIMSOLL_SHED_AFTER", format!("{}ms", wait.as_millis()))));
    match spec.database() {
        DatabaseKind::Embedded => variables.push(env("PLIMSOLL_DATABASE_URL", "sqlite:/data/posts.db")),
        DatabaseKind::External(database) => {
            let secret = &database.url_from.secret_key_ref;
            variables.push(env_from_secret("PLIMSOLL_DATABASE_URL", &secret.name, &secret.key));
            let connections = database.connections_per_replica.to_string();
            variables.push(env("PLIMSOLL_DATABASE_CONNECTIONS", connections));
        }
        DatabaseKind::Unknown => {}
    }
    variables.extend(cache_client::environment(app));
    variables.extend(spec.env.iter().cloned());
    variables
}

fn probe(probe: &Probe) -> PodProbe {
    PodProbe {
        failure_threshold: Some(probe.failure_threshold),
        http_get: Some(HTTPGetAction {
            path: Some(probe.path.clone()),
            port: IntOrString::String("http".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(probe.period_seconds),
        timeout_seconds: Some(probe.timeout_seconds),
        ..PodProbe::default()
    }
}
