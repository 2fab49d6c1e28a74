//! What is told when every ready pod is left out of a scrape for the same reason.

use plimsoll_crds::reason;

use crate::histogram::Rejection;

/// What was seen, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// What was seen, as the beginning of a sentence.
    pub seen: &'static str,
    /// Reason of the condition `MetricsAvailable`.
    pub reason: &'static str,
    /// What to do, as the rest of that sentence.
    pub remedy: &'static str,
}

impl LeftOut {
    /// None where the pods' own reason says nothing of what to do.
    pub const fn of(rejection: Rejection) -> Option<Self> {
        let (seen, reason, remedy) = match rejection {
            Rejection::HistogramMissing => (
                "the replicas answer without the histogram",
                reason::HISTOGRAM_MISSING,
                "set spec.metrics.histogram, path and port to what they expose",
            ),
            Rejection::LabelsMissing => (
                "no series of the histogram has the labels of spec.metrics.labels",
                reason::LABELS_MISSING,
                "correct spec.metrics.labels, or send the first request that has them",
            ),
            Rejection::NoSeries => (
                "Prometheus has no series of the replicas",
                reason::NO_SERIES,
                "check that it scrapes them, and spec.metrics.histogram, labels and prometheus.podLabel",
            ),
            Rejection::Stale => (
                "Prometheus last scraped the replicas too long ago",
                reason::SERIES_STALE,
                "check that it still scrapes them",
            ),
            Rejection::Unauthorized => (
                "the replicas refuse to tell the operator their metrics",
                reason::UNAUTHORIZED,
                "set spec.metrics.bearerTokenFrom to a token that they take",
            ),
            Rejection::Untrusted => (
                "the certificates of the replicas are not to be trusted",
                reason::UNTRUSTED,
                "set spec.metrics.tls to the authority that signed them and a name that they have",
            ),
            _ => return None,
        };
        Some(Self { seen, reason, remedy })
    }
}
