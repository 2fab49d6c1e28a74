//! Every command of the project. Continuous integration calls these and nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use plimsoll_tests::{bench, cluster, demo, generate, suite};

/// Plimsoll's commands for developers. Each installs or builds what it needs and can be run again.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the main job end to end: a cluster, the chart, a sample API, load, and what the operator makes of it.
    Demo(demo::Options),
    /// Runs a real Kubernetes cluster of one node on this machine.
    Cluster {
        #[command(subcommand)]
        command: Cluster,
    },
    /// Runs every test, the end-to-end ones on the local cluster included.
    Test(suite::Options),
    /// Measures Plimsoll beside what a user would pick in its place, on this machine.
    Bench {
        #[command(subcommand)]
        command: bench::Command,
    },
    /// Writes again what is generated from the sources: the CustomResourceDefinition and golden files.
    Generate,
}

#[derive(Subcommand)]
enum Cluster {
    /// Boots the cluster, or finds it running.
    Up,
    /// Ends it and removes everything of it, but the cache of built programs.
    Down,
    /// Tells whether it runs, component by component.
    Status,
    /// Prints the path of its kubeconfig, for `export KUBECONFIG=$(cargo xtask cluster kubeconfig)`.
    Kubeconfig,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: start the asynchronous runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let left = match arguments.command {
        Command::Bench { command: bench::Command::Cluster(_) | bench::Command::Fleet(_) } => {
            "what is there is reused by the next run, or removed by `cargo xtask cluster down`"
        }
        Command::Bench { .. } => "everything that was started has been ended",
        _ => {
            "what is there is reused by the next run, or removed by `cargo xtask demo --down` (with the same --context, if there was one)"
        }
    };
    let result = runtime.block_on(async {
        tokio::select! {
            result = run(arguments.command) => result,
            _ = tokio::signal::ctrl_c() => {
                eprintln!("\ninterrupted; {left}");
                std::process::exit(130);
            }
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(options) => demo::run(options).await,
        Command::Cluster { command } => match command {
            Cluster::Up => {
                let kubeconfig: PathBuf = cluster::up(&cluster::lock()?).await?;
                println!("export KUBECONFIG={}", kubeconfig.display());
                Ok(())
            }
            Cluster::Down => cluster::down(&cluster::lock()?).await,
            Cluster::Status => cluster::print_status().await,
            Cluster::Kubeconfig => {
                println!("{}", cluster::layout::kubeconfig().display());
                Ok(())
            }
        },
        Command::Test(options) => suite::run(options).await,
        Command::Bench { command } => bench::run(command).await,
        Command::Generate => generate::run().await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_line_can_be_read() {
        Arguments::command().debug_assert();
    }
}
