//! What the whole does on a real cluster. `cargo xtask test` runs this; a test has a namespace and a database of its own.

mod attach;
mod audit;
mod cache;
mod chart;
mod conditions;
mod delivery;
mod faults;
mod fleet;
mod kubectl;
mod metrics;
mod rollout;
mod scaling;
mod source;
mod workload;
mod world;
