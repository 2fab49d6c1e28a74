//! What only one of the sources has: the server's refusals, its address, its certificate and its scrapes; TLS of pods.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plimsoll_core::histogram::Rejection;
use plimsoll_core::input::Outage;
use plimsoll_operator::source::credentials::{Credentials, basic_header};
use plimsoll_operator::source::pods::Pods;
use plimsoll_operator::source::prometheus::Prometheus;
use plimsoll_operator::source::round::{Progress, round};
use plimsoll_operator::source::servers::Servers;
use plimsoll_operator::source::target::Target;
use plimsoll_operator::source::{Asked, MetricsSource, Reading};
use plimsoll_prometheus::fetch::Tls;
use plimsoll_prometheus::{Trust, client_config};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use crate::pod::{Pod, Says};
use crate::server::{Options, Server};
use crate::world::{app, exposition, target};

fn says() -> Says {
    Says::Text(exposition(&[("/api", "200", ["1", "2", "3"])]))
}

async fn pod() -> Vec<Pod> {
    vec![Pod::start("posts-6d4b75cb6d-00000", says()).await]
}

fn servers(mut entry: Value, more: &Value) -> Arc<Servers> {
    entry["name"] = json!("default");
    entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Servers::parse(&json!({ "servers": [entry] }).to_string()).unwrap()
}

async fn read(
    servers: &Servers,
    pods: &[Pod],
    source: &Value,
    credentials: &Credentials,
) -> Result<Vec<Reading>, Outage> {
    let targets = pods.iter().map(target).collect::<Vec<_>>();
    let app = app(&json!({ "prometheus": source }));
    let asked = Asked { app: &app, deployment: "posts", targets: &targets, credentials };
    Prometheus { servers }.read(asked).await
}

