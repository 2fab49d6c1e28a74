//! A Deployment that `spec.workload.attachTo` names: somebody else's, of which the replicas are decided on.
//!
//! Nothing of it is written but `spec.replicas`, and nothing is made beside it; so there is nothing to clean up when the
//! resource goes.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use plimsoll_crds::{ApiDeployment, Cache, Disabled};

use crate::memory::Memory;
use crate::plan::{Change, Reason, Step};
use crate::policy::ScalingPolicy;
use crate::scale::Verdict;
use crate::steps::scale_step;

/// The resource as it is meant. The API server has stored defaults that say nothing about an attached Deployment: it has no
/// cache and no database of the operator's, and its own resources.
pub fn in_force(mut app: ApiDeployment) -> ApiDeployment {
    if app.spec.attached_to().is_some() {
        app.spec.cache = Cache { managed: None, external: None, disabled: Some(Disabled {}) };
        app.spec.database = None;
        app.spec.resources = ResourceRequirements::default();
    }
    app
}

/// The resource with the resources of the container that it scrapes: the one that has the port of the metrics, or else the
/// first.
pub fn with_resources_of(mut app: ApiDeployment, deployment: &Deployment) -> ApiDeployment {
    let port = app.spec.metrics_port();
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let containers = pod.map_or(&[][..], |pod| &pod.containers);
    let has_port =
        |container: &&Container| container.ports.iter().flatten().any(|one| one.container_port == port);
    let container = containers.iter().find(has_port).or_else(|| containers.first());
    app.spec.resources = container.and_then(|container| container.resources.clone()).unwrap_or_default();
    app
}

/// Label selector of the pods of a Deployment, as the API server reads it.
pub fn selector_text(deployment: &Deployment) -> String {
    let Some(LabelSelector { match_labels, match_expressions }) =
        deployment.spec.as_ref().map(|spec| &spec.selector)
    else {
        return String::new();
    };
    let labels = match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let expressions =
        match_expressions.iter().flatten().map(|LabelSelectorRequirement { key, operator, values }| {
            let values = || values.as_deref().unwrap_or_default().join(",");
            match operator.as_str() {
                "In" => format!("{key} in ({})", values()),
                "NotIn" => format!("{key} notin ({})", values()),
                "DoesNotExist" => format!("!{key}"),
                _ => key.clone(),
            }
        });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

/// The one write that there may be.
pub(crate) fn steps(
    memory: &Memory,
    deployment: Option<&Deployment>,
    policy: &ScalingPolicy,
    change: Change,
) -> Vec<Step> {
    let deployment = deployment.filter(|_| !policy.only_recommends());
    let mut step = deployment.and_then(|deployment| scale_step(memory, &deployment.metadata, change));
    if let Some(Step::Scale { after_template, .. }) = &mut step {
        *after_template = false;
    }
    step.into_iter().collect()
}

/// Nothing can be decided on while there is nothing to scale.
pub(crate) fn not_found(target: &str) -> Verdict {
    Verdict {
        to: 0,
        reason: Reason::TargetNotFound,
        message: format!("there is no Deployment {target}"),
        limit: None,
    }
}
