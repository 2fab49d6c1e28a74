//! The controller of `ApiDeployment`: observe -> decide -> apply, and always report.
//!
//! Read [`app`] first: one reconcile. Decisions are made in `plimsoll-core`; nothing here makes one.

pub mod app;
pub mod config;
pub mod controller;
pub mod error;
pub mod external_metrics;
pub mod health;
pub mod leader;
pub mod metrics;
pub mod retry;
pub mod state;
pub mod telemetry;
pub mod watches;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use kube::{Api, Client, CustomResourceExt as _};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use config::Config;
use leader::{Elector, Fence};

/// Longest time that running reconciles get to finish after SIGTERM; well below the pod's grace period of 30 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for one answer of the API server, outside of watches.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the release of the Lease.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// The CustomResourceDefinition as YAML.
///
/// # Errors
/// When it cannot be serialised, which a test rules out.
pub fn crd_yaml() -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(&plimsoll_crds::ApiDeployment::crd())
}

/// Runs the controller until SIGTERM or SIGINT, then drains, releases the Lease and returns.
///
/// # Errors
/// When the cluster or the address cannot be used, and when leadership is lost: then the process must end at once.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let watch_config = kube::Config::infer()
        .await
        .context("find the cluster: neither a kubeconfig nor a service account")?;
    let mut write_config = watch_config.clone();
    // A connection that hangs must fail, and a write must not be tried again behind our back: by the time it passes,
    // the decision that it carries may be minutes old.
    write_config.read_timeout = Some(READ_TIMEOUT);
    write_config.reset_reader_on_write = true;
    write_config.default_retry = false;
    let watch_client = Client::try_from(watch_config).context("make the client for watches")?;
    let client = Client::try_from(write_config).context("make the client for reads and writes")?;
    let identity =
        config.identity.clone().unwrap_or_else(|| format!("plimsoll-{:016x}", rand::random::<u64>()));
    info!(version = env!("CARGO_PKG_VERSION"), %identity, namespace = config.watch_namespace, "starting");

    let stop = CancellationToken::new();
    let metrics = metrics::Metrics::new().context("register metrics")?;
    let shared = health::Shared {
        synced: Arc::default(),
        watches: Arc::default(),
        metrics: metrics.clone(),
        registry: Arc::default(),
    };
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("listen on {}", config.listen))?;
    let server_stop = CancellationToken::new();
    let server = tokio::spawn(health::serve(listener, shared.clone(), server_stop.clone()));

    let apps = external_metrics::Apps::default();
    let external_metrics = external_metrics::serve_if(
        config.external_metrics(),
        client.clone(),
        apps.clone(),
        server_stop.clone(),
    );

    let fence = Arc::new(Fence::default());
    let (leading, leading_seen) = watch::channel(false);
    let elector = Elector {
        api: Api::namespaced(client.clone(), &config.lease_namespace),
        name: config.lease_name.clone(),
        identity: identity.clone(),
    };
    let elector_stop = CancellationToken::new();

    let watches = watches::Watches {
        client: watch_client,
        namespace: config.watch_namespace.clone(),
        health: shared.watches.clone(),
        metrics: metrics.clone(),
    };
    let make_context = {
        let (client, fence, metrics, registry) =
            (client.clone(), fence.clone(), metrics.clone(), shared.registry.clone());
        let (settings, identity, apps) = (config.settings(), identity.clone(), apps.clone());
        move |stores: app::Stores| {
            // Asked for once, so it is not set yet.
            let _ = apps.set(stores.apps.clone());
            app::Context::new(client, stores, fence, metrics, registry, settings, identity)
        }
    };
    let controller = controller::run(
        &watches,
        make_context,
        config.concurrency,
        leading_seen.clone(),
        shared.synced.clone(),
        stop.clone(),
    );
    let election = elector.run(&fence, &leading, &elector_stop);
    tokio::pin!(controller, election, external_metrics);

    let mut leading_seen = leading_seen;
    let gauge = async move {
        let _ = leading_seen.wait_for(|leads| *leads).await;
        metrics.leader.set(1);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = termination() => info!("stopping"),
        held = &mut election => {
            anyhow::ensure!(held, "leadership is lost; ending so that nothing is written by two processes");
        }
        () = &mut controller => anyhow::bail!("the controller ended by itself"),
        served = &mut external_metrics => served.context("external metrics")?,
        () = gauge => {}
    }

    stop.cancel();
    // Without synced stores no reconcile has begun, and the controller would wait for them.
    let drain = if shared.synced.load(Ordering::Relaxed) { DRAIN_TIMEOUT } else { Duration::ZERO };
    // The Lease is renewed while reconciles finish; losing it ends them.
    tokio::select! {
        () = &mut controller => {}
        held = &mut election => anyhow::ensure!(held, "leadership is lost while stopping"),
        () = tokio::time::sleep(drain) => warn!("running reconciles did not finish in time"),
    }
    elector_stop.cancel();
    match tokio::time::timeout(RELEASE_TIMEOUT, elector.release(&fence)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "the Lease could not be released; it runs out by itself"),
        Err(_) => warn!("the Lease could not be released in time; it runs out by itself"),
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_crd_renders() {
        assert!(super::crd_yaml().unwrap().contains("apideployments.plimsoll.dev"));
    }
}
