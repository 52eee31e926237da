//! Every limit of P7 by name: what it allows and what is used of it, in one registry that `metrics` and `status` read.
//!
//! Taking room never waits: at the limit the caller is refused, with the limit's name and how full it is. Limits on waits
//! are no matter of this registry: they end by themselves, and nothing is used of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::settings::Settings;

/// What a limit holds down, and so what `used` says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// A shared amount: `used` is what is in use now.
    Amount,
    /// The size of one thing, of which there may be many: `used` is the largest since the start that was let through. It is
    /// above `max` where what can't be divided goes beyond: one call's saves in a group, the last group of a segment, an
    /// atomic batch in a generation; and where what is to come is not known, as how long a statement will take.
    Size,
    /// What must be left: `used` is what there is now, and the limit is met once that is below `max`.
    Reserve,
    /// So much a second: `used` is what the last second had. What more there is waits; 0 is no limit.
    Rate,
}

/// One named limit and what is used of it. Cheap to share: clone the `Arc`.
#[derive(Debug)]
pub struct Limit {
    kind: LimitKind,
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
    pub fn new(kind: LimitKind, name: &'static str, max: u64) -> Arc<Self> {
        Arc::new(Self { kind, name, max: AtomicU64::new(max), used: AtomicU64::new(0) })
    }

    /// What it holds down.
    pub fn kind(&self) -> LimitKind {
        self.kind
    }

    /// The setting's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it allows.
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// What is used of it, as its [kind](LimitKind) has it.
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

    /// Whether one thing of this size is let through.
    pub fn lets_through(&self, size: u64) -> bool {
        let fits = size <= self.max();
        if fits {
            self.saw(size);
        }
        fits
    }

