//! What the local cluster needs of the machine: root, Linux, Debian packages.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::command;
use crate::progress::step;

/// A file that shows that a package is there, and the package.
const PACKAGES: [(&str, &str); 23] = [
    ("/usr/bin/containerd", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/bin/etcd", "etcd-server"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/conntrack", "conntrack"),
    ("/usr/sbin/ethtool", "ethtool"),
    ("/usr/bin/socat", "socat"),
    ("/bin/ip", "iproute2"),
    ("/usr/bin/redis-server", "redis-server"),
    ("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"),
    ("/usr/bin/prometheus", "prometheus"),
    ("/usr/bin/prometheus-redis-exporter", "prometheus-redis-exporter"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/lua5.1", "lua5.1"),
    ("/usr/bin/python3", "python3"),
    ("/usr/lib/python3.11/ensurepip/__init__.py", "python3-venv"),
    ("/usr/sbin/modprobe", "kmod"),
    ("/usr/bin/buildah", "buildah"),
    ("/usr/bin/catatonit", "catatonit"),
    ("/usr/bin/musl-gcc", "musl-tools"),
    ("/usr/bin/mount", "mount"),
    ("/usr/bin/ldd", "libc-bin"),
];

/// What the benchmark needs besides Node and Go.
const BENCH_PACKAGES: [(&str, &str); 6] = [
    ("/usr/sbin/nginx", "nginx-light"),
    ("/usr/bin/redis-server", "redis-server"),
    ("/usr/bin/wrk", "wrk"),
    ("/usr/bin/taskset", "util-linux"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/usr/bin/musl-gcc", "musl-tools"),
];

/// Of `apt-get`: quiet, and patient with an update that the machine is making by itself.
const APT: [&str; 3] = ["-q", "-o", "DPkg::Lock::Timeout=300"];

/// Packages whose Debian scripts start a server at once. The cluster runs its own; the machine's stay as they were.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Fails with what to do when this machine cannot carry a local cluster.
///
/// # Errors
/// When not on Linux or not root.
pub fn require_root() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("the local cluster needs Linux; use a cluster of your own with `--context NAME`");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the local cluster needs root; run as root, or use a cluster of your own with `--context NAME`"
        );
    }
    Ok(())
}

/// Installs the Debian packages of the local cluster that are missing.
///
/// # Errors
/// When a package is missing and `apt-get` is too, or it fails.
pub async fn install_packages() -> Result<()> {
    install(&PACKAGES).await
}

/// Installs the Debian packages of the benchmark that are missing.
///
/// # Errors
/// As [`install_packages`].
pub async fn install_bench_packages() -> Result<()> {
    install(&BENCH_PACKAGES).await
}

async fn install(packages: &[(&str, &str)]) -> Result<()> {
    drop(ServicesStayOff::left_by_a_killed_command());
    let missing: Vec<&str> =
        packages.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !command::on_path("apt-get") {
        bail!("these Debian packages, or their like, must be installed by hand: {}", missing.join(" "));
    }
    step(format!("Install Debian packages: {}", missing.join(" ")), async {
        let limit = Duration::from_mins(10);
        let policy = ServicesStayOff::new()?;
        // What an interrupted installation left half-done, this one could not build on.
        let _ = command::run(Command::new("dpkg").args(["--configure", "-a"]), limit).await;
        command::run(Command::new("apt-get").args(APT).arg("update"), limit).await?;
        let mut install = Command::new("apt-get");
        install.args(APT).args(["install", "--yes", "--no-remove", "--no-install-recommends"]).args(&missing);
        command::run(install.env("DEBIAN_FRONTEND", "noninteractive"), limit).await?;
        drop(policy);
        disable_services(&missing).await;
        Ok(())
    })
    .await?;
    for (file, package) in packages {
        if !Path::new(file).exists() {
            bail!("{package} is installed but {file} is not there; is this Debian 12?");
        }
    }
    Ok(())
}

/// The cluster starts what it needs itself; the next boot of the machine must not.
async fn disable_services(installed: &[&str]) {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    for (package, service) in [
        ("containerd", "containerd"),
        ("etcd-server", "etcd"),
        ("redis-server", "redis-server"),
        ("nginx-light", "nginx"),
        ("postgresql-15", "postgresql"),
        ("prometheus", "prometheus"),
    ] {
        if installed.contains(&package) {
            let mut disable = Command::new("systemctl");
            let _ = command::run(disable.args(["disable", service]), Duration::from_mins(1)).await;
        }
    }
}

/// Debian's switch that keeps packages from starting their services, for as long as this value lives. One that a killed
/// command left is known by its text.
struct ServicesStayOff {
    ours: bool,
}

const POLICY_TEXT: &str = "#!/bin/sh\n# Made by cargo xtask while it installs packages.\nexit 101\n";

impl ServicesStayOff {
    fn left_by_a_killed_command() -> Option<Self> {
        let left = std::fs::read_to_string(POLICY).is_ok_and(|text| text == POLICY_TEXT);
        left.then_some(Self { ours: true })
    }

    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            let ours = std::fs::read_to_string(POLICY).is_ok_and(|text| text == POLICY_TEXT);
            return Ok(Self { ours });
        }
        std::fs::write(POLICY, POLICY_TEXT).with_context(|| format!("write {POLICY}"))?;
        std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for ServicesStayOff {
    fn drop(&mut self) {
        if self.ours {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}
