//! `cargo xtask test`: every check and test of the project, with what they need.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::process::Command;

use crate::access::Access;
use crate::postgres::Postgres;
use crate::progress::step;
use crate::{chart, cluster, host, images, paths, schemathesis, tools};

/// A cold build of everything, or all end-to-end tests.
const LIMIT: Duration = Duration::from_hours(1);

/// What builds may have beside the default, so that it is tested too; without it where the images are built. Every run has the
/// same, for dependencies are built again for other features.
pub(crate) const FEATURES: [&str; 2] = ["--features", "plimsoll-api/otlp,plimsoll-operator/otlp"];

/// End-to-end tests that run at once: mostly they wait, and two cores carry the load of some.
const SIDE_BY_SIDE: usize = 3;

/// Begins of the names of those that others would disturb, or that disturb others: they replace or kill the operator that all
/// share, or tell how soon something follows.
const ALONE: [&str; 5] = [
    "attach::an_autoscaler_of_kubernetes",
    "chart::",
    "faults::killing_the_operator",
    "rollout::",
    "scaling::",
];

/// Begin of the names of those that look at what all others have left.
const LAST: &str = "audit::";

/// Which tests.
#[derive(Args)]
pub struct Options {
    /// Only the end-to-end tests whose name holds this; an empty text means all of them.
    #[arg(long, value_name = "NAME")]
    e2e: Option<String>,
    /// Only what needs no cluster: formatting, lints, unit, golden and server tests, schemathesis.
    #[arg(long, conflicts_with = "e2e")]
    fast: bool,
    /// Only schemathesis against the API service, which needs no cluster either.
    #[arg(long, conflicts_with_all = ["e2e", "fast"])]
    schemathesis: bool,
}

/// Runs them. Nothing is skipped but what the options leave out.
///
/// # Errors
/// At the first check or runner that fails.
pub async fn run(options: Options) -> Result<()> {
    if options.schemathesis {
        return schemathesis::run().await;
    }
    let lock = cluster::lock()?;
    host::install_packages().await?;
    tools::HELM.ensure().await?;
    if options.e2e.is_none() {
        fast().await?;
    }
    if options.fast {
        return Ok(());
    }
    end_to_end(&lock, options.e2e.as_deref().unwrap_or_default()).await?;
    drop(lock);
    if options.e2e.is_none() {
        let crash = cargo("test", &["--test", "cluster"]);
        shown("test of the local cluster itself, which ends it", crash).await?;
    }
    Ok(())
}

async fn fast() -> Result<()> {
    tools::MONITORING.ensure().await?;
    let mut format = Command::new("cargo");
    format.current_dir(paths::project()).args(["fmt", "--all", "--check"]);
    check("Check the formatting", format).await?;
    check("Lint", cargo("clippy", &["--all-targets", "--", "-D", "warnings"])).await?;
    let mut shipped = Command::new("cargo");
    shipped.current_dir(paths::project()).args(["clippy", "--locked", "-p", "plimsoll-api"]);
    shipped.args(["-p", "plimsoll-operator", "--", "-D", "warnings"]);
    check("Lint what images are built of", shipped).await?;
    let end_to_end = ["--test", "e2e", "--test", "cluster", "--", "-D", "warnings"];
    check("Lint the end-to-end tests", cargo("clippy", &end_to_end)).await?;
    let postgres = step("Start a Postgres for the tests", Postgres::start()).await?;
    let mut test = cargo("test", &[]);
    test.env("PLIMSOLL_TEST_POSTGRES_URL", postgres.url());
    shown("unit, golden and server tests", test).await?;
    schemathesis::run().await
}

