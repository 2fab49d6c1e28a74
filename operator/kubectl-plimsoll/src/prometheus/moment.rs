//! Times and spans as they are written on the command line.

use jiff::{SignedDuration, Timestamp};

/// Longer ago than this nothing was measured.
const SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// A time, or a span back from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// At this time.
    At(Timestamp),
    /// So long ago.
    Ago(SignedDuration),
}

impl Moment {
    /// The time that is meant.
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => now - ago,
        }
    }
}

/// Reads an RFC 3339 time, or a span in Prometheus' own form.
///
/// # Errors
/// With what to write.
pub fn moment(text: &str) -> Result<Moment, String> {
    if let Some(seconds) = seconds(text) {
        return Ok(Moment::Ago(SignedDuration::from_secs(seconds.cast_signed())));
    }
    text.parse().map(Moment::At).map_err(|_| {
        "write a time with its zone, such as 2026-11-25T14:00:00Z, or how long ago, such as 6h or 7d".into()
    })
}

/// Reads the time between two points, in seconds.
///
/// # Errors
/// With what to write.
pub fn step(text: &str) -> Result<u32, String> {
    seconds(text)
        .filter(|seconds| (1..=86_400).contains(seconds))
        .map(|seconds| seconds as u32)
        .ok_or_else(|| "write whole seconds, from 1s to 1d, such as 15s or 1m".into())
}

/// Numbers with units, such as `1d12h`.
fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number = rest[..digits].parse::<u64>().ok()?;
        let mut unit = rest[digits..].chars();
        let seconds = match unit.next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return None,
        };
        sum = sum.checked_add(number.checked_mul(seconds)?)?;
        rest = unit.as_str();
    }
    (!text.is_empty() && sum <= SECONDS_MAX).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_time_is_itself_and_a_span_is_counted_back_from_now() {
        let now = time("2026-11-25T14:00:00Z");
        for (text, at) in [
            ("2026-11-25T12:00:00Z", "2026-11-25T12:00:00Z"),
            ("2026-11-25T12:00:00+01:00", "2026-11-25T11:00:00Z"),
            ("6h", "2026-11-25T08:00:00Z"),
            ("1d12h", "2026-11-24T02:00:00Z"),
            ("2w", "2026-11-11T14:00:00Z"),
            ("90s", "2026-11-25T13:58:30Z"),
            ("0s", "2026-11-25T14:00:00Z"),
        ] {
            assert_eq!(moment(text).map(|moment| moment.at(now)), Ok(time(at)), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_what_to_write() {
        for text in ["", "6", "h", "6x", "-6h", "yesterday", "2026-11-25", "99999w", "99999999999999999999s"]
        {
            let error = moment(text).unwrap_err();
            assert!(error.contains("2026-11-25T14:00:00Z") && error.contains("6h"), "{text}: {error}");
        }
    }

    #[test]
    fn a_step_is_whole_seconds() {
        assert_eq!([step("15s"), step("1m"), step("1m30s")], [Ok(15), Ok(60), Ok(90)]);
        for text in ["0s", "500ms", "2d", "1.5s", "15"] {
            assert!(step(text).unwrap_err().contains("15s or 1m"), "{text}");
        }
    }
}
