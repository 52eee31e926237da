//! The hand-off under schedules that a seed chooses: every lock, every wait and every message is a point where another thread may go
//! on. The same source as the journal's, made of shuttle's parts; the owner is the shape of the journal's one, without a disk.

use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::{
    Config, FailurePersistence, Runner,
    scheduler::{PctScheduler, RandomScheduler},
    sync::Arc,
    thread,
};

#[expect(clippy::duplicate_mod, reason = "the same source over other parts: what `super::parts` names there and here")]
#[path = "../handoff.rs"]
mod handoff;

use self::handoff::Handoff;
use crate::runs;

/// A channel that does what tokio's is documented to do.
mod parts {
    use std::collections::VecDeque;
    pub(super) use std::sync::{OnceLock, PoisonError};

    use shuttle::sync::{Arc, Condvar};
    pub(super) use shuttle::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    };

    #[derive(Debug)]
    struct Channel<T> {
        state: Mutex<(VecDeque<T>, Closed)>,
        changed: Condvar,
    }

    type Closed = bool;

    #[derive(Debug)]
    pub(super) struct UnboundedSender<T>(Arc<Channel<T>>);

    #[derive(Debug)]
    pub(super) struct UnboundedReceiver<T>(Arc<Channel<T>>);

    pub(super) struct SendError<T>(pub(super) T);

    pub(super) fn unbounded_channel<T>() -> (UnboundedSender<T>, UnboundedReceiver<T>) {
        let channel = Arc::new(Channel { state: Mutex::new((VecDeque::new(), false)), changed: Condvar::new() });
        (UnboundedSender(Arc::clone(&channel)), UnboundedReceiver(channel))
    }

    pub(super) fn next_left<T>(requests: &mut UnboundedReceiver<T>) -> Option<T> {
        requests.blocking_recv()
    }

    impl<T> UnboundedSender<T> {
        pub(super) fn send(&self, message: T) -> Result<(), SendError<T>> {
            let mut state = self.0.state.lock().expect("nothing panicked");
            if state.1 {
                return Err(SendError(message));
            }
            state.0.push_back(message);
            self.0.changed.notify_all();
            Ok(())
        }
    }

    impl<T> UnboundedReceiver<T> {
        pub(super) fn close(&mut self) {
            self.0.state.lock().expect("nothing panicked").1 = true;
            self.0.changed.notify_all();
        }

        pub(super) fn try_recv(&mut self) -> Option<T> {
            self.0.state.lock().expect("nothing panicked").0.pop_front()
        }

        /// Waits for a message; `None` once the channel is closed and empty.
        pub(super) fn blocking_recv(&mut self) -> Option<T> {
            let mut state = self.0.state.lock().expect("nothing panicked");
            while state.0.is_empty() && !state.1 {
                state = self.0.changed.wait(state).expect("nothing panicked");
            }
            state.0.pop_front()
        }
    }
}

enum Request {
    Append(Caller),
    Wake,
    Stop,
}

/// What callers were told.
#[derive(Default)]
struct Told {
    accepted: AtomicUsize,
    unknown: AtomicUsize,
    refused: AtomicUsize,
}

/// One who waits. Dropped untold, it is told that the outcome is unknown.
struct Caller(Option<Arc<Told>>);

impl Caller {
    fn tell(mut self, word: fn(&Told) -> &AtomicUsize) {
        word(&self.0.take().expect("told once")).fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            told.unknown.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// The sync of this group.
    Sync(usize),
    /// The watchdog, or the janitor, at any time.
    Watchdog,
    /// The same, and nobody stops the journal.
    WatchdogAlone,
}

const TROUBLES: [Trouble; 5] = [Trouble::None, Trouble::Sync(0), Trouble::Sync(1), Trouble::Watchdog, Trouble::WatchdogAlone];

struct Stage {
    handoff: Handoff<Request, Caller>,
    /// Whoever failed the journal has returned.
    failed: AtomicUsize,
    trouble: Trouble,
}

/// Schedules of one seed, for each trouble: every next step by chance, and by threads' priorities, which change so often. These learn
/// from each other how long a schedule is.
const RANDOM: usize = 4;
const BY_PRIORITY: usize = 16;
const DEPTH: usize = 3;

const CALLERS: usize = 3;
const GROUP_MAX: usize = 2;

impl Stage {
    fn fail(&self, reason: &str) {
        self.handoff.fail(reason.to_owned(), Request::Wake);
        self.failed.store(1, Ordering::SeqCst);
    }

