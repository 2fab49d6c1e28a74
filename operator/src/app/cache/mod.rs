//! Asks the managed cache how it fares, beside the reconciles: none waits for the answer, and a cache that is dead or slow
//! costs them nothing. It reads only, as a user who may do no more.

mod connection;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plimsoll_core::build::{PRIMARY_NAME, SENTINEL_PORT, cache_address, cache_node_names};
use plimsoll_core::cache::CacheReading;
use plimsoll_crds::{ApiDeployment, CacheKind};
use redis::{ErrorKind, RedisError, RedisResult};
use tokio::sync::Semaphore;
use tracing::debug;

use self::connection::said;
use crate::state::{CacheLogin, Working};

/// Time between two questions: what they are about changes over minutes.
const PERIOD: Duration = Duration::from_secs(30);
/// Longest wait for one answer, the connection included.
const DEADLINE: Duration = Duration::from_secs(5);
/// Caches that are asked at the same time, over all resources. One that finds no place is asked at a later reconcile.
pub const QUESTIONS_MAX: usize = 16;

/// The last answer of a cache, and the question that is under way.
#[derive(Debug, Default)]
pub struct Question {
    answer: Arc<Mutex<Option<CacheReading>>>,
    asked_at: Option<Instant>,
}

/// What the cache last said. Asks once more, in the background, when that is due.
pub fn last_said(app: &ApiDeployment, working: &mut Working, turns: &Arc<Semaphore>) -> Option<CacheReading> {
    let CacheKind::Managed(cache) = app.spec.cache.kind() else {
        working.cache = Question::default();
        return None;
    };
    let login = working.secrets.as_ref().and_then(|secrets| secrets.cache_login.clone());
    let question = &mut working.cache;
    if let Some(login) = login
        && question.asked_at.is_none_or(|at| at.elapsed() >= PERIOD)
        && let Ok(turn) = turns.clone().try_acquire_owned()
    {
        question.asked_at = Some(Instant::now());
        let nodes = if cache.fails_over() { cache_node_names(app) } else { Vec::new() };
        let sentinels = nodes.into_iter().map(|node| (node, SENTINEL_PORT)).collect::<Vec<_>>();
        let address = cache_address(app);
        let (answer, encrypted) = (question.answer.clone(), cache.tls.is_some());
        tokio::spawn(async move {
            let told = tokio::time::timeout(DEADLINE, ask(&sentinels, address, &login, encrypted)).await;
            drop(turn);
            match told {
                Ok(Ok(info)) => {
                    if let Some(reading) = CacheReading::parse(Timestamp::now(), &info) {
                        *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
                    }
                }
                // The category says what happened and, unlike the message, never quotes what was sent.
                Ok(Err(error)) => debug!(error = error.category(), "the cache does not say how it fares"),
                Err(_) => debug!("the cache does not say how it fares in time"),
            }
        });
    }
    *question.answer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One question, to the primary that one of the sentinels names, or to `address` where there are none.
async fn ask(
    sentinels: &[(String, u16)],
    address: (String, u16),
    login: &CacheLogin,
    encrypted: bool,
) -> RedisResult<String> {
    let address =
        if sentinels.is_empty() { address } else { primary(sentinels, address.1, login, encrypted).await? };
    said(&redis::cmd("INFO"), address, login, encrypted).await
}

/// The primary that one of the sentinels names. Only a server beside one of them is believed to be it: the image may be
/// anybody's, and must not send the operator with its password elsewhere.
async fn primary(
    sentinels: &[(String, u16)],
    port: u16,
    login: &CacheLogin,
    encrypted: bool,
) -> RedisResult<(String, u16)> {
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(PRIMARY_NAME);
    let mut error: RedisError =
        (ErrorKind::MasterNameNotFoundBySentinel, "the sentinels name none of the servers").into();
    for at in sentinels {
        match said::<Option<(String, u16)>>(&question, at.clone(), login, encrypted).await {
            Ok(Some((named, _))) if sentinels.iter().any(|(host, _)| *host == named) => {
                return Ok((named, port));
            }
            Ok(_) => {}
            Err(refused) => error = refused,
        }
    }
    Err(error)
}

#[cfg(test)]
mod tests;
