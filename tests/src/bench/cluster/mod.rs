//! `cargo xtask bench cluster`: the operator on the real local cluster. A step of the load under Plimsoll and under the real
//! HPA, and one trace on the cluster and in the simulator.
//!
//! It brings the cluster up, unless it is, and removes it. Reading order: [`stage`] (what is set up), [`load`], [`watch`],
//! [`windows`] and [`replicas`] (what is made of that), [`step`] with [`hpa`], [`validate`] with [`calibrate`] and
//! [`simulated`], [`results`], [`goals`], [`markdown`], [`pictures`].

pub mod calibrate;
pub mod goals;
pub mod hpa;
pub mod load;
pub mod markdown;
pub mod pictures;
pub mod replicas;
pub mod results;
pub mod simulated;
pub mod stage;
pub mod step;
pub mod validate;
pub mod watch;
pub mod windows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use plimsoll_load::Trace;

use self::results::Results;
use self::stage::Stage;
use self::step::Spans;
use self::validate::Load;
use super::data;
use super::machine::{self, Machine};
use crate::progress::{note, step};
use crate::{paths, tools};

/// The trace that is replayed where no other is named: a ramp, a plateau, a step and a fall, in eight minutes.
const TRACE: (&str, &str) = ("ramp-step-fall", include_str!("../../../bench/cluster/trace.csv"));
/// What the published table of the trace is of.
const MEASURED: &str = "docs/data/cluster-trace.json.gz";
/// Among the versions: what simulated a run that another version has measured.
const SIMULATED_BY: &str = "simulated by plimsoll";
/// More than this is not for a machine that holds cluster, pods and generator.
const PEAK_MAX: f64 = 400.0;
const SECONDS_MAX: usize = 3600;

/// What is measured.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// One part only.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// A CSV of `second,requests_per_second` to replay, of at most an hour and 400 requests a second. Absent: one of eight minutes.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Only the simulation, of what an earlier run has measured on the cluster: its `--json`, or docs/data/cluster-trace.json.gz.
    /// Needs no cluster.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "trace", "quick"])]
    again: Option<PathBuf>,
    /// Where all that was seen goes; the pictures go beside it.
    #[arg(long, value_name = "FILE", default_value = "out/bench/cluster.json")]
    json: PathBuf,
    /// Everything shortened: shows that it works, and its numbers are worth nothing.
    #[arg(long)]
    quick: bool,
    /// Write the tables into docs/benchmarks.md and the pictures into docs/pictures.
    #[arg(long, conflicts_with = "quick")]
    publish: bool,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// A step of the load, under Plimsoll and under the HPA.
    Step,
    /// A trace on the cluster and in the simulator.
    Trace,
}

/// Measures, prints the tables and writes numbers and pictures.
///
/// # Errors
/// When this is not root on Linux, the trace cannot be read, the cluster or the operator does not come up, or a part cannot
/// be measured. Missed goals are no error.
pub async fn run(options: Options) -> Result<()> {
    let results = match &options.again {
        Some(file) => again(file).await?,
        None => on_the_cluster(&options).await?,
    };
    let rendered = markdown::render(&results);
    println!("{rendered}");
    let mut json = serde_json::to_vec_pretty(&results).context("write the results as JSON")?;
    json.push(b'\n');
    write(&options.json, &json)?;
    let pictures = if options.publish {
        markdown::publish(&paths::project().join("docs/benchmarks.md"), &results)?;
        if results.validation.is_some() {
            let trace = Results { step: None, ..results.clone() };
            data::pack(&serde_json::to_vec(&trace)?, &paths::project().join(MEASURED))?;
        }
        paths::project().join("docs/pictures")
    } else {
        options.json.parent().map_or_else(PathBuf::new, Path::to_path_buf)
    };
    if let Some(step) = &results.step {
        let picture = pictures::step(step)?;
        write(&pictures.join(pictures::STEP).with_extension("svg"), picture.as_bytes())?;
    }
    if let Some(validation) = &results.validation {
        let picture = pictures::validation(validation)?;
        write(&pictures.join(pictures::VALIDATION).with_extension("svg"), picture.as_bytes())?;
    }
    note(format!(
        "all that was seen is in {}, the pictures in {}",
        options.json.display(),
        pictures.display()
    ));
    Ok(())
}

