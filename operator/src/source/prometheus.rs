//! Reads the counts of pods from a Prometheus that scrapes them, or from Thanos or Mimir, by its HTTP API.
//!
//! Prometheus knows a pod by its name; what it knows of pods that are not asked for is left out. A pod that it does not
//! know is missing, and never zero.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use form_urlencoded::Serializer;
use http_body_util::Full;
use hyper::header::{self, HeaderName};
use hyper::{Request, StatusCode, http};
use jiff::{SignedDuration, Timestamp};
use plimsoll_core::engine::{Cpu, Sample};
use plimsoll_core::histogram::Rejection;
use plimsoll_core::input::Outage;
use plimsoll_crds::reason;
use plimsoll_prometheus::answer::{self, Refusal};
use plimsoll_prometheus::{FetchError, Limits, Response, fetch};
use serde::de::{DeserializeSeed, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::promql::{self, PART_LABEL, PART_SCRAPED_AT, PART_STATUS};
use super::servers::{Access, Server, Servers};
use super::tally::{Counts, STATUS_LABELS, Tally, float};
use super::target::Target;
use super::{Asked, MetricsSource, Reading};

/// Longest answer: some thirty thousand series. Eight of each server may be held at a time, beside all else that the operator has in memory.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Counts that were scraped longer ago tell nothing of now. A Prometheus scrapes every minute at the least by custom.
const STALE_SECONDS: f64 = 150.0;
const TENANT: HeaderName = HeaderName::from_static("x-scope-orgid");

/// A Prometheus, of those that the operator's configuration names.
#[derive(Debug)]
pub struct Prometheus<'a> {
    /// The servers that there are.
    pub servers: &'a Servers,
}

impl MetricsSource for Prometheus<'_> {
    async fn read(&self, asked: Asked<'_>) -> Result<Vec<Reading>, Outage> {
        let source = asked.app.spec.metrics.prometheus.clone().unwrap_or_default();
        let (server, tenant) = self.servers.of(asked.app, &source)?;
        let namespace = asked.app.metadata.namespace.as_deref().unwrap_or_default();
        let query = promql::query(&asked.app.spec.metrics, &source, namespace, asked.deployment)?;
        let access = server.access()?;
        if let Some(outage) = server.failed() {
            return Err(outage);
        }
        let response = ask(server, access, asked, &query, tenant.as_deref()).await?;
        let adding = Adding::new(&source.pod_label, asked);
        let answer =
            answer::parse_seed(&response, adding).map_err(|refusal| refused(&server.entry.name, &refusal))?;
        Ok(readings(asked, answer.result?))
    }
}

/// One series of the answer.
#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    /// When the query was answered, in seconds since the epoch, and the value as it is written.
    value: Option<(f64, String)>,
    histogram: Option<IgnoredAny>,
}

/// What the answer says of one pod.
#[derive(Default)]
struct Found {
    tally: Tally,
    scraped_at_seconds: Option<f64>,
    answered_at_seconds: f64,
    unreadable: bool,
}

async fn ask(
    server: &Server,
    access: Access,
    asked: Asked<'_>,
    query: &str,
    tenant: Option<&str>,
) -> Result<Response, Outage> {
    let name = &server.entry.name;
    let timeout = Duration::from_secs(server.entry.timeout_seconds);
    let unreachable = |what: String| Outage {
        reason: reason::PROMETHEUS_UNREACHABLE,
        message: format!("ask the Prometheus {name}: {what}"),
    };
    let answer = async {
        let _turn = server.turns.acquire().await.map_err(|error| unreachable(error.to_string()))?;
        let request = request(server, &access, asked, query, tenant, timeout)
            .map_err(|error| unreachable(error.to_string()))?;
        let limits = Limits { connect: timeout, answer: timeout, body_bytes: BODY_BYTES_MAX };
        fetch(&access.peer, request, limits).await.map_err(|error| match error {
            FetchError::Untrusted(_) => {
                Outage { reason: reason::UNTRUSTED, ..unreachable(with_cause(&error)) }
            }
            FetchError::TooLarge(_) => Outage {
                reason: reason::QUERY_FAILED,
                message: format!("ask the Prometheus {name}: {error}; have it keep fewer series of each pod"),
            },
            error => unreachable(with_cause(&error)),
        })
    };
    let began = Instant::now();
    let answer = tokio::time::timeout(timeout, answer).await;
    let answer =
        answer.unwrap_or_else(|_| Err(unreachable(format!("no answer within {} s", timeout.as_secs()))));
    match &answer {
        Ok(_) => server.answered(),
        Err(outage) if outage.reason == reason::PROMETHEUS_UNREACHABLE => {
            // A query that is slow is its own resource's affair, as long as others are answered.
            if !server.has_answered_since(began) {
                server.fail(outage.clone());
            }
        }
        Err(_) => {}
    }
    answer
}

fn request(
    server: &Server,
    access: &Access,
    asked: Asked<'_>,
    query: &str,
    tenant: Option<&str>,
    timeout: Duration,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let form = Serializer::new(String::new())
        .append_pair("query", query)
        // It gives up before it is given up, so that it can say why.
        .append_pair("timeout", &format!("{}ms", timeout.as_millis() * 9 / 10))
        // Thanos: one series for all replicas of a Prometheus, and no answer that lacks a part without saying so.
        .append_pair("dedup", "true")
        .append_pair("partial_response", "false")
        .finish();
    let mut request = Request::post(format!("{}/api/v1/query", server.uri.path().trim_end_matches('/')))
        .header(header::HOST, server.uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("plimsoll-operator/", env!("CARGO_PKG_VERSION")));
    // A resource's own credentials take the place of the operator's, which must not lend it more than it has.
    if let Some(authorization) = asked.credentials.authorization.as_ref().or(access.authorization.as_ref()) {
        request = request.header(header::AUTHORIZATION, authorization.clone());
    }
    if let Some(tenant) = tenant {
        request = request.header(TENANT, tenant);
    }
    request.body(Full::from(form))
}

