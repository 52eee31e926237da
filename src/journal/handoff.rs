//! The hand-off between callers, the owner, and whoever finds that the journal has failed (P8): each request is taken once, each
//! caller of a group is answered once, whoever comes first.
//!
//! Generic so that its schedules can be tested with the owner alone; the journal has one.

use super::parts::{
    AtomicBool, Mutex, MutexGuard, OnceLock, Ordering, PoisonError, UnboundedReceiver, UnboundedSender, next_left, unbounded_channel,
};

/// Requests (`R`) on their way to the owner, and the callers (`W`) of the group that it writes.
#[derive(Debug)]
pub(super) struct Handoff<R, W> {
    /// Unbounded in itself: `journal.inbox_bytes_max` bounds what is put in.
    inbox: UnboundedSender<R>,
    /// Its other end: the owner's, and after a failure anybody's who empties it.
    requests: Mutex<UnboundedReceiver<R>>,
    in_flight: Mutex<InFlight<W>>,
    stopping: AtomicBool,
    failure: OnceLock<String>,
}

/// Whoever takes the callers out answers them.
#[derive(Debug)]
struct InFlight<W> {
    failed: bool,
    waiting: Vec<W>,
}

/// The journal has failed; everybody has been told.
#[derive(Debug)]
pub(super) struct Failed;

/// Why a request can't be put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Stopping,
    Failed,
}

impl<R, W> Handoff<R, W> {
    pub(super) fn new() -> Self {
        let (inbox, requests) = unbounded_channel();
        let in_flight = InFlight { failed: false, waiting: Vec::new() };
        Self {
            inbox,
            requests: Mutex::new(requests),
            in_flight: Mutex::new(in_flight),
            stopping: AtomicBool::new(false),
            failure: OnceLock::new(),
        }
    }

    /// Puts a request in. It comes back if nobody will take it any more.
    pub(super) fn send(&self, request: R) -> Result<(), R> {
        self.inbox.send(request).map_err(|refused| refused.0)
    }

    /// The owner's end.
    pub(super) fn requests(&self) -> MutexGuard<'_, UnboundedReceiver<R>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Callers are refused from now on. The owner is told by `last`: it takes what came before, and closes the inbox.
    pub(super) fn stop(&self, last: R) {
        self.stopping.store(true, Ordering::SeqCst);
        // A closed inbox is stopping or has failed already.
        let _ = self.send(last);
    }

    pub(super) fn refusal(&self) -> Option<Refusal> {
        if self.failure.get().is_some() {
            return Some(Refusal::Failed);
        }
        self.stopping.load(Ordering::SeqCst).then_some(Refusal::Stopping)
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Hands the callers of the next group over: from now on a failure answers them.
    pub(super) fn begin(&self, waiting: Vec<W>) -> Result<(), Failed> {
        let mut in_flight = self.in_flight();
        if in_flight.failed {
            return Err(Failed);
        }
        in_flight.waiting = waiting;
        Ok(())
    }

    /// Takes the callers back, to be told of success. Not after a failure: they have been answered.
    pub(super) fn end(&self) -> Result<Vec<W>, Failed> {
        let mut in_flight = self.in_flight();
        if in_flight.failed { Err(Failed) } else { Ok(std::mem::take(&mut in_flight.waiting)) }
    }

    /// The journal has failed: whoever waits is answered by being dropped, and so is everybody who comes later. `wake` makes the
    /// owner look. `false`: it had failed before.
    pub(super) fn fail(&self, reason: String, wake: R) -> bool {
        let waiting = {
            let mut in_flight = self.in_flight();
            if std::mem::replace(&mut in_flight.failed, true) {
                return false;
            }
            self.failure.set(reason).expect("set once, under the lock");
            std::mem::take(&mut in_flight.waiting)
        };
        drop(waiting);
        // The owner may sleep on the inbox; then it empties it when it wakes. Else (it hangs in a sync, or is gone) we do.
        let _ = self.send(wake);
        if let Ok(requests) = self.requests.try_lock() {
            empty(requests);
        }
        true
    }

    /// Answers everything in the inbox, and whatever still comes, by dropping it.
    pub(super) fn empty(&self) {
        empty(self.requests());
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight<W>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn empty<R>(mut requests: MutexGuard<'_, UnboundedReceiver<R>>) {
    requests.close();
    while let Some(request) = next_left(&mut requests) {
        drop(request);
    }
}
