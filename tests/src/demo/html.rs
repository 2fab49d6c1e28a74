//! The report as a page that needs nothing but itself.

use std::fmt::Write;

use super::pictures::Picture;
use super::report::Report;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.6rem}h2{font-size:1.1rem;margin-top:2rem}svg{max-width:100%;height:auto}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd;vertical-align:top}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tr.held td{color:#777}.bad{color:#b00}";

/// The page.
pub fn page(report: &Report, pictures: &[Picture]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Plimsoll: a demo</title><style>{STYLE}</style>\n<h1>{} % of requests answered within {} ms, {} % within {} ms</h1>\n",
        hundredth((1.0 - report.violations.p95.share) * 100.0),
        report.targets.p95_ms,
        hundredth((1.0 - report.violations.p99.share) * 100.0),
        report.targets.p99_ms,
    );
    summary(&mut page, report);
    for picture in pictures {
        let _ =
            write!(page, "<h2>{}</h2>\n<figure aria-label=\"{0}\">{}</figure>\n", picture.title, picture.svg);
    }
    decisions(&mut page, report);
    page
}

fn summary(page: &mut String, report: &Report) {
    let ends = report.requests.ends;
    let mut rows = vec![
        ("Load", format!("{}, peak {:.0} requests/s", report.trace.source, report.trace.peak)),
        (
            "Requests",
            format!(
                "{} offered: {} answered, {} refused, {} failed, {} timed out",
                report.requests.offered, ends.completed, ends.refused, ends.failed, ends.timed_out
            ),
        ),
        (
            "Latency over the whole run",
            format!(
                "p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms, p99.9 {:.0} ms, of what was answered or timed out",
                report.requests.p50_ms,
                report.requests.p95_ms,
                report.requests.p99_ms,
                report.requests.p999_ms
            ),
        ),
        (
            "Not answered in time",
            format!(
                "{} after {} ms, {} after {} ms. A refused request (503 or 429, to come again later) breaks the promise too.",
                report.violations.p95.text(),
                report.targets.p95_ms,
                report.violations.p99.text(),
                report.targets.p99_ms
            ),
        ),
        (
            "Replicas",
            format!(
                "peak {}, final {}, {:.2} replica-hours",
                report.replicas.peak, report.replicas.last, report.replicas.hours
            ),
        ),
    ];
    if let Some(step) = &report.step {
        let seconds =
            |value: Option<f64>| value.map_or("not".to_owned(), |seconds| format!("after {seconds:.1} s"));
        rows.push((
            "First load step",
            format!(
                "{:.0} to {:.0} requests/s at second {:.0}: more replicas wanted {}, the first of them ready {}",
                step.from,
                step.to,
                step.second,
                seconds(step.seconds_to_wanted),
                seconds(step.seconds_to_ready)
            ),
        ));
    }
    for (why, count) in &report.requests.failures {
        rows.push(("Not answered", format!("{count} × {why}")));
    }
    page.push_str("<table>");
    for (name, value) in rows {
        let _ = write!(page, "<tr><th>{}<td>{}", escape(name), escape(&value));
    }
    page.push_str("</table>\n");
}

/// Every change, and every decision whose reason differs from the one before.
fn decisions(page: &mut String, report: &Report) {
    page.push_str("<h2>Decisions</h2>\n<p>Those that changed something or whose reason is new; all of them are in report.json.</p>\n<table><tr><th class=n>time<th class=n>replicas<th>reason<th>why\n");
    let mut last = "";
    for decision in &report.decisions {
        let changed = decision.from != decision.to;
        if !changed && decision.reason == last {
            continue;
        }
        last = &decision.reason;
        let seconds = (decision.time.as_millisecond() - report.started.as_millisecond()) as f64 / 1000.0;
        let replicas =
            if changed { format!("{} → {}", decision.from, decision.to) } else { decision.to.to_string() };
        let class = if changed { "" } else { " class=held" };
        let _ = writeln!(
            page,
            "<tr{class}><td class=n>{seconds:.1} s<td class=n>{replicas}<td>{}<td>{}",
            escape(&decision.reason),
            escape(&decision.message)
        );
    }
    page.push_str("</table>\n");
}

fn hundredth(number: f64) -> String {
    format!("{number:.2}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use plimsoll_load::{Ends, Summary, Trace};

    use super::{Report, escape, page};
    use crate::demo::watch::Seen;

    #[test]
    fn refused_requests_are_told_apart_and_break_the_promise() {
        let requests = Summary {
            offered: 100,
            ends: Ends { completed: 90, refused: 6, failed: 3, timed_out: 1 },
            over: vec![15, 10],
            over_share: vec![0.15, 0.1],
            failures: [("status 503".to_owned(), 6), ("connect".to_owned(), 3)].into(),
            started: Timestamp::UNIX_EPOCH,
            ..Summary::default()
        };
        let trace = Trace::parse("0,10\n5,10\n").unwrap();
        let report = Report::new(&trace, "a test".to_owned(), 1.0, Vec::new(), requests, Seen::default());
        let page = page(&report, &[]);
        for text in [
            "<h1>85.00 % of requests answered within 250 ms, 90.00 % within 500 ms</h1>",
            "100 offered: 90 answered, 6 refused, 3 failed, 1 timed out",
            "15.00 % (6 late, 6 refused, 3 failed) after 250 ms, 10.00 % (1 late, 6 refused, 3 failed) after 500 ms",
            "<th>Not answered<td>6 × status 503",
        ] {
            assert!(page.contains(text), "{text} is not in:\n{page}");
        }
    }

    #[test]
    fn text_of_the_cluster_cannot_become_markup() {
        assert_eq!(escape("<b a=\"x\">&"), "&lt;b a=&quot;x&quot;&gt;&amp;");
    }
}
