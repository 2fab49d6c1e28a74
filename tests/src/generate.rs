//! Writes what is generated from the sources.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::{command, paths};

const LIMIT: Duration = Duration::from_mins(20);

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
    let crd = command::run(&mut cargo(&["run", "--quiet", "-p", "plimsoll-crds", "--bin", "crdgen"]), LIMIT)
        .await?;
    for path in ["crds/generated/apideployments.yaml", "charts/plimsoll/files/crds/apideployments.yaml"] {
        std::fs::write(paths::project().join(path), &crd).with_context(|| format!("write {path}"))?;
        println!("wrote {path}");
    }
    for package in ["plimsoll-core", "kubectl-plimsoll", "plimsoll-tests"] {
        command::run(cargo(&["test", "--quiet", "-p", package]).env("UPDATE_GOLDEN", "1"), LIMIT).await?;
        println!("wrote the golden files of {package}");
    }
    // Of the operator's tests this one alone writes, and the others take minutes.
    let metrics = ["test", "--quiet", "-p", "plimsoll-operator", "--test", "metrics"];
    command::run(cargo(&metrics).env("UPDATE_GOLDEN", "1"), LIMIT).await?;
    println!("wrote the list of the operator's metrics");
    Ok(())
}
