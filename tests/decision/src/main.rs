//! Measures what a decision costs and what a simulated hour takes, and prints it as JSON. `cargo xtask bench decision` builds and runs it.

use anyhow::Result;
use clap::Parser;
use plimsoll_decision::counting::Counting;
use plimsoll_decision::measure::{Case, State, measure};
use plimsoll_decision::{Told, hour};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Measures what a decision costs and what a simulated hour takes.
#[derive(Parser)]
struct Arguments {
    /// Numbers of pods.
    #[arg(long, value_delimiter = ',', required = true)]
    pods: Vec<usize>,
    /// Numbers of finite edges of a pod's histogram.
    #[arg(long, value_delimiter = ',', required = true)]
    edges: Vec<usize>,
    /// Decisions of each case with cold caches, and as many with warm ones.
    #[arg(long)]
    pairs: usize,
    /// Simulated hours.
    #[arg(long)]
    hours: usize,
    /// Less history before, and simulated minutes in place of hours.
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<()> {
    let Arguments { pods, edges, pairs, hours, quick } = Arguments::parse();
    let mut cases = Vec::new();
    for state in State::ALL {
        for &pods in &pods {
            for &edges in &edges {
                cases.push(measure(Case { state, pods, edges }, pairs, quick)?);
            }
        }
    }
    let hours = hour::measure(if quick { 60 } else { 3600 }, hours)?;
    println!("{}", serde_json::to_string(&Told { cases, hours })?);
    Ok(())
}
