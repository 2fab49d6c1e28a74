//! Measures Plimsoll anew beside the peers of an earlier run: what took the time then is not run again when only the engine
//! has changed. Cases that the earlier run did not have, and seeds that come after its own, are measured in full.
//!
//! It never puts together what does not belong together: seeds, cases and policies are held to the earlier run's, and what
//! runs again beside Plimsoll, one peer on each scenario at least, must come to what it came to then.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use plimsoll_simulator::engine::Plimsoll;
use plimsoll_simulator::peers::hindsight::Found;
use plimsoll_simulator::peers::settings::customary;
use plimsoll_simulator::{Prepared, oracle};

use crate::case::Case;
use crate::measure::{Effort, Judge, Measured, policies};
use crate::results::{CaseRuns, Results, Role, Run, Who};

/// What to do when the earlier run does not fit.
const INSTEAD: &str = "run without --peers-from";

/// What an earlier run found on each of `cases`, in their order; no runs where it did not have the case.
///
/// # Errors
/// When the file cannot be read or is not of `--json`, when it begins with other seeds, is of another effort or has none of the
/// cases, and with its name for a case on which other policies would run today.
pub fn read(file: &Path, cases: &[Case], seeds: &[u64], quick: bool) -> Result<Vec<CaseRuns>> {
    let shown = file.display();
    let bytes = std::fs::read(file).with_context(|| format!("read {shown}"))?;
    let packed = file.extension().is_some_and(|extension| extension == "gz");
    let mut json: Box<dyn Read> =
        if packed { Box::new(GzDecoder::new(&bytes[..])) } else { Box::new(&bytes[..]) };
    let mut text = String::new();
    json.read_to_string(&mut text).with_context(|| format!("unpack {shown}"))?;
    let earlier: Results = serde_json::from_str(&text)
        .with_context(|| format!("{shown} is not what --json writes today; {INSTEAD}"))?;
    let with = if earlier.quick { "with" } else { "without" };
    ensure!(earlier.quick == quick, "{shown} is of a run {with} --quick, which this one is not; {INSTEAD}");
    ensure!(
        !earlier.seeds.is_empty() && seeds.starts_with(&earlier.seeds),
        "{shown} has the seeds {:?}, with which {seeds:?} does not begin; {INSTEAD}",
        earlier.seeds
    );
    let runs = |case: &Case| {
        let wanted = CaseRuns::none(case);
        let Some(found) = earlier.cases.iter().find(|found| wanted.begins_as(found)) else {
            return Ok(wanted);
        };
        ensure!(
            same_policies(found, &earlier.seeds, Effort::of(quick)),
            "{shown} has other policies on \"{}\" than would run today; {INSTEAD}",
            found.name()
        );
        Ok(found.clone())
    };
    let found = cases.iter().map(runs).collect::<Result<Vec<_>>>()?;
    ensure!(
        found.iter().any(|found| !found.runs.is_empty()),
        "{shown} has none of these cases, of the same length and with the same peaks; {INSTEAD}"
    );
    Ok(found)
}

/// Whether all ran on it that would run today, in the same order, and nothing else.
fn same_policies(earlier: &CaseRuns, seeds: &[u64], effort: Effort) -> bool {
    let today = |(index, &seed)| policies(effort, index == 0).into_iter().map(move |who| (seed, who));
    let today: Vec<(u64, Who)> = seeds.iter().enumerate().flat_map(today).collect();
    let ran: Vec<&Run> = earlier.runs.iter().filter(|run| run.role != Role::Suite).collect();
    ran.len() == today.len()
        && ran.into_iter().zip(today).all(|(run, (seed, who))| run.seed == seed && who.did(run))
}

