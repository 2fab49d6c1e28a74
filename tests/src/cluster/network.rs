//! The bridge of the pods, and the routes that keep their traffic on this machine.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::process::Command;

use super::layout::{
    BRIDGE, BRIDGE_HARDWARE_ADDRESS, NETWORK, NODE_ADDRESS, NODE_POD_RANGE, POD_RANGE, SERVICE_RANGE,
};
use crate::command;

const LIMIT: Duration = Duration::from_secs(20);
/// Above any other route's metric: taken only when the bridge's own route is gone.
const LAST_RESORT: &str = "4294967294";

/// kube-proxy's chain against traffic to 127.0.0.0/8 from elsewhere.
const FIREWALL: &str = "KUBE-FIREWALL";

/// Makes the bridge and the routes. Running it again changes nothing.
///
/// # Errors
/// When the ranges are already used on this machine, or `ip` or `iptables` fails.
pub async fn up() -> Result<()> {
    refuse_foreign_routes().await?;
    for range in [POD_RANGE, SERVICE_RANGE] {
        ip(&["route", "replace", "blackhole", range, "metric", LAST_RESORT]).await?;
    }
    if ip(&["link", "show", BRIDGE]).await.is_err() {
        ip(&["link", "add", BRIDGE, "type", "bridge"]).await?;
    }
    ip(&["link", "set", BRIDGE, "address", BRIDGE_HARDWARE_ADDRESS]).await?;
    let prefix = NODE_POD_RANGE.split_once('/').map_or("24", |(_, prefix)| prefix);
    ip(&["address", "replace", &format!("{NODE_ADDRESS}/{prefix}"), "dev", BRIDGE]).await?;
    ip(&["link", "set", BRIDGE, "up"]).await?;
    // Service addresses are rewritten by kube-proxy before they would leave by the bridge; without a route they would
    // not get that far.
    ip(&["route", "replace", SERVICE_RANGE, "dev", BRIDGE, "src", NODE_ADDRESS]).await?;
    keep_inside().await
}

/// Removes what [`up`] and the kubelet's network plugin made. Parts that are gone are no error.
pub async fn down() {
    for rule in inside_rules() {
        let mut args = vec!["--wait", "--delete"];
        args.extend(rule);
        let _ = iptables(&args).await;
    }
    // kube-proxy makes this chain and leaves it when it cleans up, because kubelets used to share it.
    for parent in ["INPUT", "OUTPUT"] {
        let _ = iptables(&["--wait", "--delete", parent, "--jump", FIREWALL]).await;
    }
    let _ = iptables(&["--wait", "--flush", FIREWALL]).await;
    let _ = iptables(&["--wait", "--delete-chain", FIREWALL]).await;
    let _ = ip(&["link", "delete", BRIDGE]).await;
    for range in [POD_RANGE, SERVICE_RANGE] {
        let _ = ip(&["route", "delete", "blackhole", range]).await;
    }
    // What the network plugins cached of pods that did not end in their own time.
    for entry in std::fs::read_dir("/var/lib/cni/results").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&format!("{NETWORK}-")) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Pods reach each other and this machine, and nothing beyond it.
async fn keep_inside() -> Result<()> {
    for rule in inside_rules() {
        let mut check = vec!["--wait", "--check"];
        check.extend(&rule);
        if iptables(&check).await.is_err() {
            let mut insert = vec!["--wait", "--insert"];
            insert.extend(&rule);
            iptables(&insert).await?;
        }
    }
    Ok(())
}

fn inside_rules() -> [Vec<&'static str>; 1] {
    [vec!["FORWARD", "--in-interface", BRIDGE, "!", "--out-interface", BRIDGE, "--jump", "DROP"]]
}

async fn refuse_foreign_routes() -> Result<()> {
    let routes = ip(&["-4", "route", "show"]).await?;
    for line in routes.lines() {
        let ours = line.contains(BRIDGE) || line.starts_with("blackhole");
        if !ours && (line.starts_with("198.18.") || line.starts_with("198.19.")) {
            bail!(
                "this machine already routes an address range of the local cluster (`{}`); remove that route first",
                line.trim()
            );
        }
    }
    Ok(())
}

async fn ip(args: &[&str]) -> Result<String> {
    command::run(Command::new("ip").args(args), LIMIT).await
}

async fn iptables(args: &[&str]) -> Result<String> {
    command::run(Command::new("/usr/sbin/iptables").args(args), LIMIT).await
}
