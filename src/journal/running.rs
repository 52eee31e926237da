//! A journal that accepts: its threads, and the handles on them.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    Journal, JournalId, Ledger,
    appender::Appender,
    directory::Directory,
    janitor::{Janitor, Job},
    owner::Owner,
    reader::Reader,
    shared::{OnFatal, Shared},
    table::{Retention, Table},
};
use crate::{
    limits::Limits,
    save::{Accepted, LaneId, Sequence},
};

/// What the journal calls. All but the last on its own thread: quick, and never blocking.
pub struct Events {
    /// Every group once it is synced, in sequence order, before its callers are answered.
    pub offer: Box<dyn FnMut(Vec<Accepted>) + Send>,
    /// After each group.
    pub on_group: Box<dyn FnMut(GroupStats) + Send>,
    /// Once, if the journal fails (P8), with the reason: the process must end.
    pub on_fatal: Box<dyn FnOnce(String) + Send>,
}

/// One group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStats {
    /// Saves in it.
    pub saves: u32,
    /// Bytes of their records.
    pub bytes: u64,
    /// How long the sync took.
    pub sync: Duration,
}

/// How the journal is, for metrics and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Size of all segments.
    pub bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Free bytes of the file system, as last measured.
    pub free_bytes: u64,
    /// For how long drained saves have been kept.
    pub retained: Duration,
    /// How long the last sync took.
    pub last_sync: Duration,
    /// The last save that is synced.
    pub last: Sequence,
}

/// A running journal. Stop it with [`Running::stop`]; dropped, it stops on its own time.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    threads: Vec<JoinHandle<()>>,
    watchdog: Arc<Bell>,
    ledger: Ledger,
    id: JournalId,
    run: u64,
    directory: Option<Arc<Directory>>,
}

/// Tells the journal what is settled, and how it is. Cheap to clone; outlives the journal.
#[derive(Clone, Debug)]
pub struct Monitor(Arc<Shared>);

/// The journal failed before or while it was stopped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StopError(pub String);

impl Journal {
    /// Starts the threads and takes appends from now on. `lanes` says for each lane up to where Postgres is known to hold
    /// everything; the floor is the smallest.
    ///
    /// # Errors
    /// When the free space can't be measured or a thread can't be started.
    pub fn start(self, limits: &Limits, lanes: &[Sequence], events: Events) -> io::Result<Running> {
        let Events { offer, on_group, on_fatal } = events;
        let table = Table::new(self.closed, self.segment.summary().clone());
        let shared = Arc::new(Shared::new(table, lanes, limits, OnFatal(on_fatal)));
        let directory = Arc::new(self.directory);
        self.ledger.is_of(&shared);
        shared.space.measure(directory.path())?;
        shared.space.decide();
        let (jobs, janitor_jobs) = mpsc::channel();
        let (prepared, owner_prepared) = mpsc::channel();
        let retention = Retention { time: self.settings.retention, bytes: self.settings.retention_bytes_max, pressed: false };
        let janitor = Janitor {
            shared: Arc::clone(&shared),
            directory: Arc::clone(&directory),
            jobs: janitor_jobs,
            prepared,
            watermark: self.watermark,
            ledger: self.ledger.clone(),
            journal: self.id,
            run: self.run,
            next_segment: self.segment.summary().segment + 1,
            retention,
            segment_bytes: self.settings.segment_bytes,
            unprepared: false,
            reserved_segment: 0,
            reserved_ledger: 0,
            removed: self.removed,
            open: Vec::new(),
            slow_tick: Instant::now(),
            rotating: None,
        };
        let events = Events { offer, on_group, on_fatal: Box::new(drop) };
        let owner = Owner::new(&self.settings, Arc::clone(&shared), events, jobs.clone(), owner_prepared, self.segment, self.before_run);
        let watchdog = Arc::new(Bell::default());
        let mut threads = vec![spawn("forebay-janitor", &shared, move || janitor.run())?];
        threads.push(spawn("forebay-journal", &shared, move || owner.run())?);
        let (watched, bell, timeout) = (Arc::clone(&shared), Arc::clone(&watchdog), self.settings.sync_timeout);
        threads.push(spawn("forebay-watchdog", &shared, move || watch(&watched, &bell, timeout))?);
        Ok(Running { shared, jobs, threads, watchdog, ledger: self.ledger, id: self.id, run: self.run, directory: Some(directory) })
    }
}

