//! Spans for an OpenTelemetry collector, over HTTP with protobuf. Only in builds with the feature `otlp`, and only where
//! `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set; the other standard variables
//! (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`) hold too.
//!
//! A request never waits for it: spans pass a bounded queue, and what does not fit is dropped. It speaks plain HTTP: the
//! collector is a neighbour, which does the TLS.

use std::{sync::OnceLock, time::Duration};

use opentelemetry::{
    Context,
    trace::{SpanContext, TraceContextExt, TraceFlags, TraceState, TracerProvider},
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, hyper::HyperClient};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::{Span, Subscriber, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::trace_context::{SpanId, TraceContext, TraceId};

/// The longest that one batch may take: the default of `OTEL_EXPORTER_OTLP_TIMEOUT`.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that the last spans may hold up the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The service's name where `OTEL_SERVICE_NAME` gives none.
const SERVICE: &str = "plimsoll-api";

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// A client whose requests run on the service's runtime, since the exporter's own thread has none.
#[derive(Debug)]
struct OnRuntime {
    client: HyperClient,
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}

/// What passes requests' spans on to the collector; nothing when the environment names none. Needs a tokio runtime.
///
/// # Errors
/// When the exporter refuses what the environment says.
pub fn layer<S>() -> Result<Option<impl Layer<S>>, opentelemetry_otlp::ExporterBuildError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !set("OTEL_EXPORTER_OTLP_ENDPOINT") && !set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        return Ok(None);
    }
    let client = OnRuntime {
        client: HyperClient::with_default_connector(EXPORT_TIMEOUT, None),
        runtime: Handle::current(),
    };
    let exporter = SpanExporter::builder().with_http().with_http_client(client).build()?;
    let mut resource = Resource::builder();
    if !set("OTEL_SERVICE_NAME") {
        resource = resource.with_service_name(SERVICE);
    }
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
    let tracer = provider.tracer(SERVICE);
    // Only the first call counts, as for the subscriber that the layer is for.
    let _ = PROVIDER.set(provider);
    // Only our own spans: libraries' would be a multiple of them.
    let ours = Targets::new().with_target("plimsoll_api", LevelFilter::DEBUG);
    Ok(Some(tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours)))
}

/// Makes `span` a part of the caller's trace. Gives the ids under which the collector will know it, for the log.
pub fn adopt(span: &Span, trace: TraceContext) -> TraceContext {
    if span.is_disabled() || PROVIDER.get().is_none() {
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

/// Sends what is left, for at most two seconds. Call it outside of the runtime, while that still runs.
pub fn flush() {
    if let Some(Err(error)) = PROVIDER.get().map(|provider| provider.shutdown_with_timeout(FLUSH_TIMEOUT)) {
        tracing::warn!(%error, "send the last spans");
    }
}
