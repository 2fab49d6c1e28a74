//! What the process keeps of each object between two reconciles. It is bounded, and losing it is harmless.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use plimsoll_core::input::{CacheSecret, Child};
use plimsoll_core::memory::Memory;
use plimsoll_core::plan::Decision;
use plimsoll_crds::ApiDeploymentStatus;

use crate::app::cache::Question;

/// Decisions kept for each object: three quarters of an hour at the default scrape period.
const DECISIONS_MAX: usize = 512;

/// State of all objects.
#[derive(Debug, Default)]
pub struct Registry {
    objects: Mutex<HashMap<Key, Arc<Object>>>,
}

/// Namespace and name.
type Key = (String, String);

/// State of one object.
#[derive(Debug, Default)]
pub struct Object {
    /// Held for a whole reconcile; the controller never runs two of one object at a time, so nobody waits.
    pub working: tokio::sync::Mutex<Working>,
    decisions: Mutex<VecDeque<Arc<Decision>>>,
    failures: Mutex<u32>,
}

/// What only the reconcile itself touches.
#[derive(Debug, Default)]
pub struct Working {
    /// UID of the object that the rest speaks of.
    pub uid: String,
    /// For the next decision.
    pub memory: Memory,
    /// When the pods were last asked.
    pub scraped_at: Option<Instant>,
    /// Secrets as last looked at.
    pub secrets: Option<Secrets>,
    /// What the managed cache last said of itself.
    pub cache: Question,
    /// The status as last written, with the resource version that the write gave.
    pub status: Option<(String, ApiDeploymentStatus)>,
    /// When it was written.
    pub status_written_at: Option<Timestamp>,
}

/// Secrets as last looked at; of their values only the operator's own are kept.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// When.
    pub read_at: Instant,
    /// Generation of the spec that named them.
    pub generation: Option<i64>,
    /// The managed cache's.
    pub cache: Child<CacheSecret>,
    /// With what the operator asks the managed cache how it fares; an older Secret has nothing for it.
    pub cache_login: Option<CacheLogin>,
    /// `(Secret, key)` pairs that are not there.
    pub missing: Vec<(String, String)>,
}

/// With what the operator asks the managed cache how it fares.
#[derive(Clone)]
pub struct CacheLogin {
    /// Password of its own user.
    pub password: String,
    /// Password of the sentinels.
    pub sentinel_password: Option<String>,
    /// Certificate of the authority that it trusts, as PEM.
    pub authority: Option<String>,
}

impl fmt::Debug for CacheLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLogin").finish_non_exhaustive()
    }
}

impl Registry {
    /// State of an object, made on first sight.
    pub fn object(&self, namespace: &str, name: &str) -> Arc<Object> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.entry((namespace.to_owned(), name.to_owned())).or_default().clone()
    }

    /// The last decisions on an object, oldest first.
    pub fn decisions(&self, namespace: &str, name: &str) -> Vec<Arc<Decision>> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let object = objects.get(&(namespace.to_owned(), name.to_owned())).cloned();
        drop(objects);
        object.map_or_else(Vec::new, |object| {
            object.decisions.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
        })
    }

    /// Drops the state of objects that are gone.
    pub fn retain(&self, exists: impl Fn(&str, &str) -> bool) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.retain(|(namespace, name), _| exists(namespace, name));
    }
}

impl Object {
    /// Keeps a decision.
    pub fn record(&self, decision: Decision) {
        let mut decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        if decisions.len() == DECISIONS_MAX {
            decisions.pop_front();
        }
        decisions.push_back(Arc::new(decision));
    }

    /// Counts a failure and returns how many there have been in a row.
    pub fn failed(&self) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures = failures.saturating_add(1);
        *failures
    }

    /// Ends a row of failures.
    pub fn succeeded(&self) {
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }
}

impl Working {
    /// Forgets everything if the name now belongs to another object.
    pub fn belong_to(&mut self, uid: &str) {
        if self.uid != uid {
            *self = Self { uid: uid.to_owned(), ..Self::default() };
        }
    }
}
