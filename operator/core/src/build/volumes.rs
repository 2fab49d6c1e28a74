//! The volumes of the API's pods: the operator's own empty folders and the cache's authority, and the user's, of the kinds that the resource offers.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIProjection, DownwardAPIVolumeSource, KeyToPath,
    PersistentVolumeClaimVolumeSource, ProjectedVolumeSource, SecretProjection, SecretVolumeSource, Volume,
    VolumeMount, VolumeProjection,
};
use plimsoll_crds::{
    ApiDeployment, KeyToFile, ProjectedSource, Volume as UserVolume, VolumeMount as UserMount, Workload,
};

use super::{cache_client, empty_dir, mount};

/// The operator's own empty folders and where they are mounted.
const OWN: [(&str, &str); 2] = [("data", "/data"), ("tmp", "/tmp")];

/// The volumes, the operator's own first.
pub fn volumes(app: &ApiDeployment) -> Vec<Volume> {
    let workload = &app.spec.workload;
    let own = own(workload).map(|(name, _)| empty_dir(name, None));
    own.chain(authority(app).map(|(volume, _)| volume)).chain(workload.volumes.iter().map(volume)).collect()
}

/// The mounts, the operator's own first.
pub fn mounts(app: &ApiDeployment) -> Vec<VolumeMount> {
    let workload = &app.spec.workload;
    let own = own(workload).map(|(name, path)| mount(name, path));
    let authority = authority(app).map(|(_, mount)| mount);
    own.chain(authority).chain(workload.volume_mounts.iter().map(user_mount)).collect()
}

/// The operator's own empty folders whose place the user has not taken.
fn own(workload: &Workload) -> impl Iterator<Item = (&'static str, &'static str)> {
    OWN.into_iter().filter(|(_, path)| !taken(workload, path))
}

/// The volume of the cache's authority, unless the user has taken its place.
fn authority(app: &ApiDeployment) -> Option<(Volume, VolumeMount)> {
    cache_client::volume(app).filter(|(_, mount)| !taken(&app.spec.workload, &mount.mount_path))
}

fn taken(workload: &Workload, path: &str) -> bool {
    workload.volume_mounts.iter().any(|mount| mount.mount_path.trim_end_matches('/') == path)
}

fn user_mount(mount: &UserMount) -> VolumeMount {
    VolumeMount {
        mount_path: mount.mount_path.clone(),
        name: mount.name.clone(),
        read_only: mount.read_only,
        sub_path: mount.sub_path.clone(),
        ..VolumeMount::default()
    }
}

fn volume(volume: &UserVolume) -> Volume {
    let UserVolume { name, config_map, secret, empty_dir, persistent_volume_claim, downward_api, projected } =
        volume;
    Volume {
        name: name.clone(),
        config_map: config_map.as_ref().map(|source| ConfigMapVolumeSource {
            default_mode: source.default_mode,
            items: items(&source.items),
            name: source.name.clone(),
            optional: source.optional,
        }),
        secret: secret.as_ref().map(|source| SecretVolumeSource {
            default_mode: source.default_mode,
            items: items(&source.items),
            optional: source.optional,
            secret_name: Some(source.secret_name.clone()),
        }),
        empty_dir: empty_dir.clone(),
        persistent_volume_claim: persistent_volume_claim.as_ref().map(|source| {
            PersistentVolumeClaimVolumeSource {
                claim_name: source.claim_name.clone(),
                read_only: source.read_only,
            }
        }),
        downward_api: downward_api.as_ref().map(|source| DownwardAPIVolumeSource {
            default_mode: source.default_mode,
            items: Some(source.items.clone()),
        }),
        projected: projected.as_ref().map(|source| ProjectedVolumeSource {
            default_mode: source.default_mode,
            sources: Some(source.sources.iter().map(projection).collect()),
        }),
        ..Volume::default()
    }
}

fn projection(source: &ProjectedSource) -> VolumeProjection {
    VolumeProjection {
        config_map: source.config_map.as_ref().map(|keys| ConfigMapProjection {
            items: items(&keys.items),
            name: keys.name.clone(),
            optional: keys.optional,
        }),
        secret: source.secret.as_ref().map(|keys| SecretProjection {
            items: items(&keys.items),
            name: keys.name.clone(),
            optional: keys.optional,
        }),
        downward_api: source
            .downward_api
            .as_ref()
            .map(|facts| DownwardAPIProjection { items: Some(facts.items.clone()) }),
        ..VolumeProjection::default()
    }
}

fn items(keys: &[KeyToFile]) -> Option<Vec<KeyToPath>> {
    let items = keys
        .iter()
        .map(|item| KeyToPath { key: item.key.clone(), mode: item.mode, path: item.path.clone() })
        .collect::<Vec<_>>();
    (!items.is_empty()).then_some(items)
}