/// What `file` has of the cluster, with the simulation as it is now.
async fn again(file: &Path) -> Result<Results> {
    let mut results: Results = data::read(file)?;
    results.step = None;
    let validation = results.validation.take().with_context(|| format!("{} has no trace", file.display()))?;
    let anew = tokio::task::spawn_blocking(move || validation.simulated_anew());
    results.validation = Some(step("Simulate what was measured", async { Ok(anew.await?) }).await?);
    results.versions.insert(SIMULATED_BY.to_owned(), machine::plimsoll().await);
    Ok(results)
}

async fn on_the_cluster(options: &Options) -> Result<Results> {
    let load = read_trace(options)?;
    let machine = Machine::read()?;
    let versions = versions().await?;
    let stage = Stage::set().await?;
    let measured = measure(&stage, options, load, machine, versions).await;
    // Whatever happened, nothing is left running.
    let struck = stage.strike().await;
    let results = measured?;
    struck?;
    Ok(results)
}

async fn measure(
    stage: &Stage,
    options: &Options,
    load: Load,
    machine: Machine,
    versions: BTreeMap<String, String>,
) -> Result<Results> {
    let takes = |part| options.only.is_none_or(|only| only == part);
    let mut results = Results {
        started: Timestamp::now(),
        machine,
        versions,
        quick: options.quick,
        step: None,
        validation: None,
    };
    if takes(Part::Step) {
        let spans = if options.quick { Spans::QUICK } else { Spans::FULL };
        results.step = Some(step::measure(stage, spans).await?);
    }
    if takes(Part::Trace) {
        results.validation = Some(validate::measure(stage, load, options.quick).await?);
    }
    Ok(results)
}

fn read_trace(options: &Options) -> Result<Load> {
    let (name, csv) = match &options.trace {
        None => (TRACE.0.to_owned(), TRACE.1.to_owned()),
        Some(file) => {
            let csv = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            (file.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(), csv)
        }
    };
    let trace = Trace::parse(&csv).with_context(|| name.clone())?;
    let load = Load::of(&name, trace, options.quick);
    ensure!(load.rates.len() <= SECONDS_MAX, "{name} takes {} s; an hour is the most", load.rates.len());
    let peak = load.rates.iter().copied().fold(0.0, f64::max);
    ensure!(peak <= PEAK_MAX, "{name} has a peak of {peak:.0} requests/s; {PEAK_MAX:.0} are the most");
    Ok(load)
}

async fn versions() -> Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::from([("plimsoll".to_owned(), machine::plimsoll().await)]);
    for family in [tools::KUBERNETES, tools::METRICS_SERVER] {
        versions.insert(family.name.to_owned(), family.version()?);
    }
    Ok(versions)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(trace: Option<PathBuf>, quick: bool) -> Options {
        Options { only: None, trace, again: None, json: PathBuf::from("unused.json"), quick, publish: false }
    }

    #[test]
    fn the_trace_that_comes_with_it_is_within_what_two_cores_carry() {
        let load = read_trace(&options(None, false)).unwrap();
        assert!((480..=600).contains(&load.rates.len()), "{}", load.rates.len());
        let peak = load.rates.iter().copied().fold(0.0, f64::max);
        // At 3 ms a request, which is more than was measured.
        assert!(peak * 0.003 < 0.6, "{peak}");
        assert_eq!(read_trace(&options(None, true)).unwrap().rates.len(), 120);
    }

    #[test]
    fn the_published_table_is_of_the_published_run() {
        let results: Results = data::read(&paths::project().join(MEASURED)).unwrap();
        let page = std::fs::read_to_string(paths::project().join("docs/benchmarks.md")).unwrap();
        assert!(
            page.contains(&markdown::render(&results)),
            "run `cargo xtask bench cluster --again {MEASURED} --publish`"
        );
    }

    #[test]
    fn a_trace_beyond_the_machine_is_refused_before_anything_is_started() {
        let folder = tempfile::tempdir().unwrap();
        for (csv, why) in [("0,900\n1,900\n", "400 are the most"), ("0,1\n4000,1\n", "an hour is the most")] {
            let file = folder.path().join("mine.csv");
            std::fs::write(&file, csv).unwrap();
            let error = read_trace(&options(Some(file), false)).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("mine"), "{error}");
        }
    }
}