    /// As `Appender::put` does.
    fn call(&self, told: &Arc<Told>) {
        let caller = Caller(Some(Arc::clone(told)));
        if self.handoff.refusal().is_some() {
            return caller.tell(|told| &told.refused);
        }
        if let Err(Request::Append(caller)) = self.handoff.send(Request::Append(caller)) {
            assert!(self.handoff.refusal().is_some(), "the inbox closes only after it is said why");
            caller.tell(|told| &told.refused);
        }
    }

    /// As `Owner::run` does.
    fn own(&self) {
        match self.serve() {
            Ok(()) => return,
            Err(Some(reason)) => self.fail(reason),
            Err(None) => {}
        }
        self.handoff.empty();
    }

    /// The error: why the journal fails, if nobody else has said so.
    fn serve(&self) -> Result<(), Option<&'static str>> {
        let (mut held, mut groups) = (None, 0);
        while let Some(request) = held.take().or_else(|| self.handoff.requests().blocking_recv()) {
            if self.handoff.failure().is_some() {
                return Err(None);
            }
            match request {
                Request::Append(first) => {
                    held = self.commit(first, groups)?;
                    groups += 1;
                }
                Request::Wake => {}
                Request::Stop => self.handoff.requests().close(),
            }
        }
        Ok(())
    }

    /// One group; gives what was taken from the inbox beside it.
    fn commit(&self, first: Caller, number: usize) -> Result<Option<Request>, Option<&'static str>> {
        let (mut group, mut held) = (vec![first], None);
        let mut requests = self.handoff.requests();
        while let Some(request) = requests.try_recv() {
            match request {
                Request::Append(caller) if group.len() < GROUP_MAX => group.push(caller),
                other => {
                    held = Some(other);
                    break;
                }
            }
        }
        drop(requests);
        self.handoff.begin(group).map_err(|_| None)?;
        thread::yield_now();
        if self.trouble == Trouble::Sync(number) {
            return Err(Some("a sync failed"));
        }
        let failed = self.failed.load(Ordering::SeqCst) > 0;
        let callers = self.handoff.end().map_err(|_| None)?;
        assert!(!failed, "after a failure nobody is told of success");
        callers.into_iter().for_each(|caller| caller.tell(|told| &told.accepted));
        Ok(held)
    }
}

/// Callers, an owner, a stop, and what goes wrong: at the end everybody has been told one thing.
fn play(trouble: Trouble) {
    let stage = Arc::new(Stage { handoff: Handoff::new(), failed: AtomicUsize::new(0), trouble });
    let told = Arc::new(Told::default());
    let mut threads = Vec::new();
    let mut spawn = |act: Box<dyn FnOnce(&Stage) + Send>| {
        let stage = Arc::clone(&stage);
        threads.push(thread::spawn(move || act(&stage)));
    };
    spawn(Box::new(Stage::own));
    for _ in 0..CALLERS {
        let told = Arc::clone(&told);
        spawn(Box::new(move |stage| stage.call(&told)));
    }
    if trouble != Trouble::WatchdogAlone {
        spawn(Box::new(|stage| stage.handoff.stop(Request::Stop)));
    }
    if matches!(trouble, Trouble::Watchdog | Trouble::WatchdogAlone) {
        spawn(Box::new(|stage| stage.fail("a sync takes too long")));
    }
    threads.into_iter().for_each(|thread| thread.join().expect("no thread panics"));
    let [accepted, unknown, refused] = [&told.accepted, &told.unknown, &told.refused].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(accepted + unknown + refused, CALLERS, "everybody is told one thing");
    assert!(trouble != Trouble::None || unknown == 0, "without trouble nobody is left in doubt");
    assert!(stage.handoff.send(Request::Wake).is_err(), "nobody would take it any more");
}

/// The seed is all that it takes to repeat a schedule.
fn config() -> Config {
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    config
}

#[test]
fn everybody_is_told_one_thing_in_every_schedule() {
    let mut schedules = 0;
    let runs = runs::run("schedules", 20, |seed| {
        for trouble in TROUBLES {
            schedules += Runner::new(RandomScheduler::new_from_seed(seed, RANDOM), config()).run(move || play(trouble));
            schedules += Runner::new(PctScheduler::new_from_seed(seed, DEPTH, BY_PRIORITY), config()).run(move || play(trouble));
        }
    });
    // Shuttle's, which would speak of schedules when any other test panics.
    drop(std::panic::take_hook());
    println!("{runs}: {schedules} schedules; failed: 0");
}
