//! What an endpoint's task and those who look at it share.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::mpsc, time::Instant};

use super::Delivery;
use crate::status::EndpointStatus;

/// A delivery that is not yet told, in the order in which they came.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) number: u64,
    pub(super) delivery: Delivery,
    /// Attempts that failed in this run.
    pub(super) failed: u32,
    /// How old the outcome was when it came here, and when that was.
    came: (Duration, Instant),
}

impl Pending {
    fn new(number: u64, delivery: Delivery, age: Duration) -> Self {
        Self { number, delivery, failed: 0, came: (age, Instant::now()) }
    }

    /// For how long its outcome has been known. A clock that is set meanwhile changes nothing about it.
    pub(super) fn age(&self) -> Duration {
        let (age, since) = self.came;
        age + since.elapsed()
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) counts: Counts,
    pub(super) disabled: AtomicBool,
    /// Unbounded in itself: `callbacks.pending_max` bounds what is put in.
    inbox: mpsc::UnboundedSender<Pending>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) delivered: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) unreachable: AtomicU64,
    pub(super) too_old: AtomicU64,
    pub(super) dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Seen {
    last_number: u64,
    pending: BTreeSet<(SystemTime, u64)>,
    last_error: String,
}

impl Shared {
    pub(super) fn new(name: String) -> (Self, mpsc::UnboundedReceiver<Pending>) {
        let (inbox, deliveries) = mpsc::unbounded_channel();
        let (counts, disabled, seen) = (Counts::default(), AtomicBool::default(), Mutex::default());
        (Self { name, counts, disabled, inbox, seen }, deliveries)
    }

    pub(super) fn take(&self, delivery: Delivery, age: Duration) {
        let number = {
            let mut seen = self.seen();
            seen.last_number += 1;
            let number = seen.last_number;
            seen.pending.insert((delivery.accepted_at, number));
            number
        };
        // A task that has ended leaves it to the next start.
        let _ = self.inbox.send(Pending::new(number, delivery, age));
    }

    pub(super) fn ended(&self, pending: &Pending) {
        self.seen().pending.remove(&(pending.delivery.accepted_at, pending.number));
    }

    pub(super) fn note_error(&self, error: String) {
        self.seen().last_error = error;
    }

    pub(super) fn pending(&self) -> u64 {
        self.seen().pending.len() as u64
    }

    pub(super) fn status(&self) -> EndpointStatus {
        let seen = self.seen();
        let (counts, count) = (&self.counts, |count: &AtomicU64| count.load(Ordering::Relaxed));
        EndpointStatus {
            name: self.name.clone(),
            disabled: self.disabled.load(Ordering::Relaxed),
            pending: seen.pending.len() as u64,
            oldest_accepted_at: seen.pending.first().map(|&(at, _)| at),
            delivered: count(&counts.delivered),
            refused: count(&counts.refused),
            timed_out: count(&counts.timed_out),
            unreachable: count(&counts.unreachable),
            too_old: count(&counts.too_old),
            dropped: count(&counts.dropped),
            last_error: seen.last_error.clone(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