fn refused(name: &str, refusal: &Refusal) -> Outage {
    let unauthorized =
        |status: &StatusCode| matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let hint = match refusal {
        Refusal::Status { status, .. } | Refusal::Said { status, .. } if unauthorized(status) => {
            "; set spec.metrics.prometheus.bearerTokenFrom or basicAuth, or have credentials put into the operator's \
             configuration"
        }
        Refusal::Redirect(_) => "; have that address put into the operator's configuration",
        _ => "",
    };
    Outage { reason: reason::QUERY_FAILED, message: format!("ask the Prometheus {name}: {refusal}{hint}") }
}

/// Adds up what the answer says of each pod that is asked for, by its name; one series is held at a time. An answer that is not
/// what was asked for is an [`Outage`].
struct Adding<'a> {
    pods: HashMap<&'a str, Found>,
    pod_label: &'a str,
}

impl<'a> Adding<'a> {
    fn new(pod_label: &'a str, asked: Asked<'a>) -> Self {
        let pods = asked.ready().map(|target| (target.name.as_str(), Found::default())).collect();
        Self { pods, pod_label }
    }

    fn add(&mut self, series: &Series) -> Result<(), Outage> {
        let failed = |message: &str| Outage { reason: reason::QUERY_FAILED, message: message.into() };
        let Series { metric, value, histogram } = series;
        if histogram.is_some() {
            return Err(failed(
                "the query gives native histograms, whose edges are not those of the targets; have the classic ones \
                 scraped too, with a bucket edge at each target",
            ));
        }
        let pod = metric.get(self.pod_label).ok_or_else(|| {
            failed("the query gives a series without the pod's name; keep the label of spec.metrics.prometheus.podLabel")
        })?;
        let Some((found, (answered_at, value))) = self.pods.get_mut(pod.as_str()).zip(value.as_ref()) else {
            return Ok(());
        };
        found.answered_at_seconds = *answered_at;
        let Some(value) = float(value) else {
            found.unreadable = true;
            return Ok(());
        };
        let status = || STATUS_LABELS.iter().find_map(|label| metric.get(*label)).map(String::as_str);
        match metric.get(PART_LABEL).map(String::as_str) {
            Some(PART_SCRAPED_AT) => found.scraped_at_seconds = Some(value),
            Some(PART_STATUS) => {
                if let Some(status) = status() {
                    found.tally.ended(status, value);
                }
            }
            _ => match (metric.get("le"), metric.get("__name__")) {
                (Some(edge), _) => match float(edge) {
                    Some(edge) => found.tally.bucket(edge, status(), value),
                    None => found.unreadable = true,
                },
                (None, Some(name)) if Tally::takes(name) => found.tally.scalar(name, value),
                (None, _) => {
                    return Err(failed(
                        "the query gives a series without le; keep it, as in sum by (pod, le) (…)",
                    ));
                }
            },
        }
        Ok(())
    }
}

impl<'a, 'de> DeserializeSeed<'de> for Adding<'a> {
    type Value = Result<HashMap<&'a str, Found>, Outage>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'a, 'de> Visitor<'de> for Adding<'a> {
    type Value = Result<HashMap<&'a str, Found>, Outage>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the series of an instant query")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut added = Ok(());
        while let Some(series) = seq.next_element::<Series>()? {
            added = added.and_then(|()| self.add(&series));
        }
        Ok(added.map(|()| self.pods))
    }
}

fn readings(asked: Asked<'_>, mut found: HashMap<&str, Found>) -> Vec<Reading> {
    let reading = |target: &Target| {
        let (at, counts) = match found.remove(target.name.as_str()).unwrap_or_default().counts() {
            Ok((at, counts)) => (at, Ok(counts)),
            Err(rejection) => (Timestamp::now(), Err(rejection)),
        };
        let with_limit = |cpu: Cpu| Cpu { limit_cores: cpu.limit_cores.or(target.limit_cores), ..cpu };
        let cpu = counts.as_ref().ok().and_then(|counts| counts.cpu).map(with_limit);
        let sample = Sample { at, reading: counts.map(|counts| counts.snapshot), cpu };
        Reading { uid: target.uid.clone(), sample }
    };
    asked.ready().map(reading).collect()
}

impl Found {
    /// The counts, and when they were scraped: a reading that is answered twice has the same time twice.
    fn counts(self) -> Result<(Timestamp, Counts), Rejection> {
        let Self { tally, scraped_at_seconds, answered_at_seconds, unreadable } = self;
        if !tally.has_buckets() && !tally.tells_requests() {
            return Err(Rejection::NoSeries);
        }
        let scraped_at_seconds = scraped_at_seconds.ok_or(Rejection::NoSeries)?;
        // Both are by the server's clocks, which need not be ours.
        let age_seconds = answered_at_seconds - scraped_at_seconds;
        if unreadable || !age_seconds.is_finite() {
            return Err(Rejection::InvalidCount);
        }
        if age_seconds > STALE_SECONDS {
            return Err(Rejection::Stale);
        }
        let at =
            SignedDuration::try_from_secs_f64(scraped_at_seconds).map_err(|_| Rejection::InvalidCount)?;
        let at = Timestamp::from_duration(at).map_err(|_| Rejection::InvalidCount)?;
        Ok((at, tally.counts()?))
    }
}

fn with_cause(error: &FetchError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
