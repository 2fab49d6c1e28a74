//! The managed cache's Secret: one password, in the three forms in which it is read.
//!
//! The password is an input; nothing here makes one up, and nothing rotates it silently.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use plimsoll_crds::ApiDeployment;

use super::cache_deployment::PORT;
use super::{Component, cache_name, metadata};
use crate::input::Credentials;

/// Keys of the Secret.
pub const KEYS: [&str; 3] = ["password", "url", "users.acl"];

/// Annotation that names a set of credentials, on the Secret and on the pod templates that use it.
pub const REVISION_ANNOTATION: &str = "plimsoll.dev/cache-revision";

/// Builds the Secret. The default user is off; the API's user may do everything but what is dangerous to others.
pub fn cache_secret(app: &ApiDeployment, credentials: &Credentials) -> Secret {
    let Credentials { password, revision } = credentials;
    let name = cache_name(app);
    let namespace = app.metadata.namespace.as_deref().unwrap_or_default();
    let data = BTreeMap::from([
        ("password", password.clone()),
        ("url", format!("redis://plimsoll:{password}@{name}.{namespace}.svc:{PORT}")),
        (
            "users.acl",
            format!("user default off\nuser plimsoll on >{password} ~* &* +@all -@admin -@dangerous\n"),
        ),
    ]);
    let mut metadata = metadata(app, name, Component::Cache);
    metadata.annotations = Some([(REVISION_ANNOTATION.into(), revision.clone())].into());
    Secret {
        metadata,
        data: Some(
            data.into_iter().map(|(key, value)| (key.into(), ByteString(value.into_bytes()))).collect(),
        ),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}
