//! The autoscalers that people use, each by its documented algorithm, with what it gets its metrics from: the delays of
//! kubelet, metrics-server and Prometheus are part of what they are.
//!
//! Tests hold each to worked examples of its own documentation and tests.

pub mod fixed;
pub mod hindsight;
pub mod hpa;
pub mod keda;
pub mod kpa;
pub mod metrics_server;
pub mod prometheus;
pub mod settings;
