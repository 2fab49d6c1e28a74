//! Writes what is generated from the sources.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::{command, paths};

const LIMIT: Duration = Duration::from_mins(20);
/// The tests that compare with committed files, and write them anew on `UPDATE_GOLDEN=1`.
const GOLDEN: [&str; 5] = ["reference", "golden", "metrics", "simulate", "chart"];

/// Writes the CustomResourceDefinition and the golden files again.
///
/// # Errors
/// When a generator fails or a file cannot be written.
pub async fn run() -> Result<()> {
    let cargo = |args: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(paths::project()).args(args);
        cargo
    };
    // Of the whole workspace, so that dependencies have the features that the tests were built with.
    command::run(&mut cargo(&["build", "--quiet", "--workspace", "--bin", "crdgen"]), LIMIT).await?;
    let crd = command::run(&mut Command::new(paths::target().join("debug/crdgen")), LIMIT).await?;
    for path in ["crds/generated/apideployments.yaml", "charts/plimsoll/files/crds/apideployments.yaml"] {
        std::fs::write(paths::project().join(path), &crd).with_context(|| format!("write {path}"))?;
        println!("wrote {path}");
    }
    let mut tests = cargo(&["test", "--quiet", "--workspace"]);
    for test in GOLDEN {
        tests.args(["--test", test]);
    }
    command::run(tests.env("UPDATE_GOLDEN", "1"), LIMIT).await?;
    println!("wrote what the tests {} compare with", GOLDEN.join(", "));
    Ok(())
}
