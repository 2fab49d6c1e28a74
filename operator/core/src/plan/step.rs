//! The writes of a plan, and the children that they are of.

use std::fmt;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

/// One write.
#[derive(Clone, Debug)]
pub enum Step {
    /// Creates the managed cache's Secret; never overwrites one.
    CreateSecret(Box<Secret>),
    /// Applies a Service.
    ApplyService {
        /// Which one.
        kind: ChildKind,
        /// As it should be, with the UID of the existing one if there is one.
        service: Box<Service>,
        /// Hash of it, for the record of own writes.
        hash: u64,
    },
    /// Applies a PodDisruptionBudget.
    ApplyDisruptionBudget {
        /// Which one.
        kind: ChildKind,
        /// As it should be, with the UID of the existing one if there is one.
        budget: Box<PodDisruptionBudget>,
        /// Hash of it, for the record of own writes.
        hash: u64,
    },
    /// Applies a NetworkPolicy.
    ApplyNetworkPolicy {
        /// Which one.
        kind: ChildKind,
        /// As it should be, with the UID of the existing one if there is one.
        policy: Box<NetworkPolicy>,
        /// Hash of it, for the record of own writes.
        hash: u64,
    },
    /// Creates the API's Deployment with its replicas at once; refuses if the name is taken.
    CreateDeployment {
        /// As it should be, with `spec.replicas`.
        deployment: Box<Deployment>,
        /// Hash of it without them.
        hash: u64,
    },
    /// Applies a Deployment; that of the API goes without `spec.replicas`.
    ApplyDeployment {
        /// Which one.
        kind: ChildKind,
        /// As it should be, with the UID of the existing one if there is one.
        deployment: Box<Deployment>,
        /// Hash of it, for the record of own writes.
        hash: u64,
    },
    /// Applies the StatefulSet of a managed cache with failover.
    ApplyStatefulSet {
        /// As it should be, with the UID of the existing one if there is one.
        stateful_set: Box<StatefulSet>,
        /// Hash of it, for the record of own writes.
        hash: u64,
    },
    /// Sets the replicas of the API's Deployment, and nothing else of it.
    Scale {
        /// Name of the Deployment.
        name: String,
        /// UID of the Deployment, unless this plan creates it.
        uid: Option<String>,
        /// The change.
        change: Change,
        /// Whether it must be looked at live, and refused if it has changed since it was decided.
        live: bool,
        /// Whether the template has to be applied first: until it has its own field manager, the replicas' manager owns
        /// it, and a write of the replicas alone would take it away.
        after_template: bool,
    },
    /// Deletes a child that is no longer wanted, if it still is the one that was seen.
    Delete {
        /// Which one.
        kind: ChildKind,
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
}

impl Step {
    /// What it writes.
    pub const fn kind(&self) -> ChildKind {
        match self {
            Self::CreateSecret(_) => ChildKind::CacheSecret,
            Self::ApplyStatefulSet { .. } => ChildKind::CacheStatefulSet,
            Self::CreateDeployment { .. } => ChildKind::Deployment,
            Self::Scale { .. } => ChildKind::Replicas,
            Self::ApplyService { kind, .. }
            | Self::ApplyDisruptionBudget { kind, .. }
            | Self::ApplyNetworkPolicy { kind, .. }
            | Self::ApplyDeployment { kind, .. }
            | Self::Delete { kind, .. } => *kind,
        }
    }

    /// What tells this write from another one of the same child: a write that failed is tried again at once when it has
    /// become another one.
    pub const fn hash(&self) -> u64 {
        match self {
            Self::ApplyService { hash, .. }
            | Self::ApplyDisruptionBudget { hash, .. }
            | Self::ApplyNetworkPolicy { hash, .. }
            | Self::ApplyStatefulSet { hash, .. }
            | Self::CreateDeployment { hash, .. }
            | Self::ApplyDeployment { hash, .. } => *hash,
            Self::CreateSecret(_) | Self::Scale { .. } | Self::Delete { .. } => 0,
        }
    }

    /// The children without which it must not be carried out: if an earlier step for one of them was not, neither is
    /// this one. A refused Service keeps no template back, and no refused template keeps the replicas back.
    pub const fn needs(&self) -> &'static [ChildKind] {
        match self {
            Self::CreateSecret(_)
            | Self::ApplyService { .. }
            | Self::ApplyDisruptionBudget { .. }
            | Self::ApplyNetworkPolicy { .. }
            | Self::Scale { after_template: false, .. }
            | Self::Delete {
                kind:
                    ChildKind::DisruptionBudget
                    | ChildKind::CacheDisruptionBudget
                    | ChildKind::NetworkPolicy
                    | ChildKind::CacheNetworkPolicy,
                ..
            } => &[],
            // Credentials that were not stored must not be rolled out: the next ones would be others.
            Self::CreateDeployment { .. }
            | Self::ApplyStatefulSet { .. }
            | Self::ApplyDeployment { kind: ChildKind::CacheDeployment, .. } => &[ChildKind::CacheSecret],
            Self::ApplyDeployment { .. } => &[ChildKind::CacheSecret, ChildKind::Deployment],
            // What the running template uses is not deleted.
            Self::Scale { after_template: true, .. } | Self::Delete { .. } => &[ChildKind::Deployment],
        }
    }
}

/// A change of replicas, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Replicas before.
    pub from: i32,
    /// Replicas since.
    pub to: i32,
}

/// The children, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    /// Secret of the managed cache.
    CacheSecret,
    /// Service of the managed cache.
    CacheService,
    /// Deployment of the managed cache.
    CacheDeployment,
    /// NetworkPolicy of the managed cache.
    CacheNetworkPolicy,
    /// Service that names each server of a managed cache with failover.
    CacheNodes,
    /// StatefulSet of a managed cache with failover.
    CacheStatefulSet,
    /// PodDisruptionBudget of a managed cache with failover.
    CacheDisruptionBudget,
    /// Service of the API.
    Service,
    /// PodDisruptionBudget of the API.
    DisruptionBudget,
    /// NetworkPolicy of the API.
    NetworkPolicy,
    /// Deployment of the API: its template.
    Deployment,
    /// Deployment of the API: its replicas, which have a field manager of their own.
    Replicas,
}

impl fmt::Display for ChildKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CacheSecret => "Secret",
            Self::CacheService | Self::CacheNodes | Self::Service => "Service",
            Self::CacheStatefulSet => "StatefulSet",
            Self::CacheDeployment | Self::Deployment => "Deployment",
            Self::CacheDisruptionBudget | Self::DisruptionBudget => "PodDisruptionBudget",
            Self::CacheNetworkPolicy | Self::NetworkPolicy => "NetworkPolicy",
            Self::Replicas => "replicas of Deployment",
        })
    }
}
