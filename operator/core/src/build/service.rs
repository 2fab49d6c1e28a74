//! The API's Service.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plimsoll_crds::ApiDeployment;

use super::{Component, metadata, name_of, selector};

/// Builds the Service: port 80 to the container's port `http`.
pub fn service(app: &ApiDeployment) -> Service {
    Service {
        metadata: metadata(app, name_of(app).into(), Component::Api),
        spec: Some(ServiceSpec {
            ports: Some(vec![ServicePort {
                name: Some("http".into()),
                port: 80,
                protocol: Some("TCP".into()),
                target_port: Some(IntOrString::String("http".into())),
                ..ServicePort::default()
            }]),
            selector: Some(selector(app, Component::Api)),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
