//! What the journal's threads and handles share, and the one way it fails (P8).

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};

use super::{
    appender::{AppendError, Done},
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
    /// The inbox. Unbounded in itself: `journal.inbox_bytes_max` bounds what is put in.
    pub inbox: UnboundedSender<Request>,
    /// Its other end: the owner's, and after a failure anybody's who empties it.
    requests: Mutex<UnboundedReceiver<Request>>,
    in_flight: Mutex<InFlight>,
    stopping: AtomicBool,
    failure: OnceLock<String>,
    on_fatal: Mutex<Option<OnFatal>>,
    pub table: Mutex<Table>,
    /// Per lane: what Postgres holds, and what it was seen to hold.
    lanes: Box<[Lane]>,
    /// What lies above is read again, whatever Postgres holds.
    held: AtomicU64,
    pub space: Space,
    pub limits: Limits,
    pub last_sync_us: AtomicU64,
    /// The last chunk that is synced.
    pub synced_chunk: AtomicU64,
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

/// The groups that are being written or synced, in order. Whoever takes their callers out answers them.
#[derive(Debug, Default)]
struct InFlight {
    failed: bool,
    groups: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    callers: Vec<(Done, Sequence)>,
}

/// The journal has failed; everybody has been told.
#[derive(Debug)]
pub(super) struct Failed;

impl Shared {
    pub(super) fn new(table: Table, lanes: &[Sequence], limits: &Limits, on_fatal: OnFatal) -> Self {
        let (inbox, requests) = unbounded_channel();
        let lane = |at: &Sequence| Lane { settled: AtomicU64::new(at.get()), confirmed: AtomicU64::new(UNREAD) };
        let lanes = lanes.iter().map(lane).collect();
        let charged = table.charged();
        limits.journal_bytes.take_anyway(charged);
        let shared = Self {
            inbox,
            requests: Mutex::new(requests),
            in_flight: Mutex::default(),
            stopping: AtomicBool::new(false),
            failure: OnceLock::new(),
            on_fatal: Mutex::new(Some(on_fatal)),
            table: Mutex::new(table),
            lanes,
            held: AtomicU64::new(u64::MAX),
            space: Space::new(&limits.journal_free_bytes),
            limits: limits.clone(),
            last_sync_us: AtomicU64::new(0),
            synced_chunk: AtomicU64::new(0),
        };
        shared.give_back_settled();
        shared
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn requests(&self) -> MutexGuard<'_, UnboundedReceiver<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// What an append is told that can't be put in.
    pub(super) fn refusal(&self) -> Option<AppendError> {
        if self.failure.get().is_some() {
            return Some(AppendError::OutcomeUnknown);
        }
        self.stopping.load(Ordering::SeqCst).then_some(AppendError::Stopped)
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Hands the callers of the next group over: from now on a failure answers them.
    pub(super) fn begin_write(&self, callers: Vec<(Done, Sequence)>) -> Result<(), Failed> {
        let mut in_flight = self.in_flight();
        if in_flight.failed {
            return Err(Failed);
        }
        in_flight.groups.push_back(Waiting { since: Instant::now(), callers });
        Ok(())
    }

    /// Takes the callers of the oldest group back, to be told of success. Not after a failure: they have been answered.
    pub(super) fn end_write(&self) -> Result<Vec<(Done, Sequence)>, Failed> {
        let mut in_flight = self.in_flight();
        if in_flight.failed {
            return Err(Failed);
        }
        Ok(in_flight.groups.pop_front().expect("a write ends that has begun").callers)
    }

    /// For how long the oldest write under way has been.
    pub(super) fn writing_for(&self) -> Option<Duration> {
        self.in_flight().groups.front().map(|oldest| oldest.since.elapsed())
    }

    /// The journal has failed: nothing is acknowledged from now on. Whoever waits is told that the outcome is unknown, and
    /// so is everybody who comes later. Only the first reason counts.
    pub(super) fn fail(&self, reason: String) {
        let waiting = {
            let mut in_flight = self.in_flight();
            if std::mem::replace(&mut in_flight.failed, true) {
                return;
            }
            self.failure.set(reason.clone()).expect("set once, under the lock");
            std::mem::take(&mut in_flight.groups)
        };
        drop(waiting);
        // The owner may sleep on the inbox; then it empties it when it wakes. Else (it hangs in a sync, or is gone) we do.
        let _ = self.inbox.send(Request::Wake);
        if let Ok(requests) = self.requests.try_lock() {
            empty(requests);
        }
        let told = self.on_fatal.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(OnFatal(tell)) = told {
            tell(reason);
        }
    }

    /// Answers everything in the inbox, and whatever still comes, by dropping it.
    pub(super) fn empty_inbox(&self) {
        empty(self.requests());
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn empty(mut requests: MutexGuard<'_, UnboundedReceiver<Request>>) {
    requests.close();
    while let Some(request) = requests.blocking_recv() {
        drop(request);
    }
}
