//! Compares the policies and writes every run's scores as JSON. `cargo xtask bench scaling` builds and runs it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use plimsoll_scaling::{Options, compare};

/// Compares the scaling engine with its peers, and tells on standard error how far it is.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Where every run's scores go.
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
}

fn main() -> Result<()> {
    let Arguments { options, json } = Arguments::parse();
    let results = compare(&options)?;
    let mut text = serde_json::to_vec(&results).context("write the results as JSON")?;
    text.push(b'\n');
    std::fs::write(&json, &text).with_context(|| format!("write {}", json.display()))
}
