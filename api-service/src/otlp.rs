//! Requests' spans for an OpenTelemetry collector, and the caller's trace that they are a part of. Only in builds with the
//! feature `otlp`.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceFlags, TraceState};
use plimsoll_otlp::ExporterBuildError;
use tracing::{Span, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::trace_context::{SpanId, TraceContext, TraceId};

/// What passes requests' spans on to the collector; nothing when the environment names none. Needs a tokio runtime.
///
/// # Errors
/// When the exporter refuses what the environment says.
pub fn layer<S>() -> Result<Option<impl Layer<S>>, ExporterBuildError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    // Only our own spans: libraries' would be a multiple of them.
    plimsoll_otlp::layer("plimsoll-api", Targets::new().with_target("plimsoll_api", LevelFilter::DEBUG))
}

/// Makes `span` a part of the caller's trace. Gives the ids under which the collector will know it, for the log.
pub fn adopt(span: &Span, trace: TraceContext) -> TraceContext {
    if span.is_disabled() || !plimsoll_otlp::is_on() {
        return trace;
    }
    if let Some(SpanId(parent)) = trace.parent {
        let flags = if trace.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let parent =
            SpanContext::new(trace.trace.0.into(), parent.into(), flags, true, TraceState::default());
        // Err says that the span is not for the collector.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
    let context = span.context();
    let own = context.span().span_context().clone();
    if !own.is_valid() {
        return trace;
    }
    TraceContext {
        trace: TraceId(u128::from_be_bytes(own.trace_id().to_bytes())),
        span: SpanId(u64::from_be_bytes(own.span_id().to_bytes())),
        sampled: own.is_sampled(),
        ..trace
    }
}
