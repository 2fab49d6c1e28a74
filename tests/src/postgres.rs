//! A Postgres of the tests' own on 127.0.0.1, for tests that need no cluster.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{command, paths};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const START_LIMIT: Duration = Duration::from_secs(30);

/// A server that ends, and whose files go, with this value.
pub struct Postgres {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Postgres {
    /// Makes a database in a folder of its own and serves it on a free port.
    ///
    /// # Errors
    /// When Debian's package postgresql-15 is missing or the server does not start.
    pub async fn start() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("plimsoll-postgres-{}", std::process::id()));
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?.port();
        let data = folder.join("data").to_string_lossy().into_owned();
        // A killed run of the same process id may have left its folder.
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        command::run(Command::new("chown").arg("postgres").arg(&folder), Duration::from_secs(5)).await?;
        let initdb = ["--username=postgres", "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync"];
        let limit = Duration::from_mins(1);
        command::run(unprivileged("initdb").args(initdb).args(["--pgdata", &data]), limit).await?;
        let log = paths::target().join("postgres.log");
        let file = std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let child = unprivileged("postgres")
            .into_std()
            .args([
                "-D",
                &data,
                "-p",
                &port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "fsync=off",
            ])
            .args(["-c", "unix_socket_directories="])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .context("start postgres")?;
        let server = Self { child, folder, port };
        let deadline = Instant::now() + START_LIMIT;
        let port = port.to_string();
        while command::run(unprivileged("pg_isready").args(["-h", "127.0.0.1", "-p", &port]), limit)
            .await
            .is_err()
        {
            if Instant::now() > deadline {
                bail!("postgres does not serve after {} s; see {}", START_LIMIT.as_secs(), log.display());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(server)
    }

    /// URL of the database.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Postgres refuses to run as root.
fn unprivileged(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    // It ends with this process, however that ends.
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"])
        .arg(format!("{PROGRAMS}/{program}"));
    command.current_dir("/");
    command
}
