//! The decisions of the operator, as pure functions: observe -> **decide** -> apply.
//!
//! There is no client, no clock and no randomness in this crate: the same [`Input`] gives the same [`Plan`]. In reading
//! order: [`input`], [`plan`], [`decide()`], [`engine`] with [`histogram`], `scale` with `edges`, [`policy`] with `hands`,
//! [`conflict`], `attach`, `steps` with [`build`], [`cache`] and [`database`] (what replicas share), [`memory`], [`status`],
//! [`attainment`].

mod attach;
pub mod attainment;
pub mod build;
pub mod cache;
mod cache_status;
pub mod conflict;
pub mod database;
mod decide;
mod edges;
pub mod engine;
mod hands;
pub mod histogram;
pub mod input;
mod learned;
pub mod left_out;
pub mod memory;
pub mod plan;
pub mod policy;
mod protection;
mod recent;
mod scale;
pub mod shared;
pub mod status;
mod steps;

pub use attach::{in_force, selector_text, with_resources_of};
pub use conflict::sets_replicas;
pub use decide::{decide, rollout_of, wanted_replicas};
pub use input::Input;
pub use plan::Plan;
pub use steps::{applied_by_us, replicas_hash, version_of};

/// Field manager of everything but the replicas.
pub const MANAGER: &str = "plimsoll-operator";

/// Field manager of `spec.replicas` of the API's Deployment, and of nothing else once the Deployment is made.
pub const REPLICAS_MANAGER: &str = "plimsoll-autoscaler";
