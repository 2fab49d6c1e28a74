//! Asks the managed cache how it fares, beside the reconciles: none waits for the answer, and a cache that is dead or slow
//! costs them nothing. It reads only, as a user who may do no more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plimsoll_core::build::{OPERATOR_USER, cache_address};
use plimsoll_core::cache::CacheReading;
use plimsoll_crds::{ApiDeployment, CacheKind};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisResult,
    TlsCertificates,
};
use tokio::sync::Semaphore;
use tracing::debug;

use crate::state::{CacheLogin, Working};

/// Time between two questions: what they are about changes over minutes.
const PERIOD: Duration = Duration::from_secs(30);
/// Longest wait for one answer, the connection included.
const DEADLINE: Duration = Duration::from_secs(3);
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
        let (host, port) = cache_address(app);
        let (answer, encrypted) = (question.answer.clone(), cache.tls.is_some());
        tokio::spawn(async move {
            let told = tokio::time::timeout(DEADLINE, ask(host, port, &login, encrypted)).await;
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

/// One question on a connection of its own.
async fn ask(host: String, port: u16, login: &CacheLogin, encrypted: bool) -> RedisResult<String> {
    let address = if encrypted {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let user = RedisConnectionInfo::default().set_username(OPERATOR_USER).set_password(&login.password);
    let user = user.set_skip_set_lib_name();
    let address = address.into_connection_info()?.set_redis_settings(user);
    let client = if encrypted {
        let root_cert = login.authority.clone().map(String::into_bytes);
        Client::build_with_tls(address, TlsCertificates { client_tls: None, root_cert })?
    } else {
        Client::open(address)?
    };
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE))
        .set_response_timeout(Some(DEADLINE));
    let mut connection = client.get_multiplexed_async_connection_with_config(&limits).await?;
    redis::cmd("INFO").query_async(&mut connection).await
}

#[cfg(test)]
mod tests;
