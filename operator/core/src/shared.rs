//! What a pod tells of what all replicas share: the cache and the database. It decides nothing.

/// What one pod has counted or been told since it started. Absent numbers are not told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shared {
    /// Reads that the shared cache had an answer for.
    pub cache_hits: Option<f64>,
    /// Reads that it had none for.
    pub cache_misses: Option<f64>,
    /// Connections that the database server takes of the API's user, those kept for others left out.
    pub database_connections_max: Option<f64>,
}
