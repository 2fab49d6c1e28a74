//! A pod of an API, and where it can be asked.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use plimsoll_core::build::{APP_LABEL, COMPONENT_LABEL, TEMPLATE_HASH_LABEL, name_of};
use plimsoll_crds::{ApiDeployment, quantity_value};

/// A pod of the API, and where it can be asked. It is asked if it is Ready.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// UID of the pod.
    pub uid: String,
    /// Name of the pod.
    pub name: String,
    /// Its label `pod-template-hash`; empty where a Deployment did not make it.
    pub template: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Since when it has been Ready; none while it is not.
    pub ready_at: Option<Timestamp>,
    /// Address of its exposition, if it has one yet.
    pub address: Option<SocketAddr>,
    /// CPUs that the container which serves may use, if it is limited.
    pub limit_cores: Option<f64>,
}

impl Target {
    /// The pod, if it belongs to the resource and is not being deleted.
    pub fn of(app: &ApiDeployment, pod: &Pod) -> Option<Self> {
        let labels = pod.metadata.labels.as_ref()?;
        let ours = pod.metadata.namespace == app.metadata.namespace
            && labels.get(APP_LABEL).map(String::as_str) == Some(name_of(app))
            && labels.get(COMPONENT_LABEL).map(String::as_str) == Some("api");
        if ours { Self::selected(app, pod) } else { None }
    }

    /// A pod that is known to be scaled by the resource, if it is not being deleted.
    pub fn selected(app: &ApiDeployment, pod: &Pod) -> Option<Self> {
        if pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let created_at = pod.metadata.creation_timestamp.as_ref()?.0;
        let labels = pod.metadata.labels.as_ref();
        let template = labels.and_then(|labels| labels.get(TEMPLATE_HASH_LABEL).cloned()).unwrap_or_default();
        let status = pod.status.as_ref();
        let ready = status.and_then(|status| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.find(|condition| condition.type_ == "Ready" && condition.status == "True")
        });
        let ready_at = ready.map(|ready| ready.last_transition_time.as_ref().map_or(created_at, |at| at.0));
        let container = container(app, pod);
        let address = status
            .and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok())
            .zip(port(app, container))
            .map(|(address, port)| SocketAddr::new(address, port));
        Some(Self {
            uid: pod.metadata.uid.clone()?,
            name: pod.metadata.name.clone()?,
            template,
            created_at,
            ready_at,
            address,
            limit_cores: limit_cores(app, container),
        })
    }
}

/// The container that serves.
fn container<'a>(app: &ApiDeployment, pod: &'a Pod) -> Option<&'a Container> {
    let containers = pod.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
    match &app.spec.metrics.container {
        Some(name) => containers.iter().find(|container| container.name == *name),
        None => containers.first(),
    }
}

fn port(app: &ApiDeployment, container: Option<&Container>) -> Option<u16> {
    let port = match &app.spec.metrics.port_name {
        Some(name) => {
            let mut ports = container?.ports.iter().flatten();
            ports.find(|port| port.name.as_ref() == Some(name))?.container_port
        }
        None => app.spec.metrics_port(),
    };
    u16::try_from(port).ok()
}

fn limit_cores(app: &ApiDeployment, container: Option<&Container>) -> Option<f64> {
    let resources = container.map_or(Some(&app.spec.resources), |container| container.resources.as_ref());
    quantity_value(resources?.limits.as_ref()?.get("cpu")?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {
                "namespace": "shop", "name": "posts-6d4b-abcde", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": { APP_LABEL: "posts", COMPONENT_LABEL: "api", TEMPLATE_HASH_LABEL: "6d4b" },
            },
            "spec": { "containers": [
                { "name": "proxy", "ports": [{ "name": "admin", "containerPort": 9901 }] },
                {
                    "name": "api", "ports": [{ "name": "prom", "containerPort": 9464 }],
                    "resources": { "limits": { "cpu": "500m" } },
                },
            ] },
            "status": {
                "podIP": "10.0.0.7",
                "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:09Z" }],
            },
        })
    }

    fn target(metrics: &Value, pod: Value) -> Option<Target> {
        let app = json!({
            "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
            "metadata": { "namespace": "shop", "name": "posts" },
            "spec": { "latency": { "p99": "250ms" }, "metrics": metrics },
        });
        Target::of(&serde_json::from_value(app).unwrap(), &serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_named_port_and_the_cpu_limit_are_those_of_the_named_container() {
        let target = |metrics: Value| target(&metrics, pod()).unwrap();
        let address = |target: &Target| target.address.map(|address| address.to_string());
        let by_number = target(json!({ "port": 9000 }));
        assert_eq!((address(&by_number).as_deref(), by_number.limit_cores), (Some("10.0.0.7:9000"), None));
        assert_eq!(address(&target(json!({}))).as_deref(), Some("10.0.0.7:8080"));
        let named = target(json!({ "portName": "prom", "container": "api" }));
        assert_eq!((address(&named).as_deref(), named.limit_cores), (Some("10.0.0.7:9464"), Some(0.5)));
        // Never a port of another container, which may be anybody's.
        assert_eq!(address(&target(json!({ "portName": "prom" }))), None);
        assert_eq!(address(&target(json!({ "portName": "prom", "container": "gone" }))), None);
    }

    #[test]
    fn only_pods_of_the_resources_own_selector_are_asked() {
        assert_eq!(target(&json!({}), pod()).map(|target| target.template).as_deref(), Some("6d4b"));
        for (pointer, value) in [
            ("/metadata/namespace", json!("bank")),
            ("/metadata/labels", json!({ APP_LABEL: "other", COMPONENT_LABEL: "api" })),
            ("/metadata/labels", json!({ APP_LABEL: "posts", COMPONENT_LABEL: "cache" })),
        ] {
            let mut pod = pod();
            *pod.pointer_mut(pointer).unwrap() = value;
            assert_eq!(target(&json!({}), pod), None, "{pointer}");
        }
        let mut ending = pod();
        ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:01:00Z");
        assert_eq!(target(&json!({}), ending), None);
    }
}
