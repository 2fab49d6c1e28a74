//! On what it was measured, and with which versions.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::rivals;
use crate::{command, paths};

const LIMIT: Duration = Duration::from_secs(20);

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// The CPU's name.
    pub cpu_model: String,
    /// CPUs that this program may use.
    pub cpus: usize,
    /// CPUs that share a core with CPU 0, itself among them. With the generator's CPU in it, the two slow each other.
    pub core_of_cpu_0: String,
    /// Memory, in kibibytes.
    pub memory_kib: u64,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// When it has one CPU only, which server and generator would have to share.
    pub fn read() -> Result<Self> {
        let cpus = std::thread::available_parallelism().context("count the CPUs")?.get();
        if cpus < 2 {
            bail!("the benchmark needs two CPUs: one for the server, one for the load generator");
        }
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let memory = field(&file("/proc/meminfo"), "MemTotal");
        Ok(Self {
            kernel: file("/proc/sys/kernel/osrelease"),
            cpu_model: field(&file("/proc/cpuinfo"), "model name"),
            cpus,
            core_of_cpu_0: file("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list"),
            memory_kib: memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpus, cpu_model, kernel, .. } = self;
        write!(f, "{cpus} CPUs of {cpu_model}, Linux {kernel}")
    }
}

/// Versions of all that takes part, by name.
///
/// # Errors
/// When a program does not tell its version.
pub async fn versions() -> Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    for (name, program, args) in
        [("node", "node", &["--version"][..]), ("go", "go", &["env", "GOVERSION"][..])]
    {
        let version = command::run(Command::new(program).args(args), LIMIT).await?;
        versions.insert(name.to_owned(), version.trim().to_owned());
    }
    for package in ["nginx-light", "redis-server", "wrk"] {
        let mut query = Command::new("dpkg-query");
        query.args(["--show", "--showformat", "${Version}", package]);
        let version = command::run(&mut query, LIMIT).await.unwrap_or_else(|_| "not a Debian package".into());
        versions.insert(package.to_owned(), version.trim().to_owned());
    }
    for rival in ["express", "fastify"] {
        let path = rivals::source(rival).join("package.json");
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let manifest: serde_json::Value = serde_json::from_slice(&text)?;
        for (name, version) in manifest["dependencies"].as_object().into_iter().flatten() {
            versions.insert(name.clone(), version.as_str().unwrap_or_default().to_owned());
        }
    }
    versions.extend(go_modules(&rivals::source("go").join("go.mod"))?);
    versions.insert("plimsoll".into(), plimsoll().await);
    Ok(versions)
}

/// Plimsoll's version, with the commit where git can tell it.
pub async fn plimsoll() -> String {
    let mut git = Command::new("git");
    git.current_dir(paths::project()).args(["describe", "--always", "--dirty", "--exclude", "*"]);
    match command::run(&mut git, LIMIT).await {
        Ok(commit) => format!("{} ({})", env!("CARGO_PKG_VERSION"), commit.trim()),
        Err(_) => env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Modules that a `go.mod` requires itself.
fn go_modules(file: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let lines = text.lines().filter(|line| line.starts_with('\t') && !line.contains("// indirect"));
    Ok(lines
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(module, version)| (module.trim_start_matches("github.com/").to_owned(), version.to_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_modules_of_the_go_rival() {
        let modules = go_modules(&rivals::source("go").join("go.mod")).unwrap();
        let names: Vec<&String> = modules.keys().collect();
        assert_eq!(names, ["klauspost/compress", "redis/go-redis/v9"]);
    }

    #[test]
    fn lockfiles_name_no_registry() {
        for rival in ["express", "fastify"] {
            let lock = std::fs::read_to_string(rivals::source(rival).join("package-lock.json")).unwrap();
            assert!(!lock.contains("\"resolved\""), "{rival}: npm install --omit-lockfile-registry-resolved");
        }
    }
}
