//! `kubectl plimsoll`: tells what a load would have come to. kubectl finds it by its name on the PATH.

mod history;
mod manifest;
mod prometheus;
mod report;
mod service;
mod simulate;
mod worst;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tells what a load would have come to under Plimsoll. It talks to no cluster: it reads files, or a history from Prometheus.
#[derive(Parser)]
#[command(name = "kubectl-plimsoll", bin_name = "kubectl plimsoll", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replays a history of load against a manifest, beside the HPA at 50 % and 70 % of CPU.
    Simulate(simulate::Options),
}

fn main() -> ExitCode {
    let Arguments { command: Command::Simulate(options) } = Arguments::parse();
    match simulate(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(options: &simulate::Options) -> Result<()> {
    let report = simulate::run(options)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
