//! What the cluster needs of the kernel: switches, which `down` puts back as they were, and parents for cgroups.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::layout::{CGROUP, state};
use super::process;
use crate::command;

/// Switches that are turned on, below `/proc/sys`: routing between pods, NodePorts on 127.0.0.1, and translation of
/// Service addresses between pods of one bridge.
const TURNED_ON: [&str; 3] =
    ["net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet", "net/bridge/bridge-nf-call-iptables"];
/// Switches that the kubelet sets for itself.
const SET_BY_KUBELET: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// Controllers that the kubelet requires of its parent cgroup with version 2, if the machine has them.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "hugetlb", "memory", "pids"];
/// Values from before, by switch.
const REMEMBERED: &str = "kernel.json";

/// Remembers the switches and turns on what is needed.
///
/// # Errors
/// When the kernel cannot filter bridged traffic, or a switch cannot be set.
pub async fn up() -> Result<()> {
    if !Path::new("/proc/sys/net/bridge").exists() {
        let load =
            command::run(Command::new("/usr/sbin/modprobe").arg("br_netfilter"), Duration::from_secs(20))
                .await;
        if let Err(error) = load {
            bail!("Services between pods need the kernel's br_netfilter, which cannot be loaded: {error:#}");
        }
    }
    let before: BTreeMap<&str, String> = TURNED_ON
        .into_iter()
        .chain(SET_BY_KUBELET)
        .filter_map(|switch| Some((switch, std::fs::read_to_string(path(switch)).ok()?)))
        .collect();
    let file = state(REMEMBERED);
    std::fs::write(&file, serde_json::to_vec(&before)?)
        .with_context(|| format!("write {}", file.display()))?;
    for switch in TURNED_ON {
        std::fs::write(path(switch), "1").with_context(|| format!("turn /proc/sys/{switch} on"))?;
    }
    make_cgroups()
}

/// Puts the switches back as they were.
pub fn down() {
    let remembered = std::fs::read_to_string(state(REMEMBERED)).unwrap_or_default();
    let before: BTreeMap<String, String> = serde_json::from_str(&remembered).unwrap_or_default();
    for (switch, value) in before {
        let _ = std::fs::write(path(&switch), value);
    }
    for cgroup in process::cgroup_dirs() {
        let _ = std::fs::remove_dir(cgroup);
    }
}

fn path(switch: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(switch)
}

fn make_cgroups() -> Result<()> {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers");
    if let Ok(available) = std::fs::read_to_string(unified) {
        for controller in
            CONTROLLERS.iter().filter(|name| available.split_whitespace().any(|it| it == **name))
        {
            std::fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"))
                .with_context(|| format!("give the controller {controller} to the cluster's cgroup"))?;
        }
    }
    for root in process::cgroup_roots() {
        // Version 1 lists named hierarchies too, some of which refuse folders; the kubelet checks the ones it needs.
        let _ = std::fs::create_dir_all(root.join(CGROUP));
    }
    Ok(())
}
