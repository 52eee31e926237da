//! The owner: the one thread that writes. Takes one append, gathers all that wait, writes and syncs them as one group, offers
//! them to the backlog, and only then answers.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use super::{
    appender::Done,
    handoff::Failed,
    janitor::{Job, Prepared},
    running::{Events, GroupStats},
    segment::{SegmentWriter, Settled, Wanted},
    shared::{Append, Fetched, Request, Shared},
    space::OWN_BYTES,
    store::StoreError,
};
use crate::{
    save::{Accepted, Sequence},
    settings::JournalSettings,
};

/// Written bytes after which the janitor is asked to measure the free space, however soon.
const MEASURE_BYTES: u64 = 16 << 20;
/// Callers that were answered together come back together. From so many on, the next group waits a moment for them: a group costs
/// the processor as much as ten calls, and measured with 64 and with 256 callers the wait is won back. Fewer never wait.
const RETURNING_MIN: usize = 8;
/// A part of what one call takes with so many others beside it.
const RETURNING_WAIT: Duration = Duration::from_micros(200);

pub(super) struct Owner {
    shared: Arc<Shared>,
    events: Events,
    jobs: mpsc::Sender<Job>,
    prepared: mpsc::Receiver<Prepared>,
    segment: SegmentWriter,
    /// The segment before, until the opening of the current one is synced.
    retired: Option<SegmentWriter>,
    /// The last sequence given.
    last: Sequence,
    group_bytes_max: usize,
    group_saves_max: usize,
    segment_bytes: u64,
    directory: PathBuf,
    sync_warn: Duration,
    /// What was taken from the inbox but belongs behind the group being gathered.
    held: Option<Request>,
    group: Vec<Append>,
    /// Appends of the last group: as many callers may be on their way back.
    returning: usize,
    positions: Settled,
    unmeasured: u64,
}

/// Why the owner ends early.
#[derive(Debug)]
enum Fatal {
    /// Somebody else has told everybody.
    Known,
    Store(StoreError),
    /// The janitor is gone.
    Alone,
}

impl From<Failed> for Fatal {
    fn from(Failed: Failed) -> Self {
        Self::Known
    }
}

impl From<StoreError> for Fatal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Owner {
    pub(super) fn new(
        settings: &JournalSettings,
        shared: Arc<Shared>,
        events: Events,
        jobs: mpsc::Sender<Job>,
        prepared: mpsc::Receiver<Prepared>,
        segment: SegmentWriter,
        last: Sequence,
    ) -> Self {
        Self {
            shared,
            events,
            jobs,
            prepared,
            segment,
            retired: None,
            last,
            group_bytes_max: usize::try_from(settings.group_bytes_max).unwrap_or(usize::MAX),
            group_saves_max: usize::try_from(settings.group_saves_max).unwrap_or(usize::MAX),
            segment_bytes: settings.segment_bytes,
            directory: settings.directory.clone(),
            sync_warn: settings.sync_warn,
            held: None,
            group: Vec::new(),
            returning: 0,
            positions: Settled::new(),
            unmeasured: 0,
        }
    }

    /// The thread's whole life: until the inbox is closed and empty, or something fails.
    pub(super) fn run(mut self) {
        let ended = self.serve();
        let Self { shared, jobs, prepared, segment, retired, .. } = self;
        match ended {
            // The janitor closes what is open; if it is gone, it has failed and said so.
            Ok(()) => drop(jobs.send(Job::Finish(segment, prepared))),
            Err(fatal) => {
                // What the store holds is for the next start to judge: closing it would write again.
                segment.abandon();
                retired.into_iter().for_each(SegmentWriter::abandon);
                match fatal {
                    Fatal::Known => {}
                    Fatal::Store(error) => shared.fail(format!("write the journal: {error}")),
                    Fatal::Alone => shared.fail("write the journal: its janitor has ended".to_owned()),
                }
                shared.empty_inbox();
                drop(jobs.send(Job::End));
            }
        }
    }

    fn serve(&mut self) -> Result<(), Fatal> {
        while let Some(request) = self.next() {
            if self.shared.failure().is_some() {
                return Err(Fatal::Known);
            }
            match request {
                Request::Append(append) => {
                    self.await_returning();
                    self.gather(append);
                    self.commit()?;
                    self.rotate_if_full()?;
                }
                Request::Read(wanted, reply) => drop(reply.send(self.fetch(&wanted))),
                Request::Rotate => self.rotate_now()?,
                Request::Wake => {}
                Request::Stop => self.shared.requests().close(),
            }
        }
        self.sync_opening()
    }

    fn next(&mut self) -> Option<Request> {
        self.held.take().or_else(|| self.shared.requests().blocking_recv())
    }

    fn await_returning(&self) {
        if self.returning >= RETURNING_MIN && self.shared.requests().len() < self.returning {
            thread::sleep(RETURNING_WAIT);
        }
    }

    /// Takes all that waits and fits: never a part of an append.
    fn gather(&mut self, first: Append) {
        let (mut bytes, mut saves) = (first.records.len(), first.saves.len());
        self.group.push(first);
        let mut requests = self.shared.requests();
        while let Ok(request) = requests.try_recv() {
            match request {
                Request::Append(append)
                    if bytes + append.records.len() <= self.group_bytes_max && saves + append.saves.len() <= self.group_saves_max =>
                {
                    bytes += append.records.len();
                    saves += append.saves.len();
                    self.group.push(append);
                }
                other => {
                    self.held = Some(other);
                    return;
                }
            }
        }
    }

