//! The in-process layer: values by key, at most one load a key at a time, and early refresh. Never answers with a value
//! that it was told to forget, nor with one whose load had begun before that.

use std::{
    future::Future,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use quick_cache::{
    Weighter,
    sync::{Cache, EntryAction, EntryResult},
};

use crate::error::ApiError;

/// What an entry costs beyond its value: the map's node, the key, the bookkeeping.
const ENTRY_OVERHEAD_BYTES: u64 = 200;

/// Entries are expected to be of about this size; a wrong guess costs memory for the map, never correctness.
const ENTRY_BYTES_EXPECTED: usize = 2048;

/// The share of an early refresh (`XFetch`, Vattani et al., VLDB 2015): 1 is the paper's optimum.
const REFRESH_BETA: f64 = 1.0;

/// A value that was just loaded.
#[derive(Debug, Clone)]
pub struct Loaded<V> {
    /// The value.
    pub value: V,
    /// How long it may be answered from memory. Zero when nothing would tell us that it has changed.
    pub life: Duration,
    /// How long it took to make, which decides how early it is worth a refresh.
    pub cost: Duration,
}

/// How many bytes of memory a value holds on to.
pub trait Size {
    /// The bytes, without the map's own.
    fn size_bytes(&self) -> usize;
}

/// What memory has for a key.
#[derive(Debug)]
pub enum Found<V> {
    /// An answer.
    Fresh(V),
    /// An answer, and this caller is the one that should load a new value behind it: see [`Local::refresh`].
    DueForRefresh(V),
    /// Nothing.
    Nothing,
}

/// A bounded map from keys to loaded values.
///
/// # Guarantees
/// - Any number of callers that miss a key at once cost one load; when it fails, it fails for those that waited.
/// - After [`Local::forget`] no caller is answered with a value whose load began before it, however late that load ends.
/// - While not [trusted](Local::trust), a value answers only the callers that waited for its load.
#[derive(Debug)]
pub struct Local<K, V> {
    entries: Cache<K, Arc<Entry<V>>, BySize>,
    trusted: AtomicBool,
    keeps: bool,
}

#[derive(Debug)]
struct Entry<V> {
    outcome: Result<V, ApiError>,
    loaded: Instant,
    expires: Instant,
    cost: Duration,
    refreshing: AtomicBool,
}

#[derive(Debug, Clone)]
struct BySize;

impl<K, V: Size> Weighter<K, Arc<Entry<V>>> for BySize {
    fn weight(&self, _key: &K, entry: &Arc<Entry<V>>) -> u64 {
        ENTRY_OVERHEAD_BYTES + entry.outcome.as_ref().map_or(0, |value| value.size_bytes() as u64)
    }
}

impl<K, V> Local<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Size + Send + Sync + 'static,
{
    /// Holds about `size_bytes` of values; with 0, none, and only coalesces loads. Not trusted yet.
    pub fn new(size_bytes: usize) -> Self {
        let keeps = size_bytes > 0;
        // Loads under way need their place also when nothing is kept.
        let capacity = size_bytes.max(64 * ENTRY_BYTES_EXPECTED);
        let entries = Cache::with_weighter(capacity / ENTRY_BYTES_EXPECTED, capacity as u64, BySize);
        Self { entries, trusted: AtomicBool::new(false), keeps }
    }

    /// Says whether changes made elsewhere will be told by [`Local::forget`]. Either way everything is forgotten: what is
    /// there may have changed unheard.
    pub fn trust(&self, trusted: bool) {
        self.trusted.store(trusted && self.keeps, Ordering::SeqCst);
        self.forget_all();
    }

    /// Drops the key's value and disowns a load that is under way.
    pub fn forget(&self, key: &K) {
        self.entries.remove(key);
    }

    /// [`Local::forget`] for every key.
    pub fn forget_all(&self) {
        self.entries.clear();
    }

    /// What memory has for `key`.
    pub fn find(&self, key: &K) -> Found<V> {
        if !self.trusted.load(Ordering::Relaxed) {
            return Found::Nothing;
        }
        let now = Instant::now();
        let Some(entry) = self.entries.get(key).filter(|entry| now < entry.expires) else {
            return Found::Nothing;
        };
        let Ok(value) = &entry.outcome else { return Found::Nothing };
        let value = value.clone();
        if entry.worth_refreshing(now) && !entry.refreshing.swap(true, Ordering::Relaxed) {
            Found::DueForRefresh(value)
        } else {
            Found::Fresh(value)
        }
    }

    /// The key's value by `load`, or by a load that is under way. Runs to its end also when the caller leaves: others
    /// may be waiting for it.
    ///
    /// # Errors
    /// What `load` answers, and [`ApiError::Internal`] when it panics.
    pub async fn load(
        self: &Arc<Self>,
        key: K,
        load: impl Future<Output = Result<Loaded<V>, ApiError>> + Send + 'static,
    ) -> Result<V, ApiError> {
        let local = Arc::clone(self);
        let loaded = tokio::spawn(async move { local.load_here(&key, load).await }).await;
        loaded.unwrap_or_else(|error| Err(ApiError::Internal { cause: error.to_string() }))
    }

    async fn load_here(
        &self,
        key: &K,
        load: impl Future<Output = Result<Loaded<V>, ApiError>>,
    ) -> Result<V, ApiError> {
        let asked = Instant::now();
        // An entry that was loaded while we waited is ours, however short its life.
        let usable = |entry: &Entry<V>| entry.loaded >= asked || (self.trusted() && asked < entry.expires);
        let found = self.entries.entry_async(key, |_, entry| {
            if usable(entry) {
                EntryAction::Retain(entry.outcome.clone())
            } else {
                EntryAction::ReplaceWithGuard
            }
        });
        let guard = match found.await {
            EntryResult::Retained(outcome) => return outcome,
            EntryResult::Vacant(guard) | EntryResult::Replaced(guard, _) => guard,
            EntryResult::Removed(..) | EntryResult::Timeout => return load.await.map(|loaded| loaded.value),
        };
        let entry = self.entry(load.await);
        let outcome = entry.outcome.clone();
        // Refused when the key was forgotten meanwhile: then the value is for this caller alone.
        let _ = guard.insert(Arc::new(entry));
        outcome
    }

    /// Loads a new value behind one that is [due](Found::DueForRefresh); the old one stays until it has expired when
    /// `load` fails, and nothing happens when the key was forgotten meanwhile.
    pub async fn refresh(&self, key: &K, load: impl Future<Output = Result<Loaded<V>, ApiError>>) {
        let Some(old) = self.entries.peek(key) else { return };
        let new = self.entry(load.await);
        if new.outcome.is_err() {
            old.refreshing.store(false, Ordering::Relaxed);
            return;
        }
        let new = Arc::new(new);
        // The callback sees the entry under the map's lock. A vacant key's guard is dropped: it was forgotten.
        let _ = self.entries.entry(key, Some(Duration::ZERO), |_, there| {
            if Arc::ptr_eq(there, &old) {
                *there = Arc::clone(&new);
            }
            EntryAction::Retain(())
        });
    }

    fn trusted(&self) -> bool {
        self.trusted.load(Ordering::SeqCst)
    }

    fn entry(&self, loaded: Result<Loaded<V>, ApiError>) -> Entry<V> {
        let now = Instant::now();
        let (outcome, life, cost) = match loaded {
            Ok(Loaded { value, life, cost }) => (Ok(value), life, cost),
            Err(error) => (Err(error), Duration::ZERO, Duration::ZERO),
        };
        let life = if self.trusted() { life } else { Duration::ZERO };
        Entry { outcome, loaded: now, expires: now + life, cost, refreshing: AtomicBool::new(false) }
    }
}

impl<V> Entry<V> {
    /// True with a probability that rises towards the end of the entry's life, so that of many callers one comes early.
    fn worth_refreshing(&self, now: Instant) -> bool {
        let left = self.expires.saturating_duration_since(now).as_secs_f64();
        let cost = self.cost.as_secs_f64() * REFRESH_BETA;
        // Beyond 40 costs the probability is below e⁻⁴⁰: not worth a random number on every hit.
        left < 40.0 * cost && -cost * f64::ln(rand::random::<f64>().max(f64::MIN_POSITIVE)) >= left
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::oneshot;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    impl Size for u32 {
        fn size_bytes(&self) -> usize {
            4
        }
    }

    fn local(trusted: bool) -> Arc<Local<i64, u32>> {
        let local = Arc::new(Local::new(1 << 20));
        local.trust(trusted);
        local
    }

    fn loaded(value: u32) -> Loaded<u32> {
        Loaded { value, life: MINUTE, cost: Duration::ZERO }
    }

    fn kept(local: &Local<i64, u32>) -> Option<u32> {
        match local.find(&1) {
            Found::Fresh(value) | Found::DueForRefresh(value) => Some(value),
            Found::Nothing => None,
        }
    }

    /// A load that begins at once and ends with what the sender says.
    async fn begin(
        local: &Arc<Local<i64, u32>>,
    ) -> (oneshot::Sender<Result<Loaded<u32>, ApiError>>, tokio::task::JoinHandle<Result<u32, ApiError>>)
    {
        let (answer, answered) = oneshot::channel();
        let (start, started) = oneshot::channel();
        let local = Arc::clone(local);
        let load = tokio::spawn(async move {
            let load = async move {
                start.send(()).unwrap();
                answered.await.unwrap()
            };
            local.load(1, load).await
        });
        started.await.unwrap();
        (answer, load)
    }

    #[tokio::test]
    async fn many_callers_cost_one_load() {
        let local = local(true);
        let loads = Arc::new(AtomicUsize::new(0));
        let (answer, first) = begin(&local).await;
        let others: Vec<_> = (0..50)
            .map(|_| {
                let (local, loads) = (Arc::clone(&local), Arc::clone(&loads));
                tokio::spawn(async move {
                    let load = async move {
                        loads.fetch_add(1, Ordering::Relaxed);
                        Ok(loaded(2))
                    };
                    local.load(1, load).await
                })
            })
            .collect();
        answer.send(Ok(loaded(1))).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), 1);
        for other in others {
            assert_eq!(other.await.unwrap().unwrap(), 1);
        }
        assert_eq!((loads.load(Ordering::Relaxed), kept(&local)), (0, Some(1)));
    }

    #[tokio::test]
    async fn a_failed_load_fails_those_that_waited_and_nobody_else() {
        let local = local(true);
        let (answer, first) = begin(&local).await;
        let second = local.load(1, async { Ok(loaded(2)) });
        tokio::pin!(second);
        assert!(futures::poll!(second.as_mut()).is_pending());
        tokio::task::yield_now().await;
        answer.send(Err(ApiError::Unavailable)).unwrap();
        assert!(matches!(first.await.unwrap(), Err(ApiError::Unavailable)));
        assert!(matches!(second.await, Err(ApiError::Unavailable)));
        assert_eq!(local.load(1, async { Ok(loaded(3)) }).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_load_that_began_before_a_write_is_not_kept_after_it() {
        let local = local(true);
        for forget in [|local: &Local<_, _>| local.forget(&1), |local: &Local<_, _>| local.forget_all()] {
            let (answer, old) = begin(&local).await;
            forget(&local);
            // Whoever asks after the write does not wait for the old load.
            assert_eq!(local.load(1, async { Ok(loaded(2)) }).await.unwrap(), 2);
            answer.send(Ok(loaded(1))).unwrap();
            assert_eq!(old.await.unwrap().unwrap(), 1);
            assert_eq!(kept(&local), Some(2));
            local.forget(&1);
        }
    }

    #[tokio::test]
    async fn nothing_is_kept_while_changes_would_go_unheard() {
        let local = local(false);
        assert_eq!(local.load(1, async { Ok(loaded(1)) }).await.unwrap(), 1);
        assert_eq!(kept(&local), None);
        assert_eq!(local.load(1, async { Ok(loaded(2)) }).await.unwrap(), 2);
        local.trust(true);
        assert_eq!(kept(&local), None, "what was loaded before is not trusted");
        // A load from before does not survive either: a change may have gone unheard while it ran.
        local.trust(false);
        let (answer, old) = begin(&local).await;
        local.trust(true);
        answer.send(Ok(loaded(3))).unwrap();
        old.await.unwrap().unwrap();
        assert_eq!(kept(&local), None);
    }

    #[tokio::test]
    async fn a_load_goes_on_when_its_caller_leaves() {
        let local = local(true);
        let (answer, first) = begin(&local).await;
        first.abort();
        answer.send(Ok(loaded(1))).unwrap();
        assert_eq!(local.load(1, async { Ok(loaded(2)) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn one_caller_refreshes_an_entry_that_is_about_to_expire() {
        let local = local(true);
        // Making it takes so long, compared to its life, that it is due at once.
        let slow = async { Ok(Loaded { value: 1, life: MINUTE, cost: MINUTE * 1000 }) };
        local.load(1, slow).await.unwrap();
        let mut due = 0;
        for _ in 0..1000 {
            due += u32::from(matches!(local.find(&1), Found::DueForRefresh(1)));
        }
        assert_eq!(due, 1);
        local.refresh(&1, async { Err(ApiError::Unavailable) }).await;
        assert_eq!(kept(&local), Some(1), "a failed refresh keeps the old value");
        local.refresh(&1, async { Ok(loaded(2)) }).await;
        assert_eq!(kept(&local), Some(2));
        let forgotten = async {
            local.forget(&1);
            Ok(loaded(3))
        };
        local.refresh(&1, forgotten).await;
        assert_eq!(kept(&local), None, "a refresh does not bring back what was forgotten");
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let local: Arc<Local<i64, u32>> = Arc::new(Local::new(100_000));
        local.trust(true);
        for key in 0..10_000 {
            local.load(key, async { Ok(loaded(1)) }).await.unwrap();
        }
        assert!(local.entries.weight() <= 100_000 + 64 * ENTRY_BYTES_EXPECTED as u64);
    }
}
