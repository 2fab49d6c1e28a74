//! Every setting, read once from flags, environment and a file (see [`crate::config_file`]). Never prints a secret: URLs redact themselves.

use std::{fmt, net::SocketAddr, num::NonZero, path::PathBuf, str::FromStr, time::Duration};

use clap::Parser;

use crate::{
    auth,
    duration::{self, DurationError},
    limits,
    overload::Patience,
    rate_limit,
    redis_link::{Target, TargetError},
    server, store,
    telemetry::LogFormat,
};

/// The longest wait for a CPU worker where no latency is promised: about as long as people wait without trying again.
const CPU_QUEUE_AGE_DEFAULT: Duration = Duration::from_secs(2);

/// The settings of the service. Each is a flag and an environment variable.
#[derive(Debug, Clone, Parser)]
#[command(name = "plimsoll-api", version, about = "An HTTP API over posts, made to be scaled by its latency")]
pub struct Config {
    /// A YAML file of settings under the names of these flags; a flag or a variable goes before it.
    #[arg(long, env = "PLIMSOLL_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The address to listen on.
    #[arg(long, env = "PLIMSOLL_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// The latency promise, comma-separated (100ms,250ms); each becomes an exact edge of the latency histogram.
    #[arg(long, env = "PLIMSOLL_LATENCY_TARGETS", default_value = "")]
    pub latency_targets: LatencyTargets,

    /// Where posts live: `sqlite:PATH`, `sqlite::memory:` or `postgres://...`.
    #[arg(
        long,
        env = "PLIMSOLL_DATABASE_URL",
        default_value = "sqlite:/data/posts.db",
        hide_env_values = true
    )]
    pub database_url: Secret,

    /// The most connections to the database from this process.
    // 20 replicas and a rollout's surge of a quarter stay under Postgres' default of 100 connections.
    #[arg(long, env = "PLIMSOLL_DATABASE_CONNECTIONS", default_value = "3")]
    pub database_connections: NonZero<usize>,

    /// Calls that may wait for a connection to the database; more are shed with 503.
    // Far more than a burst: how long they wait is bounded by their age. A thousand take a few megabytes.
    #[arg(long, env = "PLIMSOLL_DATABASE_QUEUE", default_value = "1024")]
    pub database_queue: NonZero<usize>,

    /// The cache: `redis://...` or `rediss://...` (encrypted), `redis+sentinel://USER@HOST,HOST/NAME?sentinel=USER` or
    /// `redis+cluster://USER@HOST,HOST`, each USER as `name:password`; empty or absent means none.
    #[arg(long, env = "PLIMSOLL_CACHE_URL", default_value = "", hide_env_values = true)]
    pub cache_url: Secret,

    /// A file with the certificate, as PEM, of the authority that signed the cache's own. Absent: those that the system trusts.
    #[arg(long, env = "PLIMSOLL_CACHE_CA", value_name = "FILE")]
    pub cache_ca: Option<PathBuf>,

    /// How much of posts and pages to keep in this process, in bytes; 0 keeps none.
    #[arg(long, env = "PLIMSOLL_CACHE_LOCAL_BYTES", default_value = "16777216")]
    pub cache_local_bytes: usize,

    /// How long to go on accepting connections after the signal to stop, while endpoints drain.
    #[arg(long, env = "PLIMSOLL_DRAIN", default_value = "5s", value_parser = duration::parse)]
    pub drain: Duration,

    /// How long requests in flight may take after that, before their connections are cut.
    #[arg(long, env = "PLIMSOLL_SHUTDOWN_TIMEOUT", default_value = "20s", value_parser = duration::parse)]
    pub shutdown_timeout: Duration,

    /// Connections older than this (give or take 20 %) are closed after their next response.
    // A balancer that spreads connections, not requests, gives a new replica nothing from clients that keep theirs.
    #[arg(long, env = "PLIMSOLL_CONNECTION_MAX_AGE", default_value = "30s", value_parser = duration::parse)]
    pub connection_max_age: Duration,

    /// How long a connection may be idle: without a request, and without the first byte of one.
    // Longer than the usual 60 s of clients and balancers, so that they close first and never meet a reset.
    #[arg(long, env = "PLIMSOLL_IDLE_TIMEOUT", default_value = "75s", value_parser = duration::parse)]
    pub idle_timeout: Duration,

    /// The most connections at once; more wait in the kernel's queue.
    #[arg(long, env = "PLIMSOLL_CONNECTIONS_MAX", default_value = "4096")]
    pub connections_max: NonZero<u32>,

    /// How long a request may take before it is answered with 503.
    #[arg(long, env = "PLIMSOLL_REQUEST_TIMEOUT", default_value = "10s", value_parser = duration::parse)]
    pub request_timeout: Duration,

    /// Threads for CPU work. Absent: the CPUs that the cgroup grants, at least 1.
    #[arg(long, env = "PLIMSOLL_CPU_WORKERS")]
    pub cpu_workers: Option<NonZero<usize>>,

    /// CPU jobs that may wait; more are shed with 503.
    #[arg(long, env = "PLIMSOLL_CPU_QUEUE", default_value = "64")]
    pub cpu_queue: NonZero<usize>,

    /// How long a CPU job may wait before it is shed with 503 in place of being run. Absent: the longest of the latency
    /// targets, or 2s without any.
    #[arg(long, env = "PLIMSOLL_CPU_QUEUE_AGE", value_parser = duration::parse)]
    pub cpu_queue_age: Option<Duration>,

    /// How long a request may wait, for the event loop, a CPU worker or a connection to the database, once such waits do not end: longer ones are
    /// shed with 503. 0 means never. Absent: half of the shortest latency target, or 50ms without any.
    #[arg(long, env = "PLIMSOLL_SHED_AFTER", value_parser = duration::parse)]
    pub shed_after: Option<Duration>,

    /// Whether latency counts from when the kernel received a request, in place of when it was read.
    #[arg(long, env = "PLIMSOLL_KERNEL_TIMESTAMPS", default_value_t = true, action = clap::ArgAction::Set)]
    pub kernel_timestamps: bool,

    /// Bearer tokens.
    #[command(flatten, next_help_heading = "Tokens")]
    pub auth: auth::Options,

    /// Limits on callers.
    #[command(flatten, next_help_heading = "Rate limit")]
    pub rate_limit: rate_limit::Options,

    /// What may come in.
    #[command(flatten, next_help_heading = "Input")]
    pub limits: limits::Options,

    /// What to log, such as `info` or `plimsoll_api=debug`.
    #[arg(long, env = "PLIMSOLL_LOG", default_value = "info,tokio_postgres=warn")]
    pub log: String,

    /// How to write a log line.
    #[arg(long, env = "PLIMSOLL_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
}

