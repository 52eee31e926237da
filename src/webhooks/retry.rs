//! When a delivery is tried again.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, fmt::rfc2822};

/// The most that the first wait may be; it doubles with every attempt.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// The most that any wait may be, whatever the receiver asks for: how soon one that is back is noticed.
const WAIT_MAX: Duration = Duration::from_secs(5 * 60);

/// The wait after so many failed attempts: exponential with full jitter (`jitter` from 0 to 1), but not less than the receiver
/// asked for, within bounds.
pub(super) fn wait(failed: u32, asked: Option<Duration>, jitter: f64) -> Duration {
    let ceiling = WAIT_FIRST.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1))).min(WAIT_MAX);
    ceiling.mul_f64(jitter).max(asked.unwrap_or_default().min(WAIT_MAX))
}

/// What `Retry-After` asks for: seconds or a date; `None` if it is neither.
pub(super) fn asked(header: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at: Timestamp = rfc2822::parse(header).ok()?.timestamp();
    Some(SystemTime::from(at).duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_have_full_jitter() {
        let most = [1, 2, 3, 10, 11, 40, u32::MAX].map(|failed| wait(failed, None, 1.0));
        let seconds = [0.5, 1.0, 2.0, 256.0, 300.0, 300.0, 300.0];
        assert_eq!(most, seconds.map(Duration::from_secs_f64));
        assert_eq!(wait(5, None, 0.0), Duration::ZERO);
        assert_eq!(wait(3, None, 0.5), Duration::from_secs(1));
    }

    #[test]
    fn a_receiver_may_ask_for_more_time_within_bounds() {
        assert_eq!(wait(1, Some(Duration::from_secs(30)), 0.3), Duration::from_secs(30));
        assert_eq!(wait(1, Some(Duration::from_secs(86_400)), 0.3), WAIT_MAX);
        assert_eq!(wait(4, Some(Duration::from_secs(1)), 1.0), Duration::from_secs(4));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(asked("120", now), Some(Duration::from_secs(120)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:50:37 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(asked("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO), "a date in the past is now");
        assert_eq!((asked("soon", now), asked("-5", now)), (None, None));
    }
}
