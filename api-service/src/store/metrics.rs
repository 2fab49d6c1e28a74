//! What the store tells about its connections and statements. Reads the pool when scraped; never slows a query by more
//! than a counter.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// Edges in seconds: from a connection that was there at once to one that was waited for as long as a call may.
const WAIT_EDGES_SECONDS: [f64; 12] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0];

/// The statements that are counted, one name for all databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// A post by its id.
    ReadPost,
    /// A page of posts, with their authors and tags.
    ListPosts,
    /// A new post, or the attempt to add one whose author or tags are not there yet.
    InsertPost,
    /// A post's new content.
    UpdatePost,
    /// A post's removal.
    DeletePost,
    /// Whether a post that could not be written is there.
    FindPost,
    /// Authors that may be new.
    AddAuthor,
    /// Tags that may be new.
    AddTags,
    /// The tags of a post.
    TagPost,
    /// What was answered to an idempotency key, with its lock.
    FindKey,
    /// A note of what is answered to an idempotency key.
    NoteKey,
    /// Old idempotency keys.
    ForgetKeys,
    /// Whether the database answers.
    Ping,
    /// How many connections the database's server takes, and has.
    ServerConnections,
}

impl Query {
    /// Every one of them; a test holds it to be complete and in order.
    const ALL: [Self; 14] = [
        Self::ReadPost,
        Self::ListPosts,
        Self::InsertPost,
        Self::UpdatePost,
        Self::DeletePost,
        Self::FindPost,
        Self::AddAuthor,
        Self::AddTags,
        Self::TagPost,
        Self::FindKey,
        Self::NoteKey,
        Self::ForgetKeys,
        Self::Ping,
        Self::ServerConnections,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::ReadPost => "read_post",
            Self::ListPosts => "list_posts",
            Self::InsertPost => "insert_post",
            Self::UpdatePost => "update_post",
            Self::DeletePost => "delete_post",
            Self::FindPost => "find_post",
            Self::AddAuthor => "add_author",
            Self::AddTags => "add_tags",
            Self::TagPost => "tag_post",
            Self::FindKey => "find_key",
            Self::NoteKey => "note_key",
            Self::ForgetKeys => "forget_keys",
            Self::Ping => "ping",
            Self::ServerConnections => "server_connections",
        }
    }
}

/// A statement and the name that it is counted under.
#[derive(Debug)]
pub(super) struct Sql {
    pub(super) query: Query,
    pub(super) text: &'static str,
}

/// How a pool is used at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) pool: &'static str,
    pub(super) max: usize,
    pub(super) in_use: usize,
    pub(super) idle: usize,
    pub(super) waiting: usize,
}

/// Connections at the database's server, whoever they belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServerConnections {
    /// How many the server takes of our user; those that it keeps for others are not among them.
    pub(super) max: i64,
    /// How many it has.
    pub(super) used: i64,
}

type Probe = Box<dyn Fn() -> Vec<Usage> + Send + Sync>;

/// Metrics of the store, in use before it is open; a clone shares them.
#[derive(Clone)]
pub struct StoreMetrics(Arc<Inner>);

struct Inner {
    queries: IntCounterVec,
    by_query: [IntCounter; Query::ALL.len()],
    wait: HistogramVec,
    timeouts: IntCounterVec,
    connections: GaugeVec,
    connections_max: GaugeVec,
    waiting: GaugeVec,
    // Without labels, and without a series until the server has told: a zero would say that it takes none.
    server_max: GaugeVec,
    server_used: GaugeVec,
    probe: OnceLock<Probe>,
}

impl StoreMetrics {
    /// Makes them, all zero.
    ///
    /// # Errors
    /// Never for names and labels as they are here: [`prometheus::Error`] would be a defect of this function.
    pub fn new() -> Result<Self, prometheus::Error> {
        let queries = IntCounterVec::new(
            Opts::new(
                "database_queries_total",
                "Statements sent to the database, without those that begin and end transactions.",
            ),
            &["query"],
        )?;
        let by_query = Query::ALL.map(|query| queries.with_label_values(&[query.label()]));
        let wait = HistogramOpts::new(
            "database_pool_wait_seconds",
            "Time that calls waited for a connection, also in vain.",
        );
        let gauge = |name: &str, help: &str, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
        Ok(Self(Arc::new(Inner {
            queries,
            by_query,
            wait: HistogramVec::new(wait.buckets(WAIT_EDGES_SECONDS.to_vec()), &["pool"])?,
            timeouts: IntCounterVec::new(
                Opts::new("database_pool_timeouts_total", "Calls that got no connection in time."),
                &["pool"],
            )?,
            connections: gauge(
                "database_pool_connections",
                "Connections that are open.",
                &["pool", "state"],
            )?,
            connections_max: gauge("database_pool_connections_max", "The most connections.", &["pool"])?,
            waiting: gauge("database_pool_waiting", "Calls that wait for a connection.", &["pool"])?,
            server_max: gauge(
                "database_server_connections_max",
                "Connections that the database's server takes of this service's user.",
                &[],
            )?,
            server_used: gauge(
                "database_server_connections",
                "Connections that the database's server has, whoever they belong to.",
                &[],
            )?,
            probe: OnceLock::new(),
        })))
    }

