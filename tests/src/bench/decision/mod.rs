//! `cargo xtask bench decision`: what a decision of the scaling engine costs, against pods and histogram sizes, and what a simulated
//! hour takes.
//!
//! `plimsoll-decision` measures, built as the operator ships; this builds and runs it and tells what it found. Reading
//! order: [`results`], [`goals`], [`markdown`].

pub mod goals;
pub mod markdown;
pub mod results;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use jiff::Timestamp;
use plimsoll_decision::Told;
use tokio::process::Command;

use self::results::Results;
use super::machine::{self, Machine};
use crate::progress::{note, step};
use crate::{command, images, paths};

const PROGRAM: &str = "plimsoll-decision";
const LIMIT: Duration = Duration::from_mins(30);
/// Pods and edges that are measured, each number of the one with each of the other.
const PODS: [usize; 4] = [1, 10, 100, 1000];
const EDGES: [usize; 4] = [12, 50, 200, 500];
/// Decisions of each case with cold caches, and as many with warm ones.
const PAIRS: usize = 40;
/// Simulated hours of each policy.
const HOURS: usize = 5;
/// Of `--quick`.
const QUICK: (&[usize], &[usize], usize, usize) = (&[1, 100], &[12, 50], 3, 2);

/// How it is measured.
#[derive(Args)]
pub struct Options {
    /// Where every decision's and simulated hour's numbers go.
    #[arg(long, value_name = "FILE", default_value = "out/bench/decision.json")]
    json: PathBuf,
    /// A few cases and decisions: shows that everything works, and its numbers are worth little.
    #[arg(long)]
    quick: bool,
    /// Write the tables into docs/benchmarks.md.
    #[arg(long, conflicts_with = "quick")]
    publish: bool,
}

/// Measures, prints the tables and writes the numbers.
///
/// # Errors
/// When the measuring program cannot be built or fails, or a file cannot be written.
pub async fn run(options: Options) -> Result<()> {
    let built = images::compile(&[PROGRAM]);
    let program = step("Build the engine as it ships", built).await?.join(PROGRAM);
    let (pods, edges, pairs, hours) =
        if options.quick { QUICK } else { (&PODS[..], &EDGES[..], PAIRS, HOURS) };
    let mut measure = Command::new(program);
    measure.args(["--pods", &list(pods), "--edges", &list(edges), "--pairs", &pairs.to_string()]);
    measure.args(["--hours", &hours.to_string()]);
    if options.quick {
        measure.arg("--quick");
    }
    let told = step("Measure decisions and simulated hours", command::run(&mut measure, LIMIT)).await?;
    let Told { cases, hours } =
        serde_json::from_str(&told).context("read what the measuring program told")?;
    let results = Results {
        started: Timestamp::now(),
        machine: Machine::read()?,
        version: machine::plimsoll().await,
        quick: options.quick,
        cases,
        hours,
    };
    let rendered = markdown::render(&results);
    println!("{rendered}");
    super::write(&options.json, &results)?;
    note(format!("every decision's and hour's numbers are in {}", options.json.display()));
    if options.publish {
        markdown::publish(&paths::project().join("docs/benchmarks.md"), &rendered)?;
    }
    Ok(())
}

fn list(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}
