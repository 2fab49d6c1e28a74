//! What the local cluster needs of the machine: root, Linux, Debian packages.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::command;
use crate::progress::step;

/// A file that shows that a package is there, and the package.
const PACKAGES: [(&str, &str); 17] = [
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
    ("/usr/bin/promtool", "prometheus"),
    ("/usr/bin/buildah", "buildah"),
    ("/usr/bin/catatonit", "catatonit"),
    ("/usr/bin/musl-gcc", "musl-tools"),
    ("/usr/bin/mount", "mount"),
    ("/usr/bin/ldd", "libc-bin"),
];

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

/// Installs the Debian packages that are missing.
///
/// # Errors
/// When a package is missing and `apt-get` is too, or it fails.
pub async fn install_packages() -> Result<()> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !command::on_path("apt-get") {
        bail!("these Debian packages, or their like, must be installed by hand: {}", missing.join(" "));
    }
    step(format!("Install Debian packages: {}", missing.join(" ")), async {
        let limit = Duration::from_mins(10);
        command::run(Command::new("apt-get").args(["-q", "update"]), limit).await?;
        let policy = ServicesStayOff::new()?;
        let installed = command::run(
            Command::new("apt-get")
                .args(["-q", "install", "--yes", "--no-install-recommends"])
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive"),
            limit,
        )
        .await;
        drop(policy);
        installed.map(drop)
    })
    .await?;
    for (file, package) in PACKAGES {
        if !Path::new(file).exists() {
            bail!("{package} is installed but {file} is not there; is this Debian 12?");
        }
    }
    Ok(())
}

/// Debian's switch that keeps packages from starting their services, for as long as this value lives.
struct ServicesStayOff {
    ours: bool,
}

impl ServicesStayOff {
    fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
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
