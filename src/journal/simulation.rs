//! The journal's pure parts over a disk of memory, for the simulation of the core: cutting and framing, the audit of what a crash
//! leaves, the table of segments and what of them may go, reading.
//!
//! What it does is split where a crash can tell the parts apart, in the order in which owner, janitor and recovery do it. Their
//! threads, and what a real disk and sled do, are the matter of the journal's own tests and of the fault campaigns.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::File,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::{MemfdFlags, memfd_create};

use super::{
    JournalId,
    audit::{self, Found, Plan},
    cutter::Cutter,
    reader::select,
    record::{self, Entry},
    recovery::read_group,
    segment::{Settled, Start, Summary, fetch},
    shared::{OnFatal, Shared},
    store::Value,
    table::{Gone, Retention, Table},
    watermark::Mark,
    witness::Witness,
};
use crate::{
    limits::Limits,
    save::{Accepted, LaneId, Sequence},
};

/// What a crash leaves is what was synced, and of the rest what the crash lets be.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    segments: BTreeMap<u64, OnDisk>,
    watermark: Option<Mark>,
    run: u64,
    /// It refuses to remove anything.
    pub(crate) keeps: bool,
}

#[derive(Debug, Default)]
struct OnDisk {
    chunks: Vec<(u64, Value)>,
    /// So many of them are synced.
    synced: usize,
    closed: Option<Summary>,
}

/// Asked between any two steps: whether the daemon dies here.
pub(crate) type Death<'a> = dyn FnMut() -> bool + 'a;

/// A journal that is open.
#[derive(Debug)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
    current: Cutter,
    /// The segment before, until the opening of the current one is synced.
    retired: Option<Summary>,
    /// Those before, to be closed.
    closing: Vec<Summary>,
    next_segment: u64,
    retention: Retention,
    segment_bytes: u64,
    removed: Sequence,
    /// What was written and not yet synced is charged so much.
    charge: u64,
    /// Up to where each lane is known to have settled.
    after: Vec<Sequence>,
    /// The last save that was recovered.
    found: Sequence,
}

impl Disk {
    const ID: JournalId = JournalId([7; 16]);

    /// The power goes: of what was not synced each chunk is there, torn, or not.
    pub(crate) fn cut_power(&mut self, chance: &mut fastrand::Rng) {
        for segment in self.segments.values_mut() {
            let mut unsynced = segment.chunks.split_off(segment.synced);
            unsynced.retain_mut(|(_, value)| {
                if chance.u8(..3) == 0 {
                    tear(value, chance);
                }
                chance.u8(..3) > 0
            });
            segment.chunks.extend(unsynced);
        }
    }

    /// The number of the last start; durable.
    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    fn look(&self) -> Vec<Found> {
        self.segments.iter().map(|(&number, segment)| segment.look(number)).collect()
    }

    fn put(&mut self, segment: u64) -> impl FnMut(u64, &[u8]) -> Result<(), Infallible> {
        let chunks = &mut self.segments.entry(segment).or_default().chunks;
        move |number, value| {
            chunks.push((number, value.into()));
            Ok(())
        }
    }

    fn sync(&mut self, segment: u64) -> u64 {
        let segment = self.segments.get_mut(&segment).expect("written to");
        segment.synced = segment.chunks.len();
        segment.chunks.iter().map(|(_, value)| value.len() as u64).sum()
    }

    fn close(&mut self, summary: Summary) {
        self.sync(summary.segment);
        let segment = self.segments.get_mut(&summary.segment).expect("written to");
        segment.closed = Some(summary);
    }

    fn remove(&mut self, segment: u64) {
        if !self.keeps {
            self.segments.remove(&segment);
        }
    }

    fn chunk(&self, segment: u64, number: u64) -> Option<Value> {
        let chunks = &self.segments.get(&segment)?.chunks;
        chunks.iter().find(|(put, _)| *put == number).map(|(_, value)| value.clone())
    }
}

impl OnDisk {
    fn look(&self, number: u64) -> Found {
        if let Some(summary) = &self.closed {
            return Found::Closed(Box::new(summary.clone()), true);
        }
        let mut file = File::from(memfd_create("segment", MemfdFlags::CLOEXEC).expect("a file of memory"));
        self.chunks.iter().for_each(|(_, value)| file.write_all(value).expect("written"));
        Found::Open(number, Some(Witness::of(file, number).expect("readable")))
    }
}

