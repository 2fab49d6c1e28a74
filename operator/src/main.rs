//! The operator's binary: reads the command line, starts telemetry and hands over to the library.

use anyhow::Context as _;
use clap::Parser as _;
use plimsoll_operator::config::{Cli, Command};
use plimsoll_operator::{check, run, telemetry};

// In place of musl's own: on a static build a decision over 100 pods with 500 edges each took 0.74 ms of CPU in place of
// 1.11 ms (`cargo xtask bench decision`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads at most: each keeps memory for itself, and a node may have far more cores than an operator has work for.
const WORKER_THREADS_MAX: usize = 8;

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd => {
            print!("{}", plimsoll_crds::definition().context("render the CustomResourceDefinition")?);
            Ok(())
        }
        Command::Check(options) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the runtime")?;
            println!("{}", runtime.block_on(check::run(&options))?);
            Ok(())
        }
        Command::Run(config) => {
            let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(cores.min(WORKER_THREADS_MAX))
                .enable_all()
                .build()
                .context("start the runtime")?;
            let in_runtime = runtime.enter();
            telemetry::init(config.log_format)?;
            drop(in_runtime);
            let ended = runtime.block_on(run(*config));
            #[cfg(feature = "otlp")]
            plimsoll_otlp::flush();
            // A reconcile that hangs must not hold the process back: its lease is gone.
            runtime.shutdown_background();
            ended
        }
    }
}
