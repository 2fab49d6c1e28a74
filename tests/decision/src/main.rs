//! Measures what a decision costs and prints it as JSON. `cargo xtask bench decision` builds and runs it.

use anyhow::Result;
use clap::Parser;
use plimsoll_decision::counting::Counting;
use plimsoll_decision::measure::{Case, State, measure};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Measures what a decision costs.
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
    /// Less history before.
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<()> {
    let Arguments { pods, edges, pairs, quick } = Arguments::parse();
    let mut found = Vec::new();
    for state in State::ALL {
        for &pods in &pods {
            for &edges in &edges {
                found.push(measure(Case { state, pods, edges }, pairs, quick)?);
            }
        }
    }
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}
