//! The janitor: a thread for everything that must not hold the owner up. Opens segments ahead, closes old ones, serves
//! readers of them, removes drained ones, writes the watermark, measures free space.

use std::{
    fs, io,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    JournalId,
    directory::{Directory, Unremoved},
    ledger::Ledger,
    recovery::LIVE_CACHE_BYTES,
    segment::{self, SegmentWriter, Settled, Wanted},
    shared::{Fetched, Shared},
    space::OWN_BYTES,
    store::{self, Store, StoreError},
    table::Retention,
    watermark::{Mark, Watermark},
    witness::Witness,
};
use crate::save::Sequence;

/// How often it looks around.
const TICK: Duration = Duration::from_millis(250);
/// How often the watermark is written and space is measured.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// The ledger may grow by so much on a full disk, by half of it at least.
const LEDGER_AHEAD: u64 = 16 << 20;
/// Closed segments that stay open for readers, and for how long without any.
const OPEN_MAX: usize = 2;
const OPEN_IDLE: Duration = Duration::from_secs(10);

/// What it is asked to do.
#[derive(Debug)]
pub(super) enum Job {
    Close(SegmentWriter),
    Read(Wanted, oneshot::Sender<Fetched>),
    /// Look around now; tell when done.
    Look(Option<mpsc::Sender<()>>),
    /// The owner has ended in order: close what is open, and what was opened ahead and not taken.
    Finish(SegmentWriter, mpsc::Receiver<Prepared>),
    /// The owner has failed: touch nothing more.
    End,
}

/// A segment opened ahead, empty and durable.
#[derive(Debug)]
pub(super) struct Prepared {
    pub segment: u64,
    pub store: Store,
}

pub(super) struct Janitor {
    pub shared: Arc<Shared>,
    pub directory: Arc<Directory>,
    pub jobs: mpsc::Receiver<Job>,
    pub prepared: mpsc::Sender<Prepared>,
    pub watermark: Watermark,
    pub ledger: Ledger,
    pub journal: JournalId,
    pub run: u64,
    pub next_segment: u64,
    pub retention: Retention,
    pub segment_bytes: u64,
    /// The segment after the current one could not be opened ahead: there was no room for it.
    pub unprepared: bool,
    /// The segment for which the disk's room is taken, and for how many bytes of the ledger it is.
    pub reserved_segment: u64,
    pub reserved_ledger: u64,
    /// Saves up to here may be gone.
    pub removed: Sequence,
    /// Closed segments open for readers, the latest used last. Read as they are: sled would repair what it can't read, and its repair
    /// takes away what `salvage` could still save.
    pub open: Vec<(u64, Witness, Instant)>,
    pub slow_tick: Instant,
    /// The segment that the owner was asked to end early.
    pub rotating: Option<u64>,
}

