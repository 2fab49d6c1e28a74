//! The managed cache with failover: three servers of which one is the primary, each with a sentinel beside it. Who is the
//! primary is for the sentinels to agree on; the scripts here only ask them.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EnvVarSource, ExecAction, ObjectFieldSelector, PodDNSConfig,
    PodDNSConfigOption, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, Service, ServicePort,
    ServiceSpec, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plimsoll_crds::{ApiDeployment, ManagedCache, quantity_bytes};

use super::cache_access::{self, REPLICA_USER, SENTINEL_USER};
use super::cache_deployment::{self, PORT, TLS_VOLUME};
use super::cache_secret::{
    CERTIFICATE_KEYS, OPERATOR_PASSWORD_KEY, PASSWORD_KEY, REPLICATION_PASSWORD_KEY, REVISION_ANNOTATION,
    SENTINEL_PASSWORD_KEY,
};
use super::{
    Component, cache_annotations, cache_name, cache_nodes_name, container_security, empty_dir, env,
    env_from_secret, label_selector, labels, metadata, mount, selector,
};
use crate::input::Settings;

/// Servers, and sentinels: as many as it takes to agree when one is gone.
pub const NODES: usize = 3;
/// Sentinels that must agree.
const QUORUM: usize = 2;
/// Port of a sentinel.
pub const SENTINEL_PORT: u16 = 26379;
/// The name under which they watch the primary.
pub const PRIMARY_NAME: &str = "cache";
/// Milliseconds without an answer after which the primary counts as gone. Sentinels promote no copy that had been without it for
/// ten times as long before they saw that; during a TILT they see nothing, so that ten times this is longer than [`TILT_MS`].
const DOWN_AFTER_MS: u32 = 5000;
/// Milliseconds that a failover may take.
const FAILOVER_MS: u32 = 5000;
/// For so long a sentinel does nothing after it was held up for two seconds, as by a look-up of a name: Redis' TILT mode.
const TILT_MS: u32 = 30_000;
/// Seconds for which a server that was the primary waits for another to be in its place, which has the keys: a TILT and two
/// attempts, for the second comes twice [`FAILOVER_MS`] after the first, and takes as long. Right after a TILT the first finds no copy to its liking.
const PATIENCE_SECONDS: u32 = (DOWN_AFTER_MS + TILT_MS + 4 * FAILOVER_MS) / 1000;
/// Options of the resolver. Servers and sentinels stand still while they look up a name: one packet that is lost must not cost the
/// resolver's default of five seconds.
const RESOLVER: [(&str, &str); 2] = [("timeout", "1"), ("attempts", "3")];

/// Names the primary that a sentinel tells, or else the first server: with no sentinel to ask, nothing has run before.
/// `told` says which of the two, and `silent` counts those that took the question and did not answer it: they stand still, and may know.
const FIND_PRIMARY: &str = r#"
find_primary() {
  primary=${NODES%% *} told= silent=0
  for node in $NODES; do
    answer=$(REDISCLI_AUTH=$SENTINEL_PASSWORD timeout 2 $CLI -h "$node" -p 26379 SENTINEL GET-MASTER-ADDR-BY-NAME cache 2>/dev/null)
    [ $? -ne 124 ] || silent=$((silent + 1))
    for host in $answer; do
      case $host in *".$DOMAIN") primary=$host told=1; return;; esac
      break
    done
  done
}
"#;

/// Runs the server: as the primary, or as a replica of it. One that was the primary comes back empty, and waits for a while
/// until the sentinels have put another in its place, which has the keys; likewise while they stand still.
const SERVER: &str = r#"
me=$POD_NAME.$DOMAIN
find_primary
patience=$PATIENCE_SECONDS
waits() { if [ -n "$told" ]; then [ "$primary" = "$me" ]; else [ $silent -gt 0 ]; fi; }
while waits && [ $patience -gt 0 ]; do
  sleep 1
  patience=$((patience - 1 - 2 * silent))
  find_primary
