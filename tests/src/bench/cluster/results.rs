//! What a run of the benchmark found: all that is written as JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::step::Step;
use super::validate::Validation;
use crate::bench::machine::Machine;

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// When it began.
    pub started: Timestamp,
    /// On what.
    pub machine: Machine,
    /// Of what takes part, by name.
    pub versions: BTreeMap<String, String>,
    /// Shortened: shows that it works, and its numbers are worth nothing.
    pub quick: bool,
    /// The step of the load; absent when it was not measured.
    pub step: Option<Step>,
    /// The validation of the simulator; absent when it was not measured.
    pub validation: Option<Validation>,
}
