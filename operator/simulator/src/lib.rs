//! A simulated cluster: pods with queues under a trace of load, the autoscalers that people use in it, and how well each
//! kept the promise at which cost.
//!
//! It runs the same code that decides in a real cluster, as a [`Policy`]. There is no clock and no randomness but that of
//! a scenario's seed: the same [`Scenario`] and policy give the same [`Outcome`], to the byte. In reading order:
//! [`scenario`], [`trace`], [`generate`], [`service`], [`distribution`], [`policy`], [`demand`], `world` with `pod`, [`gate`], `deployment`,
//! `balancer`, `arrivals`, `scrape` and `tally`, [`score`], [`peers`], [`oracle`].

mod arrivals;
mod balancer;
mod clock;
pub mod demand;
mod deployment;
pub mod distribution;
pub mod engine;
pub mod gate;
pub mod generate;
pub mod oracle;
pub mod peers;
mod pod;
pub mod policy;
pub mod random;
pub mod scenario;
pub mod score;
mod scrape;
pub mod service;
pub mod suite;
pub mod sweep;
mod tally;
pub mod trace;
mod world;

pub use demand::{Prepared, run};
pub use policy::{Policy, View};
pub use scenario::{Scenario, Target};
pub use score::{Outcome, Score};
pub use trace::Trace;