impl Journal {
    /// What a start does: audit, a new run, its segment with what nothing called synced; then what was is closed or goes.
    /// `None`: it died on the way. Panics if the audit finds that something synced is gone.
    ///
    /// Drained segments go after `retention`, or when they have so many bytes; each has a quarter of these.
    pub(crate) fn open(disk: &mut Disk, lanes: u16, limits: &Limits, retention: (Duration, u64), dies: &mut Death<'_>) -> Option<Self> {
        let found = disk.look();
        let plan = audit::judge(&found, disk.watermark).unwrap_or_else(|report| panic!("the journal is damaged: {report}"));
        disk.run = disk.run.max(plan.run) + 1;
        alive(dies())?;
        let current = begin(disk, &plan, &found, dies)?;
        conclude(disk, &plan, dies)?;
        let retention = Retention { time: retention.0, bytes: retention.1, pressed: false };
        Some(Self::of(plan, current, lanes, limits, retention))
    }

    fn of(plan: Plan, current: Cutter, lanes: u16, limits: &Limits, retention: Retention) -> Self {
        let oldest = plan.live.first().unwrap_or(&current.summary).last_before;
        let hint = |lane| plan.settled.iter().find(|(known, _)| *known == lane).map_or(Sequence::ZERO, |&(_, position)| position);
        let after: Vec<_> = (0..lanes).map(|lane| hint(LaneId(lane)).max(Sequence::from_u64(oldest))).collect();
        let table = Table::new(plan.live, current.summary.clone());
        let fatal = OnFatal(Box::new(|reason| panic!("{reason}")));
        Self {
            shared: Arc::new(Shared::new(table, &after, limits, fatal)),
            next_segment: current.summary.segment + 1,
            current,
            retired: None,
            closing: Vec::new(),
            retention,
            segment_bytes: retention.bytes / 4,
            removed: plan.removed,
            charge: 0,
            after,
            found: plan.last,
        }
    }

    /// Up to where each lane's saves were known to be in Postgres when it was opened.
    pub(crate) fn after(&self) -> &[Sequence] {
        &self.after
    }

    /// The last save that was there when it was opened.
    pub(crate) fn found(&self) -> Sequence {
        self.found
    }

    /// The last save that is synced.
    pub(crate) fn last(&self) -> Sequence {
        self.shared.table().current().last()
    }

    /// Below the oldest save that is held.
    pub(crate) fn oldest(&self) -> Sequence {
        self.shared.table().oldest()
    }

    /// One group, cut and written. Durable with [`Self::sync`].
    pub(crate) fn write<'a>(&mut self, disk: &mut Disk, group: &[Accepted], name: impl Fn(&Accepted) -> &'a str) {
        let mut records = Vec::new();
        group.iter().for_each(|accepted| record::encode(&accepted.save, name(accepted), &mut records));
        let mut settled = Settled::new();
        self.shared.positions(&mut settled);
        let (first, saves, payload) = (group[0].sequence, group.len() as u32, std::iter::once(&records[..]));
        let segment = self.current.summary.segment;
        let Ok(()) = self.current.group(first, saves, payload, &settled, disk.put(segment));
        self.charge += records.len() as u64;
        self.shared.limits.journal_bytes.take_anyway(records.len() as u64);
    }

    /// What was written is durable and may be read; the segment before is no longer the current one.
    pub(crate) fn sync(&mut self, disk: &mut Disk) {
        self.current.summary.bytes = disk.sync(self.current.summary.segment);
        self.current.synced();
        let mut table = self.shared.table();
        if let Some(retired) = self.retired.take() {
            self.closing.push(retired);
            table.rotate(&self.current.summary);
        }
        if self.current.summary.saves > 0 {
            table.grow(&self.current.summary, std::mem::take(&mut self.charge));
        }
    }

    /// The janitor's round: closes what was retired, begins the next segment when this one is full or is drained, and removes what
    /// nobody needs. `false`: it died on the way.
    pub(crate) fn tend(&mut self, disk: &mut Disk, now: Instant, dies: &mut Death<'_>) -> bool {
        self.tended(disk, now, dies).is_some()
    }

    fn tended(&mut self, disk: &mut Disk, now: Instant, dies: &mut Death<'_>) -> Option<()> {
        for mut retired in std::mem::take(&mut self.closing) {
            let mut settled = Settled::new();
            self.shared.positions(&mut settled);
            retired.settled = settled.iter().map(|(lane, sequence)| (lane.0, sequence.get())).collect();
            alive(dies())?;
            disk.close(retired.clone());
            self.shared.table().close(retired);
        }
        alive(dies())?;
        self.mark(disk);
        while let Some((segment, last)) = self.removable(now) {
            alive(dies())?;
            self.removed = last;
            self.mark(disk);
            alive(dies())?;
            self.shared.table().forget(segment);
            disk.remove(segment);
        }
        let drained = self.shared.table().wants_rotation(now, self.retention);
        if self.retired.is_none() && (drained || self.current.summary.bytes >= self.segment_bytes) {
            alive(dies())?;
            self.rotate(disk);
        }
        if drained && self.retired.is_some() {
            alive(dies())?;
            self.sync(disk);
        }
        Some(())
    }

    /// What was settled, and read back from Postgres.
    pub(crate) fn settled(&self, lane: LaneId, position: Sequence) {
        self.shared.settled(lane, position, true);
    }

    /// Saves of all lanes, whole batches, as few as fit into so many bytes. The error: the oldest save that may be held.
    pub(crate) fn read(&self, disk: &Disk, after: Sequence, through: Sequence, bytes_max: usize) -> Result<Vec<Entry>, Sequence> {
        let mut after = after;
        loop {
            let place = self.shared.table().locate(after, through);
            let Some(mut place) = place.map_err(|Gone { oldest }| oldest)? else { return Ok(Vec::new()) };
            place.wanted.bytes_max = bytes_max;
            let values = fetch(|number| Ok(disk.chunk(place.wanted.segment, number)), &place.wanted).expect("what is held is whole");
            let entries = select(&values, place, (after, through), bytes_max).expect("what is held is sound");
            if !entries.is_empty() {
                return Ok(entries);
            }
            after = place.last;
        }
    }

    /// Everything goes that is synced, whoever needs it.
    pub(crate) fn forget_everything(&mut self, disk: &mut Disk) {
        self.rotate(disk);
        self.sync(disk);
        self.removed = self.last();
        self.mark(disk);
        let current = self.current.summary.segment;
        for segment in disk.segments.keys().copied().filter(|&segment| segment < current).collect::<Vec<_>>() {
            self.shared.table().forget(segment);
            disk.segments.remove(&segment);
        }
        self.closing.clear();
    }

    fn removable(&self, now: Instant) -> Option<(u64, Sequence)> {
        let mut table = self.shared.table();
        table.note_drained(self.shared.confirmed_floor()?, now);
        table.removable(now, self.retention)
    }

    fn mark(&self, disk: &mut Disk) {
        let table = self.shared.table();
        let (chunk, sequence) = (table.current().last_chunk, table.current().last());
        disk.watermark = Some(Mark { journal: Disk::ID, run: disk.run, chunk, sequence, removed: self.removed, ledger: 0 });
    }

    /// Begins the next segment. Its opening becomes durable with its first group.
    fn rotate(&mut self, disk: &mut Disk) {
        let mut settled = Settled::new();
        self.shared.positions(&mut settled);
        let start = self.current.next_start(self.next_segment);
        self.next_segment += 1;
        let mut next = Cutter::new(&start);
        opening(&mut next, &start, 0, &settled, disk);
        self.retired = Some(std::mem::replace(&mut self.current, next).summary);
    }
}

