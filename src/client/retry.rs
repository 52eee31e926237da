//! When to try again. Decides; the callers act.

use std::time::{Duration, Instant};

use super::error::{Error, Pushback};

/// How the client tries again. The defaults ride out a restart of the daemon.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// The wait after the first failure; doubled after each that follows, with jitter of half of it.
    pub wait_min: Duration,
    /// The longest wait.
    pub wait_max: Duration,
    /// From the first attempt of a call to its last; zero never tries again. What lives longer than a call (a stream, a watch, a
    /// load) counts from the first failure since its last progress.
    pub total_max: Duration,
    /// Repeat saves that may have been accepted already ([`Error::OutcomeUnknown`]): never lost, at most accepted twice.
    pub repeat_unknown: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            wait_min: Duration::from_millis(50),
            wait_max: Duration::from_secs(1),
            total_max: Duration::from_secs(30),
            repeat_unknown: false,
        }
    }
}

/// Whether a call may be repeated that may have been taken already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It makes no difference.
    Always,
    /// Only what was certainly not taken.
    IfNotTaken,
}

impl RetryPolicy {
    /// Never tries again.
    pub fn never() -> Self {
        Self { total_max: Duration::ZERO, ..Self::default() }
    }

    pub(super) fn repeat_saves(&self) -> Repeat {
        if self.repeat_unknown { Repeat::Always } else { Repeat::IfNotTaken }
    }

    pub(super) fn waits(&self) -> Waits {
        Waits { policy: self.clone(), since: Some(Instant::now()), attempts: 0 }
    }

    /// Waits for a call that has its own time; a policy that never tries again stays one.
    pub(super) fn waits_within(&self, within: Duration) -> Waits {
        let total_max = if self.total_max.is_zero() { Duration::ZERO } else { within };
        Self { total_max, ..self.clone() }.waits()
    }
}

/// The waits of one call.
#[derive(Debug)]
pub(super) struct Waits {
    policy: RetryPolicy,
    /// The first attempt, or after progress the first failure.
    since: Option<Instant>,
    attempts: u32,
}

impl Waits {
    /// How long to wait before the next attempt; `None`: give up.
    pub(super) fn next(&mut self, error: &Error, repeat: Repeat) -> Option<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let wait = decide(&self.policy, self.attempts, since.elapsed(), error, repeat, fastrand::f64())?;
        self.attempts = self.attempts.saturating_add(1);
        Some(wait)
    }

    /// There was progress: the next failure is the first.
    pub(super) fn reset(&mut self) {
        self.since = None;
        self.attempts = 0;
    }

    /// Nothing waits for the next attempt: it may take its time anew.
    pub(super) fn idle(&mut self) {
        self.since = None;
    }

    /// A connection that lasted so long broke. Quiet ones make no progress, but what held for longer than the policy's patience
    /// was no failure of the last attempt.
    pub(super) fn lasted(&mut self, lasted: Duration) {
        if lasted >= self.policy.total_max {
            self.reset();
        }
    }
}

/// The wait before attempt `attempts + 2`; `chance` is in 0..1.
fn decide(policy: &RetryPolicy, attempts: u32, elapsed: Duration, error: &Error, repeat: Repeat, chance: f64) -> Option<Duration> {
    let again = error.retryable() || (repeat == Repeat::Always && matches!(error, Error::OutcomeUnknown(_)));
    if !again {
        return None;
    }
    let backoff = policy.wait_min.saturating_mul(1 << attempts.min(16)).min(policy.wait_max);
    let wait = match error.answer().pushback {
        Some(Pushback::Never) => return None,
        // A little later than asked, so that not all come back at once.
        Some(Pushback::After(pushback)) => pushback.mul_f64(1.0 + chance / 10.0),
        None => backoff.mul_f64(0.5 + chance / 2.0),
    };
    (elapsed + wait < policy.total_max).then_some(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn wait(attempts: u32, elapsed: Duration, error: &Error, repeat: Repeat) -> Option<Duration> {
        decide(&RetryPolicy::default(), attempts, elapsed, error, repeat, 0.999_999)
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let error = Error::unavailable("away");
        let waits: Vec<_> = (0..7).map(|n| wait(n, Duration::ZERO, &error, Repeat::IfNotTaken).expect("again").as_millis()).collect();
        assert_eq!(waits, [49, 99, 199, 399, 799, 999, 999]);
        assert!(decide(&RetryPolicy::default(), 40, Duration::ZERO, &error, Repeat::IfNotTaken, 0.0) == Some(500 * MS));
    }

    #[test]
    fn a_call_gives_up_when_its_time_is_over() {
        let error = Error::unavailable("away");
        assert_eq!(wait(9, Duration::from_millis(29_500), &error, Repeat::IfNotTaken), None);
        assert_eq!(decide(&RetryPolicy::never(), 0, Duration::ZERO, &error, Repeat::Always, 0.0), None);
    }

    #[test]
    fn patience_begins_with_the_first_failure_after_progress() {
        let mut waits = RetryPolicy { total_max: 100 * MS, ..RetryPolicy::default() }.waits();
        waits.since = Some(Instant::now() - Duration::from_secs(1));
        assert_eq!(waits.next(&Error::unavailable("away"), Repeat::Always), None);
        waits.lasted(99 * MS);
        assert_eq!(waits.next(&Error::unavailable("away"), Repeat::Always), None);
        waits.lasted(100 * MS);
        assert!(waits.next(&Error::unavailable("away"), Repeat::Always).is_some());
        assert!(waits.since.is_some(), "it counts from there");
    }

    #[test]
    fn what_may_have_been_taken_is_repeated_only_on_demand() {
        let error = Error::unknown("connection lost");
        assert_eq!(wait(0, Duration::ZERO, &error, Repeat::IfNotTaken), None);
        assert!(wait(0, Duration::ZERO, &error, Repeat::Always).is_some());
    }

    #[test]
    fn pushback_is_honoured_and_a_refusal_is_final() {
        let Error::Unavailable(mut answer) = Error::unavailable("stopping") else { unreachable!("made so") };
        answer.pushback = Some(Pushback::After(700 * MS));
        let wait_ms = wait(0, Duration::ZERO, &Error::Unavailable(answer.clone()), Repeat::IfNotTaken).expect("again").as_millis();
        assert!((700..=770).contains(&wait_ms), "{wait_ms}");
        answer.pushback = Some(Pushback::Never);
        assert_eq!(wait(0, Duration::ZERO, &Error::Unavailable(answer), Repeat::Always), None);
        assert_eq!(wait(0, Duration::ZERO, &Error::refused("no"), Repeat::Always), None);
    }
}