    /// Counts a statement that is about to be sent.
    pub(super) fn count(&self, query: Query) {
        self.0.by_query[query as usize].inc();
    }

    /// Statements sent so far.
    pub fn sent(&self, query: Query) -> u64 {
        self.0.by_query[query as usize].get()
    }

    /// The stopwatch of one pool.
    pub(super) fn pool(&self, pool: &str) -> PoolMetrics {
        PoolMetrics {
            wait: self.0.wait.with_label_values(&[pool]),
            timeouts: self.0.timeouts.with_label_values(&[pool]),
        }
    }

    /// Reads `probe` at each scrape from now on. Only the first call counts.
    pub(super) fn watch(&self, probe: impl Fn() -> Vec<Usage> + Send + Sync + 'static) {
        let _ = self.0.probe.set(Box::new(probe));
    }

    /// Tells what the database's server has said of its connections.
    pub(super) fn server(&self, said: ServerConnections) {
        self.0.server_max.with_label_values::<&str>(&[]).set(said.max as f64);
        self.0.server_used.with_label_values::<&str>(&[]).set(said.used as f64);
    }

    fn collectors(&self) -> [&dyn Collector; 8] {
        let Inner {
            queries,
            by_query: _,
            wait,
            timeouts,
            connections,
            connections_max,
            waiting,
            server_max,
            server_used,
            probe: _,
        } = &*self.0;
        [queries, wait, timeouts, connections, connections_max, waiting, server_max, server_used]
    }
}

impl fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreMetrics").finish_non_exhaustive()
    }
}

impl Collector for StoreMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.collectors().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for usage in self.0.probe.get().map(|probe| probe()).unwrap_or_default() {
            let Usage { pool, max, in_use, idle, waiting } = usage;
            self.0.connections.with_label_values(&[pool, "in_use"]).set(in_use as f64);
            self.0.connections.with_label_values(&[pool, "idle"]).set(idle as f64);
            self.0.connections_max.with_label_values(&[pool]).set(max as f64);
            self.0.waiting.with_label_values(&[pool]).set(waiting as f64);
        }
        self.collectors().into_iter().flat_map(Collector::collect).collect()
    }
}

/// How long calls wait for a connection of one pool.
#[derive(Debug, Clone)]
pub(super) struct PoolMetrics {
    wait: Histogram,
    timeouts: IntCounter,
}

impl PoolMetrics {
    /// Notes a wait that has ended, `in_time` with a connection or without.
    pub(super) fn waited(&self, since: Instant, in_time: bool) {
        let waited: Duration = since.elapsed();
        self.wait.observe(waited.as_secs_f64());
        if !in_time {
            self.timeouts.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Registry, TextEncoder};

    use super::*;

    #[test]
    fn every_query_has_its_own_counter() {
        let metrics = StoreMetrics::new().unwrap();
        for (index, query) in Query::ALL.into_iter().enumerate() {
            assert_eq!(query as usize, index);
            metrics.count(query);
        }
        assert!(Query::ALL.into_iter().all(|query| metrics.sent(query) == 1));
    }

    #[test]
    fn a_scrape_reads_the_pool_as_it_is_then() {
        let metrics = StoreMetrics::new().unwrap();
        let registry = Registry::new();
        registry.register(Box::new(metrics.clone())).unwrap();
        metrics.pool("shared").waited(Instant::now(), false);
        metrics.watch(|| vec![Usage { pool: "shared", max: 3, in_use: 2, idle: 1, waiting: 4 }]);
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(!text.contains("database_server_connections"), "before the server has told: {text}");
        metrics.server(ServerConnections { max: 97, used: 5 });
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"database_pool_connections{pool="shared",state="in_use"} 2"#,
            r#"database_pool_connections{pool="shared",state="idle"} 1"#,
            r#"database_pool_connections_max{pool="shared"} 3"#,
            r#"database_pool_waiting{pool="shared"} 4"#,
            r#"database_pool_timeouts_total{pool="shared"} 1"#,
            r#"database_pool_wait_seconds_count{pool="shared"} 1"#,
            r#"database_queries_total{query="read_post"} 0"#,
            "database_server_connections_max 97",
            "database_server_connections 5",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
