//! Cumulative histograms of pods: turns two readings into what happened between them, and merges that over pods.
//!
//! It never averages percentiles, and it never reads a missing or broken number as zero.

use std::sync::Arc;
use std::time::Duration;

use crate::shared::Shared;

/// Edges this close, relative to their size, are the same edge.
const EDGE_TOLERANCE: f64 = 1e-9;

/// Standard normal quantile of a two-sided 95 % interval.
const Z_95: f64 = 1.959_964;

/// One reading of one pod: everything it has counted since it started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Finite upper edges in seconds, ascending. Shared, as the counts are, for a reading is kept until the next one.
    edges: Arc<[f64]>,
    /// Requests between each edge and the one below it.
    counts: Arc<[f64]>,
    /// Requests slower than the last edge.
    overflow: f64,
    /// Requests being served, if the pod says so.
    pub in_flight: Option<f64>,
    /// Requests refused because of load since the pod started, if it says so.
    pub shed: Option<f64>,
    /// Requests of the histogram that ended with an error of the server, if it says so.
    failed: Option<f64>,
    /// What the pod tells of what all replicas share.
    pub shared: Shared,
}

/// Why a pod's answer was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// No answer within the deadline.
    Timeout,
    /// The connection could not be made, or broke.
    Connection,
    /// An HTTP status other than 200.
    HttpStatus,
    /// The pod refuses who asks: HTTP status 401 or 403.
    Unauthorized,
    /// The pod's certificate is not to be trusted, or it does not speak TLS.
    Untrusted,
    /// The answer is longer than the cap.
    TooLarge,
    /// The answer is not an exposition in Prometheus' text format.
    NotExposition,
    /// The exposition lacks the histogram.
    HistogramMissing,
    /// The histogram has series, but none with the labels that are to be counted.
    LabelsMissing,
    /// Prometheus has no series of the pod.
    NoSeries,
    /// Prometheus last scraped the pod too long ago.
    Stale,
    /// The histogram lacks the `+Inf` bucket, which holds the number of all requests.
    NoInfBucket,
    /// A count is negative, infinite or not a number, or an edge is negative or not a number.
    InvalidCount,
    /// A bucket holds fewer requests than a lower one, though buckets are cumulative.
    NotMonotone,
    /// The histogram has more edges than [`EDGES_MAX`].
    TooManyBuckets,
}

/// Edges of a histogram at most. Readings are kept for a minute, for every pod of every resource: one resource must not
/// take the memory of all.
pub const EDGES_MAX: usize = 512;

impl Rejection {
    /// The rejection in one word, for labels and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "Timeout",
            Self::Connection => "Connection",
            Self::HttpStatus => "HttpStatus",
            Self::Unauthorized => "Unauthorized",
            Self::Untrusted => "Untrusted",
            Self::TooLarge => "TooLarge",
            Self::NotExposition => "NotExposition",
            Self::HistogramMissing => "HistogramMissing",
            Self::LabelsMissing => "LabelsMissing",
            Self::NoSeries => "NoSeries",
            Self::Stale => "Stale",
            Self::NoInfBucket => "NoInfBucket",
            Self::InvalidCount => "InvalidCount",
            Self::NotMonotone => "NotMonotone",
            Self::TooManyBuckets => "TooManyBuckets",
        }
    }
}

impl Snapshot {
    /// Checks and stores cumulative buckets `(upper edge in seconds, requests up to it)`, in any order. An edge that
    /// comes twice counts twice: so series of one histogram that differ in other labels are summed. No bucket at all
    /// is a pod that has served nothing yet.
    ///
    /// # Errors
    /// [`Rejection::InvalidCount`], [`Rejection::TooManyBuckets`], [`Rejection::NoInfBucket`] or
    /// [`Rejection::NotMonotone`].
    pub fn new(
        mut cumulative: Vec<(f64, f64)>,
        in_flight: Option<f64>,
        shed: Option<f64>,
    ) -> Result<Self, Rejection> {
        let valid = |value: f64| value.is_finite() && value >= 0.0;
        // Nothing takes less than no time.
        if !cumulative.iter().all(|&(edge, count)| edge >= 0.0 && valid(count)) {
            return Err(Rejection::InvalidCount);
        }
        if !in_flight.is_none_or(f64::is_finite) || !shed.is_none_or(valid) {
            return Err(Rejection::InvalidCount);
        }
        // A gauge that is counted up and down from several threads may read just below zero.
        let in_flight = in_flight.map(|value| value.max(0.0));
        cumulative.sort_by(|a, b| a.0.total_cmp(&b.0));
        cumulative.dedup_by(|next, kept| {
            let same = next.0.total_cmp(&kept.0).is_eq();
            if same {
                kept.1 += next.1;
            }
            same
        });
        if cumulative.len() > EDGES_MAX {
            return Err(Rejection::TooManyBuckets);
        }
        let Some(&(last_edge, total)) = cumulative.last() else {
            return Ok(Self { in_flight, shed, ..Self::default() });
        };
        if last_edge != f64::INFINITY {
            return Err(Rejection::NoInfBucket);
        }
        cumulative.pop();
        let mut below = 0.0;
        let mut counts = Vec::with_capacity(cumulative.len());
        for &(_, up_to) in &cumulative {
            if up_to < below {
                return Err(Rejection::NotMonotone);
            }
            counts.push(up_to - below);
            below = up_to;
        }
        if total < below {
            return Err(Rejection::NotMonotone);
        }
        Ok(Self {
            edges: cumulative.into_iter().map(|(edge, _)| edge).collect(),
            counts: counts.into(),
            overflow: total - below,
            in_flight,
            shed,
            failed: None,
            shared: Shared::default(),
        })
    }

