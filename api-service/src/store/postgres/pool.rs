//! Connections to Postgres: how many, how long anything may take, and what its errors mean. Knows no statement of ours.

use std::{sync::Arc, time::Duration};

use deadpool_postgres::{
    Client, GenericClient, Manager, ManagerConfig, Object, PoolError, RecyclingMethod, Runtime, TimeoutType,
    Timeouts,
};
use tokio_postgres::{Config, NoTls, Statement, error::SqlState};

use crate::store::{
    Limits, Sql, StoreError, StoreMetrics,
    metrics::Usage,
    queue::{Queue, WAIT_MAX},
};

/// The pool's name among the metrics: reads and writes share it.
const NAME: &str = "shared";

/// How long a new connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// How long sent bytes may stay unacknowledged before the connection counts as dead.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);

/// How long the server may work on one statement, in milliseconds; below the time limit of a request.
const STATEMENT_MS_MAX: u32 = 5000;

/// How long all statements of one call may take. A server that works cancels a statement before; this one is for a
/// server that says nothing, though its system still acknowledges what it is sent.
const CALL_MAX: Duration = Duration::from_secs(6);

/// A bounded number of connections, made when first used.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    connections: deadpool_postgres::Pool,
    metrics: StoreMetrics,
    queue: Arc<Queue>,
}

impl Pool {
    /// A pool within `limits`. Does not connect.
    pub(super) fn new(config: &Config, limits: &Limits, metrics: &StoreMetrics) -> Result<Self, StoreError> {
        let mut config = config.clone();
        let options = config.get_options().unwrap_or_default();
        let options = format!("{options} -c statement_timeout={STATEMENT_MS_MAX}");
        config.options(options).application_name("plimsoll-api");
        config.connect_timeout(CONNECT_MAX).tcp_user_timeout(UNACKNOWLEDGED_MAX);
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = deadpool_postgres::Pool::builder(Manager::from_config(config, NoTls, recycling))
            .max_size(limits.connections.get())
            .timeouts(Timeouts {
                wait: Some(WAIT_MAX),
                create: Some(CONNECT_MAX),
                recycle: Some(CONNECT_MAX),
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Internal(Box::new(error)))?;
        let queue = Arc::new(Queue::new(limits, metrics.pool(NAME)));
        Ok(Self { connections: pool, metrics: metrics.clone(), queue })
    }

    /// A connection, when its turn comes in time; waited for at most [`WAIT_MAX`], or [`CONNECT_MAX`] more when it is new.
    pub(super) async fn client(&self) -> Result<Client, StoreError> {
        self.queue.pass(self.client_unjudged()).await
    }

    /// As [`Self::client`], for what is no load: it asks after the database also while requests are refused.
    pub(super) async fn client_unjudged(&self) -> Result<Client, StoreError> {
        self.connections.get().await.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => StoreError::QueueAge,
            // While connecting, whatever goes wrong is the server's: it starts, is full, or knows no such user yet.
            error => StoreError::Unavailable(Box::new(error)),
        })
    }

    /// The statement, prepared on this connection when it has not been before; counted, since it is about to be sent.
    pub(super) async fn prepare(
        &self,
        client: &impl GenericClient,
        sql: &Sql,
    ) -> Result<Statement, StoreError> {
        self.metrics.count(sql.query);
        Ok(client.prepare_cached(sql.text).await?)
    }

    /// Reads how the pool is used.
    pub(super) fn usage(&self) -> impl Fn() -> Vec<Usage> + Send + Sync + 'static {
        let pool = self.connections.clone();
        move || {
            let status = pool.status();
            let in_use = status.size.saturating_sub(status.available);
            let (max, idle, waiting) = (status.max_size, status.available, status.waiting);
            vec![Usage { pool: NAME, max, in_use, idle, waiting }]
        }
    }
}

/// Ends `work` when it takes longer than a call may.
pub(super) async fn bounded<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    bounded_by(CALL_MAX, work).await
}

/// Ends `work` when it takes longer than `limit`.
pub(super) async fn bounded_by<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let outcome = tokio::time::timeout(limit, work).await;
    outcome.unwrap_or_else(|elapsed| Err(StoreError::Unavailable(Box::new(elapsed))))
}

/// Gives the connection back, unless the outcome says that the next call on it would fare no better.
pub(super) fn settle<T>(client: Client, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
    if let Err(StoreError::Unavailable(source)) = &outcome
        // Out of space or memory is the server's state, not the connection's, and connecting costs it more.
        && !source.downcast_ref().is_some_and(out_of_resources)
    {
        // Outside the pool it ends; the pool connects anew, to a server that answers or may be written to.
        drop(Object::take(client));
    }
    outcome
}

fn out_of_resources(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("53"))
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(answer) = error.as_db_error() else {
            // No answer from the server: the connection ended or could not be made, unless we misread a row.
            return match std::error::Error::source(&error) {
                Some(source) if source.is::<std::io::Error>() => Self::Unavailable(Box::new(error)),
                _ if error.is_closed() => Self::Unavailable(Box::new(error)),
                _ => Self::Internal(Box::new(error)),
            };
        };
        let code = answer.code();
        match code.code().get(..2) {
            // Integrity: the constraint's name is part of the schema.
            Some("23") => Self::Rejected { constraint: answer.constraint().unwrap_or_default().to_owned() },
            // Connection lost, out of resources (too many connections, disk full), shutting down or starting.
            Some("08" | "53") => Self::Unavailable(Box::new(error)),
            _ if [
                &SqlState::ADMIN_SHUTDOWN,
                &SqlState::CRASH_SHUTDOWN,
                &SqlState::CANNOT_CONNECT_NOW,
                // A primary that became a replica: the next connection finds the new one.
                &SqlState::READ_ONLY_SQL_TRANSACTION,
            ]
            .contains(&code) =>
            {
                Self::Unavailable(Box::new(error))
            }
            // Took longer than a statement may, lost a lock, or met a deadlock: load, not a defect.
            Some("40" | "55") => Self::Busy,
            _ if *code == SqlState::QUERY_CANCELED => Self::Busy,
            _ => Self::Internal(Box::new(error)),
        }
    }
}
