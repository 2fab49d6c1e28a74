//! Logging, as text for people or JSON for collectors. Never logs a secret, a body, or an address of a client.

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Text,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not of the form `info` or `plimsoll_api=debug,info`.
    #[error("read the log filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The collector of spans cannot be used as the environment says.
    #[cfg(feature = "otlp")]
    #[error("prepare to send spans")]
    Export(#[from] plimsoll_otlp::ExporterBuildError),
    /// Logging was started before.
    #[error("start logging")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Starts logging to standard output, filtered by `filter` (such as `info` or `plimsoll_api=debug`). Call it inside the
/// runtime, which the feature `otlp` sends spans on.
///
/// # Errors
/// [`TelemetryError`] when `filter` cannot be read, or logging was started before.
pub fn init(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt::layer();
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(EnvFilter::try_new(filter)?));
    #[cfg(feature = "otlp")]
    let subscriber = subscriber.with(crate::otlp::layer()?);
    subscriber.try_init().map_err(|error| TelemetryError::Start(Box::new(error)))?;
    // A panic is a line like any other, so that collectors see it.
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, message, "panicked");
    }));
    Ok(())
}

/// The error and its causes in one line, outermost first.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
