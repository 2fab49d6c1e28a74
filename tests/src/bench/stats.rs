//! Medians, ranges and ratios of a few rounds. Never a mean: one disturbed round would move it.

use serde::{Deserialize, Serialize};

/// A median with the range that it is the median of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle value; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The lowest value.
    pub min: f64,
    /// The highest value.
    pub max: f64,
}

impl Spread {
    /// Of these values, in any order; `None` when there is none or one is no number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: f64::midpoint(low, high), min, max })
    }

    /// All three times `factor`, such as 100 for percent.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }

    /// The median, with the range where there is one.
    pub fn show(self, decimals: usize) -> String {
        let Self { median, min, max } = self;
        if min >= max {
            return format!("{median:.decimals$}");
        }
        format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
    }
}

/// How many times `base` `value` is; `None` where `base` is not above 0.
pub fn ratio(value: f64, base: f64) -> Option<f64> {
    (base > 0.0).then(|| value / base).filter(|ratio| ratio.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_the_range_the_ends() {
        assert_eq!(Spread::of([3.0, 1.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of([7.0]), Some(Spread { median: 7.0, min: 7.0, max: 7.0 }));
    }

    #[test]
    fn a_range_is_shown_where_there_is_one() {
        let show =
            |values: &[f64]| Spread::of(values.iter().copied()).map(|spread| spread.times(100.0).show(1));
        assert_eq!(show(&[0.04, 0.01, 0.03, 0.02]).as_deref(), Some("2.5 (1.0–4.0)"));
        assert_eq!(show(&[0.07, 0.07]).as_deref(), Some("7.0"));
    }

    #[test]
    fn nothing_and_no_number_have_no_median() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), None);
    }

    #[test]
    fn a_ratio_needs_a_base() {
        assert_eq!(ratio(30.0, 2.5), Some(12.0));
        assert_eq!(ratio(30.0, 0.0), None);
    }
}
