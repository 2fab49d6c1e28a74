//! The managed cache's Service.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plimsoll_crds::ApiDeployment;

use super::cache_deployment::PORT;
use super::{Component, cache_name, metadata, selector};

/// Builds the Service of the managed cache.
pub fn cache_service(app: &ApiDeployment) -> Service {
    Service {
        metadata: metadata(app, cache_name(app), Component::Cache),
        spec: Some(ServiceSpec {
            ports: Some(vec![ServicePort {
                name: Some("redis".into()),
                port: PORT,
                protocol: Some("TCP".into()),
                target_port: Some(IntOrString::String("redis".into())),
                ..ServicePort::default()
            }]),
            selector: Some(selector(app, Component::Cache)),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
