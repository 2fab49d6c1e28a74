//! Starts a server on chosen CPUs and ends it, with all its descendants, by their ids.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::usage::{self, Process};

/// How long a server may take to end before it is killed, and to go once it was.
const END_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at whether something has come to be.
const POLL: Duration = Duration::from_millis(20);
/// Bytes of a log that an error repeats.
const LOG_TAIL: usize = 1500;

/// A running server, which ends with this value; and with this program, should that be killed.
pub struct Running {
    child: Child,
    id: i32,
    name: String,
    log: PathBuf,
}

impl Running {
    /// Starts `command` on these CPUs (a list as `taskset` takes it), with its output in a file of `folder`.
    ///
    /// # Errors
    /// When the program or the log cannot be had.
    pub fn start(name: &str, cpus: &str, command: &Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut pinned = Command::new("setpriv");
        pinned.args(["--pdeathsig=TERM", "taskset", "--cpu-list", cpus]);
        pinned.arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => pinned.env(variable, value),
                None => pinned.env_remove(variable),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            pinned.current_dir(dir);
        }
        pinned.stdin(Stdio::null()).stdout(out.try_clone().context("share a log")?).stderr(out);
        let child = pinned.spawn().with_context(|| format!("start {name}"))?;
        let id = i32::try_from(child.id()).context("a process id")?;
        Ok(Self { child, id, name: name.to_owned(), log })
    }

    /// Its process id; those of its descendants are found from it.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Waits until `serves` says so.
    ///
    /// # Errors
    /// When it ends before that, or `limit` passes; with the end of its log.
    pub async fn until(&mut self, limit: Duration, serves: impl AsyncFn() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().with_context(|| format!("wait for {}", self.name))? {
                bail!("{} has ended ({status}):\n{}", self.name, self.log_tail());
            }
            if serves().await {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} does not serve after {} s:\n{}", self.name, limit.as_secs(), self.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for the end of these processes, and says whether it came in time.
    fn ended(&mut self, tree: &[Process]) -> bool {
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline {
            let ended = !matches!(self.child.try_wait(), Ok(None));
            if ended && !tree.iter().any(lives) {
                return true;
            }
            std::thread::sleep(POLL);
        }
        false
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]).into_owned()
    }
}

impl Drop for Running {
    /// Waits for the end, for the next server must find the CPU free.
    fn drop(&mut self) {
        let tree = usage::tree(self.id);
        let _ = kill(Pid::from_raw(self.id), Signal::SIGTERM);
        if self.ended(&tree) {
            return;
        }
        for process in tree.iter().filter(|process| lives(process)) {
            let _ = kill(Pid::from_raw(process.id), Signal::SIGKILL);
        }
        self.ended(&tree);
    }
}

/// Whether it is still that process, and not another that was given its id.
fn lives(process: &Process) -> bool {
    Process::read(process.id).is_some_and(|found| found.started == process.started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ends_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // The shell ignores SIGTERM, and its child outlives it unless it is ended too.
        command.args(["-c", "trap '' TERM; sleep 60 & wait; wait"]);
        let mut running = Running::start("shell", "0", &command, folder.path()).unwrap();
        let id = running.id();
        running.until(Duration::from_secs(10), async || usage::tree(id).len() == 2).await.unwrap();
        let tree = usage::tree(id);
        drop(running);
        assert!(tree.iter().all(|process| !lives(process)), "{tree:?}");
    }

    #[tokio::test]
    async fn tells_what_a_server_said_that_does_not_start() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such port; exit 3"]);
        let mut running = Running::start("shell", "0", &command, folder.path()).unwrap();
        let error = running.until(Duration::from_secs(10), async || false).await.unwrap_err().to_string();
        assert!(error.contains("no such port") && error.contains('3'), "{error}");
    }
}
