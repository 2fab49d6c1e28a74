//! A Postgres of a test's own, to be paused, killed and reconfigured. Says so when Debian's package is not there.

use std::{
    fs,
    os::unix::fs::chown,
    path::PathBuf,
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User},
};
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls};

use crate::harness::{Process, eventually, free_port};

/// Where Debian keeps the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The superuser's password at first.
pub const PASSWORD: &str = "right";

/// A server on 127.0.0.1 that asks for passwords; it ends, and its files go, with this value.
pub struct Postgres {
    process: Option<Process>,
    folder: TempDir,
    programs: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts a server; nothing, said aloud, when there is no Postgres on this machine.
    pub async fn start(test: &str) -> Option<Self> {
        let versions = fs::read_dir(VERSIONS).into_iter().flatten().flatten();
        let Some(programs) = versions.map(|version| version.path().join("bin")).max() else {
            println!("NOT RUN: {test}; install Debian's package postgresql");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        if Uid::effective().is_root() {
            let owner = User::from_name("postgres").unwrap().unwrap();
            for path in [folder.path(), &password] {
                chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).unwrap();
            }
        }
        let mut server = Self { process: None, folder, programs, port: free_port() };
        let made = server
            .program("initdb")
            .args([
                "--username=postgres",
                "--auth=scram-sha-256",
                "--no-sync",
                "--locale=C",
                "--encoding=UTF8",
            ])
            .arg("--pwfile")
            .arg(&password)
            .arg("--pgdata")
            .arg(server.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.run().await;
        Some(server)
    }

    /// Starts the server on what it had when it was killed.
    pub async fn run(&mut self) {
        // One that crashed leaves processes that hold its memory for a moment: until they are gone it does not start.
        eventually("postgres serves", async || {
            let running =
                self.process.as_mut().is_some_and(|process| process.0.try_wait().unwrap().is_none());
            if !running {
                self.process = Some(self.spawn());
            }
            self.connect().await.is_ok()
        })
        .await;
    }

    /// The URL for a client with this password.
    pub fn url(&self, password: &str) -> String {
        format!("postgres://postgres:{password}@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs SQL as the superuser.
    pub async fn execute(&self, sql: &str) {
        self.connect().await.unwrap().batch_execute(sql).await.unwrap();
    }

    /// Sets a setting for every session, also those that there are.
    pub async fn set(&self, name: &str, value: &str) {
        let client = self.connect().await.unwrap();
        client.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).await.unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually("the setting holds", async || {
            let client = self.connect().await.unwrap();
            let row = client.query_one("SELECT current_setting($1)", &[&name]).await.unwrap();
            row.get::<_, &str>(0) == value
        })
        .await;
    }

    /// Stops every process of the server, as a frozen machine would: connections stay, and nobody answers.
    pub fn pause(&self) {
        self.signal_all(Signal::SIGSTOP);
    }

    /// Lets the server go on.
    pub fn resume(&self) {
        self.signal_all(Signal::SIGCONT);
    }

    /// Ends the server without a word.
    pub fn kill(&mut self) {
        self.signal_all(Signal::SIGKILL);
        self.process = None;
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn spawn(&self) -> Process {
        let log = self.folder.path().join("log");
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"] {
            command.args(["-c", setting]);
        }
        Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Postgres refuses to run as root.
    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = if Uid::effective().is_root() {
            let mut command = Command::new("setpriv");
            // It ends with this test, however that ends.
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"]);
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir("/");
        command
    }

    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let config: Config = self.url(PASSWORD).parse().unwrap();
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The first process before its children, so that it makes no more of them.
    fn signal_all(&self, signal: Signal) {
        let Some(process) = &self.process else { return };
        process.signal(signal);
        let parent = process.0.id().to_string();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // After the name in brackets: the state, then the parent.
            let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' '));
            if fields.is_some_and(|mut fields| fields.nth(1) == Some(&parent)) {
                let id = entry.file_name().to_str().unwrap().parse().unwrap();
                // It may have ended on its own.
                let _ = kill(Pid::from_raw(id), signal);
            }
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // One that stands still does not notice that its parent is gone.
        self.signal_all(Signal::SIGKILL);
    }
}
