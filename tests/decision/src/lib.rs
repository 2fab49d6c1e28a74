//! What a decision of the scaling engine costs: time and allocations, against pods and the edges of their histograms.
//!
//! The engine is measured alone, on pods that are made up ([`fleet`]): nothing is scraped and nothing is written. A program
//! of its own, so that its allocator, which counts ([`counting`]), is in nothing else.

pub mod counting;
pub mod fleet;
pub mod measure;

pub use measure::{Case, Measured, State};
