//! The traces that are replayed: those of a folder, and where they are from.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use plimsoll_simulator::Trace;
use serde::{Deserialize, Serialize};

/// Less says nothing about minutes.
const SHORTEST: Duration = Duration::from_mins(5);

/// A trace of a file.
#[derive(Clone, Debug)]
pub struct Read {
    /// What it is called in results: the file's name without its ending.
    pub name: String,
    /// The load.
    pub trace: Trace,
    /// Seconds from the file's start at which `trace` begins: a longer one is cut.
    pub from_seconds: u64,
}

/// What became of a file, for the results.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// What it is called in results.
    pub name: String,
    /// Seconds from the file's start.
    pub from_seconds: u64,
    /// How much of it is replayed.
    pub seconds: u64,
}

impl From<&Read> for Source {
    fn from(read: &Read) -> Self {
        let seconds = read.trace.duration().as_secs();
        Self { name: read.name.clone(), from_seconds: read.from_seconds, seconds }
    }
}

/// Every `.csv` of a folder, by name; of what is longer than `longest`, that much around its highest minute.
///
/// # Errors
/// When the folder cannot be read or has none; with file, line and what to write for what is no trace.
pub fn read(folder: &Path, longest: Duration) -> Result<Vec<Read>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("read the folder {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(|| format!("read the folder {}", folder.display()))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")));
    files.sort();
    ensure!(
        !files.is_empty(),
        "{}: no file ends in .csv; put traces there, with lines of `second,requests_per_second`",
        folder.display()
    );
    files.iter().map(|file| read_file(file, longest)).collect()
}

fn read_file(file: &Path, longest: Duration) -> Result<Read> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("read {shown}"))?;
    let trace = Trace::parse(&shown, &text)?;
    ensure!(trace.peak() > 0.0, "{shown}: its load is 0 throughout; there is nothing to scale for");
    ensure!(
        trace.duration() >= SHORTEST,
        "{shown}: it lasts {} s; write at least {} s, for runs are judged by the minute",
        trace.duration().as_secs(),
        SHORTEST.as_secs()
    );
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let from_seconds = busiest(&trace, longest);
    let trace = trace.clipped(Duration::from_secs(from_seconds), longest);
    Ok(Read { name, trace, from_seconds })
}

/// Where the part of that length begins that has the highest minute in its middle, or nearly so.
fn busiest(trace: &Trace, length: Duration) -> u64 {
    let minute = Duration::from_mins(1);
    let minutes = trace.duration().as_secs() / 60;
    let mean = |index: &u64| trace.clipped(Duration::from_secs(index * 60), minute).mean();
    let highest = (0..minutes).max_by(|a, b| mean(a).total_cmp(&mean(b))).unwrap_or_default();
    let last = trace.duration().saturating_sub(length).as_secs();
    (highest * 60).saturating_sub(length.as_secs() / 2).min(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn reads_all_csv_files_by_name_and_nothing_else() {
        let folder =
            folder(&[("b.csv", "0,5\n600,6\n"), ("a.CSV", "0,5\n600,6\n"), ("README.md", "no trace")]);
        let read = read(folder.path(), HOUR).unwrap();
        assert_eq!(read.iter().map(|read| read.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(read[0].trace.duration(), Duration::from_mins(20));
    }

    #[test]
    fn errors_say_file_line_and_fix() {
        for (text, message) in [
            ("second,requests_per_second\n0,5\n60,-1\n", "bad.csv:3: the rate is -1; write"),
            ("0,5\nx\n", "bad.csv:2: found \"x\"; write"),
            ("", "bad.csv: it holds no load; write"),
            ("0,0\n600,0\n", "bad.csv: its load is 0 throughout"),
            ("0,1\n10,2\n", "bad.csv: it lasts 20 s; write at least 300 s"),
        ] {
            let folder = folder(&[("bad.csv", text)]);
            let error = format!("{:#}", read(folder.path(), HOUR).unwrap_err());
            assert!(error.contains(message), "{text:?}: {error}");
        }
        let empty = folder(&[]);
        assert!(read(empty.path(), HOUR).unwrap_err().to_string().contains("no file ends in .csv"));
        let missing = empty.path().join("missing");
        assert!(read(&missing, HOUR).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn a_longer_trace_is_cut_around_its_highest_minute() {
        let row = |minute: u32| format!("{},{}", minute * 60, if minute == 700 { 9 } else { 1 });
        let rows = (0..1440).map(row).collect::<Vec<_>>().join("\n");
        let trace = Trace::parse("t", &rows).unwrap();
        assert_eq!(busiest(&trace, HOUR), 700 * 60 - 1800);
        assert_eq!(busiest(&trace, Duration::from_hours(24)), 0);
        let at_the_end = Trace::parse("t", "0,1\n86340,9\n86400,9\n").unwrap();
        assert_eq!(busiest(&at_the_end, HOUR), at_the_end.duration().as_secs() - 3600);
    }
}
