//! External metrics as the API server asks for them: the routes, and over TLS who is let in.
#![allow(clippy::unwrap_used, missing_docs)]

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube_runtime::{reflector, watcher};
use plimsoll_operator::controller::Guarded;
use plimsoll_operator::external_metrics::answer::Metric;
use plimsoll_operator::external_metrics::{Apps, Settings, router, serve};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const API: &str = "/apis/external.metrics.k8s.io/v1beta1";

fn watched() -> Apps {
    let (store, mut writer) = reflector::store::<Guarded>();
    let app = json!({
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment", "metadata": { "name": "posts", "namespace": "shop" },
        "spec": { "latency": { "p99": "250ms" } },
        "status": { "recommendedReplicas": 5, "conditions": [{
            "type": "MetricsAvailable", "status": "True", "reason": "Scraped", "message": "",
            "lastTransitionTime": "2030-01-01T00:00:00Z",
        }] },
    });
    writer.apply_watcher_event(&watcher::Event::Apply(serde_json::from_value(app).unwrap()));
    // The writer is what fills the store; the test has filled it.
    std::mem::forget(writer);
    Arc::new(OnceLock::from(store))
}

async fn ask(apps: &Apps, path: &str) -> (StatusCode, Value) {
    let request = Request::get(format!("{API}{path}")).body(Body::empty()).unwrap();
    let answer = router(apps.clone()).oneshot(request).await.unwrap();
    let code = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn tells_of_a_namespace_what_is_selected_in_it() {
    let apps = watched();
    let (code, list) =
        ask(&apps, "/namespaces/shop/plimsoll_desired_replicas?labelSelector=name%3Dposts").await;
    assert_eq!((code, &list["items"][0]["value"]), (StatusCode::OK, &json!("5")));
    let (_, list) = ask(&apps, "/namespaces/other/plimsoll_desired_replicas").await;
    assert_eq!(list["items"], json!([]));
    let (_, resources) = ask(&apps, "").await;
    assert_eq!(resources["resources"].as_array().unwrap().len(), Metric::ALL.len());
}

#[tokio::test]
async fn every_failure_is_a_status_that_says_what_to_do() {
    let apps = watched();
    for (path, code, part) in [
        ("/namespaces/shop/none", 404, "plimsoll_capacity_ratio"),
        ("/namespaces/shop/plimsoll_capacity_ratio?labelSelector=a%20b", 400, "name=posts"),
        ("/nodes", 404, "no such path"),
    ] {
        let (status, body) = ask(&apps, path).await;
        assert_eq!((status.as_u16(), &body["kind"]), (code, &json!("Status")));
        assert!(body["message"].as_str().unwrap().contains(part), "{body}");
    }
    let (status, _) = ask(&Apps::default(), "/namespaces/shop/plimsoll_capacity_ratio").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

/// An authority of clients.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What a client shows of itself.
type Shown = Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>;

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    #[allow(clippy::unnecessary_wraps, reason = "None is to show no certificate")]
    fn client(&self, name: &str) -> Shown {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Some((certificate, PrivateKeyDer::try_from(key.serialize_der()).unwrap()))
    }
}

/// A cluster that publishes this authority as its front proxy's.
fn cluster(authority: &Authority) -> Client {
    let configmap: ConfigMap = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
        "data": {
            "requestheader-client-ca-file": authority.pem, "requestheader-allowed-names": r#"["front-proxy-client"]"#,
        },
    }))
    .unwrap();
    let body = serde_json::to_vec(&configmap).unwrap();
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        assert_eq!(
            request.uri().path(),
            "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
        );
        let answer = Response::new(kube::client::Body::from(body.clone()));
        async move { Ok::<_, Infallible>(answer) }
    });
    Client::new(service, "default")
}

/// Takes the server's certificate as the API server does with `insecureSkipTLSVerify`.
#[derive(Debug)]
struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What the server answers to discovery; empty if it does not let this client in.
async fn discover(address: std::net::SocketAddr, client: Shown) -> std::io::Result<String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unchecked));
    let config = match client {
        Some((certificate, key)) => config.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("plimsoll").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream
        .write_all(format!("GET {API} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn only_the_front_proxy_is_let_in() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let listen = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (client, stop) = (cluster(&authority), stop.clone());
        async move { serve(&Settings { listen, certificate: None }, client, watched(), stop).await }
    });
    let known = async {
        loop {
            // Until it has read how the front proxy is known, it takes no connection.
            match discover(listen, authority.client("front-proxy-client")).await {
                Ok(answer) if !answer.is_empty() => return answer,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let answer =
        tokio::time::timeout(Duration::from_secs(20), known).await.expect("the front proxy is let in");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("plimsoll_desired_replicas"), "{answer}");
    for (client, who) in [
        (None, "nobody"),
        (authority.client("somebody"), "another name of the same authority"),
        (stranger.client("front-proxy-client"), "the name of another authority"),
    ] {
        let answer = discover(listen, client).await.unwrap_or_default();
        assert!(answer.is_empty(), "{who} is let in: {answer}");
    }
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), serving).await.expect("it stops").unwrap().unwrap();
}