impl Janitor {
    /// The thread's whole life.
    pub(super) fn run(mut self) {
        if let Err(error) = self.serve() {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &StoreError) {
        self.shared.fail(format!("keep the journal: {error}"));
    }

    fn serve(&mut self) -> Result<(), StoreError> {
        self.prepare()?;
        self.reserve()?;
        loop {
            match self.jobs.recv_timeout(TICK) {
                Ok(Job::Close(segment)) => {
                    self.close(segment)?;
                    self.prepare()?;
                }
                Ok(Job::Read(wanted, reply)) => drop(reply.send(self.fetch(&wanted)?)),
                Ok(Job::Look(done)) => {
                    self.look_around(true)?;
                    if let Some(done) = done {
                        // Nobody may be waiting any more.
                        let _ = done.send(());
                    }
                }
                Ok(Job::Finish(segment, prepared)) => return self.finish(segment, prepared),
                Ok(Job::End) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => self.look_around(false)?,
            }
        }
    }

    /// Opens the next segment ahead, its room taken. Where there is none, later: until then saves are refused, and those that are
    /// on their way find room in the current one.
    fn prepare(&mut self) -> Result<(), StoreError> {
        let (segment, path) = (self.next_segment, self.directory.segment(self.next_segment));
        let reserved = store::reserve(&path, self.segment_room())?;
        self.unprepared = !reserved && self.measure()? < self.shared.space.min();
        if self.unprepared {
            self.shared.space.decide();
            return Ok(());
        }
        self.next_segment += 1;
        let store = Store::open(&path, LIVE_CACHE_BYTES)?;
        // An owner that has ended needs none.
        let _ = self.prepared.send(Prepared { segment, store });
        Ok(())
    }

    /// A segment may grow to twice its size before anybody waits; its last group, and sled's unit, come on top.
    fn segment_room(&self) -> u64 {
        store::opened_bytes(self.segment_bytes.saturating_mul(2)).saturating_add(store::opened_bytes(1))
    }

    /// Takes room for what is written although saves are refused: what is on its way to the current segment, and the ledger.
    fn reserve(&mut self) -> Result<(), StoreError> {
        let (current, ledger) = (self.shared.table().current().segment, self.directory.ledger());
        if self.reserved_segment != current && store::reserve(&self.directory.segment(current), self.segment_room())? {
            self.reserved_segment = current;
        }
        let wanted = fs::metadata(ledger.join("db"))?.len() + LEDGER_AHEAD;
        if self.reserved_ledger + LEDGER_AHEAD / 2 < wanted && store::reserve(&ledger, wanted)? {
            self.reserved_ledger = wanted;
        }
        Ok(())
    }

    fn measure(&self) -> io::Result<u64> {
        self.shared.space.measure(self.directory.path())
    }

    fn close(&mut self, segment: SegmentWriter) -> Result<(), StoreError> {
        let mut settled = Settled::new();
        self.shared.positions(&mut settled);
        let number = segment.summary().segment;
        let summary = segment.close(&self.directory.segment(number), &settled)?;
        self.shared.table().close(summary);
        self.write_watermark()
    }

    fn look_around(&mut self, now: bool) -> Result<(), StoreError> {
        if now || self.slow_tick.elapsed() >= SLOW_TICK {
            self.slow_tick = Instant::now();
            self.write_watermark()?;
            self.look_after_space()?;
        } else {
            self.remove_drained()?;
        }
        self.open.retain(|(_, _, used)| used.elapsed() < OPEN_IDLE);
        Ok(())
    }

    fn write_watermark(&mut self) -> Result<(), StoreError> {
        let (chunk, sequence) = {
            let table = self.shared.table();
            (table.current().last_chunk, table.current().last())
        };
        let ledger = self.ledger.count().map_err(io::Error::other)?;
        Ok(self.watermark.write(Mark { journal: self.journal, run: self.run, chunk, sequence, removed: self.removed, ledger })?)
    }

    /// Removes what may go; if space is short, all that is drained, before any save is refused.
    fn look_after_space(&mut self) -> Result<(), StoreError> {
        let margin = self.shared.space.min().saturating_add(self.segment_bytes.saturating_mul(2));
        self.retention.pressed = self.measure()? < margin;
        self.remove_drained()?;
        if self.retention.pressed {
            self.measure()?;
        }
        self.shared.space.decide();
        if self.unprepared {
            self.prepare()?;
        }
        self.reserve()
    }

    fn remove_drained(&mut self) -> Result<(), StoreError> {
        let (now, retention) = (Instant::now(), self.retention);
        while let Some((segment, last)) = self.removable(now) {
            // First it is said that it may be missing: a segment that is missing unsaid is a damage.
            self.removed = last;
            self.write_watermark()?;
            self.open.retain(|(open, _, _)| *open != segment);
            self.shared.table().forget(segment);
            match self.directory.remove_segment(segment) {
                Ok(()) => {}
                Err(Unremoved::Left(error)) => tracing::warn!(segment, %error, "a drained segment could not be removed"),
                Err(Unremoved::Unsynced(error)) => return Err(error.into()),
            }
        }
        self.shared.limits.retention_bytes.set_used(self.shared.table().drained_bytes());
        self.ask_for_rotation(now, retention)
    }

    /// Asks anew for each segment: a floor that fell pins what is not yet gone.
    fn removable(&self, now: Instant) -> Option<(u64, Sequence)> {
        let mut table = self.shared.table();
        table.note_drained(self.shared.confirmed_floor()?, now);
        table.removable(now, self.retention)
    }

    /// An idle journal shrinks: a current segment that is drained and whose retention is over ends early. On a full disk it
    /// stays, because the next one would have to be written.
    fn ask_for_rotation(&mut self, now: Instant, retention: Retention) -> Result<(), StoreError> {
        let (current, wanted) = {
            let table = self.shared.table();
            (table.current().segment, table.wants_rotation(now, retention))
        };
        if wanted && self.rotating != Some(current) && !self.unprepared && self.measure()? >= OWN_BYTES {
            self.rotating = Some(current);
            // If the inbox is closed, the segment is about to be closed anyway.
            let _ = self.shared.send(super::shared::Request::Rotate);
        }
        Ok(())
    }

    /// What isn't as it was written is for the reader to judge. A disk that doesn't let it be read has failed, and the journal with it
    /// before its reader is told, so that nobody goes on who has heard of it.
    fn fetch(&mut self, wanted: &Wanted) -> Result<Fetched, StoreError> {
        if !self.directory.segment(wanted.segment).exists() {
            return Ok(None);
        }
        let fetched = self.reading(wanted.segment).map(|witness| match witness {
            Some(witness) => segment::fetch(|number| witness.chunk(number), wanted),
            None => Err(StoreError::Chunk(wanted.first_chunk)),
        });
        fetched.map(Some).inspect_err(|error| self.fail(error))
    }

    /// `None`: its file is gone.
    fn reading(&mut self, segment: u64) -> Result<Option<&Witness>, StoreError> {
        let witness = match self.open.iter().position(|(open, _, _)| *open == segment) {
            Some(at) => Some(self.open.remove(at).1),
            None => Witness::look(&self.directory.segment(segment), segment)?,
        };
        if self.open.len() == OPEN_MAX {
            self.open.remove(0);
        }
        self.open.extend(witness.map(|witness| (segment, witness, Instant::now())));
        Ok(self.open.last().filter(|(open, _, _)| *open == segment).map(|(_, witness, _)| witness))
    }

    fn finish(&mut self, segment: SegmentWriter, prepared: mpsc::Receiver<Prepared>) -> Result<(), StoreError> {
        self.open.clear();
        self.close(segment)?;
        for Prepared { segment, store } in prepared.try_iter() {
            store.close()?;
            self.directory.remove_segment(segment).map_err(io::Error::from)?;
        }
        Ok(())
    }
}
