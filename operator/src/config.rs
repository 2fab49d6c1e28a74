//! The command line and the environment, read once.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use plimsoll_core::input::Settings;

/// Keeps the latency promise of HTTP APIs with the fewest replicas.
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
}

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
    /// Address of /livez, /readyz, /metrics and /decisions.
    #[arg(long, env = "PLIMSOLL_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Namespace of the Lease that elects the leader.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// Name of the Lease that elects the leader.
    #[arg(long, env = "PLIMSOLL_LEASE_NAME", default_value = "plimsoll-operator")]
    pub lease_name: String,
    /// Name of this process among its peers; must be unique, as a pod's name is. Absent: made up.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Format of the log.
    #[arg(long, env = "PLIMSOLL_LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
    /// Resources that are reconciled at the same time.
    #[arg(long, env = "PLIMSOLL_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
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
