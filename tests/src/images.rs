//! Container images: Plimsoll's own from static binaries, and those that a cluster without a registry needs besides.
//!
//! A tag is made of what is in the image, so that a changed binary is a new image and an unchanged one is not imported
//! again.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::cluster::components::ctr;
use crate::progress::step;
use crate::{command, paths};

/// What sandboxes run. containerd's configuration names it, so its tag is fixed.
pub const PAUSE_IMAGE: &str = "docker.io/plimsoll/pause:1";

/// Where Plimsoll's own images are published.
pub const REGISTRY: &str = "ghcr.io/plimsoll";

const TARGET: &str = "x86_64-unknown-linux-musl";
const LIMIT: Duration = Duration::from_mins(5);
/// A release build of all three binaries with an empty cache, on two cores.
const COMPILE_LIMIT: Duration = Duration::from_mins(40);

/// Environment variable that tells end-to-end tests the [`Images`], as JSON.
pub const VARIABLE: &str = "PLIMSOLL_TEST_IMAGES";

/// References of the images that an installation uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Images {
    /// The operator.
    pub operator: String,
    /// The API service.
    pub api: String,
    /// The API service under another name: a rollout of it changes nothing but the pods.
    pub api_next: String,
    /// The load generator.
    pub load: String,
    /// Redis for managed caches.
    pub redis: String,
    /// Postgres for the sample.
    pub postgres: String,
}

impl Images {
    /// Images of a registry, for a cluster that is not the local one.
    pub fn of_registry(registry: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let own = |name: &str| format!("{}/plimsoll-{name}:{version}", registry.trim_end_matches('/'));
        Self {
            operator: own("operator"),
            api: own("api"),
            api_next: own("api"),
            load: own("load"),
            redis: "docker.io/library/redis:7.4".into(),
            postgres: "docker.io/library/postgres:17".into(),
        }
    }
}

/// Builds all images and imports those that the local cluster lacks.
///
/// # Errors
/// When a build or an import fails.
pub async fn ensure() -> Result<Images> {
    let packages = ["plimsoll-operator", "plimsoll-api", "plimsoll-load"];
    let binaries =
        step("Build the operator, the API service and the load generator", compile(&packages)).await?;
    step("Make and import the images", async {
        let context = stage_binaries(&binaries)?;
        let containerfile = paths::project().join("Containerfile");
        let own = |name: &'static str| own_image(&containerfile, &context, &binaries, name);
        let (operator, api, load) = (own("operator").await?, own("api").await?, own("load").await?);
        let api_next = format!("{api}-next");
        if !imported(&api_next).await {
            ctr(&["images", "tag", "--force", &api, &api_next]).await?;
        }
        let redis = redis().await?;
        let postgres = postgres().await?;
        let images = Images { operator, api, api_next, load, redis, postgres };
        name_as_published(&images).await?;
        Ok(images)
    })
    .await
}

/// Gives the images the names that the chart and `cargo xtask demo --context` use by default, so that both work on the
/// local cluster as they do where those can be pulled.
async fn name_as_published(images: &Images) -> Result<()> {
    let published = Images::of_registry(REGISTRY);
    for (image, name) in [
        (&images.operator, &published.operator),
        (&images.api, &published.api),
        (&images.load, &published.load),
        (&images.redis, &published.redis),
        (&images.postgres, &published.postgres),
    ] {
        ctr(&["images", "tag", "--force", image, name]).await?;
    }
    Ok(())
}

/// The archive of the pause image.
///
/// # Errors
/// When it cannot be built.
pub async fn pause() -> Result<PathBuf> {
    let archive = paths::cache()?.join("images/pause-1.tar");
    if !archive.exists() {
        let root = RootFs::new("pause")?;
        root.add(Path::new("/usr/bin/catatonit"), "usr/bin/catatonit").await?;
        build(&containerfile(), &root.dir, "pause", PAUSE_IMAGE, &archive).await?;
    }
    Ok(archive)
}

/// Imports an archive into the local cluster.
///
/// # Errors
/// When containerd refuses it.
pub async fn import(archive: &Path) -> Result<()> {
    ctr(&["images", "import", &archive.to_string_lossy()]).await.map(drop)
}

