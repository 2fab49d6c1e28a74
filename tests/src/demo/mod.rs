//! The main job, shown end to end: install, apply, load, watch the operator keep the promise, tell what happened.
//!
//! The way through: [`stage`] brings a cluster with the operator and the sample, [`load`] runs a trace against it,
//! [`watch`] sees what the operator does meanwhile, [`live`] prints it, [`report`] writes it down.

mod html;
mod live;
mod load;
mod pictures;
mod report;
mod stage;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use plimsoll_load::{Trace, record::Line};

use crate::progress::{note, step};
use crate::{cluster, images};
use stage::Stage;
pub use watch::decisions;

/// What to show.
#[derive(Args)]
pub struct Options {
    /// Minutes of load.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Folder for report.json, report.html and the pictures.
    #[arg(long, default_value = "out/demo")]
    report: PathBuf,
    /// A CSV of `second,requests_per_second` to follow, compressed into the minutes. Absent: one made from the seed.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Of the trace and of the moments at which requests are sent.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Requests a second at the trace's peak.
    #[arg(long, default_value_t = 120.0)]
    peak: f64,
    /// Removes everything the demo made, the local cluster included, and does nothing else.
    #[arg(long)]
    down: bool,
    /// With --context: leaves the operator and the sample in the cluster. On the local cluster they always stay.
    #[arg(long)]
    keep: bool,
    /// Uses this context of your kubeconfig in place of the local cluster: no root, nothing installed on the machine.
    #[arg(long)]
    context: Option<String>,
    /// With --context: where the cluster pulls Plimsoll's images from.
    #[arg(long, default_value = images::REGISTRY)]
    registry: String,
}

/// Runs the demo.
///
/// # Errors
/// When a part of it cannot be brought up or the load could not be run; never because the promise was broken, which is
/// for the report to tell.
pub async fn run(options: Options) -> Result<()> {
    if options.down {
        return stage::down(options.context.as_deref()).await;
    }
    let trace = trace(&options)?;
    let stage = Stage::prepare(options.context.as_deref(), &options.registry).await?;
    let outcome = play(&stage, &options, trace).await;
    // What was measured is written before anything else may fail.
    let written = outcome.and_then(|report| report::write(&options.report, &report).map(|()| report));
    if let Ok(report) = &written {
        live::print_summary(report, &options.report);
        live::print_what_next(&stage, options.keep);
    }
    if !stage.is_local() && !options.keep {
        step("Remove what the demo made in your cluster", stage.remove()).await?;
    }
    written.map(drop)
}

/// The trace, fitted into the minutes and the peak asked for, and how it came to be.
struct Played {
    trace: Trace,
    source: String,
    factor: f64,
}

fn trace(options: &Options) -> Result<Played> {
    if !(0.5..=720.0).contains(&options.minutes) {
        bail!("--minutes must be from 0.5 to 720");
    }
    if !(1.0..=2000.0).contains(&options.peak) {
        bail!("--peak must be from 1 to 2000 requests a second");
    }
    let duration = Duration::from_secs_f64((options.minutes * 60.0).round());
    let (trace, source) = match &options.trace {
        None => (Trace::generated(options.seed, duration), format!("generated from seed {}", options.seed)),
        Some(file) => {
            let csv = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            let trace = Trace::parse(&csv).with_context(|| file.display().to_string())?;
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            (trace.compressed(duration), name)
        }
    };
    let (trace, factor) = trace.with_peak(options.peak);
    Ok(Played { trace, source, factor })
}

async fn play(stage: &Stage, options: &Options, played: Played) -> Result<report::Report> {
    let watch = watch::Watch::start(stage).await?;
    let mut load = step(
        "Start the load generator in the cluster",
        load::Load::start(stage, &played.trace, options.seed),
    )
    .await?;
    note(format!(
        "load: {} over {:.1} minutes, peak {:.0} requests/s (the trace's rates times {:.3})",
        played.source, options.minutes, options.peak, played.factor
    ));
    let mut live = live::Live::new();
    let mut seconds = Vec::new();
    let summary = loop {
        match load.next().await? {
            Line::Second(second) => {
                let seen = watch.now();
                live.second(&second, &seen, &played.trace);
                seconds.push(report::row(second, &seen));
            }
            Line::Summary(summary) => break summary,
        }
    };
    load.remove().await;
    let seen = watch.finish().await;
    Ok(report::Report::new(&played.trace, played.source, played.factor, seconds, summary, seen))
}

/// Where the local cluster's kubeconfig is, for what the demo tells at its end.
fn local_kubeconfig() -> PathBuf {
    cluster::layout::kubeconfig()
}
