//! How the service ends: drain, then close, then stop. It never cuts a request itself; the server does, at its deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal: the first asked for an orderly end and did not get it.
const EXIT_FORCED: i32 = 130;

/// Where the service is between its start and its end. It only ever moves forward.
///
/// Running → draining (not ready; still accepts; closes each connection after its next response) → closing (accepts
/// nothing; requests in flight finish).
#[derive(Debug)]
pub struct Lifecycle {
    drain: Duration,
    // Read on every response, where a token's lock would be a cost.
    draining: AtomicBool,
    closing: CancellationToken,
}

impl Lifecycle {
    /// A running service that will drain for `drain`.
    pub fn new(drain: Duration) -> Self {
        Self { drain, draining: AtomicBool::new(false), closing: CancellationToken::new() }
    }

    /// True from the first signal on.
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Waits until the drain is over.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Drains, then closes. Returns when the drain is over.
    pub async fn stop(&self) {
        self.draining.store(true, Ordering::Relaxed);
        // Without a drain at once: a timer takes a millisecond even for nothing.
        if !self.drain.is_zero() {
            tokio::time::sleep(self.drain).await;
        }
        self.closing.cancel();
    }
}

/// Stops `lifecycle` on SIGTERM or SIGINT; a second signal ends the process at once.
///
/// # Errors
/// When the process may not install signal handlers.
pub fn on_signals(lifecycle: Arc<Lifecycle>) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!(drain_ms = lifecycle.drain.as_millis() as u64, "stopping: draining");
        let stop = tokio::spawn(async move {
            lifecycle.stop().await;
            tracing::info!("stopping: closing connections");
        });
        either(&mut terminate, &mut interrupt).await;
        tracing::warn!("stopping at once: second signal");
        stop.abort();
        std::process::exit(EXIT_FORCED);
    });
    Ok(())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
