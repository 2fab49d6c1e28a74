//! What the process keeps of each object between two reconciles. It is bounded, and losing it is harmless.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use plimsoll_core::input::{self, CacheSecret, Child};
use plimsoll_core::memory::Memory;
use plimsoll_core::plan::Decision;
use plimsoll_crds::ApiDeploymentStatus;

use crate::app::cache::Question;
use crate::decisions::Decisions;
use crate::metrics::object::ObjectMetrics;
use crate::source::credentials;
use crate::source::round::Progress;

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
    decisions: Mutex<Decisions>,
    failures: Mutex<u32>,
    metrics: Mutex<ObjectMetrics>,
}

/// What only the reconcile itself touches.
#[derive(Debug, Default)]
pub struct Working {
    /// UID of the object that the rest speaks of.
    pub uid: String,
    /// The term of the shard in which it was learned; see [`Fence::term`](crate::fence::Fence::term).
    pub term: u64,
    /// For the next decision.
    pub memory: Memory,
    /// When the pods were last asked.
    pub scraped_at: Option<Instant>,
    /// What the resource's Secrets hold for reading its metrics.
    pub credentials: Option<credentials::Kept>,
    /// How far its readings have been used.
    pub progress: Progress,
    /// Secrets as last looked at.
    pub secrets: Option<Secrets>,
    /// What the managed cache last said of itself.
    pub cache: Question,
    /// ConfigMaps and Secrets that the pods use, as last looked at.
    pub configuration: Option<Configuration>,
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
    /// Certificate of the authority that it trusts, as PEM.
    pub authority: Option<String>,
}

impl fmt::Debug for CacheLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLogin").finish_non_exhaustive()
    }
}

/// ConfigMaps and Secrets that the pods use, as last looked at; their contents are not kept.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// When.
    pub read_at: Instant,
    /// Generation of the spec that named them.
    pub generation: Option<i64>,
    /// What was found.
    pub found: input::Configuration,
}

impl Registry {
    /// State of an object, made on first sight.
    pub fn object(&self, namespace: &str, name: &str) -> Arc<Object> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.entry((namespace.to_owned(), name.to_owned())).or_default().clone()
    }

    /// What is kept of the decisions on an object, oldest first; see [`Decisions`].
    pub fn decisions(&self, namespace: &str, name: &str) -> Vec<Arc<Decision>> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let object = objects.get(&(namespace.to_owned(), name.to_owned())).cloned();
        drop(objects);
        object.map_or_else(Vec::new, |object| {
            object.decisions.lock().unwrap_or_else(PoisonError::into_inner).all()
        })
    }

    /// The numbers of each object, with its namespace and name.
    pub fn metrics(&self) -> Vec<(String, String, ObjectMetrics)> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let metrics = |(key, object): (&Key, &Arc<Object>)| {
            let metrics = object.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            (key.0.clone(), key.1.clone(), metrics.clone())
        };
        objects.iter().map(metrics).collect()
    }

    /// Drops the state of an object that is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.remove(&(namespace.to_owned(), name.to_owned()));
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
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner).keep(decision);
    }

    /// Changes what is told of the object in numbers.
    pub fn tell(&self, change: impl FnOnce(&mut ObjectMetrics)) {
        change(&mut self.metrics.lock().unwrap_or_else(PoisonError::into_inner));
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
    /// Forgets everything if the name now belongs to another object, or another process has led the shard in between:
    /// then the status knows better what was learned.
    pub fn belong_to(&mut self, uid: &str, term: u64) {
        if self.uid != uid || self.term != term {
            *self = Self { uid: uid.to_owned(), term, ..Self::default() };
        }
    }
}
