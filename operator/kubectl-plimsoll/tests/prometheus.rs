//! The command against a real Prometheus, on a history that `promtool` put there. It needs Debian's package `prometheus`,
//! which `cargo xtask test --fast` installs where it is missing.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// 2025-06-01T00:00:00Z.
const BEGIN: i64 = 1_748_736_000;
const SCRAPE_SECONDS: i64 = 15;
const HOUR: [&str; 4] = ["--from", "2025-06-01T00:10:00Z", "--to", "2025-06-01T01:10:00Z"];

/// A server that ends, and whose files go, with this value.
struct Prometheus {
    child: Child,
    folder: TempDir,
    address: String,
}

impl Prometheus {
    /// Serves the history on a port of its own, with these flags in addition.
    fn start(flags: &[&str], web_config: Option<&dyn Fn(&Path) -> String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("metrics.txt"), metrics()).unwrap();
        let made = Command::new("promtool")
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .args([file("metrics.txt"), file("data")])
            .output();
        let made = made.expect(MISSING);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(file("prometheus.yaml"), "global: {}\n").unwrap();
        let web = web_config.map_or_else(String::new, |config| config(folder.path()));
        std::fs::write(file("web.yaml"), web).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", file("prometheus.yaml").display()))
            .arg(format!("--web.config.file={}", file("web.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", file("data").display()))
            .arg(format!("--web.listen-address={address}"))
            // What is older would be deleted at the start.
            .arg("--storage.tsdb.retention.time=100y")
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect(MISSING);
        let log = BufReader::new(child.stderr.take().unwrap());
        let server = Self { child, folder, address };
        let mut said = String::new();
        let mut lines = log.lines().map_while(Result::ok);
        let ready = lines.by_ref().any(|line| {
            let _ = writeln!(said, "{line}");
            line.contains("Server is ready to receive web requests")
        });
        assert!(ready, "Prometheus ended:\n{said}");
        // It must be able to go on logging.
        std::thread::spawn(move || lines.for_each(drop));
        server
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    fn ask(&self, query: &str, more: &[&str]) -> Output {
        ask(&[&["--prometheus", &self.url("http"), "--query", query], more].concat())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const MISSING: &str = "Debian's package prometheus is needed: `apt-get install prometheus`, or `cargo xtask test --fast` installs it";

/// A counter that grows by 20 and later by 60 a second with code 200, and by 1 with code 500; one that is missing for two
/// minutes, and one that is missing for half an hour.
fn metrics() -> String {
    let mut text = String::new();
    let mut series = |labels: &str, per_second: &dyn Fn(i64) -> i64, missing: &dyn Fn(i64) -> bool| {
        let mut count = 0;
        for scrape in 0..=320 {
            let at = scrape * SCRAPE_SECONDS;
            if !missing(at) {
                let _ = writeln!(text, "http_requests_total{{{labels}}} {count} {}", BEGIN + at);
            }
            count += per_second(at) * SCRAPE_SECONDS;
        }
    };
    series(r#"job="shop",code="200""#, &|at| if at < 2400 { 20 } else { 60 }, &|_| false);
    series(r#"job="shop",code="500""#, &|_| 1, &|_| false);
    series(r#"job="restarted""#, &|_| 10, &|at| (1800..1920).contains(&at));
    series(r#"job="nightly""#, &|_| 10, &|at| (1800..3600).contains(&at));
    format!("# HELP http_requests Requests.\n# TYPE http_requests counter\n{text}# EOF\n")
}

fn golden(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name].iter().collect()
}

fn ask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-plimsoll"))
        .args(["simulate", "--service-time", "50ms", "--manifest"])
        .arg(golden("app.yaml"))
        .args(arguments)
        .output()
        .unwrap()
}

#[track_caller]
fn report(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn fails(output: &Output, message: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it went well");
    assert!(error.contains(message), "{message}\n\n{error}");
}

#[track_caller]
fn near(value: &serde_json::Value, expected: f64) {
    let value = value.as_f64().unwrap();
    assert!((value / expected - 1.0).abs() < 0.01, "{value} is not {expected}");
}

const ALL: &str = r#"sum(rate(http_requests_total{job="shop"}[1m]))"#;

#[test]
fn a_range_query_is_the_same_history_as_its_csv() {
    let server = Prometheus::start(&[], None);
    let json = |step| [&HOUR[..], &["--json", "--step", step]].concat();
    let asked = report(&server.ask(ALL, &json("1m")));
    let load = &asked["load"];
    assert_eq!(load["started"], "2025-06-01T00:10:00Z");
    near(&load["hours"], 61.0 / 60.0);
    near(&load["peakRequestsPerSecond"], 61.0);
    near(&load["meanRequestsPerSecond"], (31.0 * 21.0 + 30.0 * 61.0) / 61.0);
    assert!(load.get("notes").is_none(), "{load}");

    let csv = server.folder.path().join("history.csv");
    let mut lines = String::new();
    for minute in 10..=70 {
        // What is counted in the minute that ends here.
        let rate = if minute <= 40 { 21 } else { 61 };
        let at = jiff::Timestamp::from_second(BEGIN + 60 * minute).unwrap();
        let _ = writeln!(lines, "{at},{rate}");
    }
    std::fs::write(&csv, lines).unwrap();
    let read = report(&ask(&["--trace", csv.to_str().unwrap(), "--json"]));
    assert_eq!(asked["load"]["started"], read["load"]["started"]);
    for (asked, read) in asked["rows"].as_array().unwrap().iter().zip(read["rows"].as_array().unwrap()) {
        assert_eq!(asked["policy"], read["policy"]);
        near(&asked["replicaHours"], read["replicaHours"].as_f64().unwrap());
    }

    // More points than Prometheus puts into one answer.
    let long = ["--json", "--step", "1s", "--from", "2025-05-31T22:00:00Z", "--to", "2025-06-01T01:10:00Z"];
    let fine = report(&server.ask(ALL, &long));
    near(&fine["load"]["meanRequestsPerSecond"], (40.0 * 21.0 + 30.0 * 61.0) / 70.0);
    let note = fine["load"]["notes"][0].as_str().unwrap();
    assert!(note.starts_with("there is no load before 2025-06-01T00:00:"), "{note}");
}

#[test]
fn what_prometheus_refuses_is_told_in_its_own_words() {
    let server = Prometheus::start(&["--query.max-samples=300"], None);
    fails(&server.ask("sum(rate(", &HOUR), "Prometheus says (400, bad_data): ");
    fails(&server.ask("sum(rate(", &HOUR), "parse error");
    fails(
        &server.ask(ALL, &HOUR),
        "Prometheus says (422, execution): query processing would load too many samples",
    );
    fails(&server.ask(ALL, &HOUR), "write a larger --step or a shorter range");
    let elsewhere = format!("{}/prom", server.url("http"));
    let below = [&["--prometheus", &elsewhere, "--query", "up"][..], &HOUR[..]];
    fails(&ask(&below.concat()), "it answers 404 Not Found: \"404 page not found\"; is that its address");
}

#[test]
fn an_answer_that_is_no_history_says_what_to_ask() {
    let server = Prometheus::start(&[], None);
    let of = |job: &str| format!("rate(http_requests_total{{job={job:?}}}[1m])");
    fails(
        &server.ask(&of("shop"), &HOUR),
        "the query gives 2 series, such as {code=\"200\", job=\"shop\"} and ",
    );
    fails(&server.ask(&of("shop"), &HOUR), &format!("add them up: --query 'sum({})'", of("shop")));
    fails(
        &server.ask("sum(rate(nothing_total[1m]))", &HOUR),
        "the query gives nothing from 2025-06-01T00:10:00Z to",
    );
    fails(&server.ask("vector(0) / 0", &HOUR), "that are no number; write");
    fails(&server.ask("vector(1) / 0", &HOUR), "the query gives +Inf; requests per second are 0 or more");
    fails(&server.ask("-vector(1)", &HOUR), "the query gives -1; requests per second are 0 or more");
    let now = ["--from", "1h", "--json"];
    fails(&server.ask("sum(rate(nothing_total[1m]))", &now), "does the server keep data for so long?");
    let steady = report(&server.ask("vector(25)", &now));
    near(&steady["load"]["hours"], 1.0);

    let json = [&HOUR[..], &["--json"]].concat();
    let restarted = report(&server.ask(&of("restarted"), &json));
    let note = restarted["load"]["notes"][0].as_str().unwrap();
    assert!(note.starts_with("1 gaps, ") && note.contains("after 2025-06-01T00:30:"), "{note}");
    // Beside a gap Prometheus makes the rate lower than it was.
    assert!(restarted["load"]["meanRequestsPerSecond"].as_f64().unwrap() > 9.5, "{restarted}");

    let nightly = server.ask(&of("nightly"), &json);
    fails(&nightly, "are missing or no number, the longest gap");
    let told = String::from_utf8_lossy(&nightly.stderr).into_owned();
    let (_, fix) = told.split_once("write --query '").unwrap();
    let (fix, _) = fix.split_once('\'').unwrap();
    let fixed = report(&server.ask(fix, &json));
    assert!(fixed["load"].get("notes").is_none(), "{fixed}");
    assert!(fixed["load"]["meanRequestsPerSecond"].as_f64().unwrap() < 7.0, "{fixed}");
}

#[test]
fn the_servers_certificate_is_checked_unless_it_is_told_not_to() {
    let server = Prometheus::start(
        &[],
        Some(&|folder| {
            let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
            std::fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
            std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
            // Paths are those beside this file.
            "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n".into()
        }),
    );
    let https = |more: &[&str]| {
        ask(&[&["--prometheus", &server.url("https"), "--query", ALL, "--json"], &HOUR[..], more].concat())
    };
    let authority = server.folder.path().join("tls.crt");
    near(&report(&https(&["--ca-file", authority.to_str().unwrap()]))["load"]["peakRequestsPerSecond"], 61.0);
    near(&report(&https(&["--insecure-skip-tls-verify"]))["load"]["peakRequestsPerSecond"], 61.0);
    // Another authority's, or one of the machine's.
    let other = server.folder.path().join("other.crt");
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
    std::fs::write(&other, made.cert.pem()).unwrap();
    fails(
        &https(&["--ca-file", other.to_str().unwrap()]),
        "its certificate is not to be trusted; name the authority",
    );
    fails(&server.ask(ALL, &HOUR), "Client sent an HTTP request to an HTTPS server.");

    let plain = Prometheus::start(&[], None);
    let wrong = plain.url("https");
    let speaks_http = ["--prometheus", &wrong, "--query", ALL, "--insecure-skip-tls-verify"];
    fails(&ask(&[&speaks_http[..], &HOUR[..]].concat()), "it does not speak TLS; write http://");
}
