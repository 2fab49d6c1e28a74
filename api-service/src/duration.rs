//! Durations as text, in the same form as in the resource's spec. This module never guesses a unit.

use std::time::Duration;

/// The longest duration that any setting admits: one day.
const MAX: Duration = Duration::from_hours(24);

/// Text that is not a duration such as `100ms`, `1.5s` or `2m`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{text:?} is not a duration; write a number and its unit (ms, s or m), such as 100ms or 1.5s, of at most a day"
)]
pub struct DurationError {
    text: String,
}

/// Reads a number with one of the units `ms`, `s` and `m`, such as `100ms` or `1.5s`.
///
/// # Errors
/// [`DurationError`] for any other text, and for more than a day.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    const UNITS: [(&str, f64); 3] = [("ms", 0.001), ("s", 1.0), ("m", 60.0)];
    let seconds = UNITS
        .iter()
        .find_map(|(unit, seconds)| text.strip_suffix(unit).map(|number| (number, seconds)))
        .filter(|(number, _)| is_plain_number(number))
        .and_then(|(number, seconds)| Some(number.parse::<f64>().ok()? * seconds));
    match seconds {
        Some(seconds) if seconds <= MAX.as_secs_f64() => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(DurationError { text: text.to_owned() }),
    }
}

/// True for digits with at most one point between them: no sign, no exponent, no `inf`.
fn is_plain_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_unit() {
        assert_eq!(parse("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn refuses_other_text() {
        for text in ["", "5", "ms", "-1s", "1e9s", "infs", "1.2.3s", " 1s", "1 s", "1h", "86401s"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
