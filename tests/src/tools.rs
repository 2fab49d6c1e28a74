//! Programs that are built from Go modules: Kubernetes, CoreDNS, Helm, metrics-server. Each is built once per version into the cache.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::progress::step;
use crate::{command, paths};

/// A family of programs that one `go.mod` under `tests/tools` pins.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Folder under `tests/tools`, and name in the cache.
    pub name: &'static str,
    /// Module whose version is the family's.
    module: &'static str,
    /// Programs that it yields.
    programs: &'static [&'static str],
    /// Packages whose `gitVersion` or `version` is set, as `-X`; without it a program says that it has no version.
    version_variables: &'static [&'static str],
    /// For the progress line.
    takes: &'static str,
}

/// etcd aside, all of a Kubernetes node, and kubectl.
pub const KUBERNETES: Family = Family {
    name: "kubernetes",
    module: "k8s.io/kubernetes",
    programs: &[
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kube-scheduler",
        "kubectl",
        "kubelet",
    ],
    version_variables: &[
        "k8s.io/component-base/version.gitVersion",
        "k8s.io/client-go/pkg/version.gitVersion",
    ],
    takes: "about 12 minutes on two cores",
};

/// The cluster's DNS.
pub const COREDNS: Family = Family {
    name: "coredns",
    module: "github.com/coredns/coredns",
    programs: &["coredns"],
    version_variables: &[],
    takes: "about 4 minutes on two cores",
};

/// What installs the chart.
pub const HELM: Family = Family {
    name: "helm",
    module: "helm.sh/helm/v4",
    programs: &["helm"],
    version_variables: &["helm.sh/helm/v4/internal/version.version"],
    takes: "about 4 minutes on two cores",
};

/// Helm of the major version before, which many still have. It shares all modules with [`HELM`], so that after it there
/// is little left to compile.
pub const HELM_3: Family = Family {
    name: "helm3",
    module: "helm.sh/helm/v3",
    programs: &["helm"],
    version_variables: &["helm.sh/helm/v3/internal/version.version"],
    takes: "about half a minute on two cores after Helm 4",
};

/// Reads objects of the Prometheus operator into its types; of our own source, beside its `go.mod`.
pub const MONITORING: Family = Family {
    name: "monitoring",
    module: "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring",
    programs: &["monitoring"],
    version_variables: &[],
    takes: "about a quarter of a minute on two cores",
};

/// What Kubernetes' own autoscaler reads; for the benchmark only.
pub const METRICS_SERVER: Family = Family {
    name: "metrics-server",
    module: "sigs.k8s.io/metrics-server",
    programs: &["metrics-server"],
    version_variables: &["k8s.io/component-base/version.gitVersion"],
    takes: "about 3 minutes on two cores",
};

/// Building on one machine at a time and no longer than this.
const BUILD_LIMIT: Duration = Duration::from_mins(45);

impl Family {
    /// Version of the module, read from the family's `go.mod`.
    ///
    /// # Errors
    /// When the file does not require the module.
    pub fn version(&self) -> Result<String> {
        let file = self.source().join("go.mod");
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        text.lines()
            .map(|line| line.trim().trim_start_matches("require").trim())
            .find_map(|line| line.strip_prefix(self.module)?.strip_prefix(' '))
            .and_then(|rest| rest.split_whitespace().next())
            .map(str::to_owned)
            .with_context(|| format!("{} does not require {}", file.display(), self.module))
    }

    /// Where the cache has, or would have, the programs.
    ///
    /// # Errors
    /// When the version or the cache's place cannot be told.
    pub fn cached(&self) -> Result<PathBuf> {
        Ok(paths::cache()?.join("tools").join(format!("{}-{}", self.name, self.version()?)).join("bin"))
    }

    /// Builds what the cache lacks, and returns the folder of the programs.
    ///
    /// # Errors
    /// When there is no Go toolchain or the build fails; the cache then holds no half-made entry.
    pub async fn ensure(&self) -> Result<PathBuf> {
        let version = self.version()?;
        let bin = self.cached()?;
        if self.programs.iter().all(|program| bin.join(program).is_file()) {
            return Ok(bin);
        }
        if !command::on_path("go") {
            bail!(
                "building {} needs a Go toolchain; install Go 1.26 or newer and put `go` on PATH",
                self.name
            );
        }
        refuse_old_go().await?;
        let title = format!("Build {} {version}, once for this machine ({})", self.name, self.takes);
        step(title, self.build(&version, &bin)).await?;
        Ok(bin)
    }

    async fn build(&self, version: &str, bin: &Path) -> Result<()> {
        let entry = bin.parent().context("an entry of the cache")?;
        let partial = entry.join("bin.partial");
        if partial.exists() {
            std::fs::remove_dir_all(&partial).with_context(|| format!("clear {}", partial.display()))?;
        }
        std::fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
        let log = entry.join("build.log");
        let built = command::run_logged(
            Command::new("go")
                .current_dir(self.source())
                .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags"])
                .arg(self.linker_flags(version))
                .arg("-o")
                .arg(&partial)
                .arg("tool")
                .env("CGO_ENABLED", "0"),
            &log,
            BUILD_LIMIT,
        )
        .await;
        if let Err(error) = built {
            let _ = std::fs::remove_dir_all(&partial);
            return Err(error);
        }
        if bin.exists() {
            std::fs::remove_dir_all(bin).with_context(|| format!("replace {}", bin.display()))?;
        }
        std::fs::rename(&partial, bin).with_context(|| format!("put {} in place", bin.display()))
    }

    fn linker_flags(&self, version: &str) -> String {
        let mut flags = String::from("-s -w");
        for variable in self.version_variables {
            let _ = write!(flags, " -X {variable}={version}");
            if let Some(package) = variable.strip_suffix("gitVersion") {
                let mut numbers = version.trim_start_matches('v').split('.');
                for part in ["gitMajor", "gitMinor"] {
                    let _ = write!(flags, " -X {package}{part}={}", numbers.next().unwrap_or_default());
                }
            }
        }
        flags
    }

    fn source(&self) -> PathBuf {
        paths::project().join("tests/tools").join(self.name)
    }
}

/// Helm of the version that is pinned, built into the cache.
///
/// # Errors
/// As [`Family::ensure`].
pub async fn helm() -> Result<PathBuf> {
    Ok(HELM.ensure().await?.join("helm"))
}

/// The modules ask for Go 1.26, and an old toolchain says so in words that nobody understands.
async fn refuse_old_go() -> Result<()> {
    let version =
        command::run(Command::new("go").args(["env", "GOVERSION"]), Duration::from_secs(20)).await?;
    let minor =
        version.trim().strip_prefix("go1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    match minor {
        Some(minor) if minor < 26 => {
            bail!("this machine has {}, and Go 1.26 or newer is needed", version.trim())
        }
        _ => Ok(()),
    }
}
