//! `cargo xtask bench scaling`: the scaling engine beside the autoscalers that people use and an oracle, in the simulator.
//!
//! It reads no clock but for its progress: the same options give the same JSON, to the byte. Reading order: [`traces`] and
//! [`case`] (on what), [`measure`] (which policies), [`again`] (Plimsoll alone), [`results`], [`goals`], [`markdown`],
//! [`pictures`].

pub mod again;
pub mod case;
pub mod goals;
pub mod markdown;
pub mod measure;
pub mod pictures;
pub mod results;
pub mod traces;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use plimsoll_simulator::sweep::parallel;

use self::case::Case;
use self::measure::{Effort, Measured};
use self::results::{CaseRuns, Results, Run};
use crate::paths;
use crate::progress::note;

/// The run that is shown over time, if it is among the cases.
const SHOWN: &str = "flash crowd on exponential";
const SEEDS_DEFAULT: u64 = 3;

/// What is compared.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A folder of traces, CSV files of `second,requests_per_second`. Absent: only those that it makes itself.
    #[arg(long, value_name = "DIR")]
    traces: Option<PathBuf>,
    /// Of a longer trace, so many hours around its highest minute.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=24 * 31))]
    hours: u64,
    /// Where every run's scores go; the pictures go beside it.
    #[arg(long, value_name = "FILE", default_value = "out/bench/scaling.json")]
    json: PathBuf,
    /// So many seeds, from 1 on [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: Option<u64>,
    /// Only cases whose name holds this, such as "step on exponential" or "dearer release".
    #[arg(long, value_name = "FILTER", default_value = "")]
    only: String,
    /// Take the peers' scores from the JSON of an earlier run of the same cases, and run only Plimsoll anew.
    #[arg(long, value_name = "FILE")]
    peers_from: Option<PathBuf>,
    /// A few cases, settings and one seed: shows that everything works.
    #[arg(long)]
    quick: bool,
    /// Write the tables into docs/benchmarks.md and the pictures into docs/pictures.
    #[arg(long, conflicts_with = "quick")]
    publish: bool,
}

/// Runs, prints the tables and writes numbers and pictures.
///
/// # Errors
/// When a trace cannot be read, no case is left, an earlier run does not fit, or a file cannot be written.
pub async fn run(options: Options) -> Result<()> {
    // The machine's cores are busy for long: not on the threads that answer to Ctrl-C.
    tokio::task::spawn_blocking(move || compare(&options)).await.context("run the comparison")?
}

fn compare(options: &Options) -> Result<()> {
    let read = match &options.traces {
        Some(folder) => traces::read(folder, Duration::from_hours(options.hours))?,
        None => Vec::new(),
    };
    let seeds: Vec<u64> =
        (1..=options.seeds.unwrap_or(if options.quick { 1 } else { SEEDS_DEFAULT })).collect();
    let effort = Effort::of(options.quick);
    let cases = case::all(&read, &seeds, options.quick, &options.only);
    ensure!(
        !cases.is_empty(),
        "no case's name holds {:?}; names are such as \"step on exponential\"",
        options.only
    );
    let peers_from = options.peers_from.as_deref();
    let earlier = peers_from.map(|file| again::read(file, &cases, &seeds, options.quick)).transpose()?;
    let shown = cases.iter().position(|case| case.name() == SHOWN).unwrap_or_default();
    let measured = measure_all(&cases, |index| match &earlier {
        Some(earlier) => again::measure(&cases[index], &earlier[index], index == shown),
        None => Ok(measure::measure(&cases[index], effort)),
    })?;
    let shown = measured.get(shown);
    let timeline = shown.map(|shown| pictures::timeline(&shown.timeline, &shown.best_peer)).transpose()?;
    let mut results = Results {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        quick: options.quick,
        only: options.only.clone(),
        seeds,
        traces: read.iter().map(Into::into).collect(),
        suite_settings: Vec::new(),
        cases: measured.into_iter().map(|measured| measured.case).collect(),
    };
    add_suite(&mut results, &cases, earlier.as_deref().unwrap_or_default(), effort);
    let rendered = markdown::render(&results);
    println!("{rendered}");
    let mut json = serde_json::to_vec_pretty(&results).context("write the results as JSON")?;
    json.push(b'\n');
    write(&options.json, &json)?;
    let pictures = if options.publish {
        markdown::publish(&paths::project().join("docs/benchmarks.md"), &rendered)?;
        paths::project().join("docs/pictures")
    } else {
        options.json.parent().map_or_else(PathBuf::new, Path::to_path_buf)
    };
    let pareto = pictures::pareto(&results, effort)?;
    write(&pictures.join(pictures::PARETO).with_extension("svg"), pareto.as_bytes())?;
    if let Some(timeline) = timeline {
        write(&pictures.join(pictures::TIMELINE).with_extension("svg"), timeline.as_bytes())?;
    }
    note(format!(
        "every run's scores are in {}, the pictures in {}",
        options.json.display(),
        pictures.display()
    ));
    Ok(())
}

