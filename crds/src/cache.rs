//! Where hot reads are cached, and what is told of it.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::app::{Disabled, SecretKeySelector, UrlSource};

/// Cache of the API. Exactly one field is set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.managed), has(self.external), has(self.disabled)].filter(x, x).size() == 1")
    .message("write exactly one of cache.managed, cache.external and cache.disabled; to choose another than the stored one, set the stored one to null"))]
pub struct Cache {
    /// A Redis of this API's own, run by the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedCache>,
    /// A Redis that somebody else runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalCache>,
    /// No cache: every read goes to the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

/// A Redis of this API's own. It holds nothing that the database does not.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ManagedCache {
    /// Memory limit of the Redis container; Redis evicts keys at 75 % of it, at 50 % with `replicas: 3`, or 10 MiB below it where that is less.
    #[serde(default = "default_memory")]
    #[x_kube(validation = Rule::new("type(self) == string ? (isQuantity(self) && !quantity(self).isLessThan(quantity('16Mi')) && !quantity(self).isGreaterThan(quantity('1Ti'))) : (int(self) >= 16777216 && int(self) <= 1099511627776)")
        .message("write a quantity of memory from 16Mi to 1Ti, such as 64Mi"))]
    pub memory: Quantity,

    /// Which keys make room when the memory is full.
    #[serde(default)]
    pub eviction: Eviction,

    /// Image of Redis 7 or newer, or a compatible engine such as Valkey, with `redis-server` and `redis-cli` on its path.
    /// Absent: the operator's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Servers: 1, or 3 of which one is the primary and two have copies of its keys. Sentinels beside them, one each, agree on
    /// another primary when it dies. Each has `memory` of its own.
    #[serde(default = "default_replicas")]
    #[x_kube(validation = Rule::new("self == 1 || self == 3")
        .message("write 1, or 3 for a cache that survives the loss of a server"))]
    pub replicas: i32,

    /// Prometheus metrics of the Redis itself, by a container beside it. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exporter: Option<CacheExporter>,

    /// Encrypts the connections to the Redis. Absent: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<CacheTls>,
}

/// Which keys make room when the memory is full.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::upper_case_acronyms,
    reason = "the values of the API are written as Kubernetes writes acronyms"
)]
pub enum Eviction {
    /// Those that were not read for the longest time.
    #[default]
    LRU,
    /// Those that are read the least often: better where a few keys stay hot and scans pass through.
    LFU,
}

/// Prometheus metrics of the Redis itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CacheExporter {
    /// Image of `redis_exporter`, or of one that reads the same variables; it serves `/metrics` on port 9121.
    #[serde(default = "default_exporter_image")]
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
}

/// Certificates of the Redis.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CacheTls {
    /// Name of a Secret with `tls.crt`, `tls.key` and `ca.crt`, as cert-manager writes them; the certificate is for
    /// `NAME-cache.NAMESPACE.svc`, and with `replicas: 3` for `*.NAME-cache-nodes.NAMESPACE.svc` too. Absent: the operator makes certificates, which are kept in the Secret `NAME-cache`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
}

/// A Redis that somebody else runs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ExternalCache {
    /// Where its URL is: `redis://user:password@host:6379`. `rediss://` is encrypted. Sentinels:
    /// `redis+sentinel://user:password@host:26379,host:26379/primary`; a cluster: `redis+cluster://user:password@host:6379,host:6379`.
    pub url_from: UrlSource,

    /// Where the certificate of the authority that signed the Redis' own is, as PEM. Absent: the authorities that the
    /// image trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<CaSource>,
}

/// Where the certificate of an authority is read from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CaSource {
    /// A key of a Secret in the namespace of the resource.
    pub secret_key_ref: SecretKeySelector,
}

/// The cache that is in force.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CacheKind<'a> {
    /// A Redis run by the operator.
    Managed(&'a ManagedCache),
    /// Somebody else's Redis.
    External(&'a ExternalCache),
    /// None.
    Disabled,
}

/// The cache as it runs. Its numbers are rounded, and change only when they have moved by more than noise does.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CacheStatus {
    /// `Managed`, `External` or `Disabled`.
    pub kind: String,
    /// Whether the managed Redis passes its readiness probe; absent for the other kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Share of look-ups that found something over the last minutes, in percent; absent before there were enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hit_ratio_percent: Option<i32>,
    /// Keys per second that made room for others over the last minutes, as a decimal number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evictions_per_second: Option<String>,
    /// Memory that the managed Redis uses for its keys and itself, such as `41Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_used: Option<String>,
    /// Memory at which it evicts keys, such as `48Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
}

impl Cache {
    /// The one field that is set. `Disabled` when none is, which the API server refuses.
    pub fn kind(&self) -> CacheKind<'_> {
        match (&self.managed, &self.external) {
            (Some(managed), _) => CacheKind::Managed(managed),
            (None, Some(external)) => CacheKind::External(external),
            (None, None) => CacheKind::Disabled,
        }
    }
}

impl ManagedCache {
    /// Whether another server takes over when the primary dies.
    pub const fn fails_over(&self) -> bool {
        self.replicas > 1
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { managed: Some(ManagedCache::default()), external: None, disabled: None }
    }
}

impl Default for ManagedCache {
    fn default() -> Self {
        Self {
            memory: default_memory(),
            eviction: Eviction::default(),
            image: None,
            replicas: default_replicas(),
            exporter: None,
            tls: None,
        }
    }
}

fn default_memory() -> Quantity {
    Quantity("64Mi".into())
}

fn default_replicas() -> i32 {
    1
}

fn default_exporter_image() -> String {
    "docker.io/oliver006/redis_exporter:v1.77.0".into()
}
