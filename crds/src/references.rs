//! The ConfigMaps and Secrets whose contents the pods of a resource use.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::EnvVar;

use crate::app::ApiDeploymentSpec;
use crate::cache::CacheKind;
use crate::database::DatabaseKind;
use crate::volumes::{KeyToFile, Volume};

/// Kind of an object that holds configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl ConfigKind {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// How the pods use an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// The pods do not start without it.
    pub required: bool,
    /// Every key is used, whichever there are.
    pub whole: bool,
    /// Keys without which the pods do not start.
    pub required_keys: BTreeSet<String>,
    /// Other keys that are used.
    pub optional_keys: BTreeSet<String>,
}

/// Key of the authority's certificate in a Secret as cert-manager writes them.
const AUTHORITY_KEY: &str = "ca.crt";

/// Uses by kind and name.
pub type References = BTreeMap<(ConfigKind, String), Use>;

impl ApiDeploymentSpec {
    /// What the API's pods use, each object once. The Secrets with the URLs of the cache and the database, and with the
    /// certificate of the cache's authority, are among them as optional, for their absence is told elsewhere; the managed
    /// cache's own is not.
    pub fn references(&self) -> References {
        let mut found = References::new();
        for variable in &self.env {
            of_variable(variable, &mut found);
        }
        for source in &self.env_from {
            let references =
                [(ConfigKind::ConfigMap, &source.config_map_ref), (ConfigKind::Secret, &source.secret_ref)];
            for (kind, reference) in references {
                if let Some(reference) = reference {
                    of_keys(&mut found, kind, &reference.name, &[], reference.optional);
                }
            }
        }
        for volume in &self.workload.volumes {
            of_volume(volume, &mut found);
        }
        let urls = [
            match self.database() {
                DatabaseKind::External(database) => Some(&database.url_from.secret_key_ref),
                DatabaseKind::Embedded | DatabaseKind::Unknown => None,
            },
            match self.cache.kind() {
                CacheKind::External(cache) => Some(&cache.url_from.secret_key_ref),
                CacheKind::Managed(_) | CacheKind::Disabled => None,
            },
        ];
        for url in urls.into_iter().flatten() {
            of_key(&mut found, ConfigKind::Secret, &url.name, &url.key, Some(true));
        }
        let authority = match self.cache.kind() {
            CacheKind::External(cache) => {
                let secret = cache.ca_from.as_ref().map(|from| &from.secret_key_ref);
                secret.map(|secret| (secret.name.as_str(), secret.key.as_str()))
            }
            CacheKind::Managed(cache) => {
                let own = cache.tls.as_ref().and_then(|tls| tls.secret_name.as_deref());
                own.map(|name| (name, AUTHORITY_KEY))
            }
            CacheKind::Disabled => None,
        };
        if let Some((name, key)) = authority {
            of_key(&mut found, ConfigKind::Secret, name, key, Some(true));
        }
        found
    }
}

fn of_variable(variable: &EnvVar, found: &mut References) {
    let Some(source) = &variable.value_from else { return };
    if let Some(key) = &source.config_map_key_ref {
        of_key(found, ConfigKind::ConfigMap, &key.name, &key.key, key.optional);
    }
    if let Some(key) = &source.secret_key_ref {
        of_key(found, ConfigKind::Secret, &key.name, &key.key, key.optional);
    }
}

fn of_volume(volume: &Volume, found: &mut References) {
    if let Some(source) = &volume.config_map {
        of_keys(found, ConfigKind::ConfigMap, &source.name, &source.items, source.optional);
    }
    if let Some(source) = &volume.secret {
        of_keys(found, ConfigKind::Secret, &source.secret_name, &source.items, source.optional);
    }
    for source in volume.projected.iter().flat_map(|projected| &projected.sources) {
        for (kind, keys) in
            [(ConfigKind::ConfigMap, &source.config_map), (ConfigKind::Secret, &source.secret)]
        {
            if let Some(keys) = keys {
                of_keys(found, kind, &keys.name, &keys.items, keys.optional);
            }
        }
    }
}

