//! The scaling engine beside the autoscalers that people use and an oracle, in the simulator. A program of its own, so that
//! it is built with all optimisations: an hour of requests is replayed thousands of times.
//!
//! It reads no clock but for its progress: the same options give the same JSON, to the byte. Reading order: [`traces`] and
//! [`case`] (on what), [`measure`] (which policies), [`causes`] (of missed minutes), [`again`] (Plimsoll alone), [`results`].

pub mod again;
pub mod case;
pub mod causes;
pub mod measure;
pub mod progress;
pub mod results;
pub mod traces;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use plimsoll_simulator::sweep::parallel;

use self::case::Case;
use self::measure::{Effort, Measured};
use self::progress::Progress;
use self::results::{CaseRuns, Results, Run};

/// The run that is shown over time, if it is among the cases.
const SHOWN: &str = "flash crowd on exponential";
const SEEDS_DEFAULT: u64 = 3;
const HOURS_DEFAULT: u64 = 3;

/// What is compared.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A folder of traces, CSV files of `second,requests_per_second`. Absent: only those that it makes itself.
    #[arg(long, value_name = "DIR")]
    pub traces: Option<PathBuf>,
    /// Of a longer trace, so many hours around its highest minute.
    #[arg(long, value_name = "N", default_value_t = HOURS_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=24 * 31))]
    pub hours: u64,
    /// So many seeds, from 1 on [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    pub seeds: Option<u64>,
    /// Only cases whose name holds this, such as "step on exponential" or "dearer release".
    #[arg(long, value_name = "FILTER", default_value = "")]
    pub only: String,
    /// Take the peers' scores from the JSON of an earlier run of the same cases, and run only Plimsoll anew; seeds that it
    /// does not have are run in full.
    #[arg(long, value_name = "FILE")]
    pub peers_from: Option<PathBuf>,
    /// A few cases, settings and one seed: shows that everything works.
    #[arg(long)]
    pub quick: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            traces: None,
            hours: HOURS_DEFAULT,
            seeds: None,
            only: String::new(),
            peers_from: None,
            quick: false,
        }
    }
}

impl Options {
    /// The command-line arguments that say the same.
    pub fn arguments(&self) -> Vec<OsString> {
        let Self { traces, hours, seeds, only, peers_from, quick } = self;
        let mut arguments: Vec<OsString> =
            vec![format!("--hours={hours}").into(), format!("--only={only}").into()];
        for (name, path) in [("--traces", traces), ("--peers-from", peers_from)] {
            arguments.extend(path.iter().flat_map(|path| [name.into(), path.into()]));
        }
        arguments.extend(seeds.map(|seeds| format!("--seeds={seeds}").into()));
        arguments.extend(quick.then(|| "--quick".into()));
        arguments
    }
}

/// Runs all policies on all cases.
///
/// # Errors
/// When a trace cannot be read, no case is left, or an earlier run does not fit.
pub fn compare(options: &Options) -> Result<Results> {
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
    for earlier in earlier.iter().flatten().filter(|earlier| earlier.runs.is_empty()) {
        eprintln!(
            "  {} is not in the earlier run, not of this length and height: it runs in full",
            earlier.name()
        );
    }
    let shown = cases.iter().position(|case| case.name() == SHOWN).unwrap_or_default();
    let mut measured = measure_all(&cases, |index| match &earlier {
        Some(earlier) => again::measure(&cases[index], &earlier[index], effort, index == shown),
        None => Ok(measure::measure(&cases[index], effort)),
    })?;
    let mut results = Results {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        quick: options.quick,
        only: options.only.clone(),
        seeds,
        traces: read.iter().map(Into::into).collect(),
        suite_settings: Vec::new(),
        shown: measured.get_mut(shown).and_then(|measured| measured.shown.take()),
        cases: measured.into_iter().map(|measured| measured.case).collect(),
    };
    add_suite(&mut results, &cases, earlier.as_deref().unwrap_or_default(), effort);
    Ok(results)
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_same_options_give_the_same_json() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine.csv"), "0,3\n120,5\n300,4\n").unwrap();
        let options = Options {
            traces: Some(folder.path().to_path_buf()),
            hours: 1,
            seeds: Some(2),
            only: "mine on throttled".into(),
            quick: true,
            ..Options::default()
        };
        let results = compare(&options).unwrap();
        let json = |results: &Results| serde_json::to_string(results).unwrap();
        assert_eq!(json(&results), json(&compare(&options).unwrap()));
        assert_eq!((results.traces[0].name.as_str(), results.cases.len()), ("mine", 1));
        let of = |role| results.cases[0].runs.iter().filter(|run| run.role == role).count();
        assert_eq!((of(results::Role::Plimsoll), of(results::Role::Suite)), (2, 10));
        assert!(!results.shown.unwrap().moments.is_empty());
    }

    #[test]
    fn a_filter_that_nothing_meets_is_an_error_that_shows_a_name() {
        let options = Options { only: "nothing like it".into(), quick: true, ..Options::default() };
        let error = compare(&options).unwrap_err().to_string();
        assert!(error.contains("nothing like it") && error.contains("step on exponential"), "{error}");
    }

    #[test]
    fn arguments_say_what_the_options_are() {
        #[derive(Parser)]
        struct Arguments {
            #[command(flatten)]
            options: Options,
        }
        let given = Options {
            traces: Some("a folder/of traces".into()),
            hours: 5,
            seeds: Some(2),
            only: "-- on exponential".into(),
            peers_from: Some("earlier.json".into()),
            quick: true,
        };
        for options in [Options::default(), given] {
            let parsed =
                Arguments::parse_from([OsString::from("program")].into_iter().chain(options.arguments()));
            assert_eq!(parsed.options, options);
        }
    }
}
