//! Installs the rivals whose sources are in `tests/bench/rivals`, once for each state of these.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::progress::step;
use crate::{command, paths};

const LIMIT: Duration = Duration::from_mins(5);
/// ioredis 6 asks for it.
const NODE_MIN: u32 = 20;

/// Where a rival's sources are.
pub fn source(name: &str) -> PathBuf {
    paths::project().join("tests/bench/rivals").join(name)
}

/// The folder of a Node rival with its packages, from its lockfile.
///
/// # Errors
/// When Node or npm is missing or too old, or the packages cannot be installed.
pub async fn node(name: &str) -> Result<PathBuf> {
    let version = command::run(Command::new("node").arg("--version"), Duration::from_secs(20))
        .await
        .context("the rivals on Node need Node 20 or newer, and npm")?;
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    if major.is_none_or(|major: u32| major < NODE_MIN) {
        bail!("this machine has Node {}, and {NODE_MIN} or newer is needed", version.trim());
    }
    ensure(name, &["package.json", "package-lock.json", "server.js"], async |folder| {
        let mut npm = Command::new("npm");
        npm.current_dir(folder).args(["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]);
        command::run(&mut npm, LIMIT).await.map(drop)
    })
    .await
}

/// The Go rival's binary.
///
/// # Errors
/// When there is no Go toolchain or the build fails.
pub async fn go() -> Result<PathBuf> {
    let folder = ensure("go", &["go.mod", "go.sum", "main.go"], async |folder| {
        let mut go = Command::new("go");
        go.current_dir(folder).args(["build", "-mod=readonly", "-trimpath", "-o", "server", "."]);
        command::run(go.env("CGO_ENABLED", "0"), LIMIT).await.map(drop)
    })
    .await?;
    Ok(folder.join("server"))
}

/// Copies the files into an entry of the cache and makes it ready there. A failed or interrupted one leaves no entry.
async fn ensure(name: &str, files: &[&str], make: impl AsyncFn(&Path) -> Result<()>) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        let path = source(name).join(file);
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))?.hash(&mut hasher);
    }
    let entry = paths::cache()?.join("bench").join(format!("{name}-{:016x}", hasher.finish()));
    if entry.is_dir() {
        return Ok(entry);
    }
    step(format!("Install the rival {name}, once for this machine"), async {
        let partial = entry.with_extension("partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial).with_context(|| format!("clear {}", partial.display()))?;
        }
        std::fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
        for file in files {
            std::fs::copy(source(name).join(file), partial.join(file))
                .with_context(|| format!("copy {file}"))?;
        }
        make(&partial).await?;
        std::fs::rename(&partial, &entry).with_context(|| format!("put {} in place", entry.display()))
    })
    .await?;
    Ok(entry)
}