    /// Writes the gathered group, makes it durable, offers it, answers.
    fn commit(&mut self) -> Result<(), Fatal> {
        self.returning = self.group.len();
        let first = self.last.plus(1);
        let saves = self.group.iter().map(|append| append.saves.len()).sum();
        let (mut charge, mut bytes) = (0, 0);
        let mut accepted = Vec::with_capacity(saves);
        let mut answers = Vec::with_capacity(self.group.len());
        let mut records = Vec::with_capacity(self.group.len());
        for append in self.group.drain(..) {
            answers.push((append.done, self.last.plus(1)));
            bytes += append.records.len() as u64;
            charge += append.charge;
            records.push(append.records);
            for save in append.saves {
                self.last = self.last.plus(1);
                accepted.push(Accepted { sequence: self.last, save });
            }
        }
        let saves = u32::try_from(accepted.len()).expect("a group is bounded");
        self.shared.limits.group_bytes.saw(bytes);
        self.shared.limits.group_saves.saw(saves.into());
        self.shared.positions(&mut self.positions);
        self.shared.begin_write(answers)?;
        self.segment.put(first, saves, records.iter().map(Vec::as_slice), &self.positions)?;
        let (sync, answers) = self.sync(charge)?;
        self.shared.limits.journal_inbox_bytes.give_back(bytes);
        (self.events.offer)(accepted);
        for (done, sequence) in answers {
            done.tell(Ok(sequence));
        }
        (self.events.on_group)(GroupStats { saves, bytes, sync });
        self.measure_after(bytes);
        Ok(())
    }

    /// Makes an opening durable that no group follows at once.
    fn sync_opening(&mut self) -> Result<(), Fatal> {
        if self.retired.is_some() {
            self.shared.begin_write(Vec::new())?;
            self.sync(0)?;
        }
        Ok(())
    }

    /// One sync for everything put since the last one. Afterwards it may be read, and its callers be answered.
    fn sync(&mut self, charge: u64) -> Result<(Duration, Vec<(Done, Sequence)>), Fatal> {
        let took = self.segment.sync()?;
        let answers = self.shared.end_write()?;
        if took > self.sync_warn {
            tracing::warn!(seconds = took.as_secs_f64(), "a journal sync was slow");
        }
        self.shared.last_sync_us.store(took.as_micros() as u64, std::sync::atomic::Ordering::Relaxed);
        if let Some(retired) = self.retired.take() {
            self.jobs.send(Job::Close(retired)).map_err(|_| Fatal::Alone)?;
            self.shared.table().rotate(self.segment.summary());
        }
        if self.segment.summary().saves > 0 {
            self.shared.limits.segment_bytes.saw(self.segment.summary().bytes);
            self.shared.table().grow(self.segment.summary(), charge);
        }
        Ok((took, answers))
    }

    /// The next segment has usually been opened ahead; if not, or if the disk has no room for what a rotation writes, this one may
    /// grow to twice its size before anybody waits.
    fn rotate_if_full(&mut self) -> Result<(), Fatal> {
        let bytes = self.segment.summary().bytes;
        if bytes < self.segment_bytes {
            return Ok(());
        }
        let may_grow = bytes < self.segment_bytes.saturating_mul(2);
        if may_grow && self.shared.space.measure(&self.directory).map_err(StoreError::from)? < OWN_BYTES {
            return Ok(());
        }
        let prepared = match self.prepared.try_recv() {
            Ok(prepared) => prepared,
            Err(mpsc::TryRecvError::Empty) if may_grow => return Ok(()),
            Err(_) => self.await_prepared()?,
        };
        self.rotate(prepared)
    }

    /// Ends the segment although it isn't full, so that it can be removed.
    fn rotate_now(&mut self) -> Result<(), Fatal> {
        if self.segment.summary().saves > 0 {
            let prepared = self.await_prepared()?;
            self.rotate(prepared)?;
        }
        self.sync_opening()
    }

    /// Waits for the janitor as for the disk, under the watchdog: what it hangs in holds up everybody behind us.
    fn await_prepared(&self) -> Result<Prepared, Fatal> {
        self.shared.begin_write(Vec::new())?;
        let prepared = self.prepared.recv().map_err(|_| Fatal::Alone)?;
        self.shared.end_write()?;
        Ok(prepared)
    }

    /// Begins the next segment. Its opening becomes durable with its first group.
    fn rotate(&mut self, prepared: Prepared) -> Result<(), Fatal> {
        self.shared.positions(&mut self.positions);
        let start = self.segment.next_start(prepared.segment);
        let next = SegmentWriter::open(prepared.store, &start, 0, &self.positions)?;
        self.retired = Some(std::mem::replace(&mut self.segment, next));
        Ok(())
    }

    /// Between groups: readers of the current segment.
    fn fetch(&self, wanted: &Wanted) -> Fetched {
        let mut here = std::iter::once(&self.segment).chain(&self.retired);
        here.find(|segment| segment.summary().segment == wanted.segment).map(|segment| segment.fetch(wanted))
    }

    fn measure_after(&mut self, bytes: u64) {
        self.unmeasured += bytes;
        if self.unmeasured >= MEASURE_BYTES {
            self.unmeasured = 0;
            // If the janitor is gone, it has failed and said so.
            let _ = self.jobs.send(Job::Look(None));
        }
    }
}
