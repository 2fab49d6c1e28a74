//! Reads of a Deployment that a resource is attached to, and of its pods. It writes nothing.
//!
//! Both are read live, once for each scrape: a watch of them would need all Deployments and all pods of the cluster in
//! memory, for their labels are their owners' affair. The pods come from the API server's own cache, as an HPA's do.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use plimsoll_core::input::Child;
use plimsoll_core::selector_text;
use plimsoll_crds::ApiDeployment;

use super::Context;
use crate::error::Error;
use crate::source::target::Target;

/// The Deployment; absent also while it is being deleted.
pub async fn deployment(
    ctx: &Context,
    app: &ApiDeployment,
    target: &str,
) -> Result<Child<Deployment>, Error> {
    let live = api::<Deployment>(ctx, app)
        .get_opt(target)
        .await
        .map_err(|source| Error::Read { what: format!("Deployment {target}"), source })?;
    let live = live.filter(|live| live.metadata.deletion_timestamp.is_none());
    Ok(live.map_or(Child::Absent, |live| Child::Attached(Box::new(live))))
}

/// Its pods, by its own selector.
pub async fn pods(ctx: &Context, app: &ApiDeployment, deployment: &Deployment) -> Result<Vec<Target>, Error> {
    let selector = selector_text(deployment);
    let pods = api::<Pod>(ctx, app)
        .list(&ListParams::default().labels(&selector).match_any())
        .await
        .map_err(|source| Error::Read { what: format!("pods of {selector}"), source })?;
    Ok(pods.items.iter().filter_map(|pod| Target::selected(app, pod)).collect())
}

fn api<K>(ctx: &Context, app: &ApiDeployment) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    Api::namespaced(ctx.client.clone(), app.metadata.namespace.as_deref().unwrap_or_default())
}
