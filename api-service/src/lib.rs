//! A small HTTP API over posts, made to be scaled by its latency. This crate never talks to Kubernetes.
//!
//! Reading order: [`config`], [`router`], [`edge`] and [`admission`] (what every request passes), [`routes`], [`store`] and
//! [`cache`] (where posts live), [`cpu`] (work that must not block the event loop), [`overload`] (what is refused),
//! [`server`], [`arrival`], [`head`], [`head_timer`] and [`shutdown`] (connections, when requests came in and how slowly they
//! may, and how it all ends).

pub mod admission;
pub mod arrival;
pub mod auth;
pub mod cache;
pub mod cgroup;
pub mod coding;
pub mod config;
pub mod config_file;
pub mod cpu;
pub mod cursor;
pub mod duration;
pub mod edge;
pub mod entity_tag;
pub mod error;
pub mod extract;
pub mod fields;
pub mod head;
pub mod head_timer;
pub mod health;
pub mod idempotency;
pub mod limits;
pub mod markdown;
pub mod metrics;
pub mod openapi;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod overload;
pub mod page;
pub mod post;
pub mod rate_limit;
pub mod redis_link;
pub mod representation;
pub mod router;
pub mod routes;
pub mod server;
pub mod shutdown;
pub mod state;
pub mod store;
pub mod telemetry;
pub mod trace_context;

use std::{net::SocketAddr, num::NonZero, sync::Arc};

use tokio::net::TcpListener;

use crate::{
    config::{Config, ConfigError},
    shutdown::Lifecycle,
    state::AppState,
};

/// The most threads for blocking work: SQLite's writer and readers, with room for name look-ups.
pub const BLOCKING_THREADS_MAX: usize = 16;

/// Why the service could not start. Nothing that happens later ends it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is well-formed on its own but cannot work.
    #[error("read the configuration")]
    Config(#[from] ConfigError),
    /// The address is in use or not ours.
    #[error("listen on {address}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The process may not install signal handlers.
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
}

/// Threads for the event loop: the CPUs that the cgroup grants, so 1 in a pod limited to a fraction of a CPU.
pub fn runtime_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs the service until a signal ends it.
///
/// A database that is not reachable doesn't end it: the service starts, says so by its probes, and tries again.
///
/// # Errors
/// [`Error`] for a configuration that cannot work, an address that cannot be listened on, or no signal handlers.
pub async fn run(config: Config) -> Result<(), Error> {
    let address = config.listen;
    let lifecycle = Arc::new(Lifecycle::new(config.drain));
    shutdown::on_signals(Arc::clone(&lifecycle)).map_err(Error::Signals)?;
    let listener = server::listen(address).map_err(|source| Error::Listen { address, source })?;
    serve(listener, config, lifecycle).await
}

/// Runs the service on `listener` until `lifecycle` has been stopped and every connection has ended.
///
/// # Errors
/// [`Error::Config`] for a configuration that cannot work.
pub async fn serve(listener: TcpListener, config: Config, lifecycle: Arc<Lifecycle>) -> Result<(), Error> {
    tracing::info!(?config, version = env!("CARGO_PKG_VERSION"), "starting");
    let limits = config.server_limits();
    let state = AppState::new(config, Arc::clone(&lifecycle))?;
    let database = tokio::spawn(health::watch_database(Arc::clone(&state)));
    let lag = tokio::spawn(metrics::watch_event_loop(state.metrics.event_loop_lag.clone()));
    let crowded: server::Crowded = Arc::new({
        let state = Arc::clone(&state);
        move |now| state.cpu.behind(now) || state.overload.shedding(now)
    });
    let outcome = server::run(listener, router::build(state), &lifecycle, &limits, &crowded).await;
    database.abort();
    lag.abort();
    tracing::info!(aborted_connections = outcome.aborted_connections, "stopped");
    Ok(())
}
