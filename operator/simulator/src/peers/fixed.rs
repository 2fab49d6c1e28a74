//! A fleet of one size: what people run who do not scale.

use std::time::Duration;

use crate::policy::{Policy, View};

/// Always the same number of replicas.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    /// The replicas.
    pub replicas: u32,
}

impl Policy for Fixed {
    fn name(&self) -> String {
        format!("fixed {}", self.replicas)
    }

    fn period(&self) -> Duration {
        Duration::from_secs(15)
    }

    fn decide(&mut self, _: &View<'_>) -> u32 {
        self.replicas
    }
}
