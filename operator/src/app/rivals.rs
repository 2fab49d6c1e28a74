//! Finds who else scales the Deployment of a resource, in what the watches hold. It judges nothing.

use jiff::Timestamp;
use kube::Resource as _;
use plimsoll_core::build::name_of;
use plimsoll_core::conflict::Rival;
use plimsoll_crds::{ApiDeployment, Mode};

use super::Stores;
use crate::watches::SCALED_OBJECT_LABEL;

/// Everybody who scales the same Deployment, in the order of their names.
pub fn of(app: &ApiDeployment, stores: &Stores) -> Vec<Rival> {
    let namespace = app.metadata.namespace.as_deref();
    let deployment = app.spec.attached_to().unwrap_or_else(|| name_of(app));
    let autoscalers = stores.autoscalers.state().into_iter().filter_map(|autoscaler| {
        if autoscaler.metadata.namespace.as_deref() != namespace {
            return None;
        }
        let target = &autoscaler.spec.as_ref()?.scale_target_ref;
        let name = autoscaler.metadata.name.clone().unwrap_or_default();
        let labels = autoscaler.metadata.labels.as_ref();
        let scaled_object = labels.and_then(|labels| labels.get(SCALED_OBJECT_LABEL)).cloned();
        let group =
            target.api_version.as_deref().and_then(|version| version.split_once('/')).map(|(group, _)| group);
        match (target.kind.as_str(), group) {
            ("Deployment", None | Some("apps")) if target.name == deployment => {
                Some(Rival::Autoscaler { name, scaled_object })
            }
            ("ApiDeployment", Some("plimsoll.dev")) if target.name == name_of(app) => {
                Some(Rival::Pinning { name, scaled_object })
            }
            _ => None,
        }
    });
    let resources = stores.apps.state().into_iter().filter_map(|other| {
        // A resource that cannot be read scales nothing.
        let other = other.0.as_ref().ok()?;
        let attached = app.spec.attached_to().is_some()
            && other.meta().namespace.as_deref() == namespace
            && other.spec.attached_to() == Some(deployment)
            && other.meta().deletion_timestamp.is_none()
            && (other.spec.scaling.mode == Mode::Auto || other.spec.replicas.pinned.is_some())
            && age(other) < age(app);
        attached.then(|| Rival::Resource { name: name_of(other).to_owned() })
    });
    let mut rivals = autoscalers.chain(resources).collect::<Vec<_>>();
    rivals.sort_unstable();
    rivals
}

/// What puts resources in an order that all of them agree on: the oldest first.
fn age(app: &ApiDeployment) -> (Option<Timestamp>, Option<&str>) {
    (app.metadata.creation_timestamp.as_ref().map(|created| created.0), app.metadata.uid.as_deref())
}
