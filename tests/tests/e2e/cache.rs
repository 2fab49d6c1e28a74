//! The managed cache and the database that replicas share: who may do what, what is told of them, and what is too small.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams};
use plimsoll_crds::ApiDeployment;
use plimsoll_tests::cluster::layout;
use plimsoll_tests::{images, sample};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{self, NAME, SOON, World};

/// Posts, each of 60 kB: more than twice what the smallest cache holds.
const POSTS: usize = 400;
/// Longest time until another server is the primary, on a busy machine too: a sentinel that was held up does nothing for half a
/// minute.
const FAILOVER: Duration = Duration::from_mins(1);
/// The cache's only server.
const SERVER: &str = "deployment/posts-cache";

/// An entry of a cache's Secret.
async fn entry(world: &World, secret: &str, key: &str) -> Result<String> {
    let path = format!("jsonpath={{.data.{}}}", key.replace('.', "\\."));
    Ok(String::from_utf8(base64(&world.kubectl(&["get", "secret", secret, "-o", &path]).await?)?)?)
}

/// What `redis-cli` says inside a server of the cache, as the API's user, over TLS. `input` has a command a line.
async fn as_the_api(world: &World, server: &str, input: &str) -> Result<String> {
    as_user_of(world, "posts-cache", server, input).await
}

/// Likewise, of the cache with this Secret.
async fn as_user_of(world: &World, secret: &str, server: &str, input: &str) -> Result<String> {
    let password = entry(world, secret, "password").await?;
    let script = r#"printf '%s' "$1" | redis-cli --tls --insecure --no-auth-warning --user plimsoll -a "$2""#;
    let exec = ["exec", server, "-c", "redis", "--", "sh", "-c", script, "sh"];
    world.kubectl(&[exec.as_slice(), &[input, &password]].concat()).await
}

fn base64(text: &str) -> Result<Vec<u8>> {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.decode(text.trim()).context("read a Secret")
}

#[test]
fn an_encrypted_cache_is_used_and_its_users_may_do_no_harm() {
    world::run("cache-tls", async |world| {
        let exporter = json!({ "image": images::redis_exporter().await? });
        let managed = json!({ "memory": "32Mi", "tls": {}, "exporter": exporter });
        world.apply_ready(json!({ "cache": { "managed": managed } })).await?;
        for command in ["FLUSHALL", "CONFIG GET *", "KEYS *", "SHUTDOWN NOSAVE"] {
            let said = as_the_api(world, SERVER, command).await?;
            ensure!(said.contains("NOPERM"), "{command} is not refused: {said}");
        }
        let nobody = ["exec", SERVER, "-c", "redis", "--", "redis-cli", "--tls", "--insecure", "PING"];
        let said = world.kubectl(&nobody).await?;
        ensure!(said.contains("NOAUTH"), "the default user is on: {said}");

        // Ten posts, read by many. An entry lives for a minute, and may be read anew only after it has ended.
        let load = world.load("0,20\n75,20\n", &[("/posts/{post}", 1)]).await?;
        let cached = async || Ok(as_the_api(world, SERVER, "GET post:1").await?.contains("title"));
        world.eventually(SOON, "the API uses the encrypted cache", cached).await?;
        let told = |app: Option<&ApiDeployment>| {
            let cache = app.and_then(|app| app.status.as_ref()?.cache.as_ref());
            cache.is_some_and(|cache| cache.memory_used.is_some() && cache.evictions_per_second.is_some())
        };
        world.until(NAME, Duration::from_mins(2), told, "tells how its cache fares").await?;
        let (summary, _) = load.finish().await?;
        ensure!(summary.ends.unserved() == 0, "{:?}", summary.failures);
        let of_redis = exported(world).await?;
        for line in ["redis_up 1", "redis_connected_clients ", "redis_keyspace_hits_total "] {
            ensure!(of_redis.lines().any(|told| told.starts_with(line)), "no {line:?} in {of_redis}");
        }
        Ok(())
    });
}

