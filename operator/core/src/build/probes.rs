//! The container's probes.

use k8s_openapi::api::core::v1::{
    ExecAction, GRPCAction, HTTPGetAction, HTTPHeader, Probe as PodProbe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use plimsoll_crds::{ApiDeploymentSpec, HttpProbe, Probe};

/// Builds a probe; none when it is switched off.
pub fn probe(spec: &ApiDeploymentSpec, probe: &Probe) -> Option<PodProbe> {
    let Probe {
        path,
        http_get,
        tcp_socket,
        grpc,
        exec,
        disabled,
        initial_delay_seconds,
        period_seconds,
        timeout_seconds,
        failure_threshold,
    } = probe;
    if disabled.is_some() {
        return None;
    }
    let common = PodProbe {
        failure_threshold: Some(*failure_threshold),
        initial_delay_seconds: *initial_delay_seconds,
        period_seconds: Some(*period_seconds),
        timeout_seconds: Some(*timeout_seconds),
        ..PodProbe::default()
    };
    Some(if let Some(http) = http_get {
        PodProbe { http_get: Some(http_action(spec, http)), ..common }
    } else if let Some(tcp) = tcp_socket {
        PodProbe { tcp_socket: Some(TCPSocketAction { port: port(spec, &tcp.port), host: None }), ..common }
    } else if let Some(grpc) = grpc {
        PodProbe { grpc: Some(GRPCAction { port: grpc.port, service: grpc.service.clone() }), ..common }
    } else if let Some(exec) = exec {
        PodProbe { exec: Some(ExecAction { command: Some(exec.command.clone()) }), ..common }
    } else {
        let action = HTTPGetAction {
            path: path.clone(),
            port: IntOrString::String("http".into()),
            ..HTTPGetAction::default()
        };
        PodProbe { http_get: Some(action), ..common }
    })
}

fn http_action(spec: &ApiDeploymentSpec, probe: &HttpProbe) -> HTTPGetAction {
    let headers = probe
        .http_headers
        .iter()
        .map(|header| HTTPHeader { name: header.name.clone(), value: header.value.clone() })
        .collect::<Vec<_>>();
    HTTPGetAction {
        // Another host than the pod would let the kubelet be sent anywhere.
        host: None,
        http_headers: (!headers.is_empty()).then_some(headers),
        path: Some(probe.path.clone()),
        port: port(spec, &probe.port),
        scheme: Some(probe.scheme.as_str().into()),
    }
}

/// The port as the container calls it: one port has one name.
fn port(spec: &ApiDeploymentSpec, port: &IntOrString) -> IntOrString {
    match port {
        IntOrString::String(name) if name == "metrics" && spec.metrics_port() == spec.port => {
            IntOrString::String("http".into())
        }
        port => port.clone(),
    }
}
