//! What the whole does on a real cluster. `cargo xtask test` runs this; a test has a namespace and a database of its own.

mod cache;
mod conditions;
mod faults;
mod kubectl;
mod rollout;
mod scaling;
mod world;
