//! A real Kubernetes cluster of one node on this machine: etcd, the control plane, a kubelet with containerd and runc,
//! kube-proxy and CoreDNS. No container engine is needed.
//!
//! It listens on its own bridge and on 127.0.0.1 only, and what its pods send never leaves the machine.

pub mod components;
mod config;
mod kernel;
pub mod layout;
pub mod metrics_server;
mod network;
mod pki;
pub mod process;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::{note, step};
use crate::{host, images, tools};
use layout::{PORTS, RUN, STATE, kubeconfig, run, state};

/// Whether the cluster runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All components run and the API server answers.
    Up,
    /// Something is left of it: it crashed, the machine was restarted, or `up` or `down` was interrupted.
    Broken,
    /// Nothing is there.
    Down,
}

/// Components in the order in which they are started.
const COMPONENTS: [&str; 8] = [
    "etcd",
    "containerd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
];

/// Brings the cluster up, or finds it up. What a crash left is cleared away first.
///
/// # Errors
/// When the machine cannot carry it, or a component does not come up; the error names its log.
pub async fn up(_lock: &Lock) -> Result<PathBuf> {
    host::install_packages().await?;
    let kubernetes = tools::KUBERNETES.ensure().await?;
    let coredns = tools::COREDNS.ensure().await?;
    match status(&kubernetes).await {
        Status::Up => {
            note("the local cluster is already up");
            return Ok(kubeconfig());
        }
        Status::Broken => {
            step("Clear away what is left of the last local cluster", clear()).await?;
        }
        Status::Down => {}
    }
    let pause = images::pause().await?;
    step("Boot the local cluster", boot(&kubernetes, &coredns, &pause)).await?;
    Ok(kubeconfig())
}

/// Ends the cluster's processes and removes all that it wrote, but the cache of built programs.
///
/// # Errors
/// When a process does not end or a folder cannot be removed.
pub async fn down(_lock: &Lock) -> Result<()> {
    let kubernetes = tools::KUBERNETES.cached()?;
    if status(&kubernetes).await == Status::Down {
        note("there is no local cluster");
        return Ok(());
    }
    step("Remove the local cluster", clear()).await
}

/// Looks at the processes and asks the API server.
pub async fn status(kubernetes: &Path) -> Status {
    let records = process::records();
    if !Path::new(STATE).exists() && !Path::new(RUN).exists() {
        return Status::Down;
    }
    let running = |name: &str| records.iter().any(|record| record.name == name && record.alive());
    let ready = components::kubectl(kubernetes, &["get", "--raw=/readyz", "--request-timeout=5s"]);
    if COMPONENTS.iter().all(|name| running(name)) && ready.await.is_ok() {
        Status::Up
    } else {
        Status::Broken
    }
}

/// Prints each component with its state.
///
/// # Errors
/// When the versions of the tools cannot be read.
pub async fn print_status() -> Result<()> {
    let kubernetes = tools::KUBERNETES.cached()?;
    let records = process::records();
    for name in COMPONENTS {
        let alive = records.iter().any(|record| record.name == name && record.alive());
        println!("{name:<24} {}", if alive { "running" } else { "not running" });
    }
    match status(&kubernetes).await {
        Status::Up => println!("The cluster is up. export KUBECONFIG={}", kubeconfig().display()),
        Status::Broken => println!(
            "The cluster is broken. `cargo xtask cluster up` starts a fresh one, `down` clears it away."
        ),
        Status::Down => println!("There is no local cluster. `cargo xtask cluster up` starts one."),
    }
    Ok(())
}

async fn boot(kubernetes: &Path, coredns: &Path, pause: &Path) -> Result<()> {
    refuse_taken_ports()?;
    for dir in [PathBuf::from(STATE), PathBuf::from(RUN)] {
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    }
    pki::write_all()?;
    components::write_config("containerd.toml", &config::containerd())?;
    components::write_config("cni/10-plimsoll.conflist", &config::cni())?;
    components::write_config("kubelet.yaml", &config::kubelet())?;
    components::write_config("kube-proxy.yaml", &config::kube_proxy())?;
    components::write_config("Corefile", &config::coredns())?;
    components::write_config("audit-policy.yaml", &config::audit_policy())?;
    components::write_config("resolv.conf", &config::resolv_conf())?;
    // Kept with the state, so that its rules can be removed when the cache is gone.
    std::fs::copy(kubernetes.join("kube-proxy"), state("kube-proxy")).context("keep kube-proxy")?;
    kernel::up().await?;
    network::up().await?;

    components::etcd()?;
    components::containerd()?;
    components::kube_apiserver(kubernetes)?;
    components::containerd_ready().await?;
    images::import(pause).await?;
    components::api_ready(kubernetes).await?;
    components::kube_controller_manager(kubernetes)?;
    components::kube_scheduler(kubernetes)?;
    components::kubelet(kubernetes)?;
    components::kube_proxy(kubernetes)?;
    components::apply(kubernetes, config::objects()).await?;
    components::coredns(coredns)?;
    components::node_ready(kubernetes).await?;
    components::services_ready().await
}

/// Ends and removes everything, in an order that works from any half-made state.
async fn clear() -> Result<()> {
    process::stop_all().await?;
    components::clean_kube_proxy().await;
    network::down().await;
    kernel::down();
    remove_log_links();
    unmount_all()?;
    for dir in [STATE, RUN] {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {dir}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The kubelet links each container's log from a folder of the machine.
fn remove_log_links() {
    for entry in std::fs::read_dir("/var/log/containers").into_iter().flatten().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(STATE)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Unmounts what pods and containers left below the cluster's folders, last mounted first.
fn unmount_all() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    for line in mounts.lines().rev() {
        let Some(target) = line.split(' ').nth(1).map(unescape) else { continue };
        if [STATE, RUN].iter().any(|root| Path::new(&target).starts_with(root)) {
            nix::mount::umount2(target.as_str(), nix::mount::MntFlags::MNT_DETACH)
                .with_context(|| format!("unmount {target}"))?;
        }
    }
    Ok(())
}

/// `/proc/self/mounts` writes spaces in octal.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

/// Shows that no other command uses or changes the local cluster, for as long as it lives.
pub struct Lock {
    _file: File,
}

/// Takes the local cluster for a command.
///
/// # Errors
/// When this is not root on Linux, or another command has it.
pub fn lock() -> Result<Lock> {
    host::require_root()?;
    let dir = Path::new("/var/lib/plimsoll");
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another command of this project uses the local cluster; wait until it has ended")
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}

fn refuse_taken_ports() -> Result<()> {
    for (address, port, component) in PORTS {
        // The bridge may not be there yet; whoever listens on all addresses has the port on the loopback too.
        let taken = [address, "127.0.0.1"].iter().any(|host| {
            matches!(std::net::TcpListener::bind((*host, port)), Err(error) if error.kind() == std::io::ErrorKind::AddrInUse)
        });
        if taken {
            bail!(
                "port {port}, which {component} needs, is in use by another program; `ss -ltnp 'sport = :{port}'` names it. \
                 End it, or use that cluster with `--context NAME`"
            );
        }
    }
    Ok(())
}

/// The cluster's folder for what only it holds, such as logs.
pub fn logs() -> PathBuf {
    state("logs")
}

/// The socket folder, for tests that look whether `down` removed it.
pub fn sockets() -> PathBuf {
    run("")
}