    /// The same, with the number of requests that ended with an error of the server.
    ///
    /// # Errors
    /// [`Rejection::InvalidCount`] when it is negative, not finite, or more than all requests.
    pub fn with_failed(self, failed: f64) -> Result<Self, Rejection> {
        let total = self.counts.iter().sum::<f64>() + self.overflow;
        if (0.0..=total * (1.0 + EDGE_TOLERANCE)).contains(&failed) {
            Ok(Self { failed: Some(failed), ..self })
        } else {
            Err(Rejection::InvalidCount)
        }
    }

    /// Whether it has counted a request.
    pub(crate) fn is_empty(&self) -> bool {
        self.edges.is_empty() && self.overflow == 0.0
    }

    /// The highest edge at or below a time, in seconds.
    pub(crate) fn edge_at_or_below(&self, seconds: f64) -> Option<f64> {
        self.edges[..up_to(&self.edges, seconds)].last().copied()
    }

    /// Whether it says how many requests ended with an error. One that has counted no request yet cannot say otherwise.
    pub fn tells_errors(&self) -> bool {
        self.failed.is_some() || self.is_empty()
    }

    /// What happened between `earlier` and this reading of the same pod. A count that is lower than before means that
    /// the process has restarted; then everything it has counted since is new.
    pub fn since(&self, earlier: &Self) -> Delta {
        let counts = self.counted_on_from(earlier);
        let nothing = Self::default();
        let earlier = if counts.is_some() { earlier } else { &nothing };
        let counts = counts.unwrap_or_else(|| self.counts.to_vec());
        Delta {
            total: sum(&counts) + self.overflow - earlier.overflow,
            edges: self.edges.clone(),
            counts,
            shed: self.shed.unwrap_or(0.0) - earlier.shed.unwrap_or(0.0),
            failed: self.failed.unwrap_or(0.0) - earlier.failed.unwrap_or(0.0),
        }
    }

    /// Whether this counts on from `earlier`, or else has begun anew.
    pub(crate) fn goes_on_from(&self, earlier: &Self) -> bool {
        self.counted_on_from(earlier).is_some()
    }

    /// Requests between each edge and the one below since `earlier`. None when this does not count on from it.
    fn counted_on_from(&self, earlier: &Self) -> Option<Vec<f64>> {
        let known = self.overflow >= earlier.overflow
            && self.shed >= earlier.shed
            && self.failed >= earlier.failed
            && (earlier.edges.is_empty() || same_edges(&self.edges, &earlier.edges));
        known.then(|| self.counts_since(earlier)).flatten()
    }

    /// Requests between each edge and the one below since `earlier`, which has the same edges or none. None when one is lower
    /// than it was.
    fn counts_since(&self, earlier: &Self) -> Option<Vec<f64>> {
        if earlier.edges.is_empty() {
            return Some(self.counts.to_vec());
        }
        let counts: Vec<f64> =
            self.counts.iter().zip(&*earlier.counts).map(|(now, before)| now - before).collect();
        // Counted without an early end, so that the whole is a few instructions of many lanes each.
        let lower = counts.iter().filter(|count| **count < 0.0).count();
        (lower == 0).then_some(counts)
    }
}

/// Requests that ended in some span of time, of one pod or of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Finite upper edges in seconds, ascending.
    edges: Arc<[f64]>,
    /// Requests between each edge and the one below it.
    counts: Vec<f64>,
    /// Requests in all.
    pub total: f64,
    /// Requests refused because of load; they are not in `total`.
    pub shed: f64,
    /// Of the requests in `total`, those that ended with an error of the server; 0 where that is not told.
    pub failed: f64,
}

/// A percentile read from buckets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantile {
    /// The percentile in seconds.
    pub seconds: f64,
    /// The rank lies above the highest edge: the percentile is `seconds` or anything more.
    pub saturated: bool,
}

