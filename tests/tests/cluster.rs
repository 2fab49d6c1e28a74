//! The local cluster itself: comes back from a crash, and leaves nothing behind. It ends the cluster of this machine,
//! so that `cargo xtask test` runs it last.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use plimsoll_tests::cluster::{self, Status, layout, process};
use plimsoll_tests::tools;

#[test]
fn a_crash_is_cleared_away_and_down_leaves_nothing() {
    let runtime = tokio::runtime::Runtime::new().expect("an asynchronous runtime");
    runtime.block_on(scenario()).unwrap();
}

async fn scenario() -> Result<()> {
    let kubernetes = tools::KUBERNETES.cached()?;
    let lock = cluster::lock()?;
    cluster::up(&lock).await?;
    ensure!(cluster::status(&kubernetes).await == Status::Up, "it is not up");
    let address = std::fs::read_to_string(format!("/sys/class/net/{}/address", layout::BRIDGE))?;
    ensure!(
        address.trim() == layout::BRIDGE_HARDWARE_ADDRESS,
        "the bridge's address comes and goes with its pods: {address}"
    );
    ensure!(cluster::lock().is_err(), "two commands may have it at once");

    // Whatever the sandboxes of its pods hold outlives both of these.
    for name in ["kubelet", "containerd"] {
        let record = process::records().into_iter().find(|record| record.name == name).context("a record")?;
        kill(Pid::from_raw(record.pid()), Signal::SIGKILL).with_context(|| format!("kill {name}"))?;
        while record.alive() {
            tokio::task::yield_now().await;
        }
    }
    ensure!(cluster::status(&kubernetes).await == Status::Broken, "the crash is not seen");
    cluster::up(&lock).await?;
    ensure!(cluster::status(&kubernetes).await == Status::Up, "it does not come back");

    cluster::down(&lock).await?;
    ensure!(cluster::status(&kubernetes).await == Status::Down, "it is not down");
    for path in [layout::STATE, layout::RUN] {
        ensure!(!Path::new(path).exists(), "{path} is left");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let left: Vec<&str> =
        mounts.lines().filter(|line| line.contains(layout::STATE) || line.contains(layout::RUN)).collect();
    ensure!(left.is_empty(), "mounts are left: {left:?}");
    ensure!(!Path::new("/sys/class/net").join(layout::BRIDGE).exists(), "the bridge is left");
    let cgroups = process::cgroup_dirs().into_iter().filter(|dir| dir.exists()).collect::<Vec<_>>();
    ensure!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
    let rules = Command::new("/usr/sbin/iptables-save").output().context("run iptables-save")?;
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    let left: Vec<&str> =
        rules.lines().filter(|rule| rule.starts_with("-A") && rule.contains("KUBE-")).collect();
    ensure!(left.is_empty(), "rules of kube-proxy are left: {left:?}");
    let logs = std::fs::read_dir("/var/log/containers").into_iter().flatten().flatten();
    let left = logs
        .filter(|log| std::fs::read_link(log.path()).is_ok_and(|target| target.starts_with(layout::STATE)));
    ensure!(left.count() == 0, "links to logs are left");
    cluster::down(&lock).await.context("a second `down` has nothing to do")
}