/// Builds the release binaries of these packages as they ship, static, and returns their folder.
///
/// # Errors
/// When musl's tools cannot be had or the build fails.
pub async fn compile(packages: &[&str]) -> Result<PathBuf> {
    if !command::on_path("musl-gcc") {
        bail!("static binaries need musl-gcc: install the Debian package musl-tools");
    }
    let installed =
        Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output().await?;
    let libraries = String::from_utf8_lossy(&installed.stdout).trim().to_owned();
    if !installed.status.success() || !Path::new(&libraries).exists() {
        command::run(
            Command::new("rustup").args(["target", "add", TARGET]).current_dir(paths::project()),
            LIMIT,
        )
        .await
        .context("static binaries need Rust's standard library for musl")?;
    }
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::project());
    cargo.args(["build", "--locked", "--release", "--target", TARGET, "--target-dir"]).arg(paths::target());
    cargo.args(packages.iter().flat_map(|package| ["-p", package]));
    command::run_logged(&mut cargo, &paths::target().join("images/build.log"), COMPILE_LIMIT).await?;
    Ok(paths::target().join(TARGET).join("release"))
}

/// A folder with the binaries alone: the builder reads all of its context.
fn stage_binaries(binaries: &Path) -> Result<PathBuf> {
    let context = paths::target().join("images/context");
    std::fs::create_dir_all(&context).with_context(|| format!("create {}", context.display()))?;
    for name in ["operator", "api", "load"] {
        let binary = format!("plimsoll-{name}");
        std::fs::copy(binaries.join(&binary), context.join(&binary))
            .with_context(|| format!("stage {binary}"))?;
    }
    Ok(context)
}

async fn own_image(containerfile: &Path, context: &Path, binaries: &Path, name: &str) -> Result<String> {
    let digest = digest(&[binaries.join(format!("plimsoll-{name}"))])?;
    let image = format!("docker.io/plimsoll/plimsoll-{name}:{}-{digest:012x}", env!("CARGO_PKG_VERSION"));
    if !imported(&image).await {
        let archive = paths::target().join(format!("images/{name}.tar"));
        build(containerfile, context, name, &image, &archive).await?;
        import(&archive).await?;
    }
    Ok(image)
}

async fn redis() -> Result<String> {
    // The shell and what follows it are for the scripts of a cache with failover.
    let programs = [
        ("/usr/bin/redis-server", "usr/local/bin/redis-server"),
        ("/usr/bin/redis-cli", "usr/local/bin/redis-cli"),
        ("/bin/sh", "bin/sh"),
        ("/bin/sleep", "bin/sleep"),
        ("/usr/bin/timeout", "usr/bin/timeout"),
    ];
    let files = programs.iter().map(|(program, _)| PathBuf::from(program)).chain([containerfile()]);
    let image = format!("docker.io/plimsoll/redis:{:012x}", digest(&files.collect::<Vec<_>>())?);
    system_image("redis", &image, async |root| {
        for (program, to) in programs {
            root.add(Path::new(program), to).await?;
        }
        root.write("etc/passwd", "redis:x:999:999::/:/\n")
    })
    .await?;
    Ok(image)
}

/// A Prometheus, as a program of somebody else with a histogram, and with TLS of its own.
///
/// # Errors
/// When it cannot be built or imported.
pub async fn prometheus() -> Result<String> {
    program("prometheus", "/usr/bin/prometheus", "bin/prometheus").await
}

/// The exporter that can run beside a managed cache.
///
/// # Errors
/// When it cannot be built or imported.
pub async fn redis_exporter() -> Result<String> {
    program("redis-exporter", "/usr/bin/prometheus-redis-exporter", "redis_exporter").await
}

/// An image of one program and its libraries.
async fn program(name: &str, program: &str, to: &str) -> Result<String> {
    let program = Path::new(program);
    let image =
        format!("docker.io/plimsoll/{name}:{:012x}", digest(&[program.to_path_buf(), containerfile()])?);
    system_image(name, &image, async |root| root.add(program, to).await).await?;
    Ok(image)
}

async fn postgres() -> Result<String> {
    let entrypoint = paths::project().join("tests/images/postgres-entrypoint.sh");
    let programs = Path::new("/usr/lib/postgresql/15");
    let image = format!(
        "docker.io/plimsoll/postgres:{:012x}",
        digest(&[programs.join("bin/postgres"), entrypoint.clone(), containerfile()])?
    );
    system_image("postgres", &image, async |root| {
        for program in ["postgres", "initdb", "pg_isready"] {
            root.add(&programs.join("bin").join(program), &format!("usr/lib/postgresql/15/bin/{program}"))
                .await?;
        }
        for program in ["sh", "cat", "rm"] {
            root.add(&Path::new("/bin").join(program), &format!("bin/{program}")).await?;
        }
        root.add(&entrypoint, "usr/local/bin/docker-entrypoint.sh").await?;
        for tree in ["/usr/share/postgresql/15", "/usr/share/zoneinfo"] {
            root.copy_tree(tree).await?;
        }
        // Without its just-in-time compiler, which is five times as large as all the rest.
        for library in ["dict_snowball.so", "plpgsql.so"] {
            root.add(&programs.join("lib").join(library), &format!("usr/lib/postgresql/15/lib/{library}"))
                .await?;
        }
        root.write("etc/passwd", "postgres:x:999:999::/var/lib/postgresql:/bin/sh\n")
    })
    .await?;
    Ok(image)
}

