//! What the demo prints while the load runs, and at its end.

use std::path::Path;

use jiff::Timestamp;
use plimsoll_load::{Ends, Second, Trace};

use super::report::{Report, late};
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
    ends: Ends,
    late: u64,
    p95_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl Worst {
    fn add(&mut self, second: &Second) {
        self.offered += second.offered;
        self.ends.add(&second.ends);
        self.late += late(&second.ends, second.over.first().copied().unwrap_or(0));
        let worse = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::max);
        self.p95_ms = worse(self.p95_ms, second.p95_ms);
        self.p99_ms = worse(self.p99_ms, second.p99_ms);
    }
}

/// A percentile beside its target; a dash when nothing was answered.
fn mark(ms: Option<f64>, target: u64) -> String {
    match ms {
        None => "–".to_owned(),
        Some(ms) => format!("{ms:.0}{}", if ms > target as f64 { " !" } else { " ms" }),
    }
}

impl Live {
    /// Prints from now on.
    pub fn new() -> Self {
        Self { printed: Timestamp::now(), reason: String::new(), lines: 0, worst: Worst::default() }
    }

    /// A second of load has ended.
    pub fn second(&mut self, second: &Second, seen: &Seen, trace: &Trace) {
        self.decisions(seen);
        self.worst.add(second);
        if !(second.second + 1).is_multiple_of(EVERY) {
            return;
        }
        if self.lines.is_multiple_of(20) {
            println!(
                "{:>6} {:>7} {:>6} {:>7} {:>6}  {:>9} {:>9}  {:>6} {:>5}  why",
                "time",
                "load/s",
                "late",
                "refused",
                "failed",
                format!("p95<{P95_MS}"),
                format!("p99<{P99_MS}"),
                "wanted",
                "ready"
            );
        }
        let replicas = seen.replicas.last().copied().unwrap_or_default();
        let worst = std::mem::take(&mut self.worst);
        println!(
            "{:>6} {:>7.0} {:>6} {:>7} {:>6}  {:>9} {:>9}  {:>6} {:>5}  {}",
            clock(second.second + 1),
            worst.offered as f64 / f64::from(EVERY),
            worst.late,
            worst.ends.refused,
            worst.ends.failed,
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
    let ends = report.requests.ends;
    println!();
    println!(
        "Load      {} requests, peak {:.0}/s: {} answered, {} refused, {} failed, {} timed out",
        report.requests.offered, report.trace.peak, ends.completed, ends.refused, ends.failed, ends.timed_out
    );
    println!(
        "Latency   p95 {:.0} ms of {P95_MS}, p99 {:.0} ms of {P99_MS} over the whole run, of what was answered or timed out",
        report.requests.p95_ms, report.requests.p99_ms,
    );
    println!("Promise   not answered within {P95_MS} ms: {}", report.violations.p95.text());
    println!("          not answered within {P99_MS} ms: {}", report.violations.p99.text());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_refused_requests_apart_from_late_ones_and_from_latency() {
        let refused = Ends { completed: 0, refused: 4, ..Ends::default() };
        let quiet = Second { offered: 4, ends: refused, over: vec![4, 4], ..Second::default() };
        let mut worst = Worst::default();
        worst.add(&quiet);
        assert_eq!((worst.offered, worst.late, worst.ends.refused), (4, 0, 4));
        assert_eq!(mark(worst.p95_ms, 100), "–");

        let served = Ends { completed: 10, refused: 1, timed_out: 1, ..Ends::default() };
        let busy = Second { ends: served, over: vec![4, 2], p95_ms: Some(120.0), ..Second::default() };
        worst.add(&busy);
        worst.add(&quiet);
        assert_eq!((worst.late, worst.ends.refused), (3, 9));
        assert_eq!(mark(worst.p95_ms, 100), "120 !");
        assert_eq!(mark(worst.p95_ms, 250), "120 ms");
    }
}
