//! The controller of `ApiDeployment`: observe -> decide -> apply, and always report.
//!
//! Read [`app`] first: one reconcile. Decisions are made in `plimsoll-core`; nothing here makes one.

pub mod app;
pub mod balance;
pub mod check;
pub mod clients;
pub mod config;
pub mod controller;
pub mod decisions;
pub mod error;
pub mod external_metrics;
pub mod fence;
pub mod fleet_metrics;
pub mod generations;
pub mod health;
pub mod leader;
pub mod lease;
pub mod metrics;
pub mod pulse;
pub mod retry;
pub mod shards;
pub mod source;
pub mod state;
pub mod telemetry;
pub mod watches;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use kube::Api;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use config::Config;
use leader::{Elector, Led};
use lease::Layout;
use shards::Shards;

/// Longest time that running reconciles get to finish after SIGTERM; well below the pod's grace period of 30 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for the release of the Leases.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the controller until SIGTERM or SIGINT, then drains, releases the Leases and returns.
///
/// # Errors
/// When the cluster or the address cannot be used, and when leadership is lost: then the process must end at once.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let cluster = kube::Config::infer()
        .await
        .context("find the cluster: neither a kubeconfig nor a service account")?;
    let metrics = metrics::Metrics::new().context("register metrics")?;
    let client_of = |config| metrics::requests::counted_client(config, &metrics.api_requests);
    let watch_client = client_of(clients::for_watches(&cluster)).context("make the client for watches")?;
    let client = client_of(clients::for_calls(&cluster)).context("make the client for reads and writes")?;
    let identity =
        config.identity.clone().unwrap_or_else(|| format!("plimsoll-{:016x}", rand::random::<u64>()));
    let servers = match &config.prometheus_config {
        Some(file) => source::servers::Servers::read(file)?,
        None => Arc::default(),
    };
    info!(version = env!("CARGO_PKG_VERSION"), %identity, namespace = config.watch_namespace, "starting");

    let stop = CancellationToken::new();
    let shared = health::Shared {
        synced: Arc::default(),
        watches: Arc::default(),
        metrics: metrics.clone(),
        registry: Arc::default(),
    };
    metrics.tell_of(shared.registry.clone()).context("register metrics of the objects")?;
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("listen on {}", config.listen))?;
    let server_stop = CancellationToken::new();
    let server = tokio::spawn(health::serve(listener, shared.clone(), server_stop.clone()));

    let shards = Shards::new(config.shards);
    (0..shards.count()).for_each(|shard| metrics.fleet.leads(shard, false));
    let (led, leading) = watch::channel(Led::new());
    let apps = external_metrics::Apps::default();
    let external_metrics = external_metrics::serve_if(
        config.external_metrics(),
        client.clone(),
        apps.clone(),
        server_stop.clone(),
    );

    let elector = Elector {
        api: Api::namespaced(client.clone(), &config.lease_namespace),
        layout: Layout { base: config.lease_name.clone(), count: shards.count() },
        identity: identity.clone(),
        shards: shards.clone(),
        led,
        metrics: metrics.fleet.clone(),
    };
    let elector_stop = CancellationToken::new();

    let watches = watches::Watches {
        client: watch_client,
        namespace: config.watch_namespace.clone(),
        selector: config.selector.clone(),
        health: shared.watches.clone(),
        metrics: metrics.clone(),
    };
    let make_context = {
        let (client, metrics, registry) = (client.clone(), metrics.clone(), shared.registry.clone());
        let (settings, identity, apps) = (config.settings(), identity.clone(), apps.clone());
        move |stores: app::Stores| {
            // Asked for once, so it is not set yet.
            let _ = apps.set(stores.apps.clone());
            app::Context::new(client, stores, shards, metrics, registry, settings, identity)
                .with_servers(servers)
        }
    };
    let controller = controller::run(
        &watches,
        make_context,
        config.concurrency,
        leading,
        shared.synced.clone(),
        stop.clone(),
    );
    let election = elector.run(&stop, &elector_stop);
    tokio::pin!(controller, election, external_metrics);

    tokio::select! {
        () = termination() => info!("stopping"),
        held = &mut election => {
            anyhow::ensure!(held, "leadership is lost; ending so that nothing is written by two processes");
        }
        () = &mut controller => anyhow::bail!("the controller ended by itself"),
        ended = &mut external_metrics => ended.context("external metrics")?,
    }

    stop.cancel();
    // Without synced stores no reconcile has begun, and the controller would wait for them.
    let drain = if shared.synced.load(Ordering::Relaxed) { DRAIN_TIMEOUT } else { Duration::ZERO };
    // The Leases are renewed while reconciles finish; losing one ends them.
    tokio::select! {
        () = &mut controller => {}
        held = &mut election => anyhow::ensure!(held, "leadership is lost while stopping"),
        () = tokio::time::sleep(drain) => warn!("running reconciles did not finish in time"),
    }
    elector_stop.cancel();
    match tokio::time::timeout(RELEASE_TIMEOUT, elector.release()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "the Leases could not be released; they run out by themselves"),
        Err(_) => warn!("the Leases could not be released in time; they run out by themselves"),
    }
    server_stop.cancel();
    server.abort();
    info!("stopped");
    Ok(())
}

/// Resolves at SIGTERM or SIGINT.
async fn termination() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        warn!("signals cannot be received; the process can only be killed");
        return std::future::pending().await;
    };
    tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
}
