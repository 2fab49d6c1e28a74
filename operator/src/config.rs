//! The command line and the environment, read once.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use plimsoll_core::input::Settings;

use crate::shards::SHARDS_MAX;
use crate::{check, external_metrics};

/// Scales HTTP APIs by their latency promise.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the controller.
    Run(Box<Config>),
    /// Prints the CustomResourceDefinition as YAML.
    Crd,
    /// Asks an installed operator whether it is well, and says what to do if it is not.
    Check(check::Options),
}

/// Resources that are reconciled at the same time, unless it is said otherwise. One whose pods answer nothing is at work for two
/// seconds of five, so that three hundred of those leave room for others.
pub const CONCURRENCY: u16 = 128;

/// Configuration of the controller.
#[derive(Clone, Debug, Args)]
pub struct Config {
    /// Image of the bundled API, for resources that name none.
    #[arg(long, env = "PLIMSOLL_API_IMAGE", default_value = concat!("ghcr.io/plimsoll/plimsoll-api:", env!("CARGO_PKG_VERSION")))]
    pub api_image: String,
    /// Image of managed caches, for resources that name none.
    #[arg(long, env = "PLIMSOLL_REDIS_IMAGE", default_value = "docker.io/library/redis:7.4")]
    pub redis_image: String,
    /// Watches this namespace only; absent means all, which needs a `ClusterRole`.
    #[arg(long, env = "PLIMSOLL_WATCH_NAMESPACE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub watch_namespace: Option<String>,
    /// Operates only what carries these labels, such as `tier=gold`. Let selectors of two operators never overlap.
    #[arg(long, env = "PLIMSOLL_SELECTOR", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub selector: Option<String>,
    /// Shards into which the resources are divided, each with a Lease, so that several operators share the work.
    #[arg(long, env = "PLIMSOLL_SHARDS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    pub shards: u16,
    /// Address of /livez, /readyz, /metrics and /decisions.
    #[arg(long, env = "PLIMSOLL_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Namespace of the Leases that elect the leaders.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// Name of the first shard's Lease; those of the others begin with it.
    #[arg(long, env = "PLIMSOLL_LEASE_NAME", default_value = "plimsoll-operator")]
    pub lease_name: String,
    /// Name of this process among its peers; must be unique, as a pod's name is. Absent: made up.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Address on which external metrics are served to the API server, over TLS. Absent: they are not.
    #[arg(long, env = "PLIMSOLL_EXTERNAL_METRICS_LISTEN")]
    pub external_metrics_listen: Option<SocketAddr>,
    /// Folder with tls.crt and tls.key for them. Absent: a certificate is made, which nobody has signed.
    #[arg(long, env = "PLIMSOLL_EXTERNAL_METRICS_CERTIFICATE")]
    pub external_metrics_certificate: Option<PathBuf>,
    /// Format of the log.
    #[arg(long, env = "PLIMSOLL_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
    /// YAML file with the Prometheus servers that resources may choose among. Absent: there are none.
    #[arg(long, env = "PLIMSOLL_PROMETHEUS_CONFIG", value_name = "FILE")]
    pub prometheus_config: Option<PathBuf>,
    /// Resources that are reconciled at the same time.
    #[arg(long, env = "PLIMSOLL_CONCURRENCY", default_value_t = CONCURRENCY, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Config {
    /// How external metrics are served; absent if they are not.
    pub fn external_metrics(&self) -> Option<external_metrics::Settings> {
        let certificate = self.external_metrics_certificate.clone();
        Some(external_metrics::Settings { listen: self.external_metrics_listen?, certificate })
    }

    /// What decisions may know of the configuration.
    pub fn settings(&self) -> Settings {
        Settings {
            api_image: self.api_image.clone(),
            redis_image: self.redis_image.clone(),
            operator_namespace: Some(self.lease_namespace.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
