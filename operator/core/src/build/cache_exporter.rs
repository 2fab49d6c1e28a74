//! The exporter beside the managed cache: Prometheus metrics of the Redis itself.

use k8s_openapi::api::core::v1::{Container, ContainerPort, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use plimsoll_crds::{ApiDeployment, CacheExporter};

use super::cache_access::EXPORTER_USER;
use super::cache_deployment::PORT;
use super::cache_secret::EXPORTER_PASSWORD_KEY;
use super::{cache_name, container_security, env, env_from_secret};

/// Port of its metrics.
pub(super) const METRICS_PORT: i32 = 9121;

/// Builds the container. It asks over the pod's own loopback, where nobody listens in, so it takes any certificate.
pub(super) fn container(app: &ApiDeployment, exporter: &CacheExporter, tls: bool) -> Container {
    let scheme = if tls { "rediss" } else { "redis" };
    let quantities = |cpu: Option<&str>, memory: &str| {
        let mut quantities =
            std::collections::BTreeMap::from([("memory".to_owned(), Quantity(memory.into()))]);
        quantities.extend(cpu.map(|cpu| ("cpu".to_owned(), Quantity(cpu.into()))));
        Some(quantities)
    };
    let mut variables = vec![
        env("REDIS_ADDR", format!("{scheme}://localhost:{PORT}")),
        env("REDIS_USER", EXPORTER_USER),
        env_from_secret("REDIS_PASSWORD", &cache_name(app), EXPORTER_PASSWORD_KEY),
        // Its user may not read the configuration, which holds secrets.
        env("REDIS_EXPORTER_CONFIG_COMMAND", "-"),
    ];
    if tls {
        variables.push(env("REDIS_EXPORTER_SKIP_TLS_VERIFICATION", "true"));
    }
    Container {
        name: "exporter".into(),
        image: Some(exporter.image.clone()),
        env: Some(variables),
        ports: Some(vec![ContainerPort {
            name: Some("metrics".into()),
            container_port: METRICS_PORT,
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        }]),
        resources: Some(ResourceRequirements {
            limits: quantities(None, "64Mi"),
            requests: quantities(Some("10m"), "24Mi"),
            ..ResourceRequirements::default()
        }),
        security_context: Some(container_security()),
        ..Container::default()
    }
}
