//! The servers that are compared, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use plimsoll_load::client::Client;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::process::Running;
use super::rivals;
use crate::images;
use crate::progress::step;

const START_LIMIT: Duration = Duration::from_secs(20);
/// Connections of the probes.
const CONNECTIONS_MAX: u64 = 64;

/// A server that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// The API service as it ships.
    Plimsoll,
    /// The same, without its layer of the cache in the process.
    PlimsollNoLocal,
    /// Express 5, one process.
    Express,
    /// Express 5, two processes of `node:cluster`.
    ExpressCluster,
    /// Fastify 5.
    Fastify,
    /// Go's net/http.
    Go,
    /// nginx with files that never change.
    Nginx,
}

impl Server {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 7] = [
        Self::Plimsoll,
        Self::PlimsollNoLocal,
        Self::Express,
        Self::ExpressCluster,
        Self::Fastify,
        Self::Go,
        Self::Nginx,
    ];

    /// As `--only` and the JSON name it.
    pub fn id(self) -> &'static str {
        match self {
            Self::Plimsoll => "plimsoll",
            Self::PlimsollNoLocal => "plimsoll-no-local",
            Self::Express => "express",
            Self::ExpressCluster => "express-cluster",
            Self::Fastify => "fastify",
            Self::Go => "go",
            Self::Nginx => "nginx",
        }
    }

    /// Head of a table's row.
    pub fn title(self) -> &'static str {
        match self {
            Self::Plimsoll => "Plimsoll",
            Self::PlimsollNoLocal => "Plimsoll, in-process layer off",
            Self::Express => "Express 5",
            Self::ExpressCluster => "Express 5, cluster of 2",
            Self::Fastify => "Fastify 5",
            Self::Go => "Go net/http",
            Self::Nginx => "nginx, constants",
        }
    }

    /// Whether it is Plimsoll, whose posts come from its database.
    pub fn ours(self) -> bool {
        matches!(self, Self::Plimsoll | Self::PlimsollNoLocal)
    }

    /// The CPUs that it runs on, as `taskset` takes them: CPU 0, and for the cluster a second one, which is the load
    /// generator's where the machine has no third.
    pub fn cpus(self, machine: usize) -> &'static str {
        match self {
            Self::ExpressCluster if machine > 2 => "0,2",
            Self::ExpressCluster => "0,1",
            _ => "0",
        }
    }
}

/// What starting a server takes: programs, and the folder of this run.
pub struct Stage {
    folder: PathBuf,
    programs: Programs,
    redis: Redis,
    machine: usize,
}

struct Programs {
    api: PathBuf,
    load: PathBuf,
    express: PathBuf,
    fastify: PathBuf,
    go: PathBuf,
}

impl Stage {
    /// Builds and installs all that is needed, and starts Redis on the load generator's CPU.
    ///
    /// # Errors
    /// When something cannot be built, installed or started.
    pub async fn set(folder: &Path, machine: usize) -> Result<Self> {
        let build = images::compile(&["plimsoll-api", "plimsoll-load"]);
        let binaries = step("Build the API service and the load generator", build).await?;
        let programs = Programs {
            api: binaries.join("plimsoll-api"),
            load: binaries.join("plimsoll-load"),
            express: rivals::node("express").await?,
            fastify: rivals::node("fastify").await?,
            go: rivals::go().await?,
        };
        let redis = Redis::start(folder).await?;
        Ok(Self { folder: folder.to_path_buf(), programs, redis, machine })
    }

    /// The load generator.
    pub fn load(&self) -> &Path {
        &self.programs.load
    }

    /// Folder of this run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Redis's process.
    pub fn redis(&self) -> i32 {
        self.redis.running.id()
    }

