//! `cargo xtask bench scaling`: the scaling engine beside the autoscalers that people use and an oracle, in the simulator.
//!
//! `plimsoll-scaling` compares, built with all optimisations; this builds and runs it and tells what it found. Reading
//! order: [`goals`], [`markdown`], [`pictures`].

pub mod goals;
pub mod markdown;
pub mod pictures;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use plimsoll_scaling::measure::Effort;
use plimsoll_scaling::results::Results;
use tokio::process::Command;

use crate::bench::{data, machine};
use crate::progress::{note, step};
use crate::{command, paths};

const PROGRAM: &str = "plimsoll-scaling";
/// The scores that the published tables are of.
const SCORES: &str = "docs/data/scaling.json.gz";
/// A release build with an empty cache, on two cores.
const COMPILE_LIMIT: Duration = Duration::from_mins(20);

/// What is compared, and where the results go.
// Both structs would name a group of arguments after themselves.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    compared: plimsoll_scaling::Options,
    /// Where every run's scores go; the pictures go beside it.
    #[arg(long, value_name = "FILE", default_value = "out/bench/scaling.json")]
    json: PathBuf,
    /// Write the tables into docs/benchmarks.md and the pictures into docs/pictures.
    #[arg(long, conflicts_with = "quick")]
    publish: bool,
}

/// Runs, prints the tables and writes numbers and pictures.
///
/// # Errors
/// When the comparing program cannot be built or fails, or a file cannot be written.
pub async fn run(options: Options) -> Result<()> {
    let program = step("Build the simulator with all optimisations", compile()).await?;
    if let Some(folder) = options.json.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let mut compare = Command::new(program);
    compare.args(options.compared.arguments()).arg("--json").arg(&options.json);
    // It tells by itself how far it is; how long it takes is for its options to say.
    let status = compare.stdin(Stdio::null()).kill_on_drop(true).status().await;
    ensure!(
        status.with_context(|| format!("start {PROGRAM}"))?.success(),
        "the comparison failed; see above"
    );
    let json = std::fs::read(&options.json).with_context(|| format!("read {}", options.json.display()))?;
    let mut results: Results = serde_json::from_slice(&json).context("read what the comparison found")?;
    results.version = machine::plimsoll().await;
    let json = serde_json::to_vec(&results)?;
    std::fs::write(&options.json, &json).with_context(|| format!("write {}", options.json.display()))?;
    let rendered = markdown::render(&results);
    println!("{rendered}");
    let pictures = if options.publish {
        markdown::publish(&paths::project().join("docs/benchmarks.md"), &rendered)?;
        data::pack(&json, &paths::project().join(SCORES))?;
        paths::project().join("docs/pictures")
    } else {
        options.json.parent().map_or_else(PathBuf::new, Path::to_path_buf)
    };
    draw(&results, &pictures)?;
    note(format!(
        "every run's scores are in {}, the pictures in {}",
        options.json.display(),
        pictures.display()
    ));
    Ok(())
}

/// Builds the comparing program for this machine. Not as images are built: musl's arithmetic and allocator are others.
async fn compile() -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::project()).args(["build", "--locked", "--release", "--package", PROGRAM]);
    cargo.arg("--target-dir").arg(paths::target());
    command::run_logged(&mut cargo, &paths::target().join("scaling.log"), COMPILE_LIMIT).await?;
    Ok(paths::target().join("release").join(PROGRAM))
}

fn draw(results: &Results, folder: &Path) -> Result<()> {
    let write = |name: &str, svg: String| {
        let path = folder.join(name).with_extension("svg");
        std::fs::write(&path, svg).with_context(|| format!("write {}", path.display()))
    };
    write(pictures::PARETO, pictures::pareto(results, Effort::of(results.quick))?)?;
    match &results.shown {
        Some(shown) => write(pictures::TIMELINE, pictures::timeline(shown)?),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_tables_are_of_the_published_scores() {
        let results: Results = data::read(&paths::project().join(SCORES)).unwrap();
        let page = std::fs::read_to_string(paths::project().join("docs/benchmarks.md")).unwrap();
        assert!(page.contains(&markdown::render(&results)), "run `cargo xtask bench scaling --publish`");
    }

    #[test]
    fn the_tables_and_pictures_are_made_of_what_a_comparison_finds() {
        let options =
            plimsoll_scaling::Options { only: "step on throttled".into(), quick: true, ..Default::default() };
        let results = plimsoll_scaling::compare(&options).unwrap();
        let rendered = markdown::render(&results);
        assert!(rendered.contains("step on throttled event loop"), "{rendered}");
        let folder = tempfile::tempdir().unwrap();
        draw(&results, folder.path()).unwrap();
        for name in [pictures::PARETO, pictures::TIMELINE] {
            let svg = std::fs::read_to_string(folder.path().join(format!("{name}.svg"))).unwrap();
            assert!(svg.contains("oracle"), "{name}");
        }
    }
}
