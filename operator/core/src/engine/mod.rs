//! The scaling engine: keeps the latency promise with the fewest replicas.
//!
//! Pure: [`Engine::decide`] takes what was observed and gives a [`Decision`]; what it learns stays in the [`Engine`].
//! In reading order, which is the way of data: `observation` -> `roster`, `templates` and `estimate` with `balance` -> `belief`
//! (`lesson` -> `capacity`, `lessons`, `stopwatch`, and `queue_fit` with `base` and `latency_model`) and `forecast` with `season` and `startup`, and
//! `cold` -> `propose` -> `decide` with `dependency` and `ceiling` -> [`record`].

mod balance;
mod base;
mod belief;
mod capacity;
mod ceiling;
mod cold;
mod cost;
mod decide;
mod dependency;
mod estimate;
mod forecast;
mod grid;
mod latency_model;
mod learned;
mod lesson;
mod lessons;
mod normal;
mod observation;
mod propose;
mod queue_fit;
pub mod record;
mod roster;
mod season;
mod settings;
mod startup;
mod stopwatch;
mod templates;

pub use decide::Engine;
pub use estimate::Round;
pub use learned::{Learned, LearnedCapacity, Likely};
pub use observation::{Cpu, Observation, Pod, Sample};
pub use record::{
    Bound, CapacitySummary, Counterfactual, Decision, Inputs, Outlook, Rule, TargetSummary, VERSION,
};
pub use settings::{Answer, Settings, Target, VIOLATION_PRICE_DEFAULT};
