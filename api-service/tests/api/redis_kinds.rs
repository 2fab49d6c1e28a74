//! Every kind of Redis that a URL can name: encrypted, behind sentinels, a cluster, and the one that the operator runs.

use std::{
    fs,
    process::{Command, Stdio},
};

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use crate::harness::{App, Process, eventually, free_port, post_json};

const HITS: &str = r#"cache_requests_total{layer="redis",result="hit"}"#;
const ERRORS: &str = r#"cache_requests_total{layer="redis",result="error"}"#;

/// A server on a port of 127.0.0.1, with more of a command line.
struct Server {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl Server {
    fn start(port: u16, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--dir"]).arg(folder.path());
        if !more.contains(&"--port") {
            command.args(["--port", &port.to_string()]);
        }
        Self { process: Process::spawn(command.args(more)), port, _folder: folder }
    }

    /// A sentinel, which keeps what it knows in its configuration.
    fn sentinel(port: u16, primary: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sentinel.conf");
        let lines = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor posts 127.0.0.1 {primary} 2\n\
             sentinel auth-pass posts right\nsentinel down-after-milliseconds posts 1000\n\
             sentinel failover-timeout posts 3000\nrequirepass watch\nsentinel sentinel-pass watch\n",
            folder.path().display()
        );
        fs::write(&file, lines).unwrap();
        let mut command = Command::new("redis-server");
        Self { process: Process::spawn(command.arg(&file).arg("--sentinel")), port, _folder: folder }
    }

    async fn answers(&self) {
        let asked = async || tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok();
        eventually("redis-server answers", asked).await;
    }
}

/// What `redis-cli` says.
fn cli(port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port.to_string()]).args(arguments).stderr(Stdio::null());
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

/// An app that keeps nothing in its own memory, so that every read shows what Redis does.
async fn app_with(flags: &[&str]) -> App {
    App::ready(&[flags, &["--cache-local-bytes=0"]].concat()).await
}