/// Measures the longest cases first, so that no core is left alone with one, and gives them in the cases' order. Once one
/// has failed, no other is begun.
fn measure_all(cases: &[Case], measure: impl Fn(usize) -> Result<Measured> + Sync) -> Result<Vec<Measured>> {
    let mut order: Vec<usize> = (0..cases.len()).collect();
    order.sort_by(|&a, &b| cases[b].weight().total_cmp(&cases[a].weight()));
    let progress = Progress::new("measured", cases);
    let failed = AtomicBool::new(false);
    let measured = parallel(&order, |&index| {
        if failed.load(Ordering::Relaxed) {
            return None;
        }
        let measured = measure(index);
        if measured.is_err() {
            failed.store(true, Ordering::Relaxed);
        }
        progress.done(&cases[index]);
        Some(measured)
    });
    let measured = measured.into_iter().flatten().collect::<Result<Vec<_>>>()?;
    let mut measured: Vec<(usize, Measured)> = order.into_iter().zip(measured).collect();
    measured.sort_by_key(|&(index, _)| index);
    Ok(measured.into_iter().map(|(_, measured)| measured).collect())
}

/// Finds each peer's setting that is best over the whole suite, and runs it where no run of it is in `earlier`, which has
/// each case or none.
fn add_suite(results: &mut Results, cases: &[Case], earlier: &[CaseRuns], effort: Effort) {
    results.suite_settings = measure::suite_settings(&results.cases, effort);
    let pairs: Vec<_> = cases.iter().zip(&results.cases).enumerate().collect();
    let progress = Progress::new("with the suite's settings", cases);
    let runs = parallel(&pairs, |&(index, (case, measured))| {
        let earlier = earlier.get(index).map_or(&[] as &[Run], |earlier| &earlier.runs);
        let runs = measure::measure_suite(case, measured, earlier, &results.suite_settings);
        progress.done(case);
        runs
    });
    for (case, runs) in results.cases.iter_mut().zip(runs) {
        case.runs.extend(runs);
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
}

/// Tells how far it is, at most every few seconds, and how long the rest will take.
struct Progress {
    what: &'static str,
    cases: usize,
    weight: f64,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    cases: usize,
    weight: f64,
    told: Instant,
}

impl Progress {
    const EVERY: Duration = Duration::from_secs(10);

    fn new(what: &'static str, cases: &[Case]) -> Self {
        let weight = cases.iter().map(Case::weight).sum::<f64>();
        let started = Instant::now();
        note(format!(
            "{} cases, {:.0} million simulated requests for each policy",
            cases.len(),
            weight / 1e6
        ));
        Self {
            what,
            cases: cases.len(),
            weight,
            started,
            state: Mutex::new(State { cases: 0, weight: 0.0, told: started }),
        }
    }

    fn done(&self, case: &Case) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.cases += 1;
        state.weight += case.weight();
        // Before every core has ended a case, the estimate would count the others' as not begun.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let first_or_last = state.cases == cores || state.cases == self.cases;
        if !first_or_last && (state.cases < cores || state.told.elapsed() < Self::EVERY) {
            return;
        }
        state.told = Instant::now();
        let elapsed = self.started.elapsed().as_secs_f64();
        let left = elapsed * (self.weight - state.weight) / state.weight.max(1.0);
        note(format!(
            "{} of {} cases {} in {:.1} min, about {:.0} min to go: {}",
            state.cases,
            self.cases,
            self.what,
            elapsed / 60.0,
            left / 60.0,
            case.name()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_options_give_the_same_json_and_the_tables_and_pictures_are_made() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine.csv"), "0,3\n120,5\n300,4\n").unwrap();
        let options = Options {
            traces: Some(folder.path().to_path_buf()),
            hours: 1,
            json: folder.path().join("out/one.json"),
            seeds: Some(2),
            only: "mine on throttled".into(),
            peers_from: None,
            quick: true,
            publish: false,
        };
        compare(&options).unwrap();
        let again = Options { json: folder.path().join("out/two.json"), ..options };
        compare(&again).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap();
        assert_eq!(read("one.json"), read("two.json"));
        let json: serde_json::Value = serde_json::from_str(&read("one.json")).unwrap();
        assert_eq!(json["traces"][0]["name"], "mine");
        assert_eq!(json["cases"].as_array().unwrap().len(), 1);
        let runs = json["cases"][0]["runs"].as_array().unwrap();
        assert_eq!(runs.iter().filter(|run| run["role"] == "plimsoll").count(), 2);
        assert_eq!(runs.iter().filter(|run| run["role"] == "suite").count(), 10);
        for name in [pictures::PARETO, pictures::TIMELINE] {
            assert!(read(&format!("{name}.svg")).contains("oracle"), "{name}");
        }
    }

    #[test]
    fn a_filter_that_nothing_meets_is_an_error_that_shows_a_name() {
        let options = Options {
            traces: None,
            hours: 1,
            json: PathBuf::from("unused.json"),
            seeds: None,
            only: "nothing like it".into(),
            peers_from: None,
            quick: true,
            publish: false,
        };
        let error = compare(&options).unwrap_err().to_string();
        assert!(error.contains("nothing like it") && error.contains("step on exponential"), "{error}");
    }
}
