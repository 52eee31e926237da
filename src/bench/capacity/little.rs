//! Little's law, which holds for any queue that doesn't grow: what is inside, on average, is the rate at which it comes times how
//! long it stays. Both sides are measured apart, so that a ratio far from 1 says that one of them lies. Pure.

use std::fmt;

use serde::Serialize;

/// Both sides of the law, for one system over one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Little {
    /// Arrivals per second.
    pub(super) rate: f64,
    /// Mean seconds that one stays.
    pub(super) time_seconds: f64,
    /// Their product: how many ought to be inside, on average.
    pub(super) expected: f64,
    /// Mean of the samples of how many were.
    pub(super) observed: f64,
    /// Observed by expected; none if none was expected.
    pub(super) ratio: Option<f64>,
}

impl Little {
    pub(super) fn new(rate: f64, time_seconds: f64, samples: &[f64]) -> Self {
        let (expected, observed) = (rate * time_seconds, mean(samples));
        Self { rate, time_seconds, expected, observed, ratio: (expected > 0.0).then(|| observed / expected) }
    }
}

impl fmt::Display for Little {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = self.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        write!(f, "{:>9.1} {:>9.1} {ratio:>6}", self.observed, self.expected)
    }
}

/// 0 of none.
pub(super) fn mean(samples: &[f64]) -> f64 {
    if samples.is_empty() { 0.0 } else { samples.iter().sum::<f64>() / samples.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_is_rate_times_time() {
        let little = Little::new(200.0, 0.05, &[8.0, 12.0, 10.0, 14.0]);
        assert_eq!(little, Little { rate: 200.0, time_seconds: 0.05, expected: 10.0, observed: 11.0, ratio: Some(1.1) });
    }

    #[test]
    fn nothing_expected_has_no_ratio() {
        let little = Little::new(0.0, 0.0, &[]);
        assert_eq!((little.expected, little.observed, little.ratio), (0.0, 0.0, None));
    }

    /// Deterministic arrivals every 10 ms that stay 35 ms, looked at every millisecond.
    #[test]
    fn both_sides_agree_in_a_queue_that_is_simulated() {
        let inside = |now: u32| (0..=now / 10).filter(|n| n * 10 + 35 > now).count() as f64;
        let samples: Vec<_> = (1_000..2_000).map(inside).collect();
        let little = Little::new(100.0, 0.035, &samples);
        assert!((little.expected - 3.5).abs() < 1e-9, "{little:?}");
        assert!(little.ratio.is_some_and(|ratio| (ratio - 1.0).abs() < 1e-9), "{little:?}");
    }
}
