//! What every request of the API passes: id, time limit, panics, latency. It never reads a body and never decides an answer.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use tracing::Instrument;

use crate::{
    arrival::{self, Arrival},
    error::{ApiError, Cause, Shed},
    limits,
    metrics::{Metrics, method_label},
    overload::ShedReason,
    state::AppState,
    trace_context::TraceContext,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id taken from a client; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The label of requests whose client left before the answer. They are the slow ones: without them, the
/// histogram would look best when clients give up.
const CLIENT_GONE: &str = "499";

/// Measures and guards one request.
///
/// 1. Takes or makes its id, and returns it with the response.
/// 2. Refuses it if it waited too long in a queue that stands.
/// 3. Counts it as in flight, and its latency from its arrival to the response; shed requests are counted apart.
/// 4. Bounds its time and turns a panic into a 500.
/// 5. Logs the cause of a 500 with the id and its place in the trace, once.
pub async fn guard(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let trace = TraceContext::of(request.headers());
    let method = method_label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let started = Instant::now();
    // Without a connection, as in tests, it arrives as it starts.
    let arrived = request.extensions().get::<Arrival>().map_or(started, |arrival| arrival.0);
    let waited = started.saturating_duration_since(arrived);
    if !state.overload.admit(started, waited) {
        state.metrics.shed(ShedReason::QueueAge);
        let mut response = ApiError::Shed(ShedReason::QueueAge).into_response();
        response.headers_mut().insert(REQUEST_ID, request_id(request.headers(), trace));
        return response;
    }
    let measure = Measure { metrics: &state.metrics, method, route, arrived, started, finished: false };
    state.metrics.requests_in_flight.inc();

    // At debug, which nothing in the ordinary filter asks for: a span that nobody reads costs nothing.
    let span = tracing::debug_span!(
        "request",
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
        trace.id = tracing::field::Empty,
        span.id = tracing::field::Empty,
    );
    #[cfg(feature = "otlp")]
    let trace = crate::otlp::adopt(&span, trace);
    span.record("trace.id", tracing::field::display(trace.trace));
    span.record("span.id", tracing::field::display(trace.span));
    let id = request_id(request.headers(), trace);
    let answer = async {
        match limits::refuse(&request) {
            Some(error) => error.into_response(),
            None => next.run(request).await,
        }
    };
    let answer = AssertUnwindSafe(answer.instrument(span.clone())).catch_unwind();
    let answer = arrival::scope(waited, answer);
    let mut response = match tokio::time::timeout(state.config.request_timeout, answer).await {
        Ok(Ok(response)) => response,
        // The panic hook has logged its message and place.
        Ok(Err(_)) => ApiError::Internal { cause: "the handler panicked".to_owned() }.into_response(),
        Err(_) => ApiError::Timeout.into_response(),
    };
    measure.finish(&response);
    span.record("http.response.status_code", response.status().as_u16());
    if let Some(Cause(cause)) = response.extensions_mut().remove::<Cause>() {
        let id = id.to_str().unwrap_or_default();
        tracing::error!(
            request.id = id,
            trace.id = %trace.trace,
            span.id = %trace.span,
            http.method = method,
            http.route = route,
            %cause,
            "request failed"
        );
    }
    response.headers_mut().insert(REQUEST_ID, id);
    limits::tell(&mut response);
    response
}

/// The client's id when it is short and printable, else the trace's, so that there is one number to search for.
fn request_id(headers: &HeaderMap, trace: TraceContext) -> HeaderValue {
    let acceptable = |id: &&HeaderValue| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(acceptable).cloned().unwrap_or_else(|| {
        HeaderValue::from_bytes(&trace.trace.digits()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
    })
}

/// A request in flight. Dropped without a response, it counts as one whose client has gone.
struct Measure<'a> {
    metrics: &'a Metrics,
    method: &'a str,
    route: &'a str,
    arrived: Instant,
    started: Instant,
    finished: bool,
}

impl Measure<'_> {
    fn finish(mut self, response: &Response) {
        self.finished = true;
        match response.extensions().get::<Shed>() {
            Some(Shed::Load(reason)) => self.metrics.shed(*reason),
            // The limiter has counted it.
            Some(Shed::RateLimit) => {}
            None => self.observe(response.status().as_str()),
        }
    }

    fn observe(&self, status: &str) {
        let now = Instant::now();
        let since = |moment: Instant| now.saturating_duration_since(moment).as_secs_f64();
        let labels = [self.method, self.route, status];
        self.metrics.request_duration.with_label_values(&labels).observe(since(self.arrived));
        self.metrics.handler_duration.observe(since(self.started));
    }
}

impl Drop for Measure<'_> {
    fn drop(&mut self) {
        self.metrics.requests_in_flight.dec();
        if !self.finished {
            self.observe(CLIENT_GONE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(sent: &[u8]) -> HeaderValue {
        let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(sent).unwrap())]);
        request_id(&headers, TraceContext::of(&headers))
    }

    #[test]
    fn keeps_a_printable_id_and_replaces_others() {
        assert_eq!(id_for(b"abc-1"), "abc-1");
        for bad in [&b""[..], b"two words", b"caf\xe9", &[b'a'; 129]] {
            assert_eq!(id_for(bad).len(), 32, "{bad:?}");
        }
        assert_ne!(id_for(b""), id_for(b""));
    }
}
