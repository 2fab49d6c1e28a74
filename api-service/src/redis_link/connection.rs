//! A connection to whichever kind of Redis there is, and how it is made. Never waits for one.

use redis::{
    Client, Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
    cluster_async::ClusterConnection,
};

use super::{CALL_TIMEOUT, CONNECT_TIMEOUT};

/// A shared connection; a clone uses the same one.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    One(ConnectionManager),
    /// To all servers of a cluster.
    Cluster(ClusterConnection),
}

impl Connection {
    /// A connection that is being made in the background; calls before it is ready wait for it within their own limit.
    pub(super) fn to(client: &Client) -> Option<Self> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CALL_TIMEOUT))
            // The breaker spaces the attempts.
            .set_number_of_retries(0);
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), config)
            .inspect_err(|error| tracing::error!(error = error.category(), "prepare the connection to Redis"))
            .ok()?;
        let mut first = connection.clone();
        // The manager connects only while someone waits for it.
        tokio::spawn(async move { redis::cmd("PING").exec_async(&mut first).await });
        Some(Self::One(connection))
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
