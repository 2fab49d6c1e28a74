//! Whether the database server has connections for the replicas that the spec allows. Pure.

use plimsoll_crds::{ApiDeploymentSpec, DatabaseKind};

use crate::input::{Bounds, Scrape};

/// What replicas may open, and what the server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Connections that each replica may open.
    pub per_replica: i32,
    /// Connections that the server takes of the API's user.
    pub server_max: i32,
}

impl Connections {
    /// What is known of the database that all replicas share; None for another one, and before a replica has told.
    pub fn of(spec: &ApiDeploymentSpec, server_max: Option<i32>) -> Option<Self> {
        match spec.database() {
            DatabaseKind::External(database) => {
                Some(Self { per_replica: database.connections_per_replica.max(1), server_max: server_max? })
            }
            DatabaseKind::Embedded | DatabaseKind::Unknown => None,
        }
    }

    /// The most replicas whose connections fit.
    pub const fn replicas_max(self) -> i32 {
        self.server_max / self.per_replica
    }

    /// Whether the connections of so many replicas fit.
    pub const fn fit(self, replicas: i32) -> bool {
        replicas <= self.replicas_max()
    }

    /// The numbers, and what to change where they do not fit.
    pub fn explain(self, replicas: i32) -> String {
        let Self { per_replica, server_max } = self;
        let wanted = i64::from(replicas) * i64::from(per_replica);
        let sum = format!("{replicas} replicas x {per_replica} connections = {wanted}");
        if self.fit(replicas) {
            return format!("{sum}, and the database server takes {server_max}");
        }
        let mut fixes = vec![format!("raise its max_connections by {}", wanted - i64::from(server_max))];
        if server_max >= replicas {
            fixes.push(format!(
                "lower spec.database.external.connectionsPerReplica to {}",
                server_max / replicas.max(1)
            ));
        }
        if self.replicas_max() >= 1 {
            fixes.push(format!("lower spec.replicas.max to {}", self.replicas_max()));
        }
        format!("{sum} > {server_max}, which is what the database server takes: {}", fixes.join(", or "))
    }

    /// Why there cannot be more replicas, and what to change.
    pub fn explain_limit(self) -> String {
        let Self { per_replica, server_max } = self;
        format!(
            "the database server takes {server_max} connections, which are enough for {} replicas with {per_replica} each: \
             raise its max_connections, or lower spec.database.external.connectionsPerReplica",
            self.replicas_max()
        )
    }
}

/// What the server takes, as the most careful of the replicas tells it; `before` where none does.
pub(crate) fn server_max(scrape: &Scrape, before: Option<i32>) -> Option<i32> {
    let told = scrape.readings().filter_map(|reading| reading.shared.database_connections_max);
    let told = told.filter(|max| (0.0..=f64::from(i32::MAX)).contains(max)).map(|max| max as i32);
    told.min().or(before)
}

/// The bounds, with the most replicas cut to those whose connections fit. It never takes replicas away that are there,
/// nor goes below the fewest: what the user asked for at least is theirs to answer for.
pub(crate) fn cut(bounds: Bounds, connections: Option<Connections>, current: i32) -> Bounds {
    let Some(connections) = connections else { return bounds };
    let most = connections.replicas_max().max(bounds.min).max(current);
    if most >= bounds.max { bounds } else { Bounds { max: most, connections: Some(connections), ..bounds } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_with_every_way_out() {
        let connections = Connections { per_replica: 10, server_max: 97 };
        assert_eq!(
            connections.explain(20),
            "20 replicas x 10 connections = 200 > 97, which is what the database server takes: raise its max_connections by \
             103, or lower spec.database.external.connectionsPerReplica to 4, or lower spec.replicas.max to 9"
        );
        assert!(connections.fit(9) && !connections.fit(10));
        assert_eq!(
            Connections { per_replica: 3, server_max: 97 }.explain(20),
            "20 replicas x 3 connections = 60, and the database server takes 97"
        );
    }

    #[test]
    fn the_cut_takes_nothing_away_that_is_there() {
        let bounds = Bounds { min: 2, max: 20, pinned: None, embedded_database: false, connections: None };
        let max = |per_replica, current| {
            cut(bounds, Some(Connections { per_replica, server_max: 97 }), current).max
        };
        assert_eq!([max(10, 1), max(10, 12), max(100, 1), max(3, 1)], [9, 12, 2, 20]);
    }
}