/// A panic on one of our threads is a failure of the journal.
fn spawn(name: &str, shared: &Arc<Shared>, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let (shared, thread) = (Arc::clone(shared), name.to_owned());
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            shared.fail(format!("the thread {thread} panicked"));
            shared.empty_inbox();
        }
    })
}

/// A disk that doesn't answer is a failed disk: whoever waits is told, although the owner hangs in the sync
/// or waits for a janitor that hangs.
fn watch(shared: &Shared, bell: &Bell, timeout: Duration) {
    let interval = (timeout / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    while !bell.wait(interval) {
        if shared.writing_for().is_some_and(|time| time > timeout) {
            return shared.fail(format!(
                "a journal sync, or opening the next segment, has taken longer than {} s (journal.sync_timeout)",
                timeout.as_secs_f64()
            ));
        }
    }
}

/// Ends the watchdog.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    /// Waits; true once it has been rung.
    fn wait(&self, time: Duration) -> bool {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        *self.changed.wait_timeout_while(rung, time, |rung| !*rung).unwrap_or_else(PoisonError::into_inner).0
    }

    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

impl Running {
    /// A handle to append with.
    pub fn appender(&self) -> Appender {
        Appender::new(Arc::clone(&self.shared))
    }

    /// A handle to read with.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared), self.jobs.clone())
    }

    /// The small durable state.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The journal's name.
    pub fn id(&self) -> JournalId {
        self.id
    }

    /// The number of this run.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// A handle to tell positions and to look.
    pub fn monitor(&self) -> Monitor {
        Monitor(Arc::clone(&self.shared))
    }

    /// Takes no more appends, finishes those that were taken, syncs, closes, and gives the directory free.
    ///
    /// # Errors
    /// The reason, if the journal has failed.
    pub async fn stop(mut self) -> Result<(), StopError> {
        self.begin_stop();
        let threads = std::mem::take(&mut self.threads);
        let (shared, watchdog, ledger, directory) =
            (Arc::clone(&self.shared), Arc::clone(&self.watchdog), self.ledger.clone(), self.directory.take());
        let ended = tokio::task::spawn_blocking(move || {
            let mut threads = threads.into_iter();
            // The janitor and the owner end each other; the watchdog watches to the end.
            let ended = threads.by_ref().take(2).all(|thread| thread.join().is_ok());
            watchdog.ring();
            let watched = threads.all(|thread| thread.join().is_ok());
            let closed = ledger.close().map_err(|error| format!("close the ledger: {error}"));
            drop(directory);
            match shared.failure() {
                Some(failure) => Err(failure.to_owned()),
                None if ended && watched => closed,
                None => Err("a thread of the journal ended badly".to_owned()),
            }
        });
        ended.await.unwrap_or_else(|error| Err(error.to_string())).map_err(StopError)
    }

    fn begin_stop(&self) {
        self.shared.stop();
    }

    /// Lets the janitor look around once, now.
    #[cfg(test)]
    pub(super) fn tend(&self) {
        let (done, told) = mpsc::channel();
        self.jobs.send(Job::Look(Some(done))).expect("a janitor");
        told.recv().expect("the janitor looked around");
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Monitor {
    /// A lane's position: Postgres holds all of its saves up to there. Gives room back. `read_back`: the position row was
    /// seen to say so after it was written; only such positions let segments go, and one that is lower keeps them again.
    pub fn settled(&self, lane: LaneId, position: Sequence, read_back: bool) {
        self.0.settled(lane, position, read_back);
    }

    /// Keeps what lies above `after` although Postgres may hold it: somebody has to read it again after a crash. `None` ends
    /// that. To be said before Postgres holds it.
    pub fn hold(&self, after: Option<Sequence>) {
        self.0.hold(after);
    }

    /// Below the oldest save that may still be read: everything after it can be.
    pub fn oldest(&self) -> Sequence {
        self.0.table().oldest()
    }

    /// How it is.
    pub fn stats(&self) -> Stats {
        let table = self.0.table();
        Stats {
            bytes: table.bytes(),
            segments: table.len() as u64,
            free_bytes: self.0.space.free(),
            retained: table.retained(Instant::now()),
            last_sync: Duration::from_micros(self.0.last_sync_us.load(Ordering::Relaxed)),
            last: table.current().last(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.begin_stop();
        self.watchdog.ring();
    }
}
