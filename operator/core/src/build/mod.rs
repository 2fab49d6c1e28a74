//! The children as they should be, one kind a file.
//!
//! Pure: the same resource and settings give the same children, to the byte. Nothing here decides on replicas.

mod cache_access;
mod cache_client;
mod cache_deployment;
mod cache_exporter;
mod cache_failover;
mod cache_secret;
mod cache_service;
mod deployment;
mod disruption_budget;
mod inherited;
mod network_policy;
mod probes;
mod service;
mod spread;
mod volumes;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::{
    Capabilities, EmptyDirVolumeSource, EnvVar, EnvVarSource, PodSecurityContext, SeccompProfile,
    SecretKeySelector, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use plimsoll_crds::{ApiDeployment, CacheKind};
use serde::Serialize;

pub use cache_access::OPERATOR_USER;
pub use cache_deployment::cache_deployment;
pub use cache_failover::{
    PRIMARY_NAME, SENTINEL_PORT, cache_nodes_service, cache_stateful_set, node_names as cache_node_names,
    speaks_otherwise,
};
pub use cache_secret::{
    CERTIFICATE_KEYS, OPERATOR_PASSWORD_KEY, REVISION_ANNOTATION, cache_address, cache_host_names,
    cache_secret, cache_secret_keys,
};
pub use cache_service::cache_service;
pub use deployment::deployment;
pub use disruption_budget::{cache_disruption_budget, disruption_budget};
pub use inherited::{CONFIG_ANNOTATION, FOUND_ANNOTATION, inherit};
pub use network_policy::{cache_network_policy, network_policy};
pub use service::service;

/// Label that holds the name of the resource; the operator lists pods and children by it.
pub const APP_LABEL: &str = "plimsoll.dev/app";
/// Label that a Deployment gives its pods, which tells one template from the next.
pub const TEMPLATE_HASH_LABEL: &str = "pod-template-hash";
/// Label that tells the API's objects from the cache's.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// User and group of every container, so that images need no user database.
const UID: i64 = 10_001;

/// What an object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Component {
    Api,
    Cache,
}

impl Component {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Cache => "cache",
        }
    }
}

/// Name of the resource. The API server does not store one without.
pub fn name_of(app: &ApiDeployment) -> &str {
    app.metadata.name.as_deref().unwrap_or_default()
}

/// Name of the cache's children.
pub fn cache_name(app: &ApiDeployment) -> String {
    format!("{}-cache", name_of(app))
}

/// Name of the Service that gives each server of a cache with failover a name of its own.
pub fn cache_nodes_name(app: &ApiDeployment) -> String {
    format!("{}-cache-nodes", name_of(app))
}

/// Label selector of the API's pods, as text.
pub fn selector_text(app: &ApiDeployment) -> String {
    selector(app, Component::Api)
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

/// Hash of a child as it should be. It holds within one build only: another version of Rust or of the API types may give another.
/// What was learned of a pod template by it is then learned again.
pub fn hash_of<K: Serialize>(child: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Maps of the API types are ordered, so equal children serialise equally; children always serialise.
    serde_json::to_string(child).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

fn selector(app: &ApiDeployment, component: Component) -> BTreeMap<String, String> {
    [(APP_LABEL.into(), name_of(app).into()), (COMPONENT_LABEL.into(), component.as_str().into())].into()
}

fn label_selector(app: &ApiDeployment, component: Component) -> LabelSelector {
    LabelSelector { match_labels: Some(selector(app, component)), ..LabelSelector::default() }
}

fn labels(app: &ApiDeployment, component: Component) -> BTreeMap<String, String> {
    let name = name_of(app);
    let mut labels = selector(app, component);
    labels.extend(
        [("name", name), ("instance", name), ("managed-by", "plimsoll"), ("part-of", name)]
            .map(|(key, value)| (format!("app.kubernetes.io/{key}"), value.to_owned())),
    );
    labels
}

fn metadata(app: &ApiDeployment, name: String, component: Component) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: app.metadata.namespace.clone(),
        labels: Some(labels(app, component)),
        owner_references: Some(vec![OwnerReference {
            api_version: "plimsoll.dev/v1alpha1".into(),
            kind: "ApiDeployment".into(),
            name: name_of(app).into(),
            uid: app.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            // Blocking would need a right on the finalizers of the resource on clusters that check it.
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}

/// What the `restricted` Pod Security profile asks of a pod.
fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        fs_group: Some(UID),
        run_as_group: Some(UID),
        run_as_non_root: Some(true),
        run_as_user: Some(UID),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// What the `restricted` Pod Security profile asks of a container, and a root file system that cannot be written.
fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

fn empty_dir(name: &str, size_limit: Option<Quantity>) -> Volume {
    Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit, medium: None }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), ..VolumeMount::default() }
}

fn env(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

fn env_from_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector { name: secret.into(), key: key.into(), optional: None };
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() }),
    }
}

/// Annotations of a pod template that uses the managed cache: new credentials roll the pods.
fn cache_annotations(app: &ApiDeployment, cache_revision: &str) -> Option<BTreeMap<String, String>> {
    matches!(app.spec.cache.kind(), CacheKind::Managed(_))
        .then(|| [(REVISION_ANNOTATION.into(), cache_revision.into())].into())
}