/// An object of which these keys are used, or all if none is named.
fn of_keys(
    found: &mut References,
    kind: ConfigKind,
    name: &str,
    items: &[KeyToFile],
    optional: Option<bool>,
) {
    let entry = found.entry((kind, name.to_owned())).or_default();
    entry.required |= optional != Some(true);
    entry.whole |= items.is_empty();
    for item in items {
        of_key(found, kind, name, &item.key, optional);
    }
}

fn of_key(found: &mut References, kind: ConfigKind, name: &str, key: &str, optional: Option<bool>) {
    let entry = found.entry((kind, name.to_owned())).or_default();
    if optional == Some(true) {
        entry.optional_keys.insert(key.to_owned());
    } else {
        entry.required = true;
        entry.required_keys.insert(key.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(parts: Value) -> ApiDeploymentSpec {
        let mut whole = json!({ "latency": { "p99": "250ms" }, "image": "any", "cache": { "disabled": {} } });
        if let (Value::Object(whole), Value::Object(parts)) = (&mut whole, parts) {
            whole.extend(parts);
        }
        serde_json::from_value(whole).unwrap_or_else(|error| panic!("{error}"))
    }

    fn keys(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn an_object_that_is_used_in_several_ways_is_one_reference() {
        let found = spec(json!({
            "env": [
                { "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "a" } } },
                { "name": "B", "valueFrom": { "secretKeyRef": { "name": "s", "key": "b", "optional": true } } },
            ],
            "envFrom": [{ "configMapRef": { "name": "c", "optional": true } }],
            "workload": { "volumes": [
                { "name": "one", "configMap": { "name": "c", "items": [{ "key": "k", "path": "k" }] } },
            ] },
        }))
        .references();
        let secret = &found[&(ConfigKind::Secret, "s".to_owned())];
        assert_eq!(
            secret,
            &Use { required: true, whole: false, required_keys: keys(&["a"]), optional_keys: keys(&["b"]) }
        );
        let config = &found[&(ConfigKind::ConfigMap, "c".to_owned())];
        assert_eq!(
            config,
            &Use { required: true, whole: true, required_keys: keys(&["k"]), optional_keys: keys(&[]) }
        );
    }

    #[test]
    fn projected_volumes_and_urls_are_references() {
        let url = json!({ "urlFrom": { "secretKeyRef": { "name": "db", "key": "url" } } });
        let found = spec(json!({
            "database": { "external": url },
            "workload": { "volumes": [{ "name": "v", "projected": { "sources": [
                { "secret": { "name": "s" } }, { "configMap": { "name": "c", "optional": true } },
            ] } }] },
        }))
        .references();
        let required = |kind, name: &str| found[&(kind, name.to_owned())].required;
        assert!(required(ConfigKind::Secret, "s") && !required(ConfigKind::ConfigMap, "c"));
        assert!(!required(ConfigKind::Secret, "db"), "told as a missing URL");
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn the_certificate_of_the_caches_authority_is_a_reference() {
        let from = |key: &str| json!({ "secretKeyRef": { "name": "redis", "key": key } });
        let external = json!({ "external": { "urlFrom": from("url"), "caFrom": from("ca.pem") } });
        let found = spec(json!({ "cache": external })).references();
        let secret = |name: &str| (ConfigKind::Secret, name.to_owned());
        let wanted = Use { optional_keys: keys(&["url", "ca.pem"]), ..Use::default() };
        assert_eq!(found[&secret("redis")], wanted, "a missing one is told as the URL is");

        let managed = json!({ "managed": { "tls": { "secretName": "certificates" } } });
        let found = spec(json!({ "cache": managed })).references();
        let wanted = Use { optional_keys: keys(&["ca.crt"]), ..Use::default() };
        assert_eq!(found[&secret("certificates")], wanted, "the API's pods see no other key");
        let made = json!({ "managed": { "tls": {} } });
        assert!(spec(json!({ "cache": made })).references().is_empty());
    }

    #[test]
    fn nothing_is_used_by_default() {
        assert!(spec(json!({})).references().is_empty());
    }
}
