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
         <title>Plimsoll: a demo</title><style>{STYLE}</style>\n<h1>{} % of requests within {} ms, {} % within {} ms</h1>\n",
        hundredth((1.0 - report.share_over_target.p95) * 100.0),
        report.targets.p95_ms,
        hundredth((1.0 - report.share_over_target.p99) * 100.0),
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
    let mut rows = vec![
        ("Load", format!("{}, peak {:.0} requests/s", report.trace.source, report.trace.peak)),
        (
            "Requests",
            format!(
                "{} offered, {} completed, {} failed",
                report.requests.offered, report.requests.completed, report.requests.failed
            ),
        ),
        (
            "Latency over the whole run",
            format!(
                "p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms, p99.9 {:.0} ms",
                report.requests.p50_ms,
                report.requests.p95_ms,
                report.requests.p99_ms,
                report.requests.p999_ms
            ),
        ),
        (
            "Requests over target",
            format!(
                "{} % over {} ms, {} % over {} ms",
                hundredth(report.share_over_target.p95 * 100.0),
                report.targets.p95_ms,
                hundredth(report.share_over_target.p99 * 100.0),
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
        rows.push(("Failed", format!("{count} × {why}")));
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
    use super::escape;

    #[test]
    fn text_of_the_cluster_cannot_become_markup() {
        assert_eq!(escape("<b a=\"x\">&"), "&lt;b a=&quot;x&quot;&gt;&amp;");
    }
}
