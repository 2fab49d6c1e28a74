//! Schemathesis against the API service: requests made from its OpenAPI document, right and wrong ones, and what every
//! answer must be. Never needs a cluster.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::progress::step;
use crate::{command, paths};

/// Known to work; a newer one may check more, which should not fail a build that nobody changed.
const VERSION: &str = "4.32.5";

/// What each answer is held to: no 5xx but those in the document, and status, headers, type and schema as in it.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
     response_headers_conformance,response_schema_conformance,unsupported_method,allow_header_conformance,\
     use_after_free,ensure_resource_availability";

/// Requests for each operation of the document, and the seed that makes them the same in every run.
const EXAMPLES: &str = "100";
const SEED: &str = "1";

/// The longest download and install, and the longest run.
const INSTALL_LIMIT: Duration = Duration::from_mins(10);
const RUN_LIMIT: Duration = Duration::from_mins(10);

/// The longest that the service may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Builds the service, starts it on a free port with a database in memory, and runs schemathesis against it.
///
/// # Errors
/// When Python or the package cannot be had, the service does not start, or an answer is not as the document says.
pub async fn run() -> Result<()> {
    let program = install().await?;
    let mut build = Command::new("cargo");
    // Of the whole workspace, so that dependencies have the features that other builds have.
    build.current_dir(paths::project());
    build.args(["build", "--workspace", "--bin", "plimsoll-api", "--locked"]).args(crate::suite::FEATURES);
    let log = paths::target().join("schemathesis.log");
    step("Build the API service", command::run_logged(&mut build, &log, INSTALL_LIMIT)).await?;
    let (service, port) = start().await?;
    let mut schemathesis = Command::new(program);
    schemathesis
        // Where it may leave reports; nothing of it belongs into the checkout.
        .current_dir(paths::target())
        .arg("run")
        .arg(format!("http://127.0.0.1:{port}/openapi.json"))
        .args(["--phases", "examples,coverage,fuzzing", "--checks", CHECKS])
        .args(["--max-examples", EXAMPLES, "--seed", SEED])
        .args(["--request-timeout", "10", "--no-color"]);
    let outcome = step("Run schemathesis", command::run_logged(&mut schemathesis, &log, RUN_LIMIT)).await;
    drop(service);
    outcome
}

/// The program in a virtual environment of its own, made once for this machine.
async fn install() -> Result<std::path::PathBuf> {
    let place = paths::cache()?.join("tools").join(format!("schemathesis-{VERSION}"));
    let program = place.join("bin/schemathesis");
    if program.is_file() {
        return Ok(program);
    }
    if !command::on_path("python3") {
        bail!("schemathesis needs Python: install python3 with its venv module and put it on PATH");
    }
    let log = paths::target().join("schemathesis.log");
    let title = format!("Install schemathesis {VERSION}, once for this machine");
    let installed = step(title, async {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&place);
        command::run_logged(&mut venv, &log, INSTALL_LIMIT).await?;
        let mut pip = Command::new(place.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", &format!("schemathesis=={VERSION}")]);
        command::run_logged(&mut pip, &log, INSTALL_LIMIT).await
    });
    if let Err(error) = installed.await {
        // A half-made environment must not be taken for a whole one.
        let _ = std::fs::remove_dir_all(&place);
        return Err(error);
    }
    Ok(program)
}

/// The service, which ends when it is dropped, and its port.
async fn start() -> Result<(Child, u16)> {
    // Free again when the service binds it; on this machine nobody else asks in between.
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let mut service = Command::new(paths::target().join("debug/plimsoll-api"))
        .env("PLIMSOLL_LISTEN", format!("127.0.0.1:{port}"))
        .env("PLIMSOLL_DATABASE_URL", "sqlite::memory:")
        .env("PLIMSOLL_LOG", "warn")
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("start the API service")?;
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        if let Some(status) = service.try_wait()? {
            bail!("the API service ended at once: {status}");
        }
        if Instant::now() > deadline {
            bail!("the API service does not listen");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((service, port))
}