done
set -- "$@" --replica-announce-ip "$me" --masteruser "$REPLICA_USER" --masterauth "$REPLICATION_PASSWORD"
if [ "$primary" != "$me" ]; then set -- "$@" --replicaof "$primary" 6379; fi
exec redis-server "$@"
"#;

/// Whether the server is the primary, or has the primary's keys: only then can it take over.
const SYNCED: &str = r#"
answer=$(REDISCLI_AUTH=$SENTINEL_PASSWORD timeout 2 $CLI -p 6379 --user "$SENTINEL_USER" INFO replication 2>/dev/null)
case $answer in *role:master*|*master_link_status:up*) exit 0;; esac
exit 1
"#;

/// Whether the sentinel could replace the primary: enough others agree with it, and a copy answers it.
const WATCHING: &str = r#"
ask() { REDISCLI_AUTH=$SENTINEL_PASSWORD timeout 1 $CLI -p 26379 SENTINEL "$1" cache 2>/dev/null; }
case $(ask CKQUORUM) in OK*) ;; *) exit 1;; esac
last=
for word in $(ask REPLICAS); do
  if [ "$last" = flags ] && [ "$word" = slave ]; then exit 0; fi
  last=$word
done
exit 1
"#;

/// Runs the sentinel, which writes into its configuration what it learns. Where no other has told it of a primary, it waits
/// for the first server. It knows all servers and sentinels from the beginning, each sentinel by an id of its own: one that
/// starts while the primary is gone could learn of them from nobody.
const SENTINEL: &str = r#"
me=$POD_NAME.$DOMAIN
find_primary
until [ -n "$told" ] || timeout 2 $CLI -h "$primary" -p 6379 PING >/dev/null 2>&1; do sleep 1; find_primary; done
id() { pod=${1%%.*}; printf '%040d' $((${pod##*-} + 1)); }
{
  echo "$LINES_BEFORE"
  echo "requirepass $SENTINEL_PASSWORD"
  eval "echo \"$USERS\""
  echo "sentinel sentinel-pass $SENTINEL_PASSWORD"
  echo "sentinel announce-ip $me"
  echo "sentinel myid $(id "$me")"
  echo "sentinel monitor cache $primary 6379 $QUORUM"
  echo "sentinel auth-user cache $SENTINEL_USER"
  echo "sentinel auth-pass cache $SENTINEL_PASSWORD"
  echo "sentinel down-after-milliseconds cache $DOWN_AFTER_MS"
  echo "sentinel failover-timeout cache $FAILOVER_MS"
  for node in $NODES; do
    [ "$node" = "$primary" ] || echo "sentinel known-replica cache $node 6379"
    [ "$node" = "$me" ] || echo "sentinel known-sentinel cache $node 26379 $(id "$node")"
  done
} > /sentinel/sentinel.conf
exec redis-server /sentinel/sentinel.conf --sentinel
"#;

/// Builds the headless Service that gives each server a name of its own. Names lead to servers that are not ready too: they
/// have to find each other before.
pub fn cache_nodes_service(app: &ApiDeployment) -> Service {
    let port = |name: &str, port| ServicePort {
        name: Some(name.into()),
        port,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(name.into())),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(app, cache_nodes_name(app), Component::Cache),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            ports: Some(vec![port("redis", PORT), port("sentinel", SENTINEL_PORT.into())]),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(app, Component::Cache)),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Builds the StatefulSet. `cache_revision` names the credentials.
pub fn cache_stateful_set(
    app: &ApiDeployment,
    cache: &ManagedCache,
    settings: &Settings,
    cache_revision: &str,
) -> StatefulSet {
    StatefulSet {
        metadata: metadata(app, cache_name(app), Component::Cache),
        spec: Some(StatefulSetSpec {
            // None waits for another to be ready: they become so together.
            pod_management_policy: Some("Parallel".into()),
            replicas: i32::try_from(NODES).ok(),
            revision_history_limit: Some(3),
            selector: label_selector(app, Component::Cache),
            service_name: Some(cache_nodes_name(app)),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    annotations: cache_annotations(app, cache_revision),
                    labels: Some(labels(app, Component::Cache)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(app, cache, settings)),
            },
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

/// Whether servers of the one could not speak with those of the other: they have other passwords, or other certificates. A
/// rollout, one after another, would wait for the first of them for ever.
pub fn speaks_otherwise(live: &StatefulSet, wanted: &StatefulSet) -> bool {
    let language = |set: &StatefulSet| {
        let template = &set.spec.as_ref()?.template;
        let annotations = template.metadata.as_ref()?.annotations.as_ref();
        let revision = annotations.and_then(|annotations| annotations.get(REVISION_ANNOTATION)).cloned();
        let mut volumes = template.spec.as_ref()?.volumes.iter().flatten();
        let certificates = volumes.find(|volume| volume.name == TLS_VOLUME);
        let certificates = certificates.map(|volume| Some(volume.secret.as_ref()?.secret_name.clone()));
        Some((revision, certificates))
    };
    language(live) != language(wanted)
}

fn pod(app: &ApiDeployment, cache: &ManagedCache, settings: &Settings) -> PodSpec {
    let mut pod = cache_deployment::pod(app, cache, settings);
    let mut sentinel = sentinel(app, cache, settings);
    if let Some(server) = pod.containers.first_mut() {
        let buffer_bytes = quantity_bytes(&cache.memory).unwrap_or_default() / 8;
        let buffer = buffer_bytes.to_string();
        // What a copy has received is deleted once it is loaded: it would come back older than what the others hold. A copy
        // that cannot follow is cut off before what waits for it takes the memory of the keys.
        let mut arguments = vec!["--repl-diskless-sync-delay", "1", "--rdb-del-sync-files", "yes"];
        arguments.extend(["--client-output-buffer-limit", "replica", &buffer, &buffer, "10"]);
        if cache.tls.is_some() {
            arguments.extend(["--tls-replication", "yes"]);
        }
        server.command = Some(script(SERVER));
        server.args.get_or_insert_default().extend(arguments.into_iter().map(String::from));
        server.env = Some(variables(app, cache));
        // It may wait for the sentinels before it listens.
        server.startup_probe = Some(probe(cache, PORT, 2, 3 * PATIENCE_SECONDS));
        server.readiness_probe = Some(readiness(SYNCED));
        sentinel.volume_mounts.clone_from(&server.volume_mounts);
    }
    sentinel.volume_mounts.get_or_insert_default().push(mount("sentinel", "/sentinel"));
    pod.containers.push(sentinel);
    pod.volumes.get_or_insert_default().push(empty_dir("sentinel", None));
    let option = |(name, value): (&str, &str)| PodDNSConfigOption {
        name: Some(name.into()),
        value: Some(value.into()),
    };
    pod.dns_config =
        Some(PodDNSConfig { options: Some(RESOLVER.map(option).into()), ..PodDNSConfig::default() });
    pod.topology_spread_constraints = Some(vec![TopologySpreadConstraint {
        label_selector: Some(label_selector(app, Component::Cache)),
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        ..TopologySpreadConstraint::default()
    }]);
    pod
}

fn sentinel(app: &ApiDeployment, cache: &ManagedCache, settings: &Settings) -> Container {
    let mut lines = vec!["dir /sentinel".to_owned(), "sentinel resolve-hostnames yes".into()];
    lines.push("sentinel announce-hostnames yes".into());
    if cache.tls.is_some() {
        let [authority, server, key] =
            CERTIFICATE_KEYS.map(|key| format!("{}/{key}", cache_deployment::TLS_FOLDER));
        lines.extend(["port 0".into(), format!("tls-port {SENTINEL_PORT}"), "tls-auth-clients no".into()]);
        lines.extend(["tls-replication yes".into(), format!("tls-ca-cert-file {authority}")]);
        lines.extend([format!("tls-cert-file {server}"), format!("tls-key-file {key}")]);
    } else {
        lines.push(format!("port {SENTINEL_PORT}"));
    }
    let mut variables = variables(app, cache);
    variables.extend([
        env("LINES_BEFORE", lines.join("\n")),
        env("USERS", cache_access::sentinel_users()),
        env_from_secret("PASSWORD", &cache_name(app), PASSWORD_KEY),
        env_from_secret("OPERATOR_PASSWORD", &cache_name(app), OPERATOR_PASSWORD_KEY),
        env("QUORUM", QUORUM.to_string()),
        env("DOWN_AFTER_MS", DOWN_AFTER_MS.to_string()),
        env("FAILOVER_MS", FAILOVER_MS.to_string()),
    ]);
    let quantities = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).into()))).collect())
    };
    Container {
        name: "sentinel".into(),
        image: Some(cache.image.clone().unwrap_or_else(|| settings.redis_image.clone())),
        command: Some(script(SENTINEL)),
        env: Some(variables),
        ports: Some(vec![ContainerPort {
            name: Some("sentinel".into()),
            container_port: SENTINEL_PORT.into(),
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        // It waits for the primary's name before it listens; from then on it is to answer.
        startup_probe: Some(probe(cache, SENTINEL_PORT.into(), 2, 150)),
        liveness_probe: Some(probe(cache, SENTINEL_PORT.into(), 10, 3)),
        readiness_probe: Some(readiness(WATCHING)),
        resources: Some(ResourceRequirements {
            limits: quantities(&[("memory", "32Mi")]),
            requests: quantities(&[("cpu", "10m"), ("memory", "16Mi")]),
            ..ResourceRequirements::default()
        }),
        security_context: Some(container_security()),
        ..Container::default()
    }
}

fn readiness(main: &str) -> Probe {
    Probe {
        exec: Some(ExecAction { command: Some(["sh", "-c", main.trim()].map(String::from).into()) }),
        failure_threshold: Some(2),
        period_seconds: Some(2),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

/// Any answer is a sign of life.
fn probe(cache: &ManagedCache, port: i32, period_seconds: i32, failure_threshold: u32) -> Probe {
    let command = [client(cache), "-p", &port.to_string(), "PING"].join(" ");
    Probe {
        exec: Some(ExecAction { command: Some(command.split(' ').map(String::from).collect()) }),
        failure_threshold: i32::try_from(failure_threshold).ok(),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

fn script(main: &str) -> Vec<String> {
    vec!["sh".into(), "-c".into(), format!("{}{main}", FIND_PRIMARY.trim_start()), "redis-server".into()]
}

fn client(cache: &ManagedCache) -> &'static str {
    // Over TLS, whoever answers has to prove nothing to a question whose answer is checked by its form.
    if cache.tls.is_some() { "redis-cli --tls --insecure" } else { "redis-cli" }
}

/// What the scripts read.
fn variables(app: &ApiDeployment, cache: &ManagedCache) -> Vec<EnvVar> {
    let secret = cache_name(app);
    let field = ObjectFieldSelector { api_version: None, field_path: "metadata.name".into() };
    let name = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    vec![
        EnvVar { name: "POD_NAME".into(), value: None, value_from: Some(name) },
        env("DOMAIN", domain(app)),
        env("NODES", node_names(app).join(" ")),
        env("CLI", client(cache)),
        env("PATIENCE_SECONDS", PATIENCE_SECONDS.to_string()),
        env("REPLICA_USER", REPLICA_USER),
        env("SENTINEL_USER", SENTINEL_USER),
        env_from_secret("REPLICATION_PASSWORD", &secret, REPLICATION_PASSWORD_KEY),
        env_from_secret("SENTINEL_PASSWORD", &secret, SENTINEL_PASSWORD_KEY),
    ]
}

fn domain(app: &ApiDeployment) -> String {
    format!("{}.{}.svc", cache_nodes_name(app), app.metadata.namespace.as_deref().unwrap_or_default())
}

/// Names of the servers, by which they and their sentinels are reached.
pub fn node_names(app: &ApiDeployment) -> Vec<String> {
    (0..NODES).map(|index| format!("{}-{index}.{}", cache_name(app), domain(app))).collect()
}
