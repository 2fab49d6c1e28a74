//! The history of load, and how it is read from a CSV file of seconds, or of times, and requests a second.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use plimsoll_simulator::Trace;

/// More requests than this take many minutes to replay.
const REQUESTS_MAX: f64 = 500e6;

/// A load that was.
#[derive(Clone, Debug)]
pub struct History {
    /// The load.
    pub trace: Trace,
    /// When it began; absent when the file counts seconds.
    pub started: Option<Timestamp>,
    /// What of it was missing, and what was taken in its place.
    pub notes: Vec<String>,
}

impl History {
    /// Checks a load that came out of `source`.
    ///
    /// # Errors
    /// When there is no load, or too much of it to replay.
    pub fn new(source: &str, trace: Trace, started: Option<Timestamp>, notes: Vec<String>) -> Result<Self> {
        ensure!(trace.peak() > 0.0, "{source}: its load is 0 throughout; there is nothing to simulate");
        let requests = trace.mean() * trace.duration().as_secs_f64();
        ensure!(
            requests <= REQUESTS_MAX,
            "{source}: it holds {:.0} million requests; cut it to at most {:.0} million, such as its busiest day, and take care that it has requests a second, not a counter of all",
            requests / 1e6,
            REQUESTS_MAX / 1e6
        );
        Ok(Self { trace, started, notes })
    }
}

/// Reads a file of `second,requests_per_second`, or of `time,requests_per_second` with RFC 3339 times.
///
/// # Errors
/// With file, line and what to write; when there is no load, or too much of it to replay.
pub fn read(file: &Path) -> Result<History> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("read the history {shown}"))?;
    parse(&shown, &text)
}

fn parse(file: &str, text: &str) -> Result<History> {
    let mut started = None;
    let mut seconds = String::with_capacity(text.len());
    for line in text.lines() {
        match line
            .split_once(',')
            .and_then(|(time, rate)| Some((time.trim().parse::<Timestamp>().ok()?, rate)))
        {
            Some((time, rate)) => {
                let since = time.duration_since(*started.get_or_insert(time)).as_secs_f64();
                // Writing into a String cannot fail.
                let _ = write!(seconds, "{since},{rate}");
            }
            None => seconds.push_str(line),
        }
        seconds.push('\n');
    }
    let trace = Trace::parse(file, &seconds).map_err(|error| {
        let hint = "; instead of the second it may be a time such as 2026-11-25T14:00:00Z";
        let hint = if error.to_string().contains("found") && started.is_none() { hint } else { "" };
        anyhow::anyhow!("{error}{hint}")
    })?;
    History::new(file, trace, started, Vec::new())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_read_like_seconds() {
        let times = "time,requests_per_second\n2026-11-25T14:00:00Z,10\n2026-11-25T15:01:00+01:00,20\n";
        let history = parse("h.csv", times).unwrap();
        assert_eq!(history.trace, parse("h.csv", "0,10\n60,20\n").unwrap().trace);
        assert_eq!(history.trace.duration(), Duration::from_mins(2));
        assert_eq!(history.started, Some("2026-11-25T14:00:00Z".parse().unwrap()));
    }

    #[test]
    fn errors_say_file_line_and_fix() {
        for (text, message) in [
            ("", "h.csv: it holds no load; write"),
            ("second,requests_per_second\n", "h.csv: it holds no load; write"),
            ("0,5\n60,-1\n", "h.csv:2: the rate is -1; write"),
            ("0,5\n60,NaN\n", "h.csv:2: the rate is NaN; write"),
            ("0,5\nyesterday,6\n", "h.csv:2: found \"yesterday,6\"; write `second,requests_per_second`"),
            ("2026-11-25T14:00:00Z,5\n2026-11-25T13:00:00Z,5\n", "h.csv:2: second -3600 does not come after"),
            ("0,0\n60,0\n", "h.csv: its load is 0 throughout"),
            ("0,1000000\n3600,1\n", "h.csv: it holds 3600 million requests; cut it"),
        ] {
            let error = format!("{:#}", parse("h.csv", text).unwrap_err());
            assert!(error.starts_with(message), "{text:?}: {error}");
        }
        let hinted = parse("h.csv", "0,5\nyesterday,6\n").unwrap_err().to_string();
        assert!(hinted.contains("2026-11-25T14:00:00Z"), "{hinted}");
    }
}
