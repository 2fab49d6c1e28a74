//! Reads the ConfigMaps and Secrets that the pods use: which are missing, and a digest by which a change of their contents
//! rolls out. It reads only, and keeps no contents.
//!
//! They are not watched, so that the operator needs no right to list them and sees only those that it is told of. A change is
//! seen within [`AGE_MAX`].

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use plimsoll_core::input::{Configuration, Missing};
use plimsoll_core::memory::Failure;
use plimsoll_crds::{ApiDeployment, ConfigKind, Use};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::Context;
use crate::error::{Error, Retry};
use crate::state;

/// What was there is believed for this long. What is missing is looked for at every reconcile.
const AGE_MAX: Duration = Duration::from_mins(1);
/// Bytes of the digest that are kept: enough that two contents never have the same one by chance.
const DIGEST_BYTES: usize = 16;

/// Contents by key.
type Contents = BTreeMap<String, Vec<u8>>;

/// Reads them, or believes what was read a moment ago. A failure is told, and what was read before is believed for longer,
/// but not of another spec.
pub async fn read(
    ctx: &Context,
    app: &ApiDeployment,
    last: &mut Option<state::Configuration>,
) -> Configuration {
    let generation = app.metadata.generation;
    last.take_if(|last| last.generation != generation);
    if let Some(last) = last
        && last.read_at.elapsed() < AGE_MAX
        && last.found.missing.is_empty()
    {
        return last.found.clone();
    }
    match read_now(ctx, app).await {
        Ok(found) => {
            *last = Some(state::Configuration { read_at: Instant::now(), generation, found: found.clone() });
            found
        }
        Err(error) => last.as_ref().map_or_else(
            || Configuration {
                unread: Some(Failure::of_read(error.chain(), error.retry() == Retry::Permanent)),
                ..Configuration::default()
            },
            |last| last.found.clone(),
        ),
    }
}

async fn read_now(ctx: &Context, app: &ApiDeployment) -> Result<Configuration, Error> {
    let references = app.spec.references();
    let mut digest = Sha256::new();
    let mut missing = Vec::new();
    for ((kind, name), use_) in &references {
        let found = match kind {
            ConfigKind::ConfigMap => get::<ConfigMap>(ctx, app, *kind, name)
                .await?
                .map(|map| (map.metadata.clone(), of_config_map(map))),
            ConfigKind::Secret => get::<Secret>(ctx, app, *kind, name)
                .await?
                .map(|secret| (secret.metadata.clone(), of_secret(secret))),
        };
        missing.extend(missing_of(*kind, name, use_, found.as_ref().map(|(_, contents)| contents)));
        feed(&mut digest, *kind, name, use_, found.as_ref());
    }
    let digest = (!references.is_empty()).then(|| hexadecimal(&digest.finalize()[..DIGEST_BYTES]));
    Ok(Configuration { digest, missing, unread: None })
}

async fn get<K>(ctx: &Context, app: &ApiDeployment, kind: ConfigKind, name: &str) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let namespace = app.metadata.namespace.as_deref().unwrap_or_default();
    let found = Api::<K>::namespaced(ctx.client.clone(), namespace).get_opt(name).await;
    found.map_err(|source| Error::Read { what: format!("{} {name}", kind.as_str()), source })
}

fn of_config_map(map: ConfigMap) -> Contents {
    let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    text.chain(map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0))).collect()
}

fn of_secret(secret: Secret) -> Contents {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
}

fn missing_of(kind: ConfigKind, name: &str, use_: &Use, contents: Option<&Contents>) -> Vec<Missing> {
    let missing = |key| Missing { kind, name: name.to_owned(), key };
    match contents {
        None if use_.required => vec![missing(None)],
        None => Vec::new(),
        Some(contents) => {
            let lacking = use_.required_keys.iter().filter(|key| !contents.contains_key(*key));
            lacking.map(|key| missing(Some(key.clone()))).collect()
        }
    }
}

/// Adds what the pods see of one object. The UID goes in too: the digest can be read by whoever may read the Deployment, and
/// without the UID, which only readers of the object know, a weak password could be guessed by trying.
fn feed(
    digest: &mut Sha256,
    kind: ConfigKind,
    name: &str,
    use_: &Use,
    found: Option<&(ObjectMeta, Contents)>,
) {
    let mut add = |part: &[u8]| {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    };
    add(kind.as_str().as_bytes());
    add(name.as_bytes());
    let Some((metadata, contents)) = found else { return add(b"absent") };
    add(metadata.uid.as_deref().unwrap_or_default().as_bytes());
    let counts =
        |key: &String| use_.whole || use_.required_keys.contains(key) || use_.optional_keys.contains(key);
    for (key, value) in contents.iter().filter(|(key, _)| counts(key)) {
        add(key.as_bytes());
        add(value);
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn digest_of(use_: &Use, uid: &str, contents: &[(&str, &str)]) -> String {
        let mut digest = Sha256::new();
        let metadata = ObjectMeta { uid: Some(uid.into()), ..ObjectMeta::default() };
        let contents =
            contents.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
        feed(&mut digest, ConfigKind::Secret, "s", use_, Some(&(metadata, contents)));
        hexadecimal(&digest.finalize())
    }

    fn key(key: &str) -> Use {
        Use { required: true, required_keys: [key.to_owned()].into(), ..Use::default() }
    }

    #[test]
    fn only_the_keys_that_are_used_count() {
        let before = digest_of(&key("a"), "u", &[("a", "1"), ("b", "2")]);
        assert_eq!(before, digest_of(&key("a"), "u", &[("a", "1"), ("b", "3")]));
        assert_ne!(before, digest_of(&key("a"), "u", &[("a", "2"), ("b", "2")]));
        let whole = Use { required: true, whole: true, ..Use::default() };
        assert_ne!(
            digest_of(&whole, "u", &[("a", "1"), ("b", "2")]),
            digest_of(&whole, "u", &[("a", "1"), ("b", "3")])
        );
    }

    #[test]
    fn where_one_value_ends_counts() {
        let whole = Use { required: true, whole: true, ..Use::default() };
        assert_ne!(digest_of(&whole, "u", &[("a", "bc")]), digest_of(&whole, "u", &[("ab", "c")]));
    }

    #[test]
    fn the_contents_cannot_be_guessed_without_the_uid() {
        assert_ne!(digest_of(&key("a"), "u", &[("a", "1")]), digest_of(&key("a"), "v", &[("a", "1")]));
    }

    #[test]
    fn an_optional_object_or_key_is_never_missing() {
        let optional = Use { optional_keys: ["a".to_owned()].into(), ..Use::default() };
        assert_eq!(missing_of(ConfigKind::Secret, "s", &optional, None), []);
        assert_eq!(missing_of(ConfigKind::Secret, "s", &optional, Some(&Contents::new())), []);
        let missing = missing_of(ConfigKind::ConfigMap, "c", &key("a"), Some(&Contents::new()));
        assert_eq!(missing[0].to_string(), "ConfigMap c with the key a");
        let missing = missing_of(ConfigKind::ConfigMap, "c", &key("a"), None);
        assert_eq!(missing[0].to_string(), "ConfigMap c");
    }
}
