//! Every limit of P7 by name: what it allows and what is in use, in one registry that `metrics` and `status` read.
//!
//! Taking room never waits: at the limit the caller is refused, with the limit's name and how full it is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// One named limit and what is in use of it. Cheap to share: clone the `Arc`.
#[derive(Debug)]
pub struct Limit {
    name: &'static str,
    max: AtomicU64,
    used: AtomicU64,
}

/// Who takes room of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// A client that saves.
    Caller,
    /// An operator who retries failed saves: never kept out by the flood of the others.
    Operator,
}

/// A limit is met. `Display` says which, how full, and the setting to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {max} and {used} are in use")]
pub struct LimitReached {
    /// The setting, as in `config/forebay.toml`.
    pub name: &'static str,
    /// What it allows.
    pub max: u64,
    /// What was in use.
    pub used: u64,
}

impl Limit {
    /// An operator may take one part in so many of a limit beyond it.
    pub const RESERVE_PART: u64 = 16;

    /// A limit under the name of its setting.
    pub fn new(name: &'static str, max: u64) -> Arc<Self> {
        Arc::new(Self { name, max: AtomicU64::new(max), used: AtomicU64::new(0) })
    }

    /// The setting's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it allows.
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// What is in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Changes what it allows; what is in use already stays.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Sets what is in use, where it is measured instead of counted.
    pub fn set_used(&self, used: u64) {
        self.used.store(used, Ordering::Relaxed);
    }

    /// Takes room.
    ///
    /// # Errors
    /// [`LimitReached`] if there isn't as much; nothing is taken then.
    pub fn try_take(&self, amount: u64) -> Result<(), LimitReached> {
        self.take_for(Taker::Caller, amount)
    }

    /// Takes room, of the reserve too if the taker may.
    ///
    /// # Errors
    /// As [`Self::try_take`].
    pub fn take_for(&self, taker: Taker, amount: u64) -> Result<(), LimitReached> {
        let max = self.max();
        let most = match taker {
            Taker::Caller => max,
            Taker::Operator => max.saturating_add(max / Self::RESERVE_PART),
        };
        let taken =
            self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| used.checked_add(amount).filter(|&after| after <= most));
        taken.map(drop).map_err(|used| LimitReached { name: self.name, max, used })
    }

    /// Takes room that must be granted (what the journal holds is admitted, whatever the limit is now).
    pub fn take_anyway(&self, amount: u64) {
        self.used.fetch_add(amount, Ordering::Relaxed);
    }

    /// Gives room back.
    pub fn give_back(&self, amount: u64) {
        let before = self.used.fetch_sub(amount, Ordering::Relaxed);
        debug_assert!(before >= amount, "{}: gave back {amount} of {before}", self.name);
    }

    /// Takes room for as long as the permit lives.
    ///
    /// # Errors
    /// [`LimitReached`] if there isn't as much.
    pub fn permit(self: &Arc<Self>, amount: u64) -> Result<Permit, LimitReached> {
        self.permit_for(Taker::Caller, amount)
    }

    /// Takes room for as long as the permit lives, of the reserve too if the taker may.
    ///
    /// # Errors
    /// [`LimitReached`] if there isn't as much.
    pub fn permit_for(self: &Arc<Self>, taker: Taker, amount: u64) -> Result<Permit, LimitReached> {
        self.take_for(taker, amount)?;
        Ok(Permit { limit: Arc::clone(self), amount })
    }
}

/// Room in a limit, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    limit: Arc<Limit>,
    amount: u64,
}

impl Permit {
    /// Leaves the room taken: somebody else gives it back with [`Limit::give_back`].
    pub fn keep(mut self) {
        self.amount = 0;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.limit.give_back(self.amount);
        }
    }
}

/// The limits that are shared between stages, and the list of all for metrics and status.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `backlog.bytes_max`: [`Save::bytes`](crate::save::Save::bytes) of what is accepted and not in Postgres.
    pub backlog_bytes: Arc<Limit>,
    /// `backlog.objects_max`
    pub backlog_objects: Arc<Limit>,
    /// `journal.bytes_max`: journal bytes of what is not drained; the journal measures it.
    pub journal_bytes: Arc<Limit>,
    /// `journal.inbox_bytes_max`: encoded saves that wait for the journal's thread.
    pub journal_inbox_bytes: Arc<Limit>,
    /// `grpc.connections_max`
    pub connections: Arc<Limit>,
    /// `grpc.calls_in_flight_max`
    pub calls_in_flight: Arc<Limit>,
    /// `grpc.awaiting_calls_max`
    pub awaiting_calls: Arc<Limit>,
    /// `grpc.save_streams_max`
    pub save_streams: Arc<Limit>,
    /// `request_ids.count_max`: streams remembered by id.
    pub request_ids: Arc<Limit>,
    /// `failed.saves_max`: open rows of `forebay.failed_save`.
    pub failed_saves: Arc<Limit>,
}

impl Limits {
    /// Every limit, for metrics and status.
    pub fn all(&self) -> [&Arc<Limit>; 10] {
        [
            &self.backlog_bytes,
            &self.backlog_objects,
            &self.journal_bytes,
            &self.journal_inbox_bytes,
            &self.connections,
            &self.calls_in_flight,
            &self.awaiting_calls,
            &self.save_streams,
            &self.request_ids,
            &self.failed_saves,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_never_given_beyond_the_limit() {
        let limit = Limit::new("test.limit", 10);
        limit.try_take(7).expect("room");
        assert_eq!(limit.try_take(4), Err(LimitReached { name: "test.limit", max: 10, used: 7 }));
        let permit = limit.permit(3).expect("room");
        assert_eq!(limit.used(), 10);
        drop(permit);
        limit.permit(1).expect("room").keep();
        assert_eq!(limit.used(), 8);
        limit.set_max(5);
        assert!(limit.try_take(0).is_err());
        limit.give_back(8);
        assert!(limit.try_take(u64::MAX).is_err());
    }

    #[test]
    fn an_operator_has_a_reserve_and_it_is_bounded() {
        let limit = Limit::new("test.limit", 32);
        limit.try_take(32).expect("room");
        assert!(limit.try_take(1).is_err());
        limit.take_for(Taker::Operator, 2).expect("the reserve");
        assert_eq!(limit.take_for(Taker::Operator, 1), Err(LimitReached { name: "test.limit", max: 32, used: 34 }));
        limit.set_max(u64::MAX);
        limit.take_for(Taker::Operator, u64::MAX - 34).expect("no overflow");
    }
}
