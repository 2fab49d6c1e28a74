//! The managed cache's Secret: passwords, each in the forms in which it is read, and certificates.
//!
//! It holds what every option of the cache needs, so that none has it written again: it is made once. Passwords and
//! certificates are an input; nothing here makes one up, and nothing rotates them silently.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use plimsoll_crds::{ApiDeployment, CacheKind, ManagedCache};

use super::cache_access::{self, ANY_IMAGE, API_USER, BUNDLED};
use super::cache_deployment::PORT;
use super::cache_failover::{PRIMARY_NAME, SENTINEL_PORT, node_names};
use super::{Component, cache_name, cache_nodes_name, metadata};
use crate::input::{Certificates, Credentials};

/// Key of the API's password.
pub(super) const PASSWORD_KEY: &str = "password";
/// Key of the URL, without and with encryption.
pub(super) const URL_KEY: &str = "url";
pub(super) const TLS_URL_KEY: &str = "tls-url";
/// Likewise, of the sentinels that know the primary.
pub(super) const SENTINEL_URL_KEY: &str = "sentinel-url";
pub(super) const TLS_SENTINEL_URL_KEY: &str = "tls-sentinel-url";
/// Key of the password of the servers that copy the primary.
pub(super) const REPLICATION_PASSWORD_KEY: &str = "replication-password";
/// Key of the password with which sentinels speak with each other and look after the servers.
pub(super) const SENTINEL_PASSWORD_KEY: &str = "sentinel-password";
/// Key of the exporter's password.
pub(super) const EXPORTER_PASSWORD_KEY: &str = "exporter-password";
/// Key of the operator's own password.
pub const OPERATOR_PASSWORD_KEY: &str = "operator-password";
/// Keys of the certificates: the authority's, the server's, and the server's private key.
pub const CERTIFICATE_KEYS: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// Annotation that names a set of credentials, on the Secret and on the pod templates that use it.
pub const REVISION_ANNOTATION: &str = "plimsoll.dev/cache-revision";

/// The keys without which the cache cannot run as the resource asks. An older Secret may lack those of newer options.
pub fn cache_secret_keys(app: &ApiDeployment) -> Vec<&'static str> {
    let CacheKind::Managed(cache) = app.spec.cache.kind() else { return Vec::new() };
    let mut keys = vec![PASSWORD_KEY, OPERATOR_PASSWORD_KEY, url_key(cache), access_key(app)];
    if cache.fails_over() {
        keys.extend([REPLICATION_PASSWORD_KEY, SENTINEL_PASSWORD_KEY]);
    }
    if cache.exporter.is_some() {
        keys.push(EXPORTER_PASSWORD_KEY);
    }
    if cache.tls.as_ref().is_some_and(|tls| tls.secret_name.is_none()) {
        keys.extend(CERTIFICATE_KEYS);
    }
    keys
}

/// Key of the URL that fits the cache's options.
pub(super) const fn url_key(cache: &ManagedCache) -> &'static str {
    match (cache.fails_over(), cache.tls.is_some()) {
        (false, false) => URL_KEY,
        (false, true) => TLS_URL_KEY,
        (true, false) => SENTINEL_URL_KEY,
        (true, true) => TLS_SENTINEL_URL_KEY,
    }
}

/// Key of the file of users that fits the image.
pub(super) fn access_key(app: &ApiDeployment) -> &'static str {
    if app.spec.image.is_none() { BUNDLED } else { ANY_IMAGE }
}

/// Names under which the cache is reached, which its certificate is for.
pub fn cache_host_names(app: &ApiDeployment) -> Vec<String> {
    let (name, namespace) = (cache_name(app), app.metadata.namespace.as_deref().unwrap_or_default());
    let service = format!("{name}.{namespace}.svc");
    vec![
        service.clone(),
        format!("{service}.cluster.local"),
        format!("{name}.{namespace}"),
        name,
        "localhost".into(),
        format!("*.{}.{namespace}.svc", cache_nodes_name(app)),
    ]
}

/// Where the cache is reached: name and port.
pub fn cache_address(app: &ApiDeployment) -> (String, u16) {
    let host = cache_host_names(app).into_iter().next().unwrap_or_default();
    (host, u16::try_from(PORT).unwrap_or_default())
}

/// Builds the Secret.
pub fn cache_secret(app: &ApiDeployment, credentials: &Credentials) -> Secret {
    let Credentials {
        password,
        operator_password,
        exporter_password,
        replication_password,
        sentinel_password,
        revision,
        certificates,
    } = credentials;
    let (host, port) = cache_address(app);
    let url = |scheme: &str| format!("{scheme}://{API_USER}:{password}@{host}:{port}");
    let sentinels = node_names(app).into_iter().map(|node| format!("{node}:{SENTINEL_PORT}"));
    let sentinels = sentinels.collect::<Vec<_>>().join(",");
    let sentinel_url = |scheme: &str| {
        format!(
            "{scheme}+sentinel://{API_USER}:{password}@{sentinels}/{PRIMARY_NAME}?sentinel={API_USER}:{password}"
        )
    };
    let mut data = BTreeMap::from([
        (PASSWORD_KEY, password.clone()),
        (OPERATOR_PASSWORD_KEY, operator_password.clone()),
        (EXPORTER_PASSWORD_KEY, exporter_password.clone()),
        (URL_KEY, url("redis")),
        (TLS_URL_KEY, url("rediss")),
        (SENTINEL_URL_KEY, sentinel_url("redis")),
        (TLS_SENTINEL_URL_KEY, sentinel_url("rediss")),
        (REPLICATION_PASSWORD_KEY, replication_password.clone()),
        (SENTINEL_PASSWORD_KEY, sentinel_password.clone()),
    ]);
    data.extend(cache_access::files(credentials));
    if let Some(Certificates { authority, server, server_key }) = certificates {
        data.extend(CERTIFICATE_KEYS.into_iter().zip([authority, server, server_key].map(String::clone)));
    }
    let mut metadata = metadata(app, cache_name(app), Component::Cache);
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
