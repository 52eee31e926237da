//! Open loop with chance: calls are due as a Poisson process, whether earlier ones are answered or not.
//!
//! Many callers who know nothing of each other arrive like that, in clusters and with gaps: exponential gaps between one call and
//! the next. Steady gaps ([`super::super::Pace`]) are the kindest arrivals that a queue can get and would overstate what it bears.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

/// When each call is due. Ends with the step.
///
/// A thread tells: the runtime's timer is no finer than a millisecond, as long as what is measured. What waits is at most what the
/// step has calls.
#[derive(Debug)]
pub(super) struct Arrivals(mpsc::UnboundedReceiver<Instant>);

impl Arrivals {
    /// So many a second between two instants; the same seed draws the same gaps.
    pub(super) fn begin(rate: f64, from: Instant, until: Instant, seed: u64) -> Self {
        let (tell, due) = mpsc::unbounded_channel();
        thread::spawn(move || {
            let mut due = from;
            for gap in gaps(rate, seed) {
                due += gap;
                if due >= until {
                    break;
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if tell.send(due).is_err() {
                    break;
                }
            }
        });
        Self(due)
    }

    /// Waits for the next; when it was due.
    pub(super) async fn next(&mut self) -> Option<Instant> {
        self.0.recv().await
    }
}

/// Exponential, with a mean of one by the rate: the logarithm of a uniform number, which is never 0.
fn gaps(rate: f64, seed: u64) -> impl Iterator<Item = Duration> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(move || Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_are_due_in_order_within_the_step_and_end_with_it() {
        let from = Instant::now();
        let until = from + Duration::from_millis(20);
        let mut arrivals = Arrivals::begin(5_000.0, from, until, 7);
        let mut due = Vec::new();
        while let Some(instant) = arrivals.next().await {
            due.push(instant);
        }
        let expected: Vec<_> = gaps(5_000.0, 7)
            .scan(from, |at, gap| {
                *at += gap;
                Some(*at)
            })
            .take_while(|&at| at < until)
            .collect();
        assert!(due.len() > 50 && due == expected, "{} of {}", due.len(), expected.len());
    }

    /// For exponential gaps the deviation equals the mean; steady ones have none.
    #[test]
    fn gaps_are_exponential() {
        let gaps: Vec<_> = gaps(1_000.0, 1).take(100_000).map(|gap| gap.as_secs_f64() * 1_000.0).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1.0).abs() < 0.02 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
        let long = gaps.iter().filter(|&&gap| gap > 3.0).count() as f64 / gaps.len() as f64;
        assert!((long - (-3.0_f64).exp()).abs() < 0.005, "{long} are longer than three times the mean");
    }
}
