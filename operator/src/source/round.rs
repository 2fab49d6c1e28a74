//! What becomes of the readings of one round: whether they tell anything new, and how they stand among the pods.
//!
//! A Prometheus scrapes each pod at a moment of its own, and more seldom than it is asked. A round counts once every pod has
//! a newer reading than in the last one that counted, so that each covers the same time.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use plimsoll_core::engine;
use plimsoll_core::histogram::Rejection;
use plimsoll_core::input::{Outage, Scrape};

use super::Reading;
use super::target::Target;

/// For so long a pod that has become ready need not be known: a Prometheus has to find it and to scrape it, and requests
/// with the labels that count have to reach it.
const AWAITED: Duration = Duration::from_mins(1);
/// After so long a round counts although some pod has nothing new.
const PATIENCE: Duration = Duration::from_secs(75);

/// How far the readings of one resource have been used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// When the last round that counted was.
    counted_at: Option<Timestamp>,
    /// The time of each pod's reading in it, by UID.
    readings: BTreeMap<String, Timestamp>,
}

/// The round as the decision is shown it; none when there is nothing new.
pub fn round(
    targets: &[Target],
    readings: Result<Vec<Reading>, Outage>,
    progress: &mut Progress,
    now: Timestamp,
) -> Option<Scrape> {
    let (readings, outage) = match readings {
        Ok(readings) => (readings, None),
        Err(outage) => (Vec::new(), Some(outage)),
    };
    let mut readings =
        readings.into_iter().map(|reading| (reading.uid, reading.sample)).collect::<BTreeMap<_, _>>();
    if outage.is_none() {
        let times = readings.iter().filter(|(_, sample)| sample.reading.is_ok());
        let times = times.map(|(uid, sample)| (uid.clone(), sample.at)).collect::<BTreeMap<_, _>>();
        let new = times.iter().all(|(uid, at)| progress.readings.get(uid).is_none_or(|last| at > last));
        let patient = progress.counted_at.is_some_and(|at| within(at, now, PATIENCE));
        if !new && patient {
            return None;
        }
        *progress = Progress { counted_at: Some(now), readings: times };
    }
    let mut awaited = 0;
    let pods = targets.iter().map(|target| {
        let Target { uid, template, created_at, mut ready_at, .. } = target.clone();
        let mut sample = readings.remove(&uid);
        let unknown = sample.as_ref().is_some_and(|sample| {
            matches!(sample.reading, Err(Rejection::NoSeries | Rejection::LabelsMissing))
        });
        if unknown && ready_at.is_some_and(|at| within(at, now, AWAITED)) {
            awaited += 1;
            (sample, ready_at) = (None, None);
        }
        engine::Pod { uid, template, created_at, ready_at, sample }
    });
    Some(Scrape { pods: pods.collect(), awaited, outage })
}

/// Whether less than `span` has passed. A clock that was set back has not passed it.
fn within(earlier: Timestamp, later: Timestamp, span: Duration) -> bool {
    (0.0..span.as_secs_f64()).contains(&later.duration_since(earlier).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use plimsoll_core::engine::Sample;
    use plimsoll_core::histogram::Snapshot;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn targets(ready: &[i64]) -> Vec<Target> {
        let target = |(index, ready): (usize, &i64)| Target {
            uid: index.to_string(),
            name: format!("posts-{index}"),
            template: String::new(),
            created_at: at(0),
            ready_at: Some(at(*ready)),
            address: None,
            limit_cores: None,
        };
        ready.iter().enumerate().map(target).collect()
    }

    /// What a round at `now` comes to, of readings at these times; none: the pod has no series.
    fn counts(
        progress: &mut Progress,
        targets: &[Target],
        now: i64,
        times: &[Option<i64>],
    ) -> Option<Scrape> {
        let readings = times.iter().zip(targets).map(|(time, target)| Reading {
            uid: target.uid.clone(),
            sample: Sample {
                at: at(time.unwrap_or(now)),
                reading: time.map(|_| Snapshot::default()).ok_or(Rejection::NoSeries),
                cpu: None,
            },
        });
        round(targets, Ok(readings.collect()), progress, at(now))
    }

    #[test]
    fn a_round_counts_once_every_pod_has_something_new() {
        let (targets, mut progress) = (targets(&[0, 0]), Progress::default());
        let mut counts =
            |now, times: [i64; 2]| counts(&mut progress, &targets, now, &times.map(Some)).is_some();
        // Scraped every 15 s, at moments of their own, and asked every 5 s.
        assert!(counts(100, [99, 92]));
        assert!(!counts(105, [99, 92]));
        assert!(!counts(110, [99, 107]));
        assert!(counts(115, [114, 107]));
        assert!(!counts(120, [114, 107]));
    }

    #[test]
    fn a_pod_without_news_is_not_waited_for_for_ever_nor_one_that_is_gone() {
        let (both, mut progress) = (targets(&[0, 0]), Progress::default());
        assert!(counts(&mut progress, &both, 100, &[Some(99), Some(92)]).is_some());
        assert!(counts(&mut progress, &both, 174, &[Some(173), Some(92)]).is_none());
        assert!(counts(&mut progress, &both, 175, &[Some(173), Some(92)]).is_some());
        // Prometheus marks the end of a pod's series.
        assert!(counts(&mut progress, &both, 180, &[Some(179), None]).is_some());
        // A clock that was set back does not stop the rounds.
        assert!(counts(&mut progress, &both, 50, &[Some(179), None]).is_some());
    }

    #[test]
    fn a_new_pod_that_is_not_scraped_yet_is_awaited_for_a_minute() {
        let (targets, mut progress) = (targets(&[0, 100]), Progress::default());
        let round = counts(&mut progress, &targets, 110, &[Some(109), None]).unwrap();
        assert_eq!((round.awaited, round.ready().count(), round.rejections().count()), (1, 1, 0));
        let round = counts(&mut progress, &targets, 160, &[Some(159), None]).unwrap();
        assert_eq!((round.awaited, round.ready().count()), (0, 2));
        assert_eq!(round.rejections().collect::<Vec<_>>(), [Rejection::NoSeries]);
    }

    #[test]
    fn an_outage_is_told_at_once_and_uses_nothing_up() {
        let (targets, mut progress) = (targets(&[0]), Progress::default());
        assert!(counts(&mut progress, &targets, 100, &[Some(99)]).is_some());
        let before = progress.clone();
        let outage = Outage { reason: "PrometheusUnreachable", message: "no connection".into() };
        let round = round(&targets, Err(outage.clone()), &mut progress, at(105)).unwrap();
        assert_eq!((round.outage, round.pods.len(), progress), (Some(outage), 1, before));
    }
}
