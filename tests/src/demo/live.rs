//! What the demo prints while the load runs, and at its end.

use std::path::Path;

use jiff::Timestamp;
use plimsoll_load::{Second, Trace};

use super::report::Report;
use super::stage::Stage;
use super::watch::Seen;
use crate::sample::{NAME, NAMESPACE, P95_MS, P99_MS};
use crate::{chart, command, tools};

/// Seconds of load that a printed line stands for.
const EVERY: u32 = 5;

/// Prints a line every few seconds, and a decision when its reason changes.
pub struct Live {
    printed: Timestamp,
    reason: String,
    lines: u32,
    worst: Worst,
}

/// Over the seconds of a line: the sum of the load, the highest of the percentiles.
#[derive(Default)]
struct Worst {
    offered: u64,
    failed: u64,
    p95_ms: f64,
    p99_ms: f64,
}

impl Live {
    /// Prints from now on.
    pub fn new() -> Self {
        Self { printed: Timestamp::now(), reason: String::new(), lines: 0, worst: Worst::default() }
    }

    /// A second of load has ended.
    pub fn second(&mut self, second: &Second, seen: &Seen, trace: &Trace) {
        self.decisions(seen);
        self.worst.offered += second.offered;
        self.worst.failed += second.failed;
        self.worst.p95_ms = self.worst.p95_ms.max(second.p95_ms.unwrap_or(0.0));
        self.worst.p99_ms = self.worst.p99_ms.max(second.p99_ms.unwrap_or(0.0));
        if !(second.second + 1).is_multiple_of(EVERY) {
            return;
        }
        if self.lines.is_multiple_of(20) {
            println!(
                "{:>6} {:>7} {:>7}  {:>9} {:>9}  {:>6} {:>5}  why",
                "time",
                "load/s",
                "failed",
                format!("p95<{P95_MS}"),
                format!("p99<{P99_MS}"),
                "wanted",
                "ready"
            );
        }
        let replicas = seen.replicas.last().copied().unwrap_or_default();
        let worst = std::mem::take(&mut self.worst);
        let mark = |ms: f64, target: u64| format!("{ms:.0}{}", if ms > target as f64 { " !" } else { " ms" });
        println!(
            "{:>6} {:>7.0} {:>7}  {:>9} {:>9}  {:>6} {:>5}  {}",
            clock(second.second + 1),
            worst.offered as f64 / f64::from(EVERY),
            worst.failed,
            mark(worst.p95_ms, P95_MS),
            mark(worst.p99_ms, P99_MS),
            replicas.wanted,
            replicas.ready,
            seen.decisions.last().map_or("", |decision| decision.reason.as_str()),
        );
        self.lines += 1;
        let remaining = trace.duration().as_secs().saturating_sub(u64::from(second.second) + 1);
        if self.lines.is_multiple_of(12) && remaining > 0 {
            println!("{:>6} … {} to go", "", clock(u32::try_from(remaining).unwrap_or(u32::MAX)));
        }
    }

    fn decisions(&mut self, seen: &Seen) {
        for decision in seen.decisions.iter().filter(|decision| decision.time > self.printed) {
            if decision.from != decision.to {
                println!("       ▶ {} → {} replicas: {}", decision.from, decision.to, decision.message);
            } else if decision.reason != self.reason && !self.reason.is_empty() {
                println!("       · {}", decision.message);
            }
            self.reason.clone_from(&decision.reason);
        }
        if let Some(last) = seen.decisions.last() {
            self.printed = last.time;
        }
    }
}

/// What happened, in a few lines.
pub fn print_summary(report: &Report, folder: &Path) {
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    println!();
    println!(
        "Load      {} requests, {} failed, peak {:.0}/s",
        report.requests.offered, report.requests.failed, report.trace.peak
    );
    println!(
        "Latency   p95 {:.0} ms of {P95_MS}, p99 {:.0} ms of {P99_MS} over the whole run; over target: {} (p95), {} (p99)",
        report.requests.p95_ms,
        report.requests.p99_ms,
        percent(report.share_over_target.p95),
        percent(report.share_over_target.p99)
    );
    println!(
        "Replicas  peak {}, final {}, {:.2} replica-hours; {} changes in {} decisions",
        report.replicas.peak,
        report.replicas.last,
        report.replicas.hours,
        report.decisions.iter().filter(|decision| decision.from != decision.to).count(),
        report.decisions.len()
    );
    if let Some(step) = &report.step {
        let seconds =
            |value: Option<f64>| value.map_or("not".to_owned(), |seconds| format!("after {seconds:.1} s"));
        println!(
            "Step      {:.0} to {:.0} requests/s at {}: more replicas wanted {}, the first of them ready {}",
            step.from,
            step.to,
            clock(step.second as u32),
            seconds(step.seconds_to_wanted),
            seconds(step.seconds_to_ready)
        );
    }
    println!("Report    {} and report.json beside it", folder.join("report.html").display());
}

/// How to look around and how to remove everything.
pub fn print_what_next(stage: &Stage, keep: bool) {
    println!();
    if !stage.is_local() && !keep {
        return;
    }
    println!("Look around:");
    if stage.is_local() {
        println!("  export KUBECONFIG={}", super::local_kubeconfig().display());
        if !command::on_path("kubectl")
            && let Ok(bin) = tools::KUBERNETES.cached()
        {
            println!("  export PATH={}:$PATH", bin.display());
        }
    }
    println!("  kubectl get apid -n {NAMESPACE} -w");
    println!("  kubectl describe apid {NAME} -n {NAMESPACE}");
    println!("  kubectl get pods -n {NAMESPACE}");
    println!(
        "  kubectl get --raw '/api/v1/namespaces/{}/services/{}:8080/proxy/decisions?namespace={NAMESPACE}&name={NAME}'",
        chart::NAMESPACE,
        chart::OPERATOR
    );
    println!("Remove everything:");
    match &stage.access.context {
        Some(context) => println!("  cargo xtask demo --down --context {context}"),
        None => println!("  cargo xtask demo --down"),
    }
}

fn clock(seconds: u32) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
