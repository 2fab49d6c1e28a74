//! Durations and quantities of the spec, read into numbers with units.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A duration that is not of the form `100ms` or `1.5s`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a duration; write a number and its unit, such as 100ms or 1.5s")]
pub struct DurationError {
    text: String,
}

/// A quantity that is no number of zero or more.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a quantity; write a number, with a unit if it needs one, such as 64Mi or 500m")]
pub struct QuantityError {
    text: String,
}

/// A share that is not of the form `0.1%`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a percentage above 0%; write one such as 0.1%")]
pub struct PercentageError {
    text: String,
}

/// Reads `0.1%` as a share of one, the form that the schema admits.
///
/// # Errors
/// [`PercentageError`] for any other text, for zero and for more than 100%.
pub fn parse_percentage(text: &str) -> Result<f64, PercentageError> {
    let error = || PercentageError { text: text.to_owned() };
    let number = text.strip_suffix('%').filter(|number| number.starts_with(|c: char| c.is_ascii_digit()));
    let percent = number.and_then(|number| number.parse::<f64>().ok()).ok_or_else(error)?;
    if percent > 0.0 && percent <= 100.0 { Ok(percent / 100.0) } else { Err(error()) }
}

/// Reads `100ms` or `1.5s`, the forms that the schema admits.
///
/// # Errors
/// [`DurationError`] for any other text, and for more than a day.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    const DAY_SECONDS: f64 = 86_400.0;
    let error = || DurationError { text: text.to_owned() };
    let (number, seconds_per_unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s').ok_or_else(error)?, 1.0),
    };
    if !number.starts_with(|c: char| c.is_ascii_digit()) || !number.ends_with(|c: char| c.is_ascii_digit()) {
        return Err(error());
    }
    if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(error());
    }
    let seconds = number.parse::<f64>().map_err(|_| error())? * seconds_per_unit;
    if seconds > DAY_SECONDS {
        return Err(error());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Reads a quantity of memory in bytes, rounded down. Kubernetes itself writes thousandths where a sum of bytes does not
/// come out even.
///
/// # Errors
/// Those of [`quantity_value`].
pub fn quantity_bytes(quantity: &Quantity) -> Result<u64, QuantityError> {
    Ok(quantity_value(quantity)? as u64)
}

/// Reads a quantity in its base unit, such as CPUs or bytes. All of Kubernetes' suffixes: `n u m k M G T P E` and
/// `Ki Mi Gi Ti Pi Ei`.
///
/// # Errors
/// [`QuantityError`] for a negative number, another suffix, or more than 2⁶³.
pub fn quantity_value(quantity: &Quantity) -> Result<f64, QuantityError> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let text = quantity.0.as_str();
    let (number, factor) = SUFFIXES
        .iter()
        .find_map(|(suffix, factor)| text.strip_suffix(suffix).map(|number| (number, *factor)))
        .unwrap_or((text, 1.0));
    let value = number.parse::<f64>().map_or(f64::NAN, |number| number * factor);
    if (0.0..9.2e18).contains(&value) { Ok(value) } else { Err(QuantityError { text: text.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_durations_of_the_schema() {
        assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        for text in ["", "100", "ms", "-1s", "1e3s", "1 s", ".5s", "5.s", "1m", "infs", "1..5s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_percentages_of_the_schema() {
        assert_eq!(parse_percentage("0.5%"), Ok(0.005));
        assert_eq!(parse_percentage("100%"), Ok(1.0));
        for text in ["", "%", "1", "-1%", "0%", "101%", ".5%", "nan%", "inf%", "1 %", "one%"] {
            assert!(parse_percentage(text).is_err(), "{text}");
        }
    }

    #[test]
    fn reads_quantities_of_cpu() {
        let value = |text: &str| quantity_value(&Quantity(text.into())).ok();
        assert_eq!(
            [value("100m"), value("1"), value("0.5"), value("-1")],
            [Some(0.1), Some(1.0), Some(0.5), None]
        );
    }

    #[test]
    fn reads_quantities_of_memory() {
        let bytes = |text: &str| quantity_bytes(&Quantity(text.into()));
        assert_eq!(bytes("64Mi"), Ok(67_108_864));
        assert_eq!(bytes("1.5Gi"), Ok(1_610_612_736));
        assert_eq!(bytes("64M"), Ok(64_000_000));
        assert_eq!(bytes("1e3"), Ok(1000));
        assert_eq!(bytes("64000000000m"), Ok(64_000_000));
        for text in ["", "Mi", "-1Mi", "NaN", "64mb", "inf"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,20}") {
            let _ = parse_duration(&text);
            let _ = parse_percentage(&text);
            let _ = quantity_bytes(&Quantity(text));
        }

        #[test]
        fn milliseconds_survive(ms in 0_u64..60_000) {
            prop_assert_eq!(parse_duration(&format!("{ms}ms")), Ok(Duration::from_millis(ms)));
        }
    }
}
