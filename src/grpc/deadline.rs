//! The caller's deadline (`grpc-timeout`).
//!
//! tonic ends a call at its deadline too, but with CANCELLED and no details; here the call is answered a moment before.

use std::{
    future::{Future, pending},
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::{Request, Status, metadata::MetadataMap};

use super::errors;

const NOT_ACCEPTED: &str = "the deadline came before the save was accepted";
const PERHAPS_ACCEPTED: &str = "the deadline came before the answer: what was accepted stays accepted";

/// When the caller stops waiting, if it says so.
#[derive(Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// How much earlier than tonic the call is answered.
    const MARGIN_MAX: Duration = Duration::from_millis(5);

    /// Read at the arrival of the call.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        Self(read(request.metadata()).map(|timeout| Instant::now() + timeout - (timeout / 10).min(Self::MARGIN_MAX)))
    }

    /// Refuses a call whose deadline has passed: before anything is accepted.
    pub(super) fn not_passed(self) -> Result<(), Status> {
        match self.0 {
            Some(at) if Instant::now() >= at => Err(errors::deadline(NOT_ACCEPTED)),
            _ => Ok(()),
        }
    }

    /// When a waiting call is answered at the latest: a moment before its deadline, and without one so long after now.
    pub(super) fn or_after(self, longest: Duration) -> Instant {
        self.0.unwrap_or_else(|| Instant::now() + longest)
    }

    /// How long a part of the call may take that leaves time to go on without it.
    pub(super) fn patience(self, max: Duration) -> Duration {
        self.0.map_or(max, |at| (at.saturating_duration_since(Instant::now()) * 3 / 4).min(max))
    }

    /// Returns when it has passed; never without one.
    pub(super) async fn passed(self) {
        match self.0 {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    }

    /// Waits at most until the deadline.
    pub(super) async fn wait<T>(self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        match self.0 {
            Some(at) => timeout_at(at, work).await.unwrap_or_else(|_| Err(errors::deadline(PERHAPS_ACCEPTED))),
            None => work.await,
        }
    }
}

/// At most eight digits and a unit; anything else is no deadline, as tonic has it.
fn read(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_in_every_unit() {
        let of = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ASCII"));
            read(&metadata)
        };
        let expected = [("1H", 3_600_000), ("2M", 120_000), ("3S", 3_000), ("4m", 4), ("5000u", 5), ("99999999n", 99)];
        for (text, millis) in expected {
            assert_eq!(of(text).map(|timeout| timeout.as_millis()), Some(millis));
        }
        for text in ["", "S", "123456789S", "-1S", "1", "1x", "1.5S"] {
            assert_eq!(of(text), None, "{text:?}");
        }
    }
}