/// Reads until the only pod was read; a server is scraping from its first second on.
async fn reads(servers: &Servers, pods: &[Pod], source: &Value, credentials: &Credentials) {
    let began = Instant::now();
    loop {
        let readings = read(servers, pods, source, credentials).await.unwrap();
        if readings[0].sample.reading.is_ok() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{readings:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_has_the_time_of_its_scrape_and_counts_once() {
    let pods = pod().await;
    let server = Server::start(&pods, &Options::default());
    let servers = servers(json!({ "url": format!("http://{}", server.address) }), &json!({}));
    let none = Credentials::default();
    reads(&servers, &pods, &json!({}), &none).await;
    let targets = [target(&pods[0])];
    let (mut progress, mut counted, mut asked) = (Progress::default(), Vec::new(), 0);
    let began = Instant::now();
    while counted.len() < 4 && began.elapsed() < Duration::from_secs(15) {
        let readings = read(&servers, &pods, &json!({}), &none).await;
        asked += 1;
        counted.extend(round(&targets, readings, &mut progress, Timestamp::now()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let times = counted.iter().map(|scrape| scrape.pods[0].sample.as_ref().unwrap().at).collect::<Vec<_>>();
    assert_eq!(times.len(), 4, "{times:?}");
    assert!(asked > 8, "it is asked more often than it scrapes");
    // However late a busy machine makes a scrape: each is told once, with the time that Prometheus itself has for it.
    let scraped = scraped_at(&server.address).await;
    let told =
        |time: &Timestamp| scraped.iter().any(|at| (time.as_nanosecond() as f64 / 1e9 - at).abs() < 1e-3);
    assert!(times.iter().all(told) && times.is_sorted_by(|a, b| a < b), "{times:?} of {scraped:?}");
    let age = Timestamp::now().duration_since(times[3]).as_secs_f64();
    assert!((0.0..3.0).contains(&age), "{age}");
}

/// The times of a server's scrapes of the last minute, in seconds, as it keeps them.
async fn scraped_at(server: &str) -> Vec<f64> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let query = "GET /api/v1/query?query=http_request_duration_seconds_bucket%5B1m%5D HTTP/1.0\r\n\r\n";
    stream.write_all(query.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let answer: Value = serde_json::from_str(body).unwrap();
    let samples = answer.pointer("/data/result/0/values").and_then(Value::as_array).unwrap();
    samples.iter().map(|sample| sample[0].as_f64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_of_the_resources_own_gives_the_same() {
    let pods = pod().await;
    let server = Server::start(&pods, &Options::default());
    let servers =
        servers(json!({ "url": format!("http://{}", server.address), "allowQueries": true }), &json!({}));
    let none = Credentials::default();
    let selector = r#"$(histogram)_bucket{namespace="$(namespace)",pod=~"$(pods)"}"#;
    let own = |query: String| json!({ "query": query, "timestampQuery": format!("max by (pod) (timestamp({selector}))") });
    let good = own(format!("sum by (pod, le, code) ({selector})"));
    reads(&servers, &pods, &good, &none).await;
    let readings = read(&servers, &pods, &good, &none).await.unwrap();
    let snapshot = readings[0].sample.reading.as_ref().unwrap();
    assert!(snapshot.tells_errors());

    let outage = async |query: &str| read(&servers, &pods, &own(query.into()), &none).await.unwrap_err();
    let broken = outage("sum by (pod, le) (").await;
    assert_eq!(broken.reason, "QueryFailed");
    assert!(
        broken.message.contains("ask the Prometheus default: Prometheus says (400, bad_data): "),
        "{broken:?}"
    );
    let no_pod = outage("sum(http_request_duration_seconds_bucket)").await;
    assert!(no_pod.message.contains("without the pod's name"), "{no_pod:?}");
    let no_edge = outage("sum by (pod) (http_request_duration_seconds_bucket)").await;
    assert!(no_edge.message.contains("without le"), "{no_edge:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_a_path_a_certificate_and_a_password_is_asked_with_what_the_configuration_says() {
    let pods = pod().await;
    let web = |folder: &Path| {
        certificate(folder, "127.0.0.1");
        // The example of Prometheus' own guide: the password is `test`.
        "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n\
         basic_auth_users: {admin: $2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay}\n"
            .to_owned()
    };
    let flags = ["--web.external-url=https://example.com/prom/", "--web.route-prefix=/prom"];
    let server = Server::start(&pods, &Options { flags: &flags, web: Some(&web), ..Options::default() });
    let file = |name: &str| server.folder.path().join(name);
    std::fs::write(file("password"), "test\n").unwrap();
    let url = format!("https://{}/prom/", server.address);
    let with = |more: Value| servers(json!({ "url": url, "caFile": file("tls.crt") }), &more);
    let basic = json!({ "basicAuth": { "username": "admin", "passwordFile": file("password") } });
    let none = Credentials::default();
    reads(&with(basic.clone()), &pods, &json!({}), &none).await;

    // The resource's own password goes before the operator's, good or bad.
    let authorization = Some(basic_header("admin", "test").unwrap());
    reads(&with(json!({})), &pods, &json!({}), &Credentials { authorization, tls: None }).await;
    let authorization = Some(basic_header("admin", "wrong").unwrap());
    let wrong = Credentials { authorization, tls: None };
    let outage = read(&with(basic), &pods, &json!({}), &wrong).await.unwrap_err();
    assert_eq!(outage.reason, "QueryFailed");
    assert!(
        outage.message.contains("401 Unauthorized") && outage.message.contains("basicAuth"),
        "{outage:?}"
    );

    let elsewhere = servers(
        json!({ "url": format!("https://{}", server.address), "insecureSkipVerify": true }),
        &json!({ "basicAuth": { "username": "admin", "passwordFile": file("password") } }),
    );
    let outage = read(&elsewhere, &pods, &json!({}), &none).await.unwrap_err();
    assert!(outage.message.contains("404"), "{outage:?}");

    let with_authority = |name: &str| servers(json!({ "url": url, "caFile": file(name) }), &json!({}));
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap().cert.pem();
    std::fs::write(file("other.crt"), other).unwrap();
    let outage = read(&with_authority("other.crt"), &pods, &json!({}), &none).await.unwrap_err();
    assert_eq!(outage.reason, "Untrusted", "{outage:?}");
    let outage = read(&with_authority("gone.crt"), &pods, &json!({}), &none).await.unwrap_err();
    assert!(outage.message.contains("gone.crt"), "{outage:?}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_holds_nobody_up_twice() {
    let pods = pod().await;
    let none = Credentials::default();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let servers = servers(json!({ "url": url, "timeoutSeconds": 1 }), &json!({}));
    let began = Instant::now();
    let outage = read(&servers, &pods, &json!({}), &none).await.unwrap_err();
    assert_eq!(outage.reason, "PrometheusUnreachable");
    assert!(outage.message.contains("no answer within 1 s"), "{outage:?}");
    assert!(began.elapsed() < Duration::from_secs(3));
    let began = Instant::now();
    assert_eq!(read(&servers, &pods, &json!({}), &none).await.unwrap_err(), outage);
    assert!(began.elapsed() < Duration::from_millis(500), "the next resource does not wait for it again");
}

/// Reads a query to its end.
async fn request_of(stream: &mut TcpStream) -> String {
    let mut request = String::new();
    while !request.contains("partial_response") {
        let mut part = vec![0; 4096];
        let read = stream.read(&mut part).await.unwrap();
        request += std::str::from_utf8(&part[..read]).unwrap();
    }
    request
}

#[tokio::test]
async fn a_query_that_is_slow_holds_up_no_other() {
    let pods = pod().await;
    let none = Credentials::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let slow_came = Arc::new(Notify::new());
    tokio::spawn({
        let slow_came = slow_came.clone();
        async move {
            let _slow = listener.accept().await.unwrap();
            slow_came.notify_one();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                request_of(&mut stream).await;
                let body = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    let servers = servers(json!({ "url": url, "timeoutSeconds": 1 }), &json!({}));
    let other = async {
        slow_came.notified().await;
        read(&servers, &pods, &json!({}), &none).await
    };
    let settings = json!({});
    let (slow, other) = tokio::join!(read(&servers, &pods, &settings, &none), other);
    assert_eq!(slow.unwrap_err().reason, "PrometheusUnreachable");
    other.unwrap();
    read(&servers, &pods, &json!({}), &none).await.unwrap();
}

/// Thanos and Mimir take the same form; a tenant is a header, and what Thanos has more of does not trouble the others.
#[tokio::test]
async fn the_query_is_a_form_with_the_tenant_and_redirects_are_not_followed() {
    let pods = pod().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/prometheus", listener.local_addr().unwrap());
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = request_of(&mut stream).await;
        let moved = b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(moved).await.unwrap();
        request
    });
    let servers = servers(json!({ "url": url, "tenant": "team-$(namespace)" }), &json!({}));
    let outage = read(&servers, &pods, &json!({}), &Credentials::default()).await.unwrap_err();
    assert!(
        outage.message.contains("it sends to http://169.254.169.254/; have that address put"),
        "{outage:?}"
    );
    let request = asked.await.unwrap();
    assert!(request.starts_with("POST /prometheus/api/v1/query HTTP/1.1\r\n"), "{request}");
    for part in [
        "\r\nx-scope-orgid: team-shop\r\n",
        "\r\ncontent-type: application/x-www-form-urlencoded\r\n",
        "query=sum+by+%28pod%2Cle%29",
        "&dedup=true&partial_response=false",
    ] {
        assert!(request.contains(part), "{part}\n{request}");
    }
}

/// A Prometheus is a pod too, with a certificate and a histogram of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_read_over_tls_by_a_name_that_their_certificate_has() {
    let web = |folder: &Path| {
        certificate(folder, "posts.shop.svc");
        "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n".to_owned()
    };
    let server = Server::start(&[], &Options { web: Some(&web), ..Options::default() });
    let authority = std::fs::read(server.folder.path().join("tls.crt")).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["posts.shop.svc".into()]).unwrap().cert.pem();
    let address = server.address.parse::<SocketAddr>().unwrap();
    let metrics = json!({
        "histogram": "prometheus_http_request_duration_seconds", "labels": { "handler": "/metrics" },
    });
    let app = app(&metrics);
    let pod = Target {
        uid: "u".into(),
        name: "posts-1".into(),
        template: String::new(),
        created_at: Timestamp::UNIX_EPOCH,
        ready_at: Some(Timestamp::UNIX_EPOCH),
        address: Some(address),
        limit_cores: None,
    };
    let read = async |trust: Option<Trust<'_>>, name: &'static str| {
        let tls =
            trust.map(|trust| Tls { config: client_config(trust).unwrap(), name: name.try_into().unwrap() });
        let credentials = Credentials { authorization: None, tls };
        let targets = [pod.clone()];
        let asked = Asked { app: &app, deployment: "posts", targets: &targets, credentials: &credentials };
        let readings = Pods { turns: &Semaphore::new(64) }.read(asked).await.unwrap();
        readings[0].sample.reading.as_ref().map(|_| ()).map_err(|rejection| *rejection)
    };
    let authority = Trust::Authorities(&authority);
    // The first reading is what makes the series that the next one finds.
    assert_eq!(read(Some(authority), "posts.shop.svc").await, Err(Rejection::HistogramMissing));
    assert_eq!(read(Some(authority), "posts.shop.svc").await, Ok(()));
    assert_eq!(read(Some(Trust::Anyone), "pod.invalid").await, Ok(()));
    assert_eq!(read(Some(authority), "other.shop.svc").await, Err(Rejection::Untrusted));
    let other = Trust::Authorities(other.as_bytes());
    assert_eq!(read(Some(other), "posts.shop.svc").await, Err(Rejection::Untrusted));
    assert_eq!(read(None, "").await, Err(Rejection::HttpStatus), "it wants TLS");
}

/// Files of a new certificate that is signed by itself.
fn certificate(folder: &Path, name: &str) {
    let made = rcgen::generate_simple_self_signed(vec![name.into()]).unwrap();
    std::fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
}
