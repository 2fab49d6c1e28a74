//! What the API's pods get to reach the cache: its URL, and the authority whose certificates they trust.

use k8s_openapi::api::core::v1::{EnvVar, KeyToPath, SecretVolumeSource, Volume, VolumeMount};
use plimsoll_crds::{ApiDeployment, CacheKind};

use super::cache_secret::url_key;
use super::{cache_name, env, env_from_secret, mount};

/// Where the authority's certificate is in the API's container.
const CA_FOLDER: &str = "/etc/plimsoll/cache";
const CA_FILE: &str = "ca.crt";
const VOLUME: &str = "cache-ca";

/// The variables.
pub(super) fn environment(app: &ApiDeployment) -> Vec<EnvVar> {
    let url = match app.spec.cache.kind() {
        CacheKind::Managed(cache) => env_from_secret("PLIMSOLL_CACHE_URL", &cache_name(app), url_key(cache)),
        CacheKind::External(cache) => {
            let secret = &cache.url_from.secret_key_ref;
            env_from_secret("PLIMSOLL_CACHE_URL", &secret.name, &secret.key)
        }
        CacheKind::Disabled => return Vec::new(),
    };
    let ca = authority(app).map(|_| env("PLIMSOLL_CACHE_CA", format!("{CA_FOLDER}/{CA_FILE}")));
    std::iter::once(url).chain(ca).collect()
}

/// The volume with the authority's certificate, and where it is mounted; none where no certificate of its own is trusted.
pub(super) fn volume(app: &ApiDeployment) -> Option<(Volume, VolumeMount)> {
    let (secret_name, key) = authority(app)?;
    let volume = Volume {
        name: VOLUME.into(),
        secret: Some(SecretVolumeSource {
            default_mode: Some(0o440),
            items: Some(vec![KeyToPath { key, path: CA_FILE.into(), mode: None }]),
            secret_name: Some(secret_name),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    Some((volume, VolumeMount { read_only: Some(true), ..mount(VOLUME, CA_FOLDER) }))
}

/// Secret and key of the authority's certificate.
fn authority(app: &ApiDeployment) -> Option<(String, String)> {
    match app.spec.cache.kind() {
        CacheKind::Managed(cache) => {
            let tls = cache.tls.as_ref()?;
            Some((tls.secret_name.clone().unwrap_or_else(|| cache_name(app)), CA_FILE.into()))
        }
        CacheKind::External(cache) => {
            let secret = &cache.ca_from.as_ref()?.secret_key_ref;
            Some((secret.name.clone(), secret.key.clone()))
        }
        CacheKind::Disabled => None,
    }
}