impl Config {
    /// Where posts live.
    ///
    /// # Errors
    /// [`ConfigError`] when the URL is of no kind that we know, or cannot be read.
    pub fn database(&self) -> Result<Database, ConfigError> {
        let url = self.database_url.reveal();
        if let Some(path) = url.strip_prefix("sqlite:") {
            return match path {
                "" => Err(ConfigError::DatabaseUrl("sqlite: needs a path, such as sqlite:/data/posts.db")),
                ":memory:" => Ok(Database::SqliteMemory),
                path => Ok(Database::SqliteFile(PathBuf::from(path))),
            };
        }
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(ConfigError::DatabaseUrl("write sqlite:PATH, sqlite::memory: or postgres://..."));
        }
        let config = tokio_postgres::Config::from_str(url).map_err(ConfigError::PostgresUrl)?;
        if config.get_ssl_mode() == tokio_postgres::config::SslMode::Require {
            return Err(ConfigError::DatabaseUrl("sslmode=require is not supported yet; use sslmode=prefer"));
        }
        Ok(Database::Postgres(Box::new(config)))
    }

    /// Where the cache is, or none. Does not connect.
    ///
    /// # Errors
    /// [`ConfigError::CacheUrl`] when the URL cannot be read, [`ConfigError::CacheCa`] when the certificate cannot.
    pub fn cache(&self) -> Result<Option<Target>, ConfigError> {
        let url = self.cache_url.reveal();
        if url.is_empty() {
            return Ok(None);
        }
        let authority =
            self.cache_ca.as_ref().map(std::fs::read).transpose().map_err(ConfigError::CacheCa)?;
        // The one provider of cryptography that is here; whoever was first has set the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Target::parse(url, authority.as_deref()).map(Some).map_err(ConfigError::CacheUrl)
    }

    /// How long a request may wait in a queue that stands.
    pub fn patience(&self) -> Patience {
        match self.shed_after {
            Some(Duration::ZERO) => Patience::endless(),
            Some(target) => Patience::new(target),
            None => Patience::for_promises(&self.latency_targets.0),
        }
    }

    /// What the store may use of the database, and how calls wait for it.
    pub fn database_limits(&self) -> store::Limits {
        let (connections, waiting) = (self.database_connections, self.database_queue);
        store::Limits { connections, waiting, patience: self.patience() }
    }

    /// How long a CPU job may wait at all: what waited for longer than any promise can keep none.
    pub fn cpu_queue_age(&self) -> Duration {
        let longest = self.latency_targets.0.iter().max().copied();
        self.cpu_queue_age.or(longest).unwrap_or(CPU_QUEUE_AGE_DEFAULT)
    }

    /// What the accept loop needs of the settings.
    pub fn server_limits(&self) -> server::Limits {
        server::Limits {
            connections_max: self.connections_max,
            connection_max_age: self.connection_max_age,
            idle_timeout: self.idle_timeout,
            head_timeout: self.limits.head_timeout,
            shutdown_timeout: self.shutdown_timeout,
            kernel_timestamps: self.kernel_timestamps,
        }
    }
}

/// Where posts live.
#[derive(Debug, Clone)]
pub enum Database {
    /// A file, made when absent; its folder must exist.
    SqliteFile(PathBuf),
    /// In this process only; gone when it ends.
    SqliteMemory,
    /// A server, shared by all replicas.
    Postgres(Box<tokio_postgres::Config>),
}

