//! The API's Deployment, without its replicas.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    ConfigMapEnvSource, Container, ContainerPort, EnvFromSource, EnvVar, Lifecycle, LifecycleHandler,
    LocalObjectReference, PodSpec, PodTemplateSpec, SecretEnvSource, SleepAction,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use plimsoll_crds::{ApiDeployment, ApiDeploymentSpec, DatabaseKind, EnvFrom, Percentile};

use super::probes::probe;
use super::spread::spread;
use super::volumes::{mounts, volumes};
use super::{
    Component, cache_annotations, cache_client, container_security, env, env_from_secret, label_selector,
    labels, metadata, name_of, pod_security,
};
use crate::input::{Settings, Targets};

/// Label that names the version of what runs.
const VERSION_LABEL: &str = "app.kubernetes.io/version";
/// After this long without a new ready pod a rollout counts as stuck.
const PROGRESS_DEADLINE_SECONDS: i32 = 120;
/// Variable that tells the API how many connections to the database it may open.
pub(super) const CONNECTIONS_VARIABLE: &str = "PLIMSOLL_DATABASE_CONNECTIONS";

/// Builds the Deployment. `cache_revision` names the credentials of the managed cache.
pub fn deployment(app: &ApiDeployment, settings: &Settings, cache_revision: &str) -> Deployment {
    let mut metadata = metadata(app, name_of(app).into(), Component::Api);
    // Not on the pods, which must not be restarted for a label.
    if let Some(version) = version_label(image(app, settings)) {
        metadata.labels.get_or_insert_default().insert(VERSION_LABEL.into(), version);
    }
    Deployment {
        metadata,
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
                    max_surge: Some(app.spec.workload.strategy.max_surge.clone()),
                    max_unavailable: Some(app.spec.workload.strategy.max_unavailable.clone()),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(template_metadata(app, cache_revision)),
                spec: Some(pod(app, settings)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn image<'a>(app: &'a ApiDeployment, settings: &'a Settings) -> &'a str {
    app.spec.image.as_deref().unwrap_or(&settings.api_image)
}

/// The tag of an image, where it has one that a label may hold.
fn version_label(image: &str) -> Option<String> {
    let named = image.split('@').next()?;
    let (_, tag) = named.rsplit('/').next()?.split_once(':')?;
    let ends = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| ends(c) || matches!(c, '-' | '_' | '.');
    let valid = tag.len() <= 63 && tag.starts_with(ends) && tag.ends_with(ends) && tag.chars().all(inner);
    valid.then(|| tag.to_owned())
}

/// The user's labels and annotations, under the operator's own.
fn template_metadata(app: &ApiDeployment, cache_revision: &str) -> ObjectMeta {
    let workload = &app.spec.workload;
    let mut annotations = workload.annotations.clone();
    annotations.extend(cache_annotations(app, cache_revision).into_iter().flatten());
    let mut all_labels = workload.labels.clone();
    all_labels.extend(labels(app, Component::Api));
    ObjectMeta {
        annotations: (!annotations.is_empty()).then_some(annotations),
        labels: Some(all_labels),
        ..ObjectMeta::default()
    }
}

fn pod(app: &ApiDeployment, settings: &Settings) -> PodSpec {
    let workload = &app.spec.workload;
    let pull_secrets = app.spec.image_pull_secrets.iter();
    let pull_secrets =
        pull_secrets.map(|secret| LocalObjectReference { name: secret.name.clone() }).collect::<Vec<_>>();
    PodSpec {
        affinity: workload.affinity.clone(),
        automount_service_account_token: Some(workload.automount_service_account_token),
        containers: vec![container(app, settings)],
        enable_service_links: Some(false),
        image_pull_secrets: some(pull_secrets),
        node_selector: (!workload.node_selector.is_empty()).then(|| workload.node_selector.clone()),
        priority_class_name: workload.priority_class_name.clone(),
        security_context: Some(pod_security()),
        service_account_name: workload.service_account_name.clone(),
        termination_grace_period_seconds: Some(workload.drain.grace_seconds.into()),
        tolerations: some(workload.tolerations.clone()),
        topology_spread_constraints: spread(app),
        volumes: some(volumes(app)),
        ..PodSpec::default()
    }
}

/// A list that says something, or none: server-side apply reads an empty one as a field that is set.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
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
        image: Some(image(app, settings).into()),
        image_pull_policy: spec.image_pull_policy.clone(),
        command: some(spec.command.clone()),
        args: some(spec.args.clone()),
        env: Some(environment(app)),
        env_from: some(spec.env_from.iter().map(env_from).collect()),
        lifecycle: lifecycle(spec.workload.drain.sleep_seconds),
        ports: Some(ports),
        startup_probe: probe(spec, &spec.probes.startup),
        liveness_probe: probe(spec, &spec.probes.liveness),
        readiness_probe: probe(spec, &spec.probes.readiness),
        resources: Some(spec.resources.clone()),
        security_context: Some(container_security()),
        volume_mounts: some(mounts(app)),
        ..Container::default()
    }
}

/// A sleep before the signal, in which the endpoints hear that the pod is going. The kubelet does it: the image needs no shell.
fn lifecycle(sleep_seconds: i32) -> Option<Lifecycle> {
    (sleep_seconds > 0).then(|| Lifecycle {
        pre_stop: Some(LifecycleHandler {
            sleep: Some(SleepAction { seconds: sleep_seconds.into() }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    })
}

fn env_from(source: &EnvFrom) -> EnvFromSource {
    let EnvFrom { prefix, config_map_ref, secret_ref } = source;
    EnvFromSource {
        prefix: prefix.clone(),
        config_map_ref: config_map_ref.as_ref().map(|reference| ConfigMapEnvSource {
            name: reference.name.clone(),
            optional: reference.optional,
        }),
        secret_ref: secret_ref
            .as_ref()
            .map(|reference| SecretEnvSource { name: reference.name.clone(), optional: reference.optional }),
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
            variables.push(env(CONNECTIONS_VARIABLE, connections));
        }
        DatabaseKind::Unknown => {}
    }
    variables.extend(cache_client::environment(app));
    variables.extend(spec.env.iter().cloned());
    variables
}
