//! What a decision of the scaling engine costs: time and allocations, against pods and the edges of their histograms; and what an
//! hour of the simulated cluster takes ([`hour`]).
//!
//! The engine is measured alone, on pods that are made up ([`fleet`]): nothing is scraped and nothing is written. A program
//! of its own, so that its allocator, which counts ([`counting`]), is in nothing else.

mod clock;
pub mod counting;
pub mod fleet;
pub mod hour;
pub mod measure;

use serde::{Deserialize, Serialize};

pub use hour::Hours;
pub use measure::{Case, Measured, State};

/// All that was measured, as the program prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Decisions.
    pub cases: Vec<Measured>,
    /// Simulated hours.
    pub hours: Vec<Hours>,
}
