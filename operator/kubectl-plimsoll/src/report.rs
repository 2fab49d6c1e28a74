//! What came of it, as a table and as data.

use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::worst::WorstMinute;

/// All that is told.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Name of the `ApiDeployment`.
    pub name: String,
    /// Its targets, the strictest quantile first: by this one requests are over the target.
    pub promise: Vec<String>,
    /// Replicas at least.
    pub replicas_min: u32,
    /// Replicas at most.
    pub replicas_max: u32,
    /// They are one, for the database is inside of the pod.
    pub embedded_database: bool,
    /// The load.
    pub load: Load,
    /// What a pod serves at most.
    pub pod_requests_per_second_max: f64,
    /// Of what was drawn.
    pub seed: u64,
    /// What came of it, by policy.
    pub rows: Vec<Row>,
}

/// The load.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// When it began, if the history says so.
    pub started: Option<Timestamp>,
    /// How long it was.
    pub hours: f64,
    /// Its mean.
    pub mean_requests_per_second: f64,
    /// Its highest.
    pub peak_requests_per_second: f64,
    /// Requests that were replayed.
    pub requests: u64,
    /// What of the history was missing, and what was taken in its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What came of it with one policy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The policy.
    pub policy: String,
    /// Minutes in which the promise was broken.
    pub violation_minutes: u32,
    /// Share of requests over the first target, those without an answer among them; 0 to 1.
    pub over_share: f64,
    /// Requests without an answer.
    pub unanswered: u64,
    /// What the pods cost.
    pub replica_hours: f64,
    /// The same in money, when there is a price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// Changes of the wanted replicas.
    pub scale_events: u32,
    /// Fewest replicas wanted.
    pub replicas_lowest: u32,
    /// Most replicas wanted.
    pub replicas_highest: u32,
    /// The worst minutes, the worst first.
    pub worst_minutes: Vec<WorstMinute>,
}

/// A line of the table: what it is, and how a row shows it.
type Line = (&'static str, fn(&Row) -> String);

const LINES: [Line; 8] = [
    ("violation-minutes", |row| row.violation_minutes.to_string()),
    ("share over the target", |row| format!("{:.3} %", row.over_share * 100.0)),
    ("unanswered requests", |row| row.unanswered.to_string()),
    ("replica-hours", |row| format!("{:.2}", row.replica_hours)),
    ("cost", |row| row.cost.map_or_else(String::new, |cost| format!("{cost:.2}"))),
    ("scale events", |row| row.scale_events.to_string()),
    ("lowest replicas", |row| row.replicas_lowest.to_string()),
    ("highest replicas", |row| row.replicas_highest.to_string()),
];

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Load { started, hours, mean_requests_per_second, peak_requests_per_second, requests, notes } =
            &self.load;
        writeln!(
            f,
            "{}: {}, {} to {} replicas; a pod serves {:.0} requests/s at most",
            self.name,
            self.promise.join(", "),
            self.replicas_min,
            self.replicas_max,
            self.pod_requests_per_second_max
        )?;
        if self.embedded_database {
            writeln!(f, "its database is inside of the pod, so that there is never more than one replica")?;
        }
        let since = started.map_or_else(String::new, |started| format!(" from {started} on"));
        writeln!(
            f,
            "{requests} requests in {hours:.2} hours{since}, {mean_requests_per_second:.1}/s on the mean, {peak_requests_per_second:.1}/s at the peak"
        )?;
        for note in notes {
            writeln!(f, "note: {note}")?;
        }
        writeln!(f)?;
        let width = |text: &str| text.chars().count();
        let first = LINES.iter().map(|(title, _)| width(title)).max().unwrap_or_default();
        write!(f, "{:first$}", "")?;
        for row in &self.rows {
            write!(f, "  {:>14}", row.policy)?;
        }
        writeln!(f)?;
        for (title, show) in LINES {
            let cells: Vec<String> = self.rows.iter().map(show).collect();
            // Without a price there is no cost.
            if cells.iter().all(String::is_empty) {
                continue;
            }
            write!(f, "{title:first$}")?;
            for cell in cells {
                write!(f, "  {cell:>14}")?;
            }
            writeln!(f)?;
        }
        for row in &self.rows {
            if row.worst_minutes.is_empty() {
                continue;
            }
            writeln!(f, "\nworst minutes of {}:", row.policy)?;
            for worst in &row.worst_minutes {
                let at = match started {
                    Some(started) => {
                        format!("{}", *started + Duration::from_secs(60 * worst.minute as u64))
                    }
                    None => format!("minute {}", worst.minute),
                };
                writeln!(f, "  {at}: {:.1} % over the target; {}", worst.over_share * 100.0, worst.why)?;
            }
        }
        Ok(())
    }
}
