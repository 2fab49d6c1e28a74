//! A real Redis as the operator runs it: with the users, the certificates and the command line of the children.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use k8s_openapi::api::core::v1::Secret;
use plimsoll_core::build::{self, OPERATOR_USER};
use plimsoll_core::input::{Credentials, Settings};
use redis::aio::MultiplexedConnection;
use redis::{Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo};
use serde_json::json;

use super::super::cache_credentials as credentials;
use super::*;

/// How long a condition may take to come true on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis of the test's own, killed at its end.
struct Server {
    process: Child,
    folder: std::path::PathBuf,
    port: u16,
    credentials: Credentials,
    encrypted: bool,
}

impl Server {
    /// Starts what the resource's cache Deployment would run; nothing, said aloud, when there is no Redis here.
    async fn start(spec: &serde_json::Value) -> Option<Self> {
        let app = app(spec);
        let CacheKind::Managed(cache) = app.spec.cache.kind() else { panic!("no managed cache") };
        let credentials = credentials::fresh(&app, true);
        let secret = build::cache_secret(&app, &credentials);
        let settings =
            Settings { api_image: "api".into(), redis_image: "redis".into(), operator_namespace: None };
        let deployment = build::cache_deployment(&app, cache, &settings, "r1");
        let pod = deployment.spec.unwrap().template.spec.unwrap();
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("plimsoll-cache-{}-{port}", std::process::id()));
        for volume in pod.volumes.iter().flatten() {
            let Some(source) = &volume.secret else { continue };
            for item in source.items.iter().flatten() {
                let place = folder.join(&volume.name);
                fs::create_dir_all(&place).unwrap();
                fs::write(place.join(&item.path), value(&secret, &item.key)).unwrap();
            }
        }
        let arguments = pod.containers[0].args.clone().unwrap().into_iter().map(|argument| {
            let argument = argument.replace("/etc/redis-tls", &folder.join("tls").to_string_lossy());
            let argument = argument.replace("/etc/redis", &folder.join("users").to_string_lossy());
            if argument == "6379" { port.to_string() } else { argument }
        });
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("redis-server");
        let started = command.args(arguments).args(["--bind", "127.0.0.1"]).stdout(Stdio::null()).spawn();
        let Ok(process) = started else {
            println!("NOT RUN: a managed cache; install Debian's package redis-server");
            return None;
        };
        let server = Self { process, folder, port, credentials, encrypted: cache.tls.is_some() };
        let deadline = Instant::now() + PATIENCE;
        while server.ask().await.is_err() {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(server)
    }

    async fn ask(&self) -> RedisResult<String> {
        let authority = self.credentials.certificates.clone().map(|certificates| certificates.authority);
        let login = CacheLogin { password: self.credentials.operator_password.clone(), authority };
        ask(&[], ("localhost".into(), self.port), &login, self.encrypted).await
    }

    async fn as_user(&self, name: &str, password: &str) -> RedisResult<MultiplexedConnection> {
        let user = RedisConnectionInfo::default().set_username(name).set_password(password);
        let address = ConnectionAddr::Tcp("127.0.0.1".into(), self.port).into_connection_info()?;
        Client::open(address.set_redis_settings(user))?.get_multiplexed_async_connection().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn app(spec: &serde_json::Value) -> ApiDeployment {
    let mut whole = json!({ "latency": { "p99": "250ms" } });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "plimsoll.dev/v1alpha1", "kind": "ApiDeployment",
        "metadata": { "name": "posts", "namespace": "shop", "uid": "uid" }, "spec": whole,
    }))
    .unwrap()
}

fn value(secret: &Secret, key: &str) -> String {
    String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap()
}

/// What became of a command: `Ok`, or the code of the refusal.
async fn outcome(connection: &mut MultiplexedConnection, command: &str) -> String {
    let mut words = command.split(' ');
    let mut sent = redis::cmd(words.next().unwrap());
    for word in words {
        sent.arg(word);
    }
    match sent.query_async::<redis::Value>(connection).await {
        Ok(_) => "Ok".into(),
        Err(error) => error.code().unwrap_or_else(|| error.category()).to_owned(),
    }
}

/// What harms others, the server, or tells what is none of a client's business.
const DANGEROUS: [&str; 17] = [
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "CONFIG GET *",
    "CONFIG SET maxmemory 0",
    "SHUTDOWN NOSAVE",
    "REPLICAOF NO ONE",
    "SAVE",
    "BGSAVE",
    "MONITOR",
    "ACL LIST",
    "CLIENT KILL TYPE normal",
    "MODULE LIST",
    "SWAPDB 0 1",
    "MIGRATE 127.0.0.1 1 key 0 1",
    "INFO",
    "ROLE",
];

