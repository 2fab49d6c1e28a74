//! What a Deployment's template takes from the cluster beside the spec: the hash of the configuration that the pods use, and
//! what it keeps of an earlier operator's template so that an upgrade of the operator restarts no pod.
//!
//! Each of these comes in with the next image, or with the next change that is rolled out anyway.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use plimsoll_crds::{ApiDeployment, DEFAULT_CONNECTIONS_PER_REPLICA};

use super::deployment::CONNECTIONS_VARIABLE;
use super::spread::ZONE;

/// Annotation of a pod template that names the contents of the ConfigMaps and Secrets that its pods use.
pub const CONFIG_ANNOTATION: &str = "plimsoll.dev/config-hash";
/// Annotation of a Deployment whose template names no contents: those that its pods were found with.
pub const FOUND_ANNOTATION: &str = "plimsoll.dev/config-hash-found";

/// Completes `wanted` by what is there. `live` is the Deployment as it runs, `digest` names the contents of the ConfigMaps and
/// Secrets that the spec names, if it names any.
pub fn inherit(
    wanted: &mut Deployment,
    app: &ApiDeployment,
    live: Option<&Deployment>,
    digest: Option<&str>,
) {
    // Another image replaces all pods: nothing needs to be spared.
    let spared = live.filter(|live| image(live).is_some() && image(live) == image(wanted));
    if let Some(live) = spared
        && app.spec.workload.topology_spread_constraints.is_none()
        && !spreads_over_zones(live)
    {
        let constraints = pod(wanted).and_then(|pod| pod.topology_spread_constraints.as_mut());
        if let Some(constraints) = constraints {
            constraints.retain(|constraint| constraint.topology_key != ZONE);
        }
    }
    if let Some(live) = spared
        && !names_connections(live)
    {
        without_default_connections(wanted);
    }
    let Some(digest) = digest else { return };
    if let Some(live) = spared
        && config_hash(live).is_none()
    {
        let found =
            live.metadata.annotations.as_ref().and_then(|annotations| annotations.get(FOUND_ANNOTATION));
        if found.is_none_or(|found| found == digest) {
            let annotations = wanted.metadata.annotations.get_or_insert_default();
            annotations.insert(FOUND_ANNOTATION.into(), digest.into());
            return;
        }
    }
    if let Some(template) = wanted.spec.as_mut().map(|spec| &mut spec.template) {
        let metadata = template.metadata.get_or_insert_default();
        metadata.annotations.get_or_insert_default().insert(CONFIG_ANNOTATION.into(), digest.into());
    }
}

fn template(deployment: &Deployment) -> Option<&PodTemplateSpec> {
    deployment.spec.as_ref().map(|spec| &spec.template)
}

fn pod(deployment: &mut Deployment) -> Option<&mut PodSpec> {
    deployment.spec.as_mut()?.template.spec.as_mut()
}

fn image(deployment: &Deployment) -> Option<&str> {
    template(deployment)?.spec.as_ref()?.containers.first()?.image.as_deref()
}

fn names_connections(live: &Deployment) -> bool {
    let container =
        template(live).and_then(|template| template.spec.as_ref()).and_then(|pod| pod.containers.first());
    let variables = container.and_then(|container| container.env.as_ref());
    variables.into_iter().flatten().any(|variable| variable.name == CONNECTIONS_VARIABLE)
}

/// An earlier operator did not name the connections, and the API then opens as many as are the default.
fn without_default_connections(wanted: &mut Deployment) {
    let default = DEFAULT_CONNECTIONS_PER_REPLICA.to_string();
    let variables = pod(wanted).and_then(|pod| pod.containers.first_mut()?.env.as_mut());
    if let Some(variables) = variables {
        variables.retain(|variable| {
            variable.name != CONNECTIONS_VARIABLE || variable.value.as_deref() != Some(&default)
        });
    }
}

fn config_hash(deployment: &Deployment) -> Option<&String> {
    template(deployment)?.metadata.as_ref()?.annotations.as_ref()?.get(CONFIG_ANNOTATION)
}

fn spreads_over_zones(deployment: &Deployment) -> bool {
    let pod = template(deployment).and_then(|template| template.spec.as_ref());
    let constraints = pod.and_then(|pod| pod.topology_spread_constraints.as_ref());
    constraints.into_iter().flatten().any(|constraint| constraint.topology_key == ZONE)
}
