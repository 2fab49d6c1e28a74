//! The command as a user runs it. `UPDATE_GOLDEN=1 cargo test -p kubectl-plimsoll` writes the golden output anew.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::PathBuf;
use std::process::{Command, Output};

fn golden(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name].iter().collect()
}

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-plimsoll")).arg("simulate").args(arguments).output().unwrap()
}

fn shop(arguments: &[&str]) -> Output {
    let (manifest, trace) = (golden("app.yaml"), golden("history.csv"));
    let mut all = vec!["--manifest", manifest.to_str().unwrap(), "--trace", trace.to_str().unwrap()];
    all.extend(arguments);
    simulate(&all)
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn fails(output: &Output, message: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it went well");
    assert!(error.contains(message), "{message}\n\n{error}");
}

#[test]
fn the_table_is_as_committed() {
    let table = told(&shop(&["--service-time", "50ms", "--price-per-replica-hour", "0.04"]));
    let file = golden("simulate.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &table).unwrap();
    }
    assert_eq!(table, std::fs::read_to_string(&file).unwrap_or_default(), "UPDATE_GOLDEN=1 writes it anew");
}

#[test]
fn json_has_the_same_numbers_and_no_cost_without_a_price() {
    let arguments = ["--service-time", "50ms", "--json"];
    let report: serde_json::Value = serde_json::from_str(&told(&shop(&arguments))).unwrap();
    assert_eq!(report["rows"].as_array().unwrap().len(), 3);
    assert_eq!(report["rows"][0]["policy"], "Plimsoll");
    assert!(report["rows"][0].get("cost").is_none());
    let table = std::fs::read_to_string(golden("simulate.txt")).unwrap();
    let hours = format!("{:.2}", report["rows"][1]["replicaHours"].as_f64().unwrap());
    assert!(table.contains(&hours), "{hours}\n{table}");
}

/// The manifest with these lines under `spec`.
fn with_scaling(scaling: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("app.yaml");
    let text = std::fs::read_to_string(golden("app.yaml")).unwrap();
    std::fs::write(&manifest, format!("{}\n  scaling: {scaling}\n", text.trim_end())).unwrap();
    let trace = golden("history.csv");
    let files = ["--manifest", manifest.to_str().unwrap(), "--trace", trace.to_str().unwrap()];
    simulate(&[&files[..], &["--service-time", "50ms", "--json"], arguments].concat())
}

#[test]
fn the_users_hands_hold_the_simulated_replicas_too() {
    let row = |scaling: &str, arguments: &[&str]| {
        let report: serde_json::Value =
            serde_json::from_str(&told(&with_scaling(scaling, arguments))).unwrap();
        report["rows"][0].clone()
    };
    let free = row("{}", &[]);
    let of = |row: &serde_json::Value, field: &str| row[field].as_f64().unwrap();
    let dear = row("{violationPrice: 6000}", &[]);
    assert!(of(&dear, "replicaHours") > 1.05 * of(&free, "replicaHours"), "{dear}");
    let schedule = r#"{schedules: [{name: noon, from: "12:00", to: "13:00", replicas: 9}], down: {replicas: 1, percent: 0}}"#;
    fails(&with_scaling(schedule, &[]), "write --started, such as --started 2026-12-01T08:00:00Z");
    fails(
        &with_scaling(schedule, &["--started", "9999-12-30T22:00:00Z"]),
        "write --started with an earlier time",
    );
    let noon = row(schedule, &["--started", "2026-12-01T12:00:00Z"]);
    assert!(of(&noon, "replicasLowest") >= 9.0, "{noon}");
    let night = row(schedule, &["--started", "2026-12-01T02:00:00Z"]);
    assert!(of(&night, "replicasLowest") < 9.0, "{night}");
    // One replica a minute fewer at most.
    assert!(of(&night, "replicaHours") > of(&free, "replicaHours"), "{night}");
    let paused = r#"{pause: {up: {until: "2026-12-01T18:00:00Z"}}}"#;
    let paused = row(paused, &["--started", "2026-12-01T12:00:00Z"]);
    assert!(of(&paused, "replicasHighest") <= of(&free, "replicasLowest") + 2.0, "{paused}");
    let recommend: serde_json::Value =
        serde_json::from_str(&told(&with_scaling("{mode: Recommend}", &[]))).unwrap();
    assert_eq!(recommend["rows"][0]["replicaHours"], free["replicaHours"]);
    assert!(recommend["load"]["notes"][0].as_str().unwrap().contains("as if its number were written"));
}

#[test]
fn a_target_below_what_an_idle_pod_takes_is_refused() {
    fails(&shop(&["--service-time", "200ms"]), "no number of replicas keeps it; raise the target");
    fails(
        &shop(&["--service-time", "200ms"]),
        "spec.latency.p99: 250ms is below what 99 of 100 requests take",
    );
}

#[test]
fn what_is_missing_or_wrong_is_told_with_what_to_write() {
    fails(&shop(&[]), "write --service-time, such as --service-time 50ms");
    fails(&shop(&["--service-time", "fast"]), "write a number and its unit");
    fails(&shop(&["--service-time", "0ms"]), "write a duration above 0");
    fails(
        &shop(&["--service-time", "5ms", "--cpu-time", "9ms"]),
        "a request computes no longer than it takes",
    );
    fails(&shop(&["--service-time", "5ms", "--price-per-replica-hour=-1"]), "write a price of 0 or more");
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.csv");
    for (text, message) in [
        ("", "bad.csv: it holds no load; write lines of `second,requests_per_second`"),
        ("0,5\n60,-2\n", "bad.csv:2: the rate is -2"),
    ] {
        std::fs::write(&bad, text).unwrap();
        let manifest = golden("app.yaml");
        let files = ["--manifest", manifest.to_str().unwrap(), "--trace", bad.to_str().unwrap()];
        fails(&simulate(&[&files[..], &["--service-time", "50ms"]].concat()), message);
    }
    let missing = folder.path().join("missing.yaml");
    let files = ["--manifest", missing.to_str().unwrap(), "--trace", bad.to_str().unwrap()];
    fails(&simulate(&files), "missing.yaml");
}

/// The same manifest, without an image: the bundled API, whose requests have been measured.
#[test]
fn the_bundled_apis_requests_need_no_service_time() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("app.yaml");
    let text = std::fs::read_to_string(golden("app.yaml")).unwrap();
    let text = text.replace("  image: ghcr.io/acme/shop:1.4.2\n", "");
    std::fs::write(&manifest, text).unwrap();
    let trace = folder.path().join("history.csv");
    std::fs::write(&trace, "2026-11-25T14:00:00Z,50\n2026-11-25T14:05:00Z,60\n").unwrap();
    let table =
        told(&simulate(&["--manifest", manifest.to_str().unwrap(), "--trace", trace.to_str().unwrap()]));
    assert!(table.contains("never more than one replica"), "{table}");
    assert!(table.contains("from 2026-11-25T14:00:00Z on"), "{table}");
}

