//! What handlers share. Holds things, does nothing.

use std::{
    num::NonZero,
    sync::{Arc, OnceLock},
    thread,
};

use crate::{
    auth::Verifier,
    cache::{Cache, Writers},
    config::{Config, ConfigError, Database},
    cpu::CpuPool,
    error::ApiError,
    health::Health,
    metrics::Metrics,
    overload::Gate,
    rate_limit::RateLimit,
    redis_link::RedisLink,
    shutdown::Lifecycle,
    store::Store,
};

/// What handlers share.
#[derive(Debug)]
pub struct AppState {
    /// The settings as given.
    pub config: Config,
    /// Where posts live, as read from the settings.
    pub database: Database,
    /// Every metric.
    pub metrics: Metrics,
    /// The cache of posts, or nothing at all.
    pub cache: Cache,
    /// What checks bearer tokens; without it, writes are open.
    pub auth: Option<Verifier>,
    /// What limits callers; without it, each may send as much as there is room for.
    pub rate_limit: Option<RateLimit>,
    /// The workers for CPU work.
    pub cpu: CpuPool,
    /// Refuses requests that waited too long for the event loop.
    pub overload: Gate,
    /// What the probes answer.
    pub health: Health,
    /// Whether the service is stopping.
    pub lifecycle: Arc<Lifecycle>,
    store: OnceLock<Store>,
}

impl AppState {
    /// Makes the state and starts the CPU workers. Connects to nothing.
    ///
    /// # Errors
    /// [`ConfigError`] for a setting that cannot work.
    pub fn new(config: Config, lifecycle: Arc<Lifecycle>) -> Result<Arc<Self>, ConfigError> {
        let metrics = Metrics::new(&config.latency_targets.0).map_err(ConfigError::Metrics)?;
        let database = config.database()?;
        let redis = config.cache()?.map(RedisLink::new);
        let writers = if database.shared() { Writers::Many } else { Writers::ThisOne };
        let limited = metrics.rate_limit_requests.clone();
        let rate_limit = RateLimit::new(&config.rate_limit, redis.clone(), limited);
        let cache = Cache::new(redis, writers, config.cache_local_bytes, &metrics);
        let workers = config
            .cpu_workers
            .unwrap_or_else(|| thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN));
        let cpu = CpuPool::new(workers, config.cpu_queue, config.cpu_queue_age(), config.patience());
        let overload = Gate::new(config.patience());
        let auth = Verifier::new(&config.auth)?;
        if auth.is_none() {
            tracing::info!("no key for tokens is set: writes are open to everyone");
        }
        let health = Health::default();
        let store = OnceLock::new();
        Ok(Arc::new(Self {
            config,
            database,
            metrics,
            cache,
            auth,
            rate_limit,
            cpu,
            overload,
            health,
            lifecycle,
            store,
        }))
    }

    /// The store, once its schema is in place.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] before that.
    pub fn store(&self) -> Result<&Store, ApiError> {
        self.store.get().ok_or(ApiError::Unavailable)
    }

    /// Lets handlers use `store`, whose schema is in place. Only the first call counts.
    pub fn open(&self, store: Store) -> &Store {
        self.store.get_or_init(|| store)
    }
}
