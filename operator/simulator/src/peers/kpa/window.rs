//! Averages over a window of seconds: `TimedFloat64Buckets` of
//! <https://github.com/knative/serving/blob/main/pkg/autoscaler/aggregation/bucketing.go>.

use std::collections::VecDeque;
use std::time::Duration;

/// Values of whole seconds, averaged over a window. Until the window is full the
/// average is over the seconds since the first value; a second without a value counts as 0, unless it lies after the last.
#[derive(Clone, Debug)]
pub(super) struct Window {
    length: u64,
    values: VecDeque<(u64, f64)>,
    first: u64,
}

impl Window {
    pub(super) fn new(length: Duration) -> Self {
        Self { length: length.as_secs_f64().ceil() as u64, values: VecDeque::new(), first: 0 }
    }

    pub(super) fn record(&mut self, second: u64, value: f64) {
        match self.values.back_mut() {
            Some((last, sum)) if *last == second => {
                *sum += value;
                return;
            }
            Some(&mut (last, _)) if second - last <= self.length => {}
            _ => {
                self.values.clear();
                self.first = second;
            }
        }
        self.values.push_back((second, value));
        while self.values.front().is_some_and(|&(at, _)| at + self.length <= second) {
            self.values.pop_front();
        }
    }

    /// None if the last value is a window or more away.
    pub(super) fn average(&self, second: u64) -> Option<f64> {
        let last = self.values.back()?.0;
        let silent = second.saturating_sub(last);
        if silent >= self.length {
            return None;
        }
        let fresh = self.values.iter().filter(|&&(at, _)| at + self.length > second);
        let seconds = (last - self.first + 1).min(self.length - silent);
        // Kept to six digits, rounded down.
        Some((fresh.map(|(_, value)| value).sum::<f64>() / seconds as f64 * 1e6).floor() / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the comment of `WindowAverage` says.
    #[test]
    fn windows_know_what_is_missing() {
        let mut window = Window::new(Duration::from_mins(1));
        for second in 100..106 {
            window.record(second, 3.0);
        }
        // Six seconds are there: the average is over them.
        assert_eq!(window.average(105), Some(3.0));
        // The last value was 10 s ago in a full window: the average is over the first 50 s.
        for second in 106..160 {
            window.record(second, 3.0);
        }
        assert_eq!(window.average(169), Some(3.0));
        // A gap within counts as 0.
        window.record(179, 3.0);
        assert_eq!(window.average(179), Some((41.0 * 3.0 / 60.0 * 1e6_f64).floor() / 1e6));
        // A window without a value, and all is forgotten.
        assert_eq!(window.average(239), None);
        window.record(300, 5.0);
        assert_eq!(window.average(300), Some(5.0));
    }
}
