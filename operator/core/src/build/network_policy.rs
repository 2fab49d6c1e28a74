//! The NetworkPolicies of the API and of its managed cache. They restrict only what comes in.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plimsoll_crds::{ApiDeployment, CacheKind};

use super::{Component, cache_exporter, cache_name, label_selector, metadata, name_of};
use crate::input::Settings;

/// Label that Kubernetes puts on each namespace, with its name.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Builds the API's NetworkPolicy; none without `spec.networkPolicy`.
pub fn network_policy(app: &ApiDeployment, settings: &Settings) -> Option<NetworkPolicy> {
    let spec = app.spec.network_policy.as_ref()?;
    let operator = operator(settings);
    let (port, metrics_port) = (app.spec.port, app.spec.metrics_port());
    let mut rules = Vec::new();
    let mut metrics_from = operator.into_iter().chain(spec.metrics_from.iter().cloned()).collect::<Vec<_>>();
    if metrics_port == port && !spec.from.is_empty() {
        metrics_from.extend(spec.from.iter().cloned());
        rules.push(rule(port, Some(metrics_from)));
    } else if metrics_port == port {
        rules.push(rule(port, None));
    } else {
        rules.push(rule(port, (!spec.from.is_empty()).then(|| spec.from.clone())));
        // A rule without peers would let everybody in.
        if !metrics_from.is_empty() {
            rules.push(rule(metrics_port, Some(metrics_from)));
        }
    }
    Some(policy(app, name_of(app).into(), Component::Api, rules))
}

/// Builds the managed cache's NetworkPolicy: from the API's pods, the cache's own and the operator's namespace, and to the
/// exporter's port from whoever may read the metrics. None without `spec.networkPolicy` or without a managed cache.
pub fn cache_network_policy(app: &ApiDeployment, settings: &Settings) -> Option<NetworkPolicy> {
    let spec = app.spec.network_policy.as_ref()?;
    let CacheKind::Managed(cache) = app.spec.cache.kind() else { return None };
    let pods = |component| NetworkPolicyPeer {
        pod_selector: Some(label_selector(app, component)),
        ..NetworkPolicyPeer::default()
    };
    let from = [pods(Component::Api), pods(Component::Cache)].into_iter().chain(operator(settings)).collect();
    // All ports: a mesh carries the connection on one of its own.
    let mut rules = vec![NetworkPolicyIngressRule { from: Some(from), ports: None }];
    // A rule without peers would let everybody in.
    if cache.exporter.is_some() && !spec.metrics_from.is_empty() {
        rules.push(rule(cache_exporter::METRICS_PORT, Some(spec.metrics_from.clone())));
    }
    Some(policy(app, cache_name(app), Component::Cache, rules))
}

/// The operator's namespace. Its pods are not told apart there, for their labels are the chart's affair.
fn operator(settings: &Settings) -> Option<NetworkPolicyPeer> {
    let namespace = settings.operator_namespace.clone()?;
    Some(NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some([(NAMESPACE_LABEL.into(), namespace)].into()),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    })
}

fn rule(port: i32, from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    let port = NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".into()),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicyIngressRule { from, ports: Some(vec![port]) }
}

fn policy(
    app: &ApiDeployment,
    name: String,
    component: Component,
    ingress: Vec<NetworkPolicyIngressRule>,
) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(app, name, component),
        spec: Some(NetworkPolicySpec {
            ingress: Some(ingress),
            pod_selector: Some(label_selector(app, component)),
            policy_types: Some(vec!["Ingress".into()]),
            ..NetworkPolicySpec::default()
        }),
    }
}
