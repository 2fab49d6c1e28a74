//! Where things are kept on this machine: the checkout, the cache that outlives it, and the cluster's own folders.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout. Cargo names it to what it runs; what it was built in comes second, for a target folder that several
/// checkouts share holds the one that built last.
pub fn project() -> PathBuf {
    let tests = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    tests.parent().map_or_else(|| tests.clone(), Path::to_path_buf)
}

/// Results of cargo, outside of the checkout when `CARGO_TARGET_DIR` says so.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), |dir| project().join(dir))
}

/// What is expensive to make and does not depend on the checkout; every entry's name holds its version.
///
/// `PLIMSOLL_CACHE_DIR`, else `$XDG_CACHE_HOME/plimsoll`, else `~/.cache/plimsoll`.
///
/// # Errors
/// When none of these variables nor `HOME` is set.
pub fn cache() -> Result<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("PLIMSOLL_CACHE_DIR")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("plimsoll")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache/plimsoll")))
        .context("cannot tell where to cache: set HOME or PLIMSOLL_CACHE_DIR")
}