async fn read(app: &App, id: i64) -> String {
    let answer = app.get(&format!("/posts/{id}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["title"].as_str().unwrap().to_owned()
}

async fn rename(app: &App, id: i64, title: &str) {
    let answer = app.json("PUT", &format!("/posts/{id}"), post_json(title)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

/// Waits until a read is answered by Redis.
async fn hits(app: &App, id: i64) {
    let before = app.count(HITS).await;
    eventually("the cache answers", async || {
        read(app, id).await;
        app.count(HITS).await > before
    })
    .await;
}

/// Reads come from Redis, and a write is seen at once.
async fn works(app: &App) {
    for title in ["first", "second"] {
        let id = app.post(title).await;
        hits(app, id).await;
        rename(app, id, "renamed").await;
        assert_eq!(read(app, id).await, "renamed");
        hits(app, id).await;
        assert_eq!(read(app, id).await, "renamed");
    }
}

#[tokio::test]
async fn an_encrypted_redis_is_trusted_by_its_authority_only() {
    let folder = tempfile::tempdir().unwrap();
    let authority = |file: &str| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join(file), params.self_signed(&key).unwrap().pem()).unwrap();
        Issuer::new(params, key)
    };
    let issuer = authority("ca.crt");
    authority("other.crt");
    let key = KeyPair::generate().unwrap();
    let server =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    fs::write(folder.path().join("tls.crt"), server.pem()).unwrap();
    fs::write(folder.path().join("tls.key"), key.serialize_pem()).unwrap();
    let path = |file: &str| folder.path().join(file).to_string_lossy().into_owned();
    let (port, ca, certificate, key) = (free_port(), path("ca.crt"), path("tls.crt"), path("tls.key"));
    let text = port.to_string();
    let server = Server::start(
        port,
        &["--port", "0", "--tls-port", &text, "--tls-auth-clients", "no", "--requirepass", "right"]
            .into_iter()
            .chain(["--tls-ca-cert-file", &ca, "--tls-cert-file", &certificate, "--tls-key-file", &key])
            .collect::<Vec<_>>(),
    );
    server.answers().await;
    let url = format!("--cache-url=rediss://:right@localhost:{port}");
    works(&app_with(&[&url, &format!("--cache-ca={ca}")]).await).await;

    for untrusted in [vec![url.clone(), format!("--cache-ca={}", path("other.crt"))], vec![url.clone()]] {
        let flags: Vec<&str> = untrusted.iter().map(String::as_str).collect();
        let app = app_with(&flags).await;
        let id = app.post("answered").await;
        eventually("the cache is not trusted", async || {
            assert_eq!(read(&app, id).await, "answered");
            app.count(ERRORS).await >= 5
        })
        .await;
        assert_eq!(app.count(HITS).await, 0);
    }
}

#[tokio::test]
async fn the_primary_that_sentinels_name_is_followed_when_it_dies() {
    let (first, second) = (free_port(), free_port());
    let password = ["--requirepass", "right", "--masterauth", "right"];
    let primary = Server::start(first, &password);
    let of = first.to_string();
    let replica = Server::start(second, &[&password[..], &["--replicaof", "127.0.0.1", &of]].concat());
    primary.answers().await;
    replica.answers().await;
    let sentinels = [(); 3].map(|()| Server::sentinel(free_port(), first));
    eventually("the sentinels know each other and the replica", async || {
        sentinels.iter().all(|sentinel| {
            let said = cli(sentinel.port, &["-a", "watch", "SENTINEL", "MASTER", "posts"]);
            let after =
                |name: &str| said.lines().skip_while(|line| *line != name).nth(1).unwrap_or("").to_owned();
            after("num-other-sentinels") == "2" && after("num-slaves") == "1"
        })
    })
    .await;
    let hosts = sentinels.each_ref().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).join(",");
    let url = format!("--cache-url=redis+sentinel://:right@{hosts}/posts?sentinel=:watch");
    let folder = tempfile::tempdir().unwrap();
    let database = format!("--database-url=sqlite:{}/posts.db", folder.path().display());
    let app = app_with(&[&url, &database]).await;
    // Another replica of the API, with all its layers: it must hear of writes wherever the primary is.
    let other = App::ready(&[&url, &database]).await;
    works(&app).await;
    let id = app.post("before").await;
    hits(&app, id).await;

    primary.process.signal(Signal::SIGKILL);
    eventually("the replica has taken over and is used", async || {
        let before = app.count(HITS).await;
        rename(&app, id, "meanwhile").await;
        assert_eq!(read(&app, id).await, "meanwhile", "an answer is right, whoever is the primary");
        read(&app, id).await;
        app.count(HITS).await > before
    })
    .await;
    assert!(cli(second, &["-a", "right", "ROLE"]).starts_with("master"));
    works(&app).await;

    eventually("the other replica of the API hears of writes again", async || {
        read(&other, id).await;
        rename(&app, id, "heard").await;
        let heard = read(&other, id).await == "heard";
        rename(&app, id, "and again").await;
        heard && read(&other, id).await == "and again"
    })
    .await;
}

#[tokio::test]
async fn a_cluster_answers_from_whichever_server_has_the_key() {
    let mut servers = Vec::new();
    for _ in 0..3 {
        // The servers talk to each other on a port that is 10,000 above, unless they are told another.
        let bus = free_port().to_string();
        let more = [
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus,
            "--requirepass",
            "right",
            "--masterauth",
            "right",
        ];
        servers.push(Server::start(free_port(), &more));
    }
    for server in &servers {
        server.answers().await;
    }
    let addresses: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let mut create = vec!["-a", "right", "--cluster", "create"];
    create.extend(addresses.iter().map(String::as_str));
    create.push("--cluster-yes");
    let said = cli(servers[0].port, &create);
    assert!(said.contains("All 16384 slots covered"), "{said}");
    eventually("the cluster stands", async || {
        let state = |server: &Server| cli(server.port, &["-a", "right", "CLUSTER", "INFO"]);
        servers.iter().all(|server| state(server).contains("cluster_state:ok"))
    })
    .await;
    let url = format!("--cache-url=redis+cluster://:right@{}", addresses.join(","));
    let folder = tempfile::tempdir().unwrap();
    let database = format!("--database-url=sqlite:{}/posts.db", folder.path().display());
    let app = app_with(&[&url, &database]).await;
    works(&app).await;
    let other = App::ready(&[&url, &database]).await;
    for round in 0..6 {
        let id = app.post("shared").await;
        eventually("the other replica of the API hears of writes", async || {
            read(&other, id).await;
            rename(&app, id, &format!("round {round}")).await;
            read(&other, id).await == format!("round {round}")
        })
        .await;
    }
    let kept = servers.iter().filter(|server| cli(server.port, &["-a", "right", "DBSIZE"]).trim() != "0");
    assert!(kept.count() >= 2, "the posts are spread");
}

/// The file of users as the operator writes it into the cache's Secret.
fn users_of_the_operator() -> String {
    let secret = include_str!("../../../operator/core/tests/golden/cache-secret.yaml");
    let line = secret.lines().find_map(|line| line.trim().strip_prefix("users.acl: ")).unwrap();
    String::from_utf8(STANDARD.decode(line).unwrap()).unwrap()
}

#[tokio::test]
async fn the_users_that_the_operator_makes_may_do_all_that_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users.acl");
    fs::write(&users, users_of_the_operator()).unwrap();
    let port = free_port();
    let server = Server::start(port, &["--aclfile", &users.to_string_lossy()]);
    server.answers().await;
    let url = format!("--cache-url=redis://plimsoll:secret@127.0.0.1:{port}");
    let database = format!("--database-url=sqlite:{}/posts.db", folder.path().display());
    let app = app_with(&[&url, &database, "--rate-limit=1000000/s"]).await;
    works(&app).await;
    let other = App::ready(&[&url, &database]).await;
    let id = app.post("shared").await;
    eventually("the other replica of the API hears of writes", async || {
        read(&other, id).await;
        rename(&app, id, "heard").await;
        read(&other, id).await == "heard"
    })
    .await;
    // Nothing was refused: a refusal is logged there.
    let refused =
        cli(port, &["--user", "plimsoll-operator", "-a", "secret-of-the-operator", "INFO", "stats"]);
    let denied: Vec<&str> = refused
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("acl_access_denied") && !line.ends_with(":0"))
        .collect();
    assert_eq!(denied, Vec::<&str>::new());
}
