//! The autoscalers that people use, each by its documented algorithm.

pub mod fixed;
