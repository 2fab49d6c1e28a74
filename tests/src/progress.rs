//! Tells a person what is being done and for how long, on a terminal and in a log alike.

use std::future::Future;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// In a log, how often a step that goes on says so.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Runs `work` under a title, and prints how long it took.
///
/// # Errors
/// Those of `work`, unchanged.
pub async fn step<T>(title: impl Into<String>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let title = title.into();
    let started = Instant::now();
    let result = if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new_spinner().with_message(title.clone());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        let result = work.await;
        bar.finish_and_clear();
        result
    } else {
        eprintln!("· {title}");
        with_heartbeat(&title, started, work).await
    };
    let mark = if result.is_ok() { "✓" } else { "✗" };
    eprintln!("{mark} {title} ({})", seconds(started.elapsed()));
    result
}

/// Prints a line that is no step of its own.
pub fn note(text: impl AsRef<str>) {
    eprintln!("  {}", text.as_ref());
}

async fn with_heartbeat<T>(
    title: &str,
    started: Instant,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return result,
            () = tokio::time::sleep(HEARTBEAT) => {
                eprintln!("  … {title}: {} so far", seconds(started.elapsed()));
            }
        }
    }
}

fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} min {:02.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}
