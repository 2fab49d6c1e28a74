//! Where the bundled API keeps its data.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::app::{ApiDeploymentSpec, UrlSource};

/// Database of the bundled API. Exactly one field is set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.embedded), has(self.external)].filter(x, x).size() == 1")
    .message("write exactly one of database.embedded and database.external"))]
pub struct Database {
    /// SQLite inside the pod: one replica only, and its data ends with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded: Option<Embedded>,
    /// A PostgreSQL that all replicas share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalDatabase>,
}

/// Chosen by being present.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Embedded {}

/// A PostgreSQL that all replicas share.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ExternalDatabase {
    /// Where its URL is: `postgres://user:password@host:5432/name`.
    pub url_from: UrlSource,

    /// Connections that each replica may open. Replicas are not scaled beyond what the server takes of them, where that is
    /// known.
    #[serde(default = "default_connections_per_replica")]
    #[schemars(range(min = 1, max = 1000))]
    pub connections_per_replica: i32,
}

/// The database that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind<'a> {
    /// SQLite inside each pod, so that two replicas would hold different data.
    Embedded,
    /// A database that all replicas share.
    External(&'a ExternalDatabase),
    /// The image is not the bundled one and no database was named: how it keeps data is its own affair.
    Unknown,
}

impl ApiDeploymentSpec {
    /// The database in force, with the default that depends on the image.
    pub fn database(&self) -> DatabaseKind<'_> {
        match &self.database {
            None if self.attached_to().is_some() => DatabaseKind::Unknown,
            Some(Database { external: Some(external), .. }) => DatabaseKind::External(external),
            Some(_) => DatabaseKind::Embedded,
            None if self.image.is_none() => DatabaseKind::Embedded,
            None => DatabaseKind::Unknown,
        }
    }
}

/// Connections of a replica where the spec names none, as the API service has it: 20 replicas and a rollout's surge stay under
/// `PostgreSQL`'s default of 100 connections.
pub const DEFAULT_CONNECTIONS_PER_REPLICA: i32 = 3;

fn default_connections_per_replica() -> i32 {
    DEFAULT_CONNECTIONS_PER_REPLICA
}