#[test]
fn a_history_comes_from_one_place_and_is_asked_for_completely() {
    let manifest = golden("app.yaml");
    let with = |more: &[&str]| simulate(&[&["--manifest", manifest.to_str().unwrap()], more].concat());
    let server = ["--prometheus", "http://localhost:9090"];
    fails(&with(&[]), "--trace <FILE>");
    fails(&with(&server), "--query <PROMQL>");
    fails(
        &with(&[&server[..], &["--query", "up", "--from", "1h", "--trace", "h.csv"]].concat()),
        "cannot be used with",
    );
    fails(&with(&["--trace", "h.csv", "--step", "1m"]), "--prometheus <URL>");
    fails(
        &with(&[&server[..], &["--query", "up", "--from", "6"]].concat()),
        "how long ago, such as 6h or 7d",
    );
    fails(
        &with(&[&server[..], &["--query", "up", "--from", "1h", "--to", "2h"]].concat()),
        "which is not before --to",
    );
    fails(
        &with(&["--prometheus", "localhost:9090", "--query", "up", "--from", "1h"]),
        "such as http://localhost:9090",
    );
}

/// Flags of `--help` and in the first column of the documentation's tables.
#[test]
fn the_documentation_has_every_flag_and_no_other() {
    use std::collections::BTreeSet;
    let flags = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
        words
            .filter(|word| word.strip_prefix("--").is_some_and(|name| name.starts_with(char::is_alphabetic)))
            .map(str::to_owned)
            .collect()
    };
    let help = told(&simulate(&["--help"]));
    let defined = help.lines().filter(|line| line.trim_start().starts_with('-')).map(flags);
    let mut defined: BTreeSet<String> = defined.flatten().collect();
    defined.remove("--help");
    let page = [env!("CARGO_MANIFEST_DIR"), "../../docs/simulate.md"].iter().collect::<PathBuf>();
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix('|')?.split_once('|'));
    let documented: BTreeSet<String> = rows.flat_map(|(cell, _)| flags(cell)).collect();
    assert_eq!(documented, defined);
}