/// The new run's segment, with what nothing calls synced; then the first watermark.
fn begin(disk: &mut Disk, plan: &Plan, found: &[Found], dies: &mut Death<'_>) -> Option<Cutter> {
    let start = plan.start(Disk::ID, disk.run, Sequence::before_run(disk.run).expect("few runs"));
    let mut current = Cutter::new(&start);
    opening(&mut current, &start, plan.carried.len(), &plan.settled, disk);
    for span in &plan.carried {
        alive(dies())?;
        let from = found.iter().find_map(|found| match found {
            Found::Open(number, Some(witness)) if *number == plan.carried_from => Some(witness),
            _ => None,
        });
        let group = read_group(from.expect("what is carried was seen"), span.first_chunk, span.last_chunk).expect("it was whole");
        let payload = std::iter::once(&group.payload[..]);
        let Ok(()) = current.group(group.first, group.saves, payload, &plan.settled, disk.put(start.segment));
    }
    alive(dies())?;
    current.summary.bytes = disk.sync(start.segment);
    current.synced();
    alive(dies())?;
    let (chunk, sequence) = (current.summary.last_chunk, current.summary.last());
    disk.watermark = Some(Mark { journal: Disk::ID, run: disk.run, chunk, sequence, removed: plan.removed, ledger: 0 });
    Some(current)
}

/// What is live is closed from now on, what is void goes.
fn conclude(disk: &mut Disk, plan: &Plan, dies: &mut Death<'_>) -> Option<()> {
    for live in &plan.live {
        alive(dies())?;
        disk.close(live.clone());
    }
    for void in &plan.void {
        alive(dies())?;
        disk.segments.remove(void);
    }
    Some(())
}

/// Some of it was never written.
fn tear(value: &mut Value, chance: &mut fastrand::Rng) {
    let mut bytes = value.to_vec();
    let from = chance.usize(..bytes.len());
    let to = chance.usize(from..=bytes.len());
    bytes[from..to].fill(0);
    *value = bytes.into();
}

fn opening(cutter: &mut Cutter, start: &Start, carried: usize, settled: &Settled, disk: &mut Disk) {
    let Ok(()) = cutter.opening(start, carried as u32, settled, disk.put(start.segment));
}

fn alive(dies: bool) -> Option<()> {
    (!dies).then_some(())
}
