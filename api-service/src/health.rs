//! What the probes answer, and the watch that decides it. A probe itself asks nobody, and the cache never counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use crate::{
    state::AppState,
    store::{Store, StoreError},
    telemetry,
};

/// Waits between attempts to reach the database at start: doubling from the first to the last, with jitter.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How often a database that can become unreachable is asked.
const PING_PERIOD: Duration = Duration::from_secs(1);

/// Failed pings in a row before the service is not ready: one may be a connection that the server ended.
const PING_FAILURES_MAX: u32 = 2;

/// How often its server is asked how many connections it takes.
const SERVER_PERIOD: Duration = Duration::from_secs(30);

/// What is known of the database.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    database: AtomicBool,
}

impl Health {
    /// True once the schema is in place; stays true.
    pub fn started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// True while the database answers.
    pub fn database(&self) -> bool {
        self.database.load(Ordering::Relaxed)
    }
}

/// `GET /livez`: 200 as long as the event loop runs. A restart would not bring a database back.
pub async fn live() -> &'static str {
    "ok"
}

/// `GET /startupz`: 200 once the schema is in place.
pub async fn started(State(state): State<Arc<AppState>>) -> (StatusCode, &'static str) {
    answer(if state.health.started() { Ok("ok") } else { Err("waiting for the database") })
}

/// `GET /readyz`: 200 while requests should come here.
pub async fn ready(State(state): State<Arc<AppState>>) -> (StatusCode, &'static str) {
    answer(readiness(&state))
}

/// `GET /health`: always 200, for people.
pub async fn report(State(state): State<Arc<AppState>>) -> Json<Report> {
    let reason = readiness(&state);
    Json(Report {
        status: if reason.is_ok() { "ok" } else { "not ready" },
        reason: reason.err(),
        version: env!("CARGO_PKG_VERSION"),
        database: if state.health.database() { "ok" } else { "unreachable" },
        cache: state.cache.condition(),
    })
}

/// The body of `/health`.
#[derive(Debug, Serialize)]
pub struct Report {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    version: &'static str,
    database: &'static str,
    cache: &'static str,
}

fn readiness(state: &AppState) -> Result<&'static str, &'static str> {
    if state.lifecycle.draining() {
        Err("stopping")
    } else if !state.health.started() {
        Err("waiting for the database")
    } else if !state.health.database() {
        Err("the database does not answer")
    } else {
        Ok("ok")
    }
}

fn answer(verdict: Result<&'static str, &'static str>) -> (StatusCode, &'static str) {
    match verdict {
        Ok(text) => (StatusCode::OK, text),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

/// Opens the store, trying until it works, and then watches the database for as long as the service runs.
pub async fn watch_database(state: Arc<AppState>) {
    let store = state.open(open(&state).await);
    state.health.database.store(true, Ordering::Relaxed);
    state.health.started.store(true, Ordering::Relaxed);
    tracing::info!("ready");
    if !store.external() {
        return;
    }
    let mut failures = 0;
    let mut measured = None;
    loop {
        if failures == 0 && measured.is_none_or(|at: Instant| at.elapsed() >= SERVER_PERIOD) {
            measured = Some(Instant::now());
            // What could not be asked stays as it was; whether the database answers is for the ping to say.
            let _ = store.measure_server(&state.metrics.database).await;
        }
        tokio::time::sleep(PING_PERIOD).await;
        failures = match store.ping().await {
            Ok(()) => 0,
            // Every connection is busy with requests: that is load, and leaving the endpoints would not help it.
            Err(StoreError::QueueAge | StoreError::QueueFull | StoreError::Busy) => failures,
            Err(error) => {
                if failures + 1 == PING_FAILURES_MAX {
                    tracing::warn!(
                        error = telemetry::chain(&error),
                        "not ready: the database does not answer"
                    );
                }
                failures.saturating_add(1)
            }
        };
        let answers = failures < PING_FAILURES_MAX;
        if answers && !state.health.database.swap(answers, Ordering::Relaxed) {
            tracing::info!("ready: the database answers again");
        }
        state.health.database.store(answers, Ordering::Relaxed);
    }
}

async fn open(state: &AppState) -> Store {
    let mut wait = RETRY_MIN;
    loop {
        match Store::open(&state.database, &state.config.database_limits(), &state.metrics.database).await {
            Ok(store) => return store,
            Err(error) => {
                let retry_ms = wait.as_millis() as u64;
                tracing::warn!(error = telemetry::chain(&error), retry_ms, "open the database");
            }
        }
        tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}