/// What the exporter beside the cache's only server tells.
async fn exported(world: &World) -> Result<String> {
    let cache = ListParams::default().labels("app.kubernetes.io/component=cache");
    let pods = world.pods().list(&cache).await?.items;
    let pod = pods.first().and_then(|pod| pod.metadata.name.clone()).context("a pod of the cache")?;
    let path = format!("/api/v1/namespaces/{}/pods/{pod}:9121/proxy/metrics", world.namespace);
    let request = http::Request::get(path).body(Vec::new())?;
    world.client.request_text(request).await.context("ask the exporter")
}

#[test]
fn an_encrypted_cache_of_somebody_elses_is_used_by_its_url_and_authority() {
    world::run("cache-external", async |world| {
        // Somebody else's: the cache of another resource, which runs no API.
        let mut keeper = world.app(json!({
            "replicas": { "pinned": 0 }, "cache": { "managed": { "memory": "32Mi", "tls": {} } },
        }));
        keeper["metadata"]["name"] = "keeper".into();
        sample::apply_all(&world.client, &[keeper]).await?;
        world.until("keeper", SOON, sample::ready, "is Ready").await?;

        let from = |key: &str| json!({ "secretKeyRef": { "name": "redis", "key": key } });
        let mut app = world.app(json!({}));
        app["spec"]["cache"] = json!({ "external": { "urlFrom": from("url"), "caFrom": from("ca.crt") } });
        sample::apply_all(&world.client, &[app]).await?;
        let missing = world.until_condition("Ready", "False", "SecretNotFound").await?;
        ensure!(missing.contains("Secret redis"), "{missing}");
        let password = entry(world, "keeper-cache", "password").await?;
        let host = format!("keeper-cache.{}.svc", world.namespace);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "redis", "namespace": world.namespace },
            "stringData": {
                "url": format!("rediss://plimsoll:{password}@{host}:6379"),
                "ca.crt": entry(world, "keeper-cache", "ca.crt").await?,
            },
        });
        sample::apply_all(&world.client, &[secret]).await?;
        world.until(NAME, SOON, sample::ready, "is Ready").await?;
        let _load = world.load("0,20\n75,20\n", &[("/posts/{post}", 1)]).await?;
        let cached = async || {
            let said = as_user_of(world, "keeper-cache", "deployment/keeper-cache", "GET post:1").await?;
            Ok(said.contains("title"))
        };
        world.eventually(SOON, "the API uses the cache of the URL", cached).await
    });
}