/// Everything but [`Role::Suite`], with the runs of all but Plimsoll from `earlier`, which [`read`] gave for this case, as
/// far as that has the seed. How the first run went is told when it is to be `shown`.
///
/// # Errors
/// When what runs again comes to something else than in the earlier run.
pub fn measure(case: &Case, earlier: &CaseRuns, effort: Effort, shown: bool) -> Result<Measured> {
    let mut measured = Measured::none(case);
    for (index, scenario) in case.scenarios.iter().enumerate() {
        if !earlier.runs.iter().any(|run| run.seed == scenario.seed) {
            measured.add(case, scenario, effort);
            continue;
        }
        let shown = shown && index == 0;
        let prepared = Prepared::new(scenario);
        // Useless rises are judged against its run.
        let oracle = (shown || scenario.dependency.is_some()).then(|| oracle::best(&prepared).1);
        let judge = Judge { case, scenario, oracle: oracle.as_ref() };
        if let Some(&setting) = customary().first() {
            let witness = Found::of(&prepared, setting).outcome;
            same(case, earlier, &judge.run(Role::Customary, Some(setting), &witness))?;
        }
        if let Some(oracle) = &oracle {
            same(case, earlier, &judge.run(Role::Oracle, None, oracle))?;
        }
        let plimsoll = prepared.run(&mut Plimsoll::new(scenario));
        if let (true, Some(oracle)) = (shown, &oracle) {
            let best = earlier.runs(Who::Best).into_iter().find(|run| run.seed == scenario.seed);
            if let Some(setting) = best.and_then(|best| best.setting) {
                let best = Found::of(&prepared, setting).outcome;
                same(case, earlier, &judge.run(Role::Hindsight, Some(setting), &best))?;
                measured.show(&plimsoll, oracle, best);
            }
        }
        let anew = judge.run(Role::Plimsoll, None, &plimsoll);
        let stored = earlier.runs.iter().filter(|run| run.seed == scenario.seed && run.role != Role::Suite);
        measured
            .case
            .runs
            .extend(stored.map(|run| if run.role == Role::Plimsoll { anew.clone() } else { run.clone() }));
    }
    Ok(measured)
}

