//! What a benchmark found: every round's numbers, and the medians over them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::case::Case;
use super::machine::Machine;
use super::measure::{Closed, Open};
use super::server::Server;
use super::stats::Spread;
use super::usage::Memory;

/// At which rate an open loop was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rate {
    /// At the same rate for every server: 80 % of what Express sustains in an open loop.
    Equal,
    /// At half of what Plimsoll can.
    OwnHalf,
    /// At 80 % of what Plimsoll can.
    OwnMost,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Found {
    /// A closed loop of a case.
    Closed {
        /// Of which.
        case: Case,
        /// What.
        #[serde(flatten)]
        closed: Closed,
    },
    /// An open loop of a case.
    Open {
        /// Of which.
        case: Case,
        /// At which rate.
        at: Rate,
        /// What.
        #[serde(flatten)]
        open: Open,
    },
    /// The baseline that a user would take: a closed loop on `/health`.
    Baseline(Closed),
    /// Memory after all of a round.
    Memory(Memory),
    /// It could not be measured.
    Failed {
        /// What, and why.
        reason: String,
    },
}

/// A measurement, with its round and server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// From 1.
    pub round: u32,
    /// Of which server.
    pub server: Server,
    /// What was found.
    #[serde(flatten)]
    pub found: Found,
}

/// Whether a server offers a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probed {
    /// Of which server.
    pub server: Server,
    /// Which case.
    pub case: Case,
    /// Bytes of the body as sent, where it is offered.
    pub body_bytes: Option<u64>,
    /// Why it is not offered.
    pub not_offered: Option<String>,
}

/// How it was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Times that every server was started and measured.
    pub rounds: u32,
    /// Length of a measurement.
    pub seconds: u64,
    /// Length of the load before a closed loop that is not measured.
    pub warmup_seconds: u64,
    /// Length of the baseline.
    pub baseline_seconds: u64,
    /// Whether it only shows that the benchmark works.
    pub quick: bool,
}

/// All of a benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// When it began.
    pub started: Timestamp,
    /// On what.
    pub machine: Machine,
    /// With which versions.
    pub versions: BTreeMap<String, String>,
    /// How.
    pub settings: Settings,
    /// What each server offers.
    pub probes: Vec<Probed>,
    /// What Express and Plimsoll were found to carry before the rounds, from which the open loops' rates come.
    pub capacities: Vec<Capacity>,
    /// Every round's numbers.
    pub runs: Vec<Run>,
}

/// What a server was found to carry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Which.
    pub server: Server,
    /// In which case.
    pub case: Case,
    /// Requests that it answered a second in a closed loop.
    pub requests_per_second: f64,
    /// Requests a second that it kept up with in an open loop, of those rates that were tried; absent when it kept up with
    /// none, and where it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sustained_per_second: Option<f64>,
}

impl Results {
    /// Of one server in one case, over the rounds' closed loops.
    pub fn closed(&self, server: Server, case: Case, value: impl Fn(&Closed) -> f64) -> Option<Spread> {
        Spread::of(self.of(server).filter_map(|found| match found {
            Found::Closed { case: of, closed } if *of == case => Some(value(closed)),
            _ => None,
        }))
    }

    /// Of one server, over the rounds' baselines.
    pub fn baseline(&self, server: Server, value: impl Fn(&Closed) -> f64) -> Option<Spread> {
        Spread::of(self.of(server).filter_map(|found| match found {
            Found::Baseline(closed) => Some(value(closed)),
            _ => None,
        }))
    }

    /// Of one server in one case at one rate, over the rounds' open loops; also those that are not valid.
    pub fn open(
        &self,
        server: Server,
        case: Case,
        rate: Rate,
        value: impl Fn(&Open) -> f64,
    ) -> Option<Spread> {
        Spread::of(self.of(server).filter_map(|found| match found {
            Found::Open { case: of, at, open } if (*of, *at) == (case, rate) => Some(value(open)),
            _ => None,
        }))
    }

    /// Whether every round's open loop of one server in one case at one rate was valid.
    pub fn valid(&self, server: Server, case: Case, rate: Rate) -> bool {
        self.open(server, case, rate, |open| f64::from(u8::from(open.valid)))
            .is_some_and(|valid| valid.min > 0.0)
    }

    /// Peak memory of one server in mebibytes, over the rounds.
    pub fn memory(&self, server: Server) -> Option<Spread> {
        Spread::of(self.of(server).filter_map(|found| match found {
            Found::Memory(memory) => Some(memory.peak_kib as f64 / 1024.0),
            _ => None,
        }))
    }

    /// Errors of the closed loops of one server in one case.
    pub fn errors(&self, server: Server, case: Case) -> u64 {
        let errors = self.of(server).map(|found| match found {
            Found::Closed { case: of, closed } if *of == case => closed.errors,
            _ => 0,
        });
        errors.sum()
    }

    /// Servers of which there is something, in the order of the tables.
    pub fn servers(&self) -> impl Iterator<Item = Server> {
        Server::ALL.into_iter().filter(|server| self.of(*server).next().is_some())
    }

    fn of(&self, server: Server) -> impl Iterator<Item = &Found> {
        self.runs.iter().filter(move |run| run.server == server).map(|run| &run.found)
    }
}
