//! Runs other programs: bounded in time, with an error that shows what they said.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Lines of output that an error repeats.
const ERROR_LINES: usize = 15;

/// Runs to the end and returns standard output.
///
/// # Errors
/// When the program is missing, takes longer than `limit` or exits other than 0; the error ends with what it printed last.
pub async fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let shown = show(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("`{shown}` took longer than {} s", limit.as_secs()))?
        .with_context(|| format!("start `{shown}`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    bail!("`{shown}` failed ({}):\n{}", output.status, tail(&said));
}

/// As [`run`], with `input` as standard input.
///
/// # Errors
/// As [`run`].
pub async fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<String> {
    let shown = show(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    let mut stdin = child.stdin.take().context("standard input of a child")?;
    let exchange = async {
        // A program that does not read to the end has its reasons, which its exit tells.
        let write = async {
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        output
    };
    let output = tokio::time::timeout(limit, exchange)
        .await
        .with_context(|| format!("`{shown}` took longer than {} s", limit.as_secs()))??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    bail!("`{shown}` failed ({}):\n{}", output.status, tail(&said));
}

/// Runs a long build with its output in a file, which an error names and quotes.
///
/// # Errors
/// As [`run`].
pub async fn run_logged(command: &mut Command, log: &Path, limit: Duration) -> Result<()> {
    let shown = show(command);
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let file = std::fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share a log")?)
        .stderr(file)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start `{shown}`"))?;
    let status = tokio::time::timeout(limit, child.wait()).await.with_context(|| {
        format!("`{shown}` took longer than {} s; see {}", limit.as_secs(), log.display())
    })??;
    if status.success() {
        return Ok(());
    }
    let said = std::fs::read_to_string(log).unwrap_or_default();
    bail!(
        "`{shown}` failed ({status}); all of it is in {}, and it ended with:\n{}",
        log.display(),
        tail(&said)
    );
}

/// Whether a program of that name is on `PATH`.
pub fn on_path(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn show(command: &Command) -> String {
    let command = command.as_std();
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    let mut shown = words.join(" ");
    if let Some((end, _)) = shown.char_indices().nth(200) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(ERROR_LINES)..].join("\n")
}
