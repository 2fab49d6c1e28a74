//! A cgroup with a CPU quota, of version 1 or 2, that is removed with the value. Never touches another cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;

/// What the names of our cgroups begin with; the process's id follows.
const PREFIX: &str = "plimsoll-bench-latency-";
/// Of the quota, in microseconds: what the kubelet uses.
const PERIOD_US: u32 = 100_000;

/// The cgroup.
pub struct Limited {
    /// One folder a hierarchy with version 1, a single one with version 2.
    folders: Vec<PathBuf>,
}

impl Limited {
    /// Makes a cgroup that may use so many thousandths of a core, and gets them ahead of others. Removes those that an interrupted run left.
    ///
    /// # Errors
    /// When this process may not make cgroups.
    pub fn new(quota_millicores: u32) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let unified = root.join("cgroup.controllers").exists();
        let roots = if unified {
            fs::write(root.join("cgroup.subtree_control"), "+cpu").context("let cgroups have a CPU quota")?;
            vec![root.to_owned()]
        } else {
            // The same folder twice where both controllers share a hierarchy, by a link.
            let mut roots: Vec<PathBuf> =
                ["cpu", "cpuacct"].iter().filter_map(|name| root.join(name).canonicalize().ok()).collect();
            roots.dedup();
            roots
        };
        for root in &roots {
            remove_left_over(root);
        }
        let name = format!("{PREFIX}{}", std::process::id());
        let limited = Self { folders: roots.iter().map(|root| root.join(&name)).collect() };
        for folder in &limited.folders {
            fs::create_dir_all(folder).with_context(|| format!("make the cgroup {}", folder.display()))?;
        }
        let folder = limited.folders.first().context("this machine has no cgroups with a CPU quota")?;
        let quota_us = u64::from(quota_millicores) * u64::from(PERIOD_US) / 1000;
        let write = |file: &str, text: String| {
            fs::write(folder.join(file), text)
                .with_context(|| format!("write {file} of {}", folder.display()))
        };
        if unified {
            write("cpu.max", format!("{quota_us} {PERIOD_US}"))?;
            write("cpu.weight", "10000".to_owned())?;
        } else {
            write("cpu.cfs_period_us", PERIOD_US.to_string())?;
            write("cpu.cfs_quota_us", quota_us.to_string())?;
            write("cpu.shares", "262144".to_owned())?;
        }
        Ok(limited)
    }

    /// A command that runs `program` in the cgroup, on the first core, and ends with this process.
    pub fn command(&self, program: &Path) -> Command {
        let enter: Vec<String> = self
            .folders
            .iter()
            .map(|folder| format!("echo $$ > '{}/cgroup.procs'", folder.display()))
            .collect();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "-c", "0", "sh", "-c"]);
        command.arg(enter.join(" && ") + " && exec \"$0\" \"$@\"").arg(program).kill_on_drop(true);
        command
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        for folder in &self.folders {
            // Refused while a process is in it: the next run removes it.
            let _ = fs::remove_dir(folder);
        }
    }
}

fn remove_left_over(root: &Path) {
    let folders = fs::read_dir(root).into_iter().flatten().flatten();
    for folder in folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(PREFIX)) {
        // Refused while a process is in it: then another run is under way.
        let _ = fs::remove_dir(folder.path());
    }
}