#[tokio::test]
async fn the_bundled_api_may_do_what_it_does_and_nothing_else() {
    let Some(server) = Server::start(&json!({})).await else { return };
    let mut api = server.as_user("plimsoll", &server.credentials.password).await.unwrap();
    let set = "return redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[2])";
    for command in ["PING", "GET post:1", "DEL post:1", "PUBLISH post:invalidations 1"] {
        assert_eq!(outcome(&mut api, command).await, "Ok", "{command}");
    }
    for (script, key) in [(set, "post:1"), ("return redis.call('TIME')", "rate:somebody")] {
        let mut eval = redis::cmd("EVAL");
        eval.arg(script).arg(1).arg(key).arg("value").arg(1000);
        eval.exec_async(&mut api).await.unwrap();
    }
    for command in
        DANGEROUS.into_iter().chain(["GET other", "PUBLISH other 1", "HGETALL post:1", "SCRIPT FLUSH"])
    {
        assert_eq!(outcome(&mut api, command).await, "NOPERM", "{command}");
    }
    // Scripts may do no more than their user.
    let mut eval = redis::cmd("EVAL");
    eval.arg("return redis.call('FLUSHALL')").arg(0);
    assert!(eval.exec_async(&mut api).await.is_err());
}

#[tokio::test]
async fn another_image_may_cache_as_it_likes_and_harm_nobody() {
    let Some(server) = Server::start(&json!({ "image": "ghcr.io/acme/shop:1", "port": 3000 })).await else {
        return;
    };
    let mut api = server.as_user("plimsoll", &server.credentials.password).await.unwrap();
    for command in ["SET any value", "HSET hash field value", "INCR counter", "EXPIRE any 10", "SCAN 0"] {
        assert_eq!(outcome(&mut api, command).await, "Ok", "{command}");
    }
    for command in DANGEROUS {
        assert_eq!(outcome(&mut api, command).await, "NOPERM", "{command}");
    }
}

#[tokio::test]
async fn the_operator_and_the_exporter_read_numbers_and_no_key() {
    let Some(server) = Server::start(&json!({})).await else { return };
    let mut operator =
        server.as_user("plimsoll-operator", &server.credentials.operator_password).await.unwrap();
    let mut exporter =
        server.as_user("plimsoll-exporter", &server.credentials.exporter_password).await.unwrap();
    for command in ["PING", "INFO"] {
        assert_eq!(outcome(&mut operator, command).await, "Ok", "{command}");
    }
    for command in ["INFO ALL", "LATENCY LATEST", "SLOWLOG GET 10", "SLOWLOG LEN"] {
        assert_eq!(outcome(&mut exporter, command).await, "Ok", "{command}");
    }
    let others = DANGEROUS.into_iter().filter(|command| *command != "INFO");
    for command in others.chain(["GET post:1", "SET post:1 x", "PUBLISH post:invalidations 1"]) {
        assert_eq!(outcome(&mut operator, command).await, "NOPERM", "{command}");
        assert_eq!(outcome(&mut exporter, command).await, "NOPERM", "{command}");
    }
    assert!(server.as_user("default", "").await.is_err(), "the default user is off");
    let open = Client::open(("127.0.0.1", server.port)).unwrap();
    let mut nobody = open.get_multiplexed_async_connection().await.unwrap();
    assert_eq!(outcome(&mut nobody, "PING").await, "NOAUTH");
}

#[tokio::test]
async fn it_evicts_ten_mebibytes_below_its_memory_and_keeps_nothing_on_a_disk() {
    let spec = json!({ "cache": { "managed": { "memory": "16Mi", "eviction": "LFU" } } });
    let Some(server) = Server::start(&spec).await else { return };
    let info = server.ask().await.unwrap();
    let reading = CacheReading::parse(Timestamp::now(), &info).unwrap();
    assert_eq!((reading.memory_max_bytes, reading.evicted, reading.keys), (6 << 20, 0, 0));
    for line in ["maxmemory_policy:allkeys-lfu", "aof_enabled:0", "rdb_bgsave_in_progress:0"] {
        assert!(info.contains(line), "{line} is not in {info}");
    }
}

#[tokio::test]
async fn with_certificates_of_its_own_it_is_trusted_and_others_are_not() {
    let Some(server) = Server::start(&json!({ "cache": { "managed": { "tls": {} } } })).await else { return };
    assert!(server.ask().await.unwrap().contains("redis_version"));
    let login = |authority| CacheLogin { password: server.credentials.operator_password.clone(), authority };
    let other = credentials::fresh(&app(&json!({})), true).certificates.unwrap().authority;
    assert!(
        ask(&[], ("localhost".into(), server.port), &login(Some(other)), true).await.is_err(),
        "another authority"
    );
    assert!(ask(&[], ("localhost".into(), server.port), &login(None), true).await.is_err(), "no authority");
    assert!(ask(&[], ("localhost".into(), server.port), &login(None), false).await.is_err(), "not encrypted");
}

