//! Starts the cluster's processes and ends them, and nobody else's.
//!
//! A process is known by the id and start time that were recorded when it was started, and its descendants by a
//! variable in their environment; a name is never enough.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::layout::{CGROUP, STATE, state};

/// Set for every process of the cluster; its value is [`STATE`].
const MARK: &str = "PLIMSOLL_LOCAL_CLUSTER";
/// How long a process has to end by itself. The API server would wait a minute for watches to end.
const GRACE: Duration = Duration::from_secs(2);
/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What is known of a started process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// Name of the component.
    pub name: String,
    pid: i32,
    /// Field 22 of `/proc/PID/stat`: two processes of one id never share it.
    start_ticks: u64,
}

impl Record {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the very process is still running.
    pub fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|(start_ticks, state)| start_ticks == self.start_ticks && state != 'Z')
    }
}

/// Starts a component in the background, with its output in `logs/NAME.log`.
///
/// # Errors
/// When the program cannot be started.
pub fn start<S: AsRef<OsStr>>(name: &str, program: &Path, args: &[S]) -> Result<()> {
    let log = log(name);
    for dir in [state("logs"), state("processes")] {
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let file = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let child = std::process::Command::new(program)
        .args(args)
        .current_dir(STATE)
        .env(MARK, STATE)
        // A shell that became root by `su` alone lacks the folders of the system's own programs.
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share a log")?)
        .stderr(file)
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let pid = i32::try_from(child.id()).context("process id")?;
    let start_ticks = stat(pid).map_or(0, |(start_ticks, _)| start_ticks);
    let record = Record { name: name.to_owned(), pid, start_ticks };
    let path = state("processes").join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_string(&record)?)
        .with_context(|| format!("write {}", path.display()))
}

/// Log of a component.
pub fn log(name: &str) -> PathBuf {
    state("logs").join(format!("{name}.log"))
}

/// Records of all processes that were started and not yet ended by [`stop_all`].
pub fn records() -> Vec<Record> {
    let Ok(entries) = std::fs::read_dir(state("processes")) else { return Vec::new() };
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|text| serde_json::from_str(&text).ok())
        .collect()
}

/// Fails with the end of its log when a component has ended.
///
/// # Errors
/// When the component is not running.
pub fn check(name: &str) -> Result<()> {
    if records().iter().any(|record| record.name == name && record.alive()) {
        return Ok(());
    }
    let said = std::fs::read_to_string(log(name)).unwrap_or_default();
    let lines: Vec<&str> = said.lines().collect();
    bail!(
        "{name} has ended; {} closes with:\n{}",
        log(name).display(),
        lines[lines.len().saturating_sub(8)..].join("\n")
    )
}

/// Ends a component that was recorded, if it still runs.
///
/// # Errors
/// When it survives SIGKILL.
pub async fn stop(name: &str) -> Result<()> {
    let pids = records()
        .iter()
        .filter(|record| record.name == name && record.alive())
        .map(|record| record.pid)
        .collect();
    end(pids, GRACE).await
}

/// Ends everything of the cluster that runs: components, containers, shims. In that order, so that nothing is restarted.
///
/// # Errors
/// When a process survives SIGKILL.
pub async fn stop_all() -> Result<()> {
    for name in ["kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns"] {
        stop(name).await?;
    }
    end(in_cgroups(), Duration::ZERO).await?;
    stop("containerd").await?;
    let mut rest = marked();
    rest.extend(records().iter().filter(|record| record.alive()).map(|record| record.pid));
    end(rest, GRACE).await?;
    let _ = std::fs::remove_dir_all(state("processes"));
    Ok(())
}

/// Processes of pods: members of any cgroup below the cluster's own.
fn in_cgroups() -> BTreeSet<i32> {
    cgroup_dirs()
        .iter()
        .filter_map(|dir| std::fs::read_to_string(dir.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
        .collect()
}

/// All cgroups of the cluster, children before parents.
pub fn cgroup_dirs() -> Vec<PathBuf> {
    fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            collect(&entry.path(), found);
        }
        found.push(dir.to_path_buf());
    }
    let mut found = Vec::new();
    for root in cgroup_roots() {
        collect(&root.join(CGROUP), &mut found);
    }
    found
}

/// Where cgroups hang: one folder a controller with version 1, a single one with version 2.
pub fn cgroup_roots() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_path_buf()];
    }
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    // A controller may also be reachable by a symbolic link (`cpu` to `cpu,cpuacct`); one way is enough.
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Processes that carry the cluster's mark in their environment.
fn marked() -> BTreeSet<i32> {
    let mark = format!("{MARK}={STATE}");
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok())
        .filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        })
        .collect()
}

/// SIGTERM, then SIGKILL to what remains after `grace`.
async fn end(mut pids: BTreeSet<i32>, grace: Duration) -> Result<()> {
    for (signal, limit) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, KILL_LIMIT)] {
        if pids.is_empty() {
            return Ok(());
        }
        if limit.is_zero() {
            continue;
        }
        for pid in &pids {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline && !pids.is_empty() {
            pids.retain(|pid| stat(*pid).is_some_and(|(_, state)| state != 'Z'));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    if pids.is_empty() { Ok(()) } else { bail!("these processes of the cluster do not end: {pids:?}") }
}

/// Start time in ticks and state of a process; `None` when there is none of that id.
fn stat(pid: i32) -> Option<(u64, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in brackets, may itself hold spaces and brackets.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
    Some((fields.get(19)?.parse().ok()?, fields.first()?.chars().next()?))
}
