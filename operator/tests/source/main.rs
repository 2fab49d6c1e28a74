//! Both sources of metrics, held to one contract, and Prometheus' own side of it against the real server. It needs Debian's
//! package `prometheus`, which `cargo xtask test --fast` installs where it is missing.
#![allow(clippy::unwrap_used, missing_docs)]

mod contract;
mod docs;
mod pod;
mod prometheus;
mod server;
mod turns;
mod world;
