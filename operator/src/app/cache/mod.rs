//! Asks the managed cache how it fares, beside the reconciles: none waits for the answer, and a cache that is dead or slow
//! costs them nothing. It reads only, as a user who may do no more.

mod connection;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plimsoll_core::build::{PRIMARY_NAME, SENTINEL_PORT, cache_address, cache_node_names};
use plimsoll_core::cache::{CacheReading, Silence, SilenceCause};
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

/// What a cache has said, and the question that is under way.
#[derive(Debug, Default)]
pub struct Question {
    said: Arc<Mutex<Said>>,
    asked_at: Option<Instant>,
}

/// What a cache has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Said {
    /// The last that it said.
    pub reading: Option<CacheReading>,
    /// It has been asked in vain since.
    pub silence: Option<Silence>,
}

impl Said {
    /// What has been said after one more question at `now`.
    fn after(self, now: Timestamp, told: Result<CacheReading, SilenceCause>) -> Self {
        match told {
            Ok(reading) => Self { reading: Some(reading), silence: None },
            Err(cause) => {
                let since = self.silence.map_or(now, |silence| silence.since);
                Self { silence: Some(Silence { since, cause }), ..self }
            }
        }
    }
}

/// What the cache last said. Asks once more, in the background, when that is due.
pub fn last_said(app: &ApiDeployment, working: &mut Working, turns: &Arc<Semaphore>) -> Said {
    let CacheKind::Managed(cache) = app.spec.cache.kind() else {
        working.cache = Question::default();
        return Said::default();
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
        let (said, encrypted) = (question.said.clone(), cache.tls.is_some());
        tokio::spawn(async move {
            let told = tokio::time::timeout(DEADLINE, ask(&sentinels, address, &login, encrypted)).await;
            drop(turn);
            let now = Timestamp::now();
            let told = match told {
                Ok(Ok(info)) => CacheReading::parse(now, &info).ok_or(SilenceCause::Unreadable),
                Ok(Err(error)) => {
                    // The category says what happened and, unlike the message, never quotes what was sent.
                    debug!(error = error.category(), "the cache does not say how it fares");
                    Err(cause(&error))
                }
                Err(_) => Err(SilenceCause::Unreachable),
            };
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            *said = said.after(now, told);
        });
    }
    *question.said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a question had no answer.
fn cause(error: &RedisError) -> SilenceCause {
    match error.kind() {
        ErrorKind::AuthenticationFailed => SilenceCause::Unauthorized,
        ErrorKind::Io | ErrorKind::MasterNameNotFoundBySentinel => SilenceCause::Unreachable,
        // As a server says it to one who is not let in, or may not ask.
        _ => match error.code() {
            Some("WRONGPASS" | "NOAUTH" | "NOPERM") => SilenceCause::Unauthorized,
            Some("LOADING" | "BUSY" | "MASTERDOWN") => SilenceCause::Unreachable,
            _ => SilenceCause::Unreadable,
        },
    }
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