    /// Starts a server before an empty Redis and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(&self, server: Server) -> Result<Serving> {
        self.redis.empty().await?;
        let port = free_port()?;
        let command = self.command(server, port)?;
        let mut running = Running::start(server.id(), server.cpus(self.machine), &command, &self.folder)?;
        let base = format!("http://127.0.0.1:{port}").parse()?;
        let client = Client::new(&base, CONNECTIONS_MAX, START_LIMIT).await?;
        // Its database and cache must be there too, or the first requests would be answered without them.
        let healthy = async || {
            let health = super::get(&client, "/health", &[]).await.and_then(|answer| answer.json());
            health.is_ok_and(|health| health["status"] == "ok" && health["cache"] == "ok")
        };
        running.until(START_LIMIT, healthy).await?;
        Ok(Serving { running, port, client })
    }

    fn command(&self, server: Server, port: u16) -> Result<Command> {
        let redis = format!("redis://127.0.0.1:{}", self.redis.port);
        let mut command = match server {
            Server::Plimsoll | Server::PlimsollNoLocal => {
                let mut api = Command::new(&self.programs.api);
                api.env("PLIMSOLL_LISTEN", format!("127.0.0.1:{port}"));
                api.env("PLIMSOLL_CACHE_URL", &redis);
                api.env("PLIMSOLL_DRAIN", "0s");
                let database = format!("sqlite:{}", self.folder.join("posts.db").display());
                api.env("PLIMSOLL_DATABASE_URL", database);
                if server == Server::PlimsollNoLocal {
                    api.env("PLIMSOLL_CACHE_LOCAL_BYTES", "0");
                }
                return Ok(api);
            }
            Server::Nginx => return self.nginx(port),
            Server::Express | Server::ExpressCluster => node(&self.programs.express),
            Server::Fastify => node(&self.programs.fastify),
            Server::Go => Command::new(&self.programs.go),
        };
        command.env("PORT", port.to_string()).env("REDIS_URL", redis);
        command.env("DATA", self.folder.join("data.json"));
        command.env("WORKERS", if server == Server::ExpressCluster { "2" } else { "0" });
        Ok(command)
    }

    fn nginx(&self, port: u16) -> Result<Command> {
        let source = rivals::source("nginx").join("nginx.conf");
        let template =
            std::fs::read_to_string(&source).with_context(|| format!("read {}", source.display()))?;
        let data = std::fs::read(self.folder.join("data.json")).unwrap_or_default();
        let content: serde_json::Value = serde_json::from_slice(&data).unwrap_or_default();
        let config = template
            .replace("@FOLDER@", &self.folder.to_string_lossy())
            .replace("@PORT@", &port.to_string())
            .replace("@HEALTH@", &content["health"].to_string());
        let file = self.folder.join("nginx.conf");
        std::fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
        let mut nginx = Command::new("/usr/sbin/nginx");
        nginx.args(["-e", "stderr", "-p"]).arg(&self.folder).arg("-c").arg(file);
        Ok(nginx)
    }
}

fn node(folder: &Path) -> Command {
    let mut node = Command::new("node");
    node.arg("server.js").current_dir(folder).env("NODE_ENV", "production");
    node
}

/// A server that answers.
pub struct Serving {
    /// Its process.
    pub running: Running,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// A client of it, for probes.
    pub client: Arc<Client>,
}

/// The Redis that all share, one after the other.
struct Redis {
    running: Running,
    port: u16,
}

impl Redis {
    async fn start(folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.arg("--dir").arg(folder);
        let mut running = Running::start("redis", super::GENERATOR_CPU, &command, folder)?;
        running.until(START_LIMIT, async || say(port, "PING").await.is_ok()).await?;
        Ok(Self { running, port })
    }

    async fn empty(&self) -> Result<()> {
        say(self.port, "FLUSHALL").await
    }
}

/// Sends Redis a command whose answer is one line that begins with `+`.
async fn say(port: u16, command: &str) -> Result<()> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        stream.read_u8().await
    };
    let limit = Duration::from_secs(5);
    let answer = tokio::time::timeout(limit, exchange).await.context("Redis does not answer")??;
    anyhow::ensure!(answer == b'+', "Redis refuses {command}");
    Ok(())
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_one_name_everywhere() {
        for server in Server::ALL {
            assert_eq!(serde_json::to_value(server).unwrap(), server.id());
            assert_eq!(server.to_possible_value().unwrap().get_name(), server.id());
        }
    }

    #[test]
    fn only_the_cluster_takes_a_second_cpu() {
        for server in Server::ALL {
            let cluster = server == Server::ExpressCluster;
            assert_eq!((server.cpus(2), server.cpus(8)), if cluster { ("0,1", "0,2") } else { ("0", "0") });
        }
    }
}
