//! What the journal's threads and handles share, and the one way it fails (P8).

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc::UnboundedReceiver, oneshot};

use super::{
    appender::{AppendError, Done},
    handoff::{Failed, Handoff, Refusal},
    segment::{Settled, Wanted},
    space::Space,
    store::{StoreError, Value},
    table::Table,
};
use crate::{
    limits::Limits,
    save::{LaneId, Save, Sequence},
};

/// What the owner is asked to do, in order.
#[derive(Debug)]
pub(super) enum Request {
    Append(Append),
    Read(Wanted, oneshot::Sender<Fetched>),
    /// Begin the next segment although this one isn't full.
    Rotate,
    /// Look whether the journal has failed.
    Wake,
    Stop,
}

/// Chunks that a reader asked for; `None` if the segment is no longer here.
pub(super) type Fetched = Option<Result<Vec<Value>, StoreError>>;

/// Saves that are written together or not at all.
#[derive(Debug)]
pub(super) struct Append {
    pub records: Vec<u8>,
    pub saves: Vec<Save>,
    /// What it takes of `journal.bytes_max`.
    pub charge: u64,
    pub done: Done,
}

/// What everybody may see.
#[derive(Debug)]
pub(super) struct Shared {
    handoff: Handoff<Request, (Done, Sequence)>,
    on_fatal: Mutex<Option<OnFatal>>,
    pub table: Mutex<Table>,
    /// Per lane: what Postgres holds, and what it was seen to hold.
    lanes: Box<[Lane]>,
    /// What lies above is read again, whatever Postgres holds.
    held: AtomicU64,
    pub space: Space,
    pub limits: Limits,
    clock: Instant,
    /// Microseconds on `clock` at which the write under way began, plus one; 0 if there is none.
    write_began: AtomicU64,
    pub last_sync_us: AtomicU64,
}

/// Called once, with the reason, when the journal has failed.
pub(super) struct OnFatal(pub Box<dyn FnOnce(String) + Send>);

impl std::fmt::Debug for OnFatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnFatal")
    }
}

#[derive(Debug)]
struct Lane {
    settled: AtomicU64,
    /// [`UNREAD`] until the position row was seen in this run.
    confirmed: AtomicU64,
}

const UNREAD: u64 = u64::MAX;

impl Shared {
    pub(super) fn new(table: Table, lanes: &[Sequence], limits: &Limits, on_fatal: OnFatal) -> Self {
        let lane = |at: &Sequence| Lane { settled: AtomicU64::new(at.get()), confirmed: AtomicU64::new(UNREAD) };
        let lanes = lanes.iter().map(lane).collect();
        let charged = table.charged();
        limits.journal_bytes.take_anyway(charged);
        let shared = Self {
            handoff: Handoff::new(),
            on_fatal: Mutex::new(Some(on_fatal)),
            table: Mutex::new(table),
            lanes,
            held: AtomicU64::new(u64::MAX),
            space: Space::new(&limits.journal_free_bytes),
            limits: limits.clone(),
            clock: Instant::now(),
            write_began: AtomicU64::new(0),
            last_sync_us: AtomicU64::new(0),
        };
        shared.give_back_settled();
        shared
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request into the inbox. It comes back if the journal has stopped or failed.
    pub(super) fn send(&self, request: Request) -> Result<(), Request> {
        self.handoff.send(request)
    }

    /// The owner's end of the inbox.
    pub(super) fn requests(&self) -> MutexGuard<'_, UnboundedReceiver<Request>> {
        self.handoff.requests()
    }

    /// Stores a lane's position and gives room back for what no lane needs any more.
    pub(super) fn settled(&self, lane: LaneId, position: Sequence, read_back: bool) {
        let Some(known) = self.lanes.get(usize::from(lane.0)) else { return };
        if read_back {
            // Lower after a restored backup or the promotion of a stale standby: what lies above is needed again. What was
            // given back of `journal.bytes_max` for it is not charged again.
            known.confirmed.store(position.get(), Ordering::Release);
            known.settled.store(position.get(), Ordering::Relaxed);
        } else {
            known.settled.fetch_max(position.get(), Ordering::Relaxed);
        }
        self.give_back_settled();
    }

    fn give_back_settled(&self) {
        let floor = self.lanes.iter().map(|lane| lane.settled.load(Ordering::Relaxed)).min().unwrap_or(0);
        let freed = self.table().settle(Sequence::from_u64(floor));
        self.limits.journal_bytes.give_back(freed);
    }

    /// What every lane's position row was last seen to hold, and nobody holds: below it, segments may go. `None` until all were
    /// seen.
    pub(super) fn confirmed_floor(&self) -> Option<Sequence> {
        let confirmed = self.lanes.iter().map(|lane| lane.confirmed.load(Ordering::Acquire));
        let floor = confirmed.map(|at| (at != UNREAD).then(|| Sequence::from_u64(at))).min().flatten()?;
        // After the positions: what they cover was held before they came so far.
        Some(floor.min(Sequence::from_u64(self.held.load(Ordering::Acquire))))
    }

    /// What lies above `after` is kept; nothing for `None`.
    pub(super) fn hold(&self, after: Option<Sequence>) {
        self.held.store(after.map_or(u64::MAX, Sequence::get), Ordering::Release);
    }

    /// The lanes' positions, for the hints in chunks: every lane's, so that the smallest is the floor.
    pub(super) fn positions(&self, positions: &mut Settled) {
        positions.clear();
        let known = self.lanes.iter().map(|lane| lane.settled.load(Ordering::Relaxed)).enumerate();
        positions.extend(known.map(|(n, at)| (LaneId(n as u16), Sequence::from_u64(at))));
    }

    pub(super) fn stop(&self) {
        self.handoff.stop(Request::Stop);
    }

    /// What an append is told that can't be put in.
    pub(super) fn refusal(&self) -> Option<AppendError> {
        self.handoff.refusal().map(|refusal| match refusal {
            Refusal::Failed => AppendError::OutcomeUnknown,
            Refusal::Stopping => AppendError::Stopped,
        })
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.handoff.failure()
    }

    /// Hands the callers of the next group over: from now on a failure answers them.
    pub(super) fn begin_write(&self, waiting: Vec<(Done, Sequence)>) -> Result<(), Failed> {
        self.handoff.begin(waiting)?;
        self.write_began.store(self.clock.elapsed().as_micros() as u64 + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the callers back, to be told of success. Not after a failure: they have been answered.
    pub(super) fn end_write(&self) -> Result<Vec<(Done, Sequence)>, Failed> {
        self.write_began.store(0, Ordering::Relaxed);
        self.handoff.end()
    }

    /// For how long the write under way has been.
    pub(super) fn writing_for(&self) -> Option<Duration> {
        let began = self.write_began.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.clock.elapsed().saturating_sub(Duration::from_micros(began)))
    }

    /// The journal has failed: nothing is acknowledged from now on. Whoever waits is told that the outcome is unknown, and
    /// so is everybody who comes later. Only the first reason counts.
    pub(super) fn fail(&self, reason: String) {
        if !self.handoff.fail(reason.clone(), Request::Wake) {
            return;
        }
        let told = self.on_fatal.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(OnFatal(tell)) = told {
            tell(reason);
        }
    }

    /// Answers everything in the inbox, and whatever still comes, by dropping it.
    pub(super) fn empty_inbox(&self) {
        self.handoff.empty();
    }
}