impl Delta {
    /// Adds the requests of another pod or span. Where edges differ, as between two versions of the API, only the
    /// common ones are kept: counts up to a common edge add up exactly.
    pub fn add(&mut self, other: &Self) {
        if self.total == 0.0 {
            self.edges.clone_from(&other.edges);
            self.counts.clone_from(&other.counts);
        } else if other.total > 0.0 && same_edges(&self.edges, &other.edges) {
            for (count, more) in self.counts.iter_mut().zip(&other.counts) {
                *count += more;
            }
        } else if other.total > 0.0 {
            self.add_at_common_edges(other);
        }
        self.total += other.total;
        self.shed += other.shed;
        self.failed += other.failed;
    }

    fn add_at_common_edges(&mut self, other: &Self) {
        let (mut edges, mut counts) = (Vec::new(), Vec::new());
        let mut theirs = other.cumulative().peekable();
        let mut below = 0.0;
        for (edge, count) in self.cumulative() {
            while theirs.next_if(|&(other, _)| other < edge && !same_edge(other, edge)).is_some() {}
            if let Some((_, more)) = theirs.next_if(|&(other, _)| same_edge(other, edge)) {
                edges.push(edge);
                counts.push(count + more - below);
                below = count + more;
            }
        }
        (self.edges, self.counts) = (edges.into(), counts);
    }

    /// Finite upper edges in seconds, ascending.
    pub fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// Each edge with the number of requests up to it, lowest first.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, f64)> {
        self.edges.iter().zip(&self.counts).scan(0.0, |up_to, (&edge, count)| {
            *up_to += count;
            Some((edge, *up_to))
        })
    }

    /// Counts every request as `part` of one.
    pub fn scale(&mut self, part: f64) {
        for count in &mut self.counts {
            *count *= part;
        }
        self.total *= part;
        self.shed *= part;
        self.failed *= part;
    }

    /// The `q`-quantile, linear within its bucket. None without requests or without a finite edge.
    pub fn quantile(&self, q: f64) -> Option<Quantile> {
        let highest = *self.edges.last()?;
        if self.total <= 0.0 {
            return None;
        }
        let rank = q * self.total;
        let (mut lower_edge, mut below) = (0.0, 0.0);
        for (edge, up_to) in self.cumulative() {
            if up_to >= rank && up_to > below {
                let seconds =
                    lower_edge + (edge - lower_edge) * ((rank - below) / (up_to - below)).clamp(0.0, 1.0);
                return Some(Quantile { seconds, saturated: false });
            }
            (lower_edge, below) = (edge, up_to);
        }
        Some(Quantile { seconds: highest, saturated: true })
    }

    /// Requests that took longer than `target`: exact when an edge lies there, otherwise counted from the next lower
    /// edge, which is never too few.
    pub fn slower_than(&self, target: Duration) -> f64 {
        let within = up_to(&self.edges, target.as_secs_f64());
        (self.total - self.counts[..within].iter().sum::<f64>()).max(0.0)
    }
}

/// The sum of whole numbers, which is the same in any order: in lanes, so that no addition waits for the one before.
fn sum(counts: &[f64]) -> f64 {
    let (chunks, rest) = counts.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for chunk in chunks {
        for (lane, count) in lanes.iter_mut().zip(chunk) {
            *lane += count;
        }
    }
    lanes.iter().chain(rest).sum()
}

/// How many edges lie at or below a time, in seconds.
fn up_to(edges: &[f64], seconds: f64) -> usize {
    edges.partition_point(|&edge| edge < seconds || same_edge(edge, seconds))
}

/// Whether they are the same to the last bit, as those of two readings of one version are.
fn same_edges(a: &[f64], b: &[f64]) -> bool {
    // Counted without an early end, as in `counts_since`.
    let others = || a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    a.len() == b.len() && (std::ptr::eq(a, b) || others() == 0)
}

pub(crate) fn same_edge(a: f64, b: f64) -> bool {
    (a - b).abs() <= EDGE_TOLERANCE * a.abs().max(b.abs())
}

/// The share in which `bad` of `total` came out, with what chance leaves open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Lower end of the 95 % interval.
    pub lower: f64,
    /// The share itself; 0 without trials.
    pub value: f64,
    /// Upper end of the 95 % interval; 1 without trials.
    pub upper: f64,
}

impl Share {
    /// Wilson's score interval, which stays within 0..=1 and behaves for rare events.
    pub fn wilson(bad: f64, total: f64) -> Self {
        if total <= 0.0 {
            return Self { lower: 0.0, value: 0.0, upper: 1.0 };
        }
        let value = (bad / total).clamp(0.0, 1.0);
        let z2 = Z_95 * Z_95;
        let centre = value + z2 / (2.0 * total);
        let half = Z_95 * (value * (1.0 - value) / total + z2 / (4.0 * total * total)).sqrt();
        let scale = 1.0 + z2 / total;
        Self {
            lower: ((centre - half) / scale).clamp(0.0, value),
            value,
            upper: ((centre + half) / scale).clamp(value, 1.0),
        }
    }
}