impl Database {
    /// True when other processes write to it too.
    pub fn shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

/// A setting that is well-formed on its own but cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The database's URL is of no kind that we know.
    #[error("PLIMSOLL_DATABASE_URL: {0}")]
    DatabaseUrl(&'static str),
    /// The database's URL starts as Postgres' do, but cannot be read.
    #[error("PLIMSOLL_DATABASE_URL is not a postgres:// URL")]
    PostgresUrl(#[source] tokio_postgres::Error),
    /// The cache's URL cannot be read.
    #[error("read PLIMSOLL_CACHE_URL")]
    CacheUrl(#[source] TargetError),
    /// The certificate of the cache's authority cannot be read.
    #[error("read PLIMSOLL_CACHE_CA")]
    CacheCa(#[source] std::io::Error),
    /// Tokens cannot be checked with these settings.
    #[error(transparent)]
    Auth(#[from] auth::AuthError),
    /// The latency targets make no histogram.
    #[error("PLIMSOLL_LATENCY_TARGETS make no histogram")]
    Metrics(#[source] prometheus::Error),
}

/// Text that must not be printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// The text itself; the caller answers for where it goes.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Shows the scheme, which carries no secret and tells what is in use.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once(':') {
            Some((scheme, _)) => write!(f, "{scheme}:[redacted]"),
            None if self.0.is_empty() => f.write_str("none"),
            None => f.write_str("[redacted]"),
        }
    }
}

/// Latencies that the histogram must be able to answer for exactly; may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatencyTargets(pub Vec<Duration>);

impl FromStr for LatencyTargets {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let targets = text.split(',').map(str::trim).filter(|target| !target.is_empty()).map(duration::parse);
        targets.filter(|target| *target != Ok(Duration::ZERO)).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> Config {
        Config::try_parse_from(std::iter::once("plimsoll-api").chain(flags.iter().copied())).unwrap()
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let config = config(&[
            "--database-url=postgres://posts:hunter2@db/posts",
            "--cache-url=redis://:hunter2@cache:6379",
        ]);
        let text = format!("{config:?}");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("postgres:[redacted]"), "{text}");
    }

    #[test]
    fn tells_the_databases_apart() {
        let database = |url: &str| config(&["--database-url", url]).database();
        assert!(
            matches!(database("sqlite:/data/posts.db"), Ok(Database::SqliteFile(path)) if path.as_os_str() == "/data/posts.db")
        );
        assert!(matches!(database("sqlite::memory:"), Ok(Database::SqliteMemory)));
        assert!(matches!(database("postgres://posts@db/posts"), Ok(Database::Postgres(_))));
        for url in ["", "sqlite:", "mysql://db", "postgres://db:port/x", "postgres://db/x?sslmode=require"] {
            assert!(database(url).is_err(), "{url:?}");
        }
    }

    #[test]
    fn an_empty_cache_url_means_no_cache() {
        assert!(config(&["--cache-url="]).cache().unwrap().is_none());
        assert!(config(&["--cache-url=redis://cache"]).cache().unwrap().is_some());
        assert!(config(&["--cache-url=http://cache"]).cache().is_err());
    }

    /// The operator relies on them: a change is a change of the interface.
    #[test]
    fn defaults_are_those_that_the_operator_knows() {
        let config = config(&[]);
        assert_eq!(config.listen, "0.0.0.0:8080".parse().unwrap());
        assert_eq!(config.latency_targets, LatencyTargets::default());
        assert_eq!(config.database_url.reveal(), "sqlite:/data/posts.db");
        assert_eq!(config.cache_url.reveal(), "");
        assert_eq!(
            (config.drain, config.shutdown_timeout),
            (Duration::from_secs(5), Duration::from_secs(20))
        );
        assert_eq!(config.connection_max_age, Duration::from_secs(30));
        assert_eq!((config.cpu_workers, config.cpu_queue.get()), (None, 64));
    }

    #[test]
    fn waits_are_bounded_by_the_promise() {
        let ms = Duration::from_millis;
        let bounds = |flags: &[&str]| {
            let config = config(flags);
            (config.patience().target, config.cpu_queue_age())
        };
        assert_eq!(bounds(&[]), (ms(50), ms(2000)));
        assert_eq!(bounds(&["--latency-targets=100ms,250ms"]), (ms(50), ms(250)));
        assert_eq!(bounds(&["--shed-after=7ms", "--cpu-queue-age=1s"]), (ms(7), ms(1000)));
        assert_eq!(config(&["--shed-after=0s"]).patience(), Patience::endless());
    }

    #[test]
    fn reads_latency_targets() {
        let targets = |text: &str| text.parse::<LatencyTargets>().map(|targets| targets.0);
        assert_eq!(targets(""), Ok(vec![]));
        assert_eq!(targets("100ms, 250ms"), Ok(vec![Duration::from_millis(100), Duration::from_millis(250)]));
        assert!(targets("fast").is_err());
    }
}
