//! The log, and in builds with the feature `otlp` the spans. The log goes to standard error, one event a line; secrets
//! never reach it.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::LogFormat;

/// Starts the log. `RUST_LOG` chooses what it holds; absent means `info`. Call it inside the runtime, which the feature
/// `otlp` sends spans on.
///
/// # Errors
/// When it was started before, or the collector of spans cannot be used as the environment says.
pub fn init(format: LogFormat) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=warn"));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Json => lines.json().boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otlp")]
    let subscriber = subscriber.with(collected()?);
    subscriber.try_init().context("start the log")?;
    // A panic is a line like any other, so that collectors see it.
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place, message, "panicked");
    }));
    Ok(())
}

/// What passes spans on to a collector: our own, and the one that the controller opens around a reconcile with the object's
/// name.
#[cfg(feature = "otlp")]
fn collected<S>() -> anyhow::Result<Option<impl tracing_subscriber::Layer<S>>>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    use tracing::level_filters::LevelFilter;

    let ours = tracing_subscriber::filter::Targets::new()
        .with_target("plimsoll_operator", LevelFilter::DEBUG)
        .with_target("kube_runtime::controller", LevelFilter::INFO);
    plimsoll_otlp::layer("plimsoll-operator", ours).context("prepare to send spans")
}