/// What the images of this machine's packages are built by.
fn containerfile() -> PathBuf {
    paths::project().join("tests/images/Containerfile")
}

/// Builds an image of this machine's packages into the cache, and imports it.
async fn system_image(name: &str, image: &str, fill: impl AsyncFnOnce(&RootFs) -> Result<()>) -> Result<()> {
    if imported(image).await {
        return Ok(());
    }
    let tag = image.rsplit(':').next().unwrap_or(image);
    let archive = paths::cache()?.join(format!("images/{name}-{tag}.tar"));
    if !archive.exists() {
        let root = RootFs::new(name)?;
        fill(&root).await?;
        build(&containerfile(), &root.dir, name, image, &archive).await?;
    }
    import(&archive).await
}

async fn imported(image: &str) -> bool {
    ctr(&["images", "list", "--quiet", &format!("name=={image}")])
        .await
        .is_ok_and(|list| list.trim() == image)
}

/// Builds one stage of a Containerfile into an archive. An interrupted build leaves no archive.
async fn build(containerfile: &Path, context: &Path, stage: &str, image: &str, archive: &Path) -> Result<()> {
    let storage = paths::target().join("images/storage");
    let buildah = || {
        let mut buildah = Command::new("buildah");
        buildah.args(["--storage-driver", "vfs", "--root"]).arg(storage.join("root"));
        buildah.arg("--runroot").arg(storage.join("run"));
        buildah
    };
    let mut bud = buildah();
    bud.args(["bud", "--quiet", "--isolation", "chroot", "--target", stage, "--tag", image, "--file"]);
    command::run(bud.arg(containerfile).arg(context), LIMIT).await?;
    if let Some(dir) = archive.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let partial = archive.with_extension("partial");
    let _ = std::fs::remove_file(&partial);
    let target = format!("docker-archive:{}:{image}", partial.display());
    command::run(buildah().args(["push", "--quiet", image, &target]), LIMIT).await?;
    command::run(buildah().args(["rmi", "--force", image]), LIMIT).await?;
    std::fs::rename(&partial, archive).with_context(|| format!("put {} in place", archive.display()))
}

/// 48 bits of what is in these files. For telling versions apart, not for security.
fn digest(files: &[PathBuf]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        std::fs::read(file).with_context(|| format!("read {}", file.display()))?.hash(&mut hasher);
    }
    Ok(hasher.finish() >> 16)
}

/// The root file system of an image, collected from this machine.
struct RootFs {
    dir: PathBuf,
}

impl RootFs {
    fn new(name: &str) -> Result<Self> {
        let dir = paths::target().join("images/rootfs").join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("empty {}", dir.display()))?;
        }
        std::fs::create_dir_all(dir.join("tmp")).with_context(|| format!("create {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// Adds a file, and the libraries that it is linked with.
    async fn add(&self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, to)?;
        let output = Command::new("ldd").arg(from).output().await.context("run ldd")?;
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let libraries: BTreeSet<&str> = listed
            .lines()
            .filter_map(|line| {
                line.split_whitespace().find(|word| word.starts_with('/') && !word.ends_with(':'))
            })
            .collect();
        for library in libraries {
            self.copy(Path::new(library), library.trim_start_matches('/'))?;
        }
        Ok(())
    }

    async fn copy_tree(&self, tree: &str) -> Result<()> {
        let to = self.dir.join(tree.trim_start_matches('/'));
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        command::run(Command::new("cp").args(["--recursive", "--dereference", tree]).arg(&to), LIMIT)
            .await
            .map(drop)
    }

    fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.dir.join(to);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        Ok(())
    }

    fn write(&self, to: &str, text: &str) -> Result<()> {
        let to = self.dir.join(to);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&to, text).with_context(|| format!("write {}", to.display()))
    }
}