/// Makes a post of 60 kB and gives its id.
async fn large_post(address: &str) -> Result<i64> {
    let body = json!({ "title": "large", "body": "x".repeat(60_000) }).to_string();
    let head = format!(
        "POST /posts HTTP/1.1\r\nhost: posts\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.context("connect to the API")?;
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let id =
        answer.split("\"id\":").nth(1).map(|rest| rest.trim_start().split([',', '}']).next().unwrap_or(""));
    id.and_then(|id| id.parse().ok()).with_context(|| format!("POST /posts answers {answer:.200}"))
}

#[test]
fn a_cache_that_is_too_small_is_named_with_the_size_that_helps() {
    world::run("cache-small", async |world| {
        world.apply_ready(json!({ "cache": { "managed": { "memory": "16Mi" } } })).await?;
        let service = Api::<Service>::namespaced(world.client.clone(), &world.namespace).get(NAME).await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("the Service's address")?;
        let reached = async || Ok(TcpStream::connect(format!("{address}:80")).await.is_ok());
        world.eventually(SOON, "the Service leads to the replicas", reached).await?;
        let mut paths = Vec::with_capacity(POSTS);
        for _ in 0..POSTS {
            paths.push(format!("/posts/{}", large_post(&format!("{address}:80")).await?));
        }
        let weighted: Vec<(&str, u32)> = paths.iter().map(|path| (path.as_str(), 1)).collect();
        let load = world.load("0,40\n110,40\n", &weighted).await?;
        let message = world.until_condition("CacheEffective", "False", "CacheTooSmall").await?;
        for part in ["% of look-ups find something", "raise spec.cache.managed.memory from 16Mi to "] {
            ensure!(message.contains(part), "the message does not say {part:?}: {message}");
        }
        let described = world.kubectl(&["describe", "apid", NAME]).await?;
        ensure!(described.contains("Hit Ratio Percent"), "{described}");
        drop(load);
        Ok(())
    });
}

#[test]
fn connections_that_the_database_does_not_take_are_told_before_scaling_needs_them() {
    world::run("connections", async |world| {
        let database = |connections: i32| {
            let reference = json!({ "secretKeyRef": { "name": "postgres", "key": "url" } });
            json!({ "database": { "external": { "urlFrom": reference, "connectionsPerReplica": connections } } })
        };
        let mut changes = database(50);
        changes["replicas"] = json!({ "min": 1 });
        world.apply_ready(changes).await?;
        let kind = "DatabaseConnectionsSufficient";
        let message = world.until_condition(kind, "False", "TooManyConnections").await?;
        ensure!(message.starts_with("14 replicas x 50 connections = 700 > 97"), "{message}");
        ensure!(message.contains("lower spec.replicas.max to 1"), "{message}");
        // More than one replica carries.
        let _load = world.load("0,70\n150,70\n", &[("/work?cpu=2ms", 1)]).await?;
        let message = world.until_condition("ScalingLimited", "True", "DatabaseConnections").await?;
        ensure!(message.contains("connections"), "{message}");
        world.until_ready_replicas(1, SOON).await?;
        world.patch(database(3)).await?;
        let message = world.until_condition(kind, "True", "ConnectionsFit").await?;
        ensure!(message.starts_with("14 replicas x 3 connections = 42"), "{message}");
        let more = async || {
            let status = world.deployments().get(NAME).await?.status.unwrap_or_default();
            Ok(status.ready_replicas.unwrap_or(0) >= 2)
        };
        world.eventually(SOON, "replicas are added once their connections fit", more).await
    });
}

/// Pod that the sentinels name as the primary.
async fn primary(world: &World) -> Result<String> {
    let password = entry(world, "posts-cache", "sentinel-password").await?;
    for index in 0..3 {
        let pod = format!("posts-cache-{index}");
        let mut args =
            vec!["exec", &pod, "-c", "sentinel", "--", "redis-cli", "--tls", "--insecure", "-p", "26379"];
        args.extend(["--no-auth-warning", "-a", &password, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "cache"]);
        if let Ok(said) = world.kubectl(&args).await
            && let Some((pod, _)) = said.split_once('.')
        {
            return Ok(pod.to_owned());
        }
    }
    anyhow::bail!("no sentinel names a primary")
}

/// Makes a cache of three servers, gives its primary a key, and waits until all have it. Returns the primary.
async fn three_servers_with_a_key(world: &World) -> Result<String> {
    world
        .apply_ready(json!({ "cache": { "managed": { "memory": "16Mi", "replicas": 3, "tls": {} } } }))
        .await?;
    world.until_condition("CacheReady", "True", "Available").await?;
    let primary = primary(world).await?;
    as_the_api(world, &primary, "SET post:kept here").await?;
    let everywhere = async || {
        for index in 0..3 {
            let said = as_the_api(world, &format!("posts-cache-{index}"), "GET post:kept").await?;
            if said.trim() != "here" {
                return Ok(false);
            }
        }
        Ok(true)
    };
    world.eventually(SOON, "both copies have the key", everywhere).await?;
    Ok(primary)
}

/// Nothing that pods ask the cluster's name server comes through, until this is dropped.
struct NameServerHangs(Vec<String>);

impl NameServerHangs {
    fn for_pods(addresses: Vec<String>) -> Result<Self> {
        let hangs = Self(addresses);
        ensure!(
            hangs.rules("--insert").iter_mut().all(|rule| rule.status().is_ok_and(|status| status.success()))
        );
        Ok(hangs)
    }

    fn rules(&self, action: &str) -> Vec<Command> {
        let rule = |address: &String| {
            let mut rule = Command::new("/usr/sbin/iptables");
            rule.args(["--wait", action, "INPUT", "--in-interface", layout::BRIDGE, "--source", address]);
            rule.args(["--protocol", "udp", "--dport", "53", "--jump", "DROP"]);
            rule
        };
        self.0.iter().map(rule).collect()
    }
}

impl Drop for NameServerHangs {
    fn drop(&mut self) {
        for mut rule in self.rules("--delete") {
            let _ = rule.status();
        }
    }
}

#[test]
fn a_name_server_that_hangs_delays_a_failover_and_loses_no_key() {
    world::run("cache-dns", async |world| {
        let first = three_servers_with_a_key(world).await?;
        let pods =
            world.pods().list(&ListParams::default().labels("app.kubernetes.io/component=cache")).await?;
        let others: Vec<String> =
            pods.iter().filter_map(|pod| pod.metadata.name.clone()).filter(|name| *name != first).collect();
        let hangs =
            NameServerHangs::for_pods(pods.items.into_iter().filter_map(|pod| pod.status?.pod_ip).collect())?;
        world.kubectl(&["delete", "pod", &first, "--grace-period=0", "--force"]).await?;
        let held_up = async || {
            for name in &others {
                if world.kubectl(&["logs", name, "-c", "sentinel"]).await?.contains("+tilt") {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        world.eventually(SOON, "a sentinel is held up by a look-up", held_up).await?;
        drop(hangs);
        let moved = async || Ok(primary(world).await.is_ok_and(|now| now != first));
        world.eventually(FAILOVER, "another server is the primary", moved).await?;
        world.until_condition("CacheReady", "True", "Available").await?;
        let now = primary(world).await?;
        ensure!(now != first, "the first primary took over from its successor");
        let said = as_the_api(world, &now, "GET post:kept").await?;
        ensure!(said.trim() == "here", "{now} has lost what the first primary had: {said}");
        Ok(())
    });
}

#[test]
fn when_the_primary_dies_another_takes_over_with_its_keys_and_the_api_serves_throughout() {
    world::run("cache-failover", async |world| {
        let first = three_servers_with_a_key(world).await?;
        let load = world.load("0,10\n45,10\n", &[("/posts/{post}", 1)]).await?;
        world.kubectl(&["delete", "pod", &first, "--grace-period=0", "--force"]).await?;
        let moved = async || Ok(primary(world).await.is_ok_and(|now| now != first));
        world.eventually(FAILOVER, "another server is the primary", moved).await?;
        let (summary, _) = load.finish().await?;
        ensure!(summary.ends.unserved() == 0, "{} failed: {:?}", summary.ends.unserved(), summary.failures);
        // The one that died is back as a copy.
        world.until_condition("CacheReady", "True", "Available").await?;
        let now = primary(world).await?;
        ensure!(now != first, "the first primary took over from its successor");
        for server in [&now, &first] {
            let said = as_the_api(world, server, "GET post:kept").await?;
            ensure!(said.trim() == "here", "{server} has lost what the first primary had: {said}");
        }
        // With other passwords no server understands another: all of them are made anew.
        world.kubectl(&["delete", "secret", "posts-cache"]).await?;
        let renewed = async || {
            let ready = ["get", "statefulset", "posts-cache", "-o", "jsonpath={.status.readyReplicas}"];
            // By the password of the new Secret.
            Ok(primary(world).await.is_ok() && world.kubectl(&ready).await.is_ok_and(|ready| ready == "3"))
        };
        world.eventually(Duration::from_mins(3), "all servers have the new passwords", renewed).await?;
        world.patch(json!({ "cache": { "managed": { "replicas": 1 } } })).await?;
        world
            .eventually(Duration::from_mins(1), "one server is left, in a Deployment", async || {
                let cache = "app.kubernetes.io/component=cache";
                let kinds = "statefulsets,deployments,poddisruptionbudgets";
                let left = world.kubectl(&["get", kinds, "-l", cache, "-o", "name"]).await?;
                Ok(left.trim() == "deployment.apps/posts-cache")
            })
            .await?;
        Ok(())
    });
}