/// That a run is the earlier one again.
fn same(case: &Case, earlier: &CaseRuns, again: &Run) -> Result<()> {
    let what = |run: &Run| (run.seed, run.role, run.setting);
    let stored = earlier.runs.iter().find(|run| what(run) == what(again));
    ensure!(
        stored == Some(again),
        "{} on \"{}\" with seed {} does not come to what it came to in the earlier run, which is of another simulator; {INSTEAD}",
        again.policy,
        case.name(),
        again.seed
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use plimsoll_simulator::generate;
    use plimsoll_simulator::suite::{kinds, scenario};
    use tempfile::TempDir;

    use super::*;
    use crate::{Options, compare, measure};

    /// One case on a trace of some minutes.
    fn options(folder: &TempDir, seeds: u64) -> Options {
        std::fs::write(folder.path().join("mine.csv"), "0,3\n120,5\n300,4\n").unwrap();
        Options {
            traces: Some(folder.path().to_path_buf()),
            hours: 1,
            seeds: Some(seeds),
            only: "mine on throttled".into(),
            quick: true,
            ..Options::default()
        }
    }

    /// Runs again with the peers of `earlier`.
    fn again(folder: &TempDir, options: &Options, earlier: &Results) -> Result<Results> {
        let file = folder.path().join("earlier.json");
        std::fs::write(&file, serde_json::to_vec(earlier).unwrap()).unwrap();
        compare(&Options { peers_from: Some(file), ..options.clone() })
    }

    #[test]
    fn gives_what_a_full_run_gives_to_the_byte_whatever_plimsoll_scored_before() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(&folder, 2);
        let full = compare(&options).unwrap();
        let mut earlier = full.clone();
        for run in earlier.cases[0].runs.iter_mut().filter(|run| run.role == Role::Plimsoll) {
            run.score.replica_hours *= 2.0;
            run.policy = "an earlier Plimsoll".into();
        }
        let another = CaseRuns { trace: "another".into(), ..earlier.cases[0].clone() };
        earlier.cases.insert(0, another);
        earlier.only = "on throttled".into();
        earlier.version = "earlier".into();
        earlier.shown = None;
        let anew = again(&folder, &options, &earlier).unwrap();
        let json = |results: &Results| serde_json::to_string(results).unwrap();
        assert!(json(&full) == json(&anew));
    }

    #[test]
    fn a_seed_more_is_measured_as_in_a_full_run() {
        let folder = tempfile::tempdir().unwrap();
        let one = compare(&options(&folder, 1)).unwrap();
        let two = options(&folder, 2);
        let json = |results: &Results| serde_json::to_string(results).unwrap();
        assert!(json(&again(&folder, &two, &one).unwrap()) == json(&compare(&two).unwrap()));
    }

    #[test]
    fn a_case_more_is_measured_as_in_a_full_run() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(&folder, 1);
        std::fs::write(folder.path().join("this is mine.csv"), "0,4\n180,3\n240,4\n").unwrap();
        let full = compare(&options).unwrap();
        let mut earlier = full.clone();
        earlier.cases[1].seconds += 1;
        assert!(full.cases.len() == 2);
        let json = |results: &Results| serde_json::to_string(results).unwrap();
        assert!(json(&full) == json(&again(&folder, &options, &earlier).unwrap()));
    }

    #[test]
    fn refuses_what_is_of_another_simulator_or_does_not_have_the_case_or_the_seeds() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(&folder, 1);
        let earlier = compare(&options).unwrap();
        let refused = |change: &dyn Fn(&mut Results), expected: &[&str]| {
            let mut changed = earlier.clone();
            change(&mut changed);
            let error = format!("{:#}", again(&folder, &options, &changed).unwrap_err());
            for expected in expected.iter().chain(&[INSTEAD]) {
                assert!(error.contains(expected), "{expected}: {error}");
            }
        };
        let name = "mine on throttled event loop";
        let witness = |results: &mut Results| {
            let mut runs = results.cases[0].runs.iter_mut();
            let witness = runs.find(|run| run.role == Role::Customary).unwrap();
            witness.score.over_share = witness.score.over_share.next_up();
        };
        refused(&witness, &[name, "HPA CPU 50 %", "another simulator"]);
        refused(&|results| results.cases[0].seconds += 1, &["none of these cases"]);
        refused(&|results| results.cases[0].peak_requests_per_second[0] *= 1.01, &["none of these cases"]);
        refused(&|results| drop(results.cases[0].runs.remove(5)), &["other policies", name]);
        refused(&|results| results.seeds = vec![1, 2], &["seeds [1, 2], with which [1] does not begin"]);
        refused(&|results| results.seeds = vec![2], &["seeds [2]"]);
        refused(&|results| results.quick = false, &["without --quick"]);
        let file = folder.path().join("none.json");
        std::fs::write(&file, "{}").unwrap();
        let none = Options { peers_from: Some(file), ..options.clone() };
        assert!(format!("{:#}", compare(&none).unwrap_err()).contains("not what --json writes"));
        let file = folder.path().join("none.json.gz");
        std::fs::write(&file, "{}").unwrap();
        let not_packed = Options { peers_from: Some(file), ..options.clone() };
        assert!(format!("{:#}", compare(&not_packed).unwrap_err()).contains("unpack"));
    }

    #[test]
    fn judges_useless_rises_and_shows_the_first_run_as_a_full_run_does() {
        let kinds = kinds();
        let kind = kinds.iter().find(|kind| kind.dependency.is_some()).unwrap();
        let trace = generate::step(300, 120, 0.4, 0.8);
        let scenarios = [1, 2].map(|seed| scenario("short", &trace, kind, seed)).to_vec();
        let case = Case { trace: "short".into(), service: kind.name, changing: false, scenarios };
        let full = measure::measure(&case, Effort::QUICK);
        assert!(full.case.runs(Who::Plimsoll).iter().all(|run| run.useless_rises.is_some()));
        let anew = measure(&case, &full.case, Effort::QUICK, true).unwrap();
        assert_eq!(anew.case.runs, full.case.runs);
        assert!(full.shown.is_some());
        assert_eq!(anew.shown, full.shown);
        assert_eq!(measure(&case, &full.case, Effort::QUICK, false).unwrap().shown, None);
    }
}