async fn end_to_end(lock: &cluster::Lock, filter: &str) -> Result<()> {
    let mut list = cargo("test", &["--test", "e2e", "--", "--list", filter]);
    let listed = crate::command::run(&mut list, LIMIT).await?;
    let groups = groups(&listed);
    if let (true, Some(begin)) = (filter.is_empty(), unmatched(&listed)) {
        bail!("no end-to-end test begins with {begin}: name those that run alone as they are called now");
    }
    if groups.iter().all(|group| group.tests.is_empty()) {
        bail!("no end-to-end test has {filter:?} in its name");
    }
    tools::HELM_3.ensure().await?;
    cluster::up(lock).await?;
    let images = images::ensure().await?;
    step(
        "Install the operator with Helm",
        chart::install_shared(&Access::local(), &images, serde_json::json!({})),
    )
    .await?;
    for group in groups.iter().filter(|group| !group.tests.is_empty()) {
        let threads = group.at_once.to_string();
        let mut test = cargo("test", &["--test", "e2e", "--", "--test-threads", &threads, "--exact"]);
        test.args(&group.tests);
        test.env(images::VARIABLE, serde_json::to_string(&images)?);
        shown(group.what, test).await?;
    }
    Ok(())
}

/// End-to-end tests that run in one go.
struct Group<'a> {
    what: &'static str,
    at_once: usize,
    tests: Vec<&'a str>,
}

/// The groups in their order, of what the runner lists.
fn groups(listed: &str) -> [Group<'_>; 3] {
    let tests: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let (last, tests): (Vec<&str>, Vec<&str>) = tests.into_iter().partition(|test| test.starts_with(LAST));
    let (alone, beside): (Vec<&str>, Vec<&str>) =
        tests.into_iter().partition(|test| ALONE.iter().any(|begin| test.starts_with(begin)));
    [
        Group { what: "end-to-end tests, side by side", at_once: SIDE_BY_SIDE, tests: beside },
        Group { what: "end-to-end tests, one at a time", at_once: 1, tests: alone },
        Group { what: "audit of what the end-to-end tests have left", at_once: 1, tests: last },
    ]
}

/// What begins no test's name, of those that are to run alone: one that was renamed would run beside others.
fn unmatched(listed: &str) -> Option<&'static str> {
    ALONE.into_iter().find(|begin| !listed.lines().any(|line| line.starts_with(begin)))
}

/// A check whose output matters only when it fails.
async fn check(title: &str, mut command: Command) -> Result<()> {
    let log = paths::target().join("check.log");
    step(title, crate::command::run_logged(&mut command, &log, LIMIT)).await
}

/// A runner whose output is for the reader.
async fn shown(what: &str, mut command: Command) -> Result<()> {
    eprintln!("· Run the {what}");
    let mut child = command.kill_on_drop(true).spawn().context("start cargo")?;
    let status = tokio::time::timeout(LIMIT, child.wait())
        .await
        .with_context(|| format!("the {what} took longer than {} minutes", LIMIT.as_secs() / 60))??;
    if !status.success() {
        bail!("the {what} failed");
    }
    eprintln!("✓ The {what} passed");
    Ok(())
}

/// Of the whole workspace, so that dependencies have the features that the other tests were built with.
fn cargo(command: &str, args: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::project()).args([command, "--workspace", "--locked"]).args(FEATURES).args(args);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_runs_once_and_the_audit_at_last() {
        let listed = "attach::scales: test\nattach::an_autoscaler_of_kubernetes_follows: test\naudit::rights: test\n\
            chart::installs: test\nconditions::refuses: test\n\n5 tests, 0 benchmarks\n";
        let [beside, alone, last] = groups(listed);
        assert_eq!(beside.tests, ["attach::scales", "conditions::refuses"]);
        assert_eq!(alone.tests, ["attach::an_autoscaler_of_kubernetes_follows", "chart::installs"]);
        assert_eq!(last.tests, ["audit::rights"]);
    }

    #[test]
    fn a_test_that_is_to_run_alone_and_was_renamed_is_missed() {
        let all = ALONE.map(|begin| format!("{begin}_something: test\n"));
        assert_eq!(unmatched(&all.concat()), None);
        assert_eq!(unmatched(&all[1..].concat()), Some(ALONE[0]));
    }
}