#[tokio::test]
async fn of_several_servers_the_primary_is_asked_and_nobody_else() {
    let Some(server) = Server::start(&json!({ "cache": { "managed": {} } })).await else { return };
    let port = free_port();
    let configuration = server.folder.join("sentinel.conf");
    let lines = [
        format!("port {port}"),
        "bind 127.0.0.1".into(),
        format!(
            "user {OPERATOR_USER} on >{} -@all +ping +sentinel|get-master-addr-by-name",
            server.credentials.operator_password
        ),
        format!("sentinel monitor {PRIMARY_NAME} 127.0.0.1 {} 1", server.port),
    ];
    fs::write(&configuration, lines.join("\n")).unwrap();
    let mut command = Command::new("redis-server");
    let mut sentinel = command.arg(configuration).arg("--sentinel").stdout(Stdio::null()).spawn().unwrap();
    let login = CacheLogin { password: server.credentials.operator_password.clone(), authority: None };
    let ask = async |host: &str| {
        ask(&[(host.to_owned(), port)], ("nowhere.invalid".into(), server.port), &login, false).await
    };
    let deadline = Instant::now() + PATIENCE;
    let told = loop {
        match ask("127.0.0.1").await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            told => break told,
        }
    };
    // The same sentinel by another name: the server that it names is none of those that the operator runs.
    let elsewhere = ask("localhost").await;
    let _ = sentinel.kill();
    let _ = sentinel.wait();
    assert!(told.unwrap().contains("redis_version"));
    assert_eq!(elsewhere.unwrap_err().kind(), ErrorKind::MasterNameNotFoundBySentinel);
}

#[tokio::test]
async fn what_keeps_the_operator_out_is_told_apart() {
    let Some(server) = Server::start(&json!({})).await else { return };
    let asked = async |password: &str, port| {
        let login = CacheLogin { password: password.into(), authority: None };
        cause(&ask(&[], ("localhost".into(), port), &login, false).await.unwrap_err())
    };
    assert_eq!(asked("another", server.port).await, SilenceCause::Unauthorized);
    assert_eq!(asked(&server.credentials.operator_password, free_port()).await, SilenceCause::Unreachable);
    // The API's port of an image that is no cache answers HTTP.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    });
    assert_eq!(asked("any", port).await, SilenceCause::Unreadable);
}

#[test]
fn a_silence_begins_with_the_first_question_in_vain_and_ends_with_an_answer() {
    let at = |seconds| Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(seconds);
    let silence = |since, cause| Some(Silence { since: at(since), cause });
    let first = Said::default().after(at(30), Err(SilenceCause::Unreachable));
    assert_eq!(first.silence, silence(30, SilenceCause::Unreachable));
    let second = first.after(at(60), Err(SilenceCause::Unauthorized));
    assert_eq!(second.silence, silence(30, SilenceCause::Unauthorized), "the newest cause, since the first");
    let info = "keyspace_hits:1\nkeyspace_misses:1\nevicted_keys:0\nused_memory:1\nmaxmemory:2\n";
    let reading = CacheReading::parse(at(90), info).unwrap();
    let told = second.after(at(90), Ok(reading));
    assert_eq!(told, Said { reading: Some(reading), silence: None });
    assert_eq!(told.after(at(120), Err(SilenceCause::Unreadable)).reading, Some(reading), "it is kept");
}

/// A fake, for no Redis says so much of itself.
#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    use tokio::io::AsyncWriteExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // To AUTH, and then to INFO.
        stream.write_all(b"+OK\r\n$9000000000\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
    });
    let login = CacheLogin { password: "any".into(), authority: None };
    let error = ask(&[], ("127.0.0.1".into(), port), &login, false).await.unwrap_err();
    assert!(!error.is_timeout(), "it was read for as long as it was sent: {error}");
}

#[tokio::test]
async fn nobody_waits_for_a_cache_that_does_not_answer() {
    let app = app(&json!({}));
    let secrets = crate::state::Secrets {
        read_at: Instant::now(),
        generation: None,
        cache: plimsoll_core::input::Child::Absent,
        cache_login: Some(CacheLogin { password: "any".into(), authority: None }),
        missing: Vec::new(),
    };
    let mut working = Working { secrets: Some(secrets), ..Working::default() };
    let turns = Arc::new(Semaphore::new(1));
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(last_said(&app, &mut working, &turns), Said::default());
    }
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(turns.available_permits(), 0, "one question is under way, and no more");
}
