//! The real Prometheus server, which ends with the value, and whose files go with it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::pod::Pod;

const MISSING: &str = "Debian's package prometheus is needed: `apt-get install prometheus`, or `cargo xtask test --fast` installs it";

pub struct Server {
    child: Child,
    pub folder: TempDir,
    pub address: String,
}

/// What is not by default.
#[derive(Default)]
pub struct Options<'a> {
    /// Token that pods are asked with.
    pub token: Option<&'a str>,
    /// Flags in addition.
    pub flags: &'a [&'a str],
    /// The web configuration, of the folder with its files.
    pub web: Option<&'a dyn Fn(&Path) -> String>,
}

impl Server {
    /// Scrapes the pods five times a second.
    pub fn start(pods: &[Pod], options: &Options<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let mut config = "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs:\n\
                          - job_name: pods\n  scrape_interval: 1s\n  scrape_timeout: 900ms\n  body_size_limit: 4MB\n"
            .to_owned();
        if let Some(token) = options.token {
            let _ = writeln!(config, "  authorization: {{credentials: {token}}}");
        }
        config += "  static_configs:\n";
        for pod in pods {
            let _ = writeln!(
                config,
                "  - {{targets: ['{}'], labels: {{namespace: shop, pod: {}}}}}",
                pod.address, pod.name
            );
        }
        std::fs::write(file("prometheus.yaml"), config).unwrap();
        let web = options.web.map_or_else(String::new, |web| web(folder.path()));
        std::fs::write(file("web.yaml"), web).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", file("prometheus.yaml").display()))
            .arg(format!("--web.config.file={}", file("web.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", file("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(options.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect(MISSING);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = String::new();
        let ready = lines.by_ref().any(|line| {
            let _ = writeln!(said, "{line}");
            line.contains("Server is ready to receive web requests")
        });
        assert!(ready, "Prometheus ended:\n{said}");
        // It must be able to go on logging.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, folder, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