    /// One thing of this size was let through. For the way of every save: a load and a comparison, and a write only for the largest yet.
    pub fn saw(&self, size: u64) {
        if size > self.used() {
            self.used.fetch_max(size, Ordering::Relaxed);
        }
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

/// What a setting allows, as a number.
trait Amount {
    fn amount(self) -> u64;
}

/// In milliseconds.
impl Amount for Duration {
    fn amount(self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }
}

macro_rules! counts {
    ($($count:ty),*) => {
        $(impl Amount for $count {
            fn amount(self) -> u64 {
                self.into()
            }
        })*
    };
}

counts!(u16, u32, u64);

macro_rules! limits {
    ($($(#[$doc:meta])* $field:ident: $kind:ident of $section:ident.$key:ident;)*) => {
        /// Every limit of the settings.
        #[derive(Clone, Debug)]
        pub struct Limits {
            $($(#[$doc])* pub $field: Arc<Limit>,)*
        }

        impl Limits {
            /// As the settings have them, with nothing in use.
            pub fn new(settings: &Settings) -> Self {
                Self {
                    $($field: Limit::new(
                        LimitKind::$kind,
                        concat!(stringify!($section), ".", stringify!($key)),
                        Amount::amount(settings.$section.$key),
                    ),)*
                }
            }

            /// Every limit, for metrics and status.
            pub fn all(&self) -> impl Iterator<Item = &Limit> {
                [$(&*self.$field),*].into_iter()
            }
        }
    };
}

// In the order of `config/forebay.toml`.
limits! {
    /// Open connections.
    connections: Amount of grpc.connections_max;
    /// Calls open at once on one connection; HTTP/2 holds clients to it.
    connection_calls: Size of grpc.streams_per_connection_max;
    /// Saving calls in flight.
    calls_in_flight: Amount of grpc.calls_in_flight_max;
    /// Waiting calls.
    awaiting_calls: Amount of grpc.awaiting_calls_max;
    /// Open save streams.
    save_streams: Amount of grpc.save_streams_max;
    /// Unacknowledged saves of one stream; beyond it the stream isn't read.
    stream_unacknowledged: Size of grpc.stream_unacknowledged_max;
    /// Bytes of one request message.
    message_bytes: Size of grpc.message_bytes_max;
    /// Bytes of messages that are not whole yet.
    receiving_bytes: Amount of grpc.receiving_bytes_max;
    /// Bytes of one body.
    body_bytes: Size of grpc.body_bytes_max;
    /// Bytes of one key, as it came or in canonical form.
    key_bytes: Size of grpc.key_bytes_max;
    /// Saves of one message.
    batch_saves: Size of grpc.batch_saves_max;
    /// Bytes of one call's headers.
    header_bytes: Size of grpc.header_bytes_max;
    /// Journal bytes of what is not drained; the journal measures it.
    journal_bytes: Amount of journal.bytes_max;
    /// Free bytes of the journal's file system; the journal measures it.
    journal_free_bytes: Reserve of journal.free_bytes_min;
    /// Bytes of one segment; beyond it the next group begins another.
    segment_bytes: Size of journal.segment_bytes;
    /// Encoded bytes of one group. A call that has more alone is a group of its own.
    group_bytes: Size of journal.group_bytes_max;
    /// Saves of one group. A call that has more alone is a group of its own.
    group_saves: Size of journal.group_saves_max;
    /// Encoded saves that wait for the journal's thread.
    journal_inbox_bytes: Amount of journal.inbox_bytes_max;
    /// Bytes of drained segments that are kept; the journal measures it.
    retention_bytes: Amount of journal.retention_bytes_max;
    /// [`Save::bytes`](crate::save::Save::bytes) of what is accepted and not in Postgres.
    backlog_bytes: Amount of backlog.bytes_max;
    /// Objects of what is accepted and not in Postgres.
    backlog_objects: Amount of backlog.objects_max;
    /// How long one statement is to take, in milliseconds. Rows are counted by it, so one may take longer.
    statement_target: Size of drain.statement_target;
    /// Objects of one generation; beyond it another begins, unless an atomic batch goes on there.
    generation_objects: Size of drain.generation_objects_max;
    /// Rows that all lanes together write; read when somebody looks.
    rows_per_second: Rate of drain.rows_per_second_max;
    /// Connections to Postgres beside the lanes' own; read when somebody looks.
    readers: Amount of postgres.readers;
    /// Open rows of `forebay.failed_save`.
    failed_saves: Amount of failed.saves_max;
    /// Streams and request ids that are remembered.
    request_ids: Amount of request_ids.count_max;
    /// Saves with a callback that has not been delivered.
    callbacks_pending: Amount of callbacks.pending_max;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_never_given_beyond_the_limit() {
        let limit = Limit::new(LimitKind::Amount, "test.limit", 10);
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
    fn the_largest_that_was_let_through_is_remembered() {
        let limit = Limit::new(LimitKind::Size, "test.limit", 10);
        assert!(limit.lets_through(7) && limit.lets_through(3) && !limit.lets_through(11));
        assert_eq!(limit.used(), 7);
        assert!(limit.lets_through(10));
        assert_eq!(limit.used(), 10);
    }

    #[test]
    fn every_count_and_size_of_the_settings_is_a_limit() {
        // A part of a wait, how much of what is over is remembered, and where something begins that adapts: nothing is refused.
        const NO_LIMITS: [&str; 3] = ["postgres.keepalive_count", "failed.closed_kept", "drain.statement_rows"];
        // It says how large statements become.
        const SIZE_IN_TIME: &str = "drain.statement_target";
        let limits = Limits::new(&Settings::default());
        let file: toml::Table = include_str!("../config/forebay.toml").parse().expect("TOML");
        let mut amounts = Vec::new();
        for (section, keys) in &file {
            for (key, value) in keys.as_table().expect("the file has sections only") {
                let is_size = value.as_str().is_some_and(|text| text.ends_with('B'));
                if value.is_integer() || is_size {
                    amounts.push(format!("{section}.{key}"));
                }
            }
        }
        amounts.retain(|name| !NO_LIMITS.contains(&name.as_str()));
        let mut known: Vec<_> = limits.all().map(Limit::name).filter(|&name| name != SIZE_IN_TIME).collect();
        known.sort_unstable();
        amounts.sort_unstable();
        assert_eq!(known, amounts);
    }

    #[test]
    fn an_operator_has_a_reserve_and_it_is_bounded() {
        let limit = Limit::new(LimitKind::Amount, "test.limit", 32);
        limit.try_take(32).expect("room");
        assert!(limit.try_take(1).is_err());
        limit.take_for(Taker::Operator, 2).expect("the reserve");
        assert_eq!(limit.take_for(Taker::Operator, 1), Err(LimitReached { name: "test.limit", max: 32, used: 34 }));
        limit.set_max(u64::MAX);
        limit.take_for(Taker::Operator, u64::MAX - 34).expect("no overflow");
    }
}
