//! The points in time that are asked for, in parts that Prometheus answers.

use anyhow::{Result, ensure};
use jiff::Timestamp;

/// More points than this Prometheus does not put into an answer.
const PART_POINTS_MAX: i64 = 11_000;
/// Answers that are asked for.
const PARTS_MAX: i64 = 50;

/// Points in time, the same time apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first, in seconds since the epoch.
    pub start: i64,
    /// None is later.
    pub end: i64,
    /// Seconds between two.
    pub step: i64,
}

impl Range {
    /// From one time to another.
    ///
    /// # Errors
    /// When there are fewer than two points, or more than can be asked for; with what to write.
    pub fn between(from: Timestamp, to: Timestamp, step_seconds: u32) -> Result<Self> {
        let range = Self { start: from.as_second(), end: to.as_second(), step: i64::from(step_seconds) };
        ensure!(from < to, "--from is {from}, which is not before --to, {to}");
        ensure!(
            range.points() > 1,
            "from {from} to {to} there is no second point at a --step of {step_seconds}s; write a smaller one or an earlier --from"
        );
        let most = PARTS_MAX * PART_POINTS_MAX;
        ensure!(
            range.points() <= most,
            "from {from} to {to} there are {} points at a --step of {step_seconds}s, and at most {most} are asked for; write a --step of at least {}s, or a shorter range",
            range.points(),
            (range.end - range.start - 1) / (most - 1) + 1
        );
        Ok(range)
    }

    /// How many points there are.
    pub const fn points(&self) -> i64 {
        (self.end - self.start) / self.step + 1
    }

    /// The same points, as many at once as Prometheus answers.
    pub fn parts(self) -> impl Iterator<Item = Self> {
        let span = self.step * PART_POINTS_MAX;
        (0..)
            .map(move |part| self.start + part * span)
            .take_while(move |start| *start <= self.end)
            .map(move |start| Self { start, end: self.end.min(start + span - self.step), step: self.step })
    }

    /// A point as a time.
    pub fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn parts(end: i64, step: u32) -> Vec<(i64, i64)> {
        let range = Range::between(time(0), time(end), step).unwrap();
        range.parts().map(|part| (part.start, part.end)).collect()
    }

    #[test]
    fn a_long_range_is_split_without_a_point_twice_or_none() {
        assert_eq!(parts(60, 15), [(0, 60)]);
        assert_eq!(parts(10_999, 1), [(0, 10_999)]);
        assert_eq!(parts(11_000, 1), [(0, 10_999), (11_000, 11_000)]);
        // A week.
        let week = Range::between(time(0), time(7 * 86_400), 15).unwrap();
        assert_eq!(week.parts().count(), 4);
        assert!(week.parts().all(|part| part.points() <= PART_POINTS_MAX));
        assert_eq!(week.parts().map(|part| part.points()).sum::<i64>(), week.points());
    }

    #[test]
    fn a_range_that_cannot_be_asked_for_says_what_to_write() {
        let refused = |from, to, step| Range::between(time(from), time(to), step).unwrap_err().to_string();
        assert!(refused(60, 60, 15).contains("which is not before --to, 1970-01-01T00:01:00Z"));
        assert!(refused(0, 14, 15).contains("write a smaller one or an earlier --from"));
        let year = refused(0, 365 * 86_400, 15);
        assert!(year.contains("2102401 points") && year.contains("a --step of at least 58s"), "{year}");
        assert!(Range::between(time(0), time(365 * 86_400), 58).is_ok());
    }
}
