//! The local cluster, the demo, the benchmark and what end-to-end tests share.
//!
//! Nothing here is part of the product: the operator and the API service never depend on this crate.

pub mod access;
pub mod audit;
pub mod bench;
pub mod bench_latency;
pub mod chart;
pub mod cluster;
pub mod command;
pub mod demo;
pub mod generate;
pub mod host;
pub mod images;
pub mod paths;
pub mod postgres;
pub mod progress;
pub mod sample;
pub mod schemathesis;
pub mod suite;
pub mod tools;
