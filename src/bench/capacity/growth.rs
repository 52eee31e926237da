//! Whether a backlog grows without end, told from samples over one step. Pure.
//!
//! The drain takes whole generations, so its backlog is a sawtooth: it rises by what arrives and falls by a generation at each
//! commit. Near capacity the teeth are as long as seconds, and a slope through all samples would tell where in a tooth the step
//! began and ended. So the last third of the step is compared with the middle one (the first is for the queue to find its level),
//! by mean **and** by lowest sample: a tooth that happens to rise moves the mean, only a queue that isn't served moves the
//! lowest. What grows by less than a twentieth of what arrives is taken to stand.

use super::little::mean;

/// Of the arrivals: below this, growth is what a step of seconds can't tell from chance.
const SHARE_MIN: f64 = 0.05;

/// How much faster than it is served the queue fills, per second, by the more careful of the two measures; below zero if it
/// empties. `seconds` is how long the samples took, which were taken evenly.
pub(super) fn drift(samples: &[f64], seconds: f64) -> f64 {
    let third = samples.len() / 3;
    if third == 0 {
        return 0.0;
    }
    let (middle, last) = (&samples[third..2 * third], &samples[2 * third..]);
    let by_mean = mean(last) - mean(middle);
    let by_lowest = lowest(last) - lowest(middle);
    by_mean.min(by_lowest) / (seconds / 3.0)
}

/// Whether that is growth without end, at so many arrivals a second.
pub(super) fn is_growth(drift: f64, rate: f64) -> bool {
    drift > SHARE_MIN * rate
}

fn lowest(samples: &[f64]) -> f64 {
    samples.iter().copied().fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE_SECONDS: f64 = 0.02;
    const STEP_SECONDS: f64 = 9.0;

    /// A drain that waits for its window, takes all there is and commits it at its service rate; warm after 3 s. Its samples.
    fn sawtooth(rate: f64, service_rate: f64, window: f64) -> Vec<f64> {
        let (mut commits, mut taken_at, mut settled) = (Vec::new(), window, 0.0);
        while taken_at < 60.0 {
            let all = rate * taken_at;
            taken_at += 0.02 + (all - settled) / service_rate;
            settled = all;
            commits.push((taken_at, settled));
            taken_at += window;
        }
        let inside = |now: f64| rate * now - commits.iter().rev().find(|(at, _)| *at <= now).map_or(0.0, |&(_, settled)| settled);
        (0..(STEP_SECONDS / SAMPLE_SECONDS) as u32).map(|n| inside(3.0 + f64::from(n) * SAMPLE_SECONDS)).collect()
    }

    fn grows(rate: f64) -> bool {
        is_growth(drift(&sawtooth(rate, 50_000.0, 0.1), STEP_SECONDS), rate)
    }

    #[test]
    fn a_drain_that_keeps_up_has_a_backlog_that_stands() {
        for rate in [1_000.0, 10_000.0, 30_000.0, 40_000.0, 44_000.0] {
            assert!(!grows(rate), "{rate}");
        }
    }

    #[test]
    fn a_drain_that_is_too_slow_has_a_backlog_that_grows() {
        for rate in [56_000.0, 60_000.0, 75_000.0, 100_000.0, 400_000.0] {
            assert!(grows(rate), "{rate}");
        }
    }

    #[test]
    fn drift_is_arrivals_less_departures() {
        let samples: Vec<_> = (0..300).map(|n| 70.0 + f64::from(n)).collect();
        assert_eq!(drift(&samples, 3.0), 100.0);
        let falling: Vec<_> = samples.iter().rev().copied().collect();
        assert_eq!(drift(&falling, 3.0), -100.0);
    }

    #[test]
    fn too_few_samples_tell_nothing() {
        assert_eq!(drift(&[1.0, 9.0], 3.0), 0.0);
    }
}
