//! A lane's backlog as the journal's thread, the lane's task and reads share it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::Instant};

mod look;
mod out;

pub use look::{Cursor, Pin};

pub(super) use self::look::Look;
use self::{
    look::Kept,
    out::{Out, Refolding},
};
use super::{
    aside::drop_aside,
    room::{Room, Rooms},
};
use crate::{
    backlog::{Backlog, Footprint, Generation},
    collections::Reaches,
    limits::{Limit, Limits},
    save::{Accepted, CollectionId, Sequence},
};

/// The backlog of one lane behind a lock that is held for nothing but folding. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LaneBacklog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// The lane's task waits here.
    wake: Notify,
    /// Reads wait here while generations are folded together.
    folded: Notify,
    rooms: Rooms,
    /// `backlog.bytes_max`
    backlog_bytes: Arc<Limit>,
    /// `drain.generation_objects_max`
    generation_objects: Arc<Limit>,
    /// `journal.bytes_max`
    journal_bytes: Arc<Limit>,
}

#[derive(Debug)]
struct Inner {
    backlog: Backlog,
    /// When the generation in the making got its first save.
    since: Option<Instant>,
    /// What the lane has taken out and not settled, oldest first.
    out: Vec<Out>,
    /// What it has folded again from the journal and not settled: part of the above, or what Postgres has lost.
    refolded: Option<Arc<Generation>>,
    /// Everything up to here is in Postgres.
    settled: Sequence,
    /// What is settled and may still be looked for.
    kept: Kept,
    passed: Passed,
    lull: Lull,
}

/// No save of the lane lies between these two: they were offered one after the other, the second when nothing was left.
#[derive(Debug, Default)]
struct Lull {
    after: Sequence,
    before: Sequence,
}

/// The saves of other lanes since this one's last save or move. It has been offered everything that it will ever be up to there.
#[derive(Debug)]
struct Passed {
    /// The last save of any lane.
    through: Sequence,
    bytes: u64,
    since: Option<Instant>,
}

/// What waits for Postgres, the generation that is being applied included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BacklogSummary {
    /// What it takes of the limits.
    pub footprint: Footprint,
    /// Saves that are not in Postgres.
    pub saves: u64,
    /// When the oldest of them was accepted.
    pub oldest_accepted_at: Option<SystemTime>,
    /// Full generations that wait for the lane.
    pub sealed: usize,
    /// Objects and rows of the generation in the making.
    pub making_objects: u64,
    /// The last save offered.
    pub through: Sequence,
}

/// What a lane decides by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct View {
    /// A full generation waits.
    pub(super) full: bool,
    /// Objects and rows of the generation in the making.
    pub(super) objects: u64,
    /// The generation in the making holds something, since then.
    pub(super) since: Option<Instant>,
    /// Nothing waits, and other lanes go on: the position is to move up then.
    pub(super) moves_up: Option<Instant>,
}

impl View {
    /// Whether anything waits.
    pub(super) fn pending(self) -> bool {
        self.full || self.since.is_some()
    }
}

/// An idle lane's position moves up so often: the floor is the smallest position, so an idle one would keep segments for ever.
const MOVE_INTERVAL: Duration = Duration::from_secs(10);
/// And at once when so much has passed, or this part of `journal.bytes_max`, to which it counts as long as the lane stays.
const MOVE_BYTES: u64 = 8 << 20;
const MOVE_PART: u64 = 8;
/// What is kept for reads under way is this part of `backlog.bytes_max`; beyond it they read the journal.
const KEPT_PART: u64 = 8;

impl LaneBacklog {
    /// The backlog of a lane whose saves up to `after` are in Postgres, as far as the journal knows.
    pub fn new(generation_objects_max: u64, after: Sequence, reaches: Arc<Reaches>, limits: &Limits) -> Self {
        let passed = Passed { through: after, bytes: 0, since: None };
        let inner = Inner {
            backlog: Backlog::new(generation_objects_max, after, reaches),
            since: None,
            out: Vec::new(),
            refolded: None,
            settled: after,
            kept: Kept::default(),
            passed,
            lull: Lull::default(),
        };
        let shared = Shared {
            inner: Mutex::new(inner),
            wake: Notify::new(),
            folded: Notify::new(),
            rooms: Rooms::new(limits),
            backlog_bytes: Arc::clone(&limits.backlog_bytes),
            generation_objects: Arc::clone(&limits.generation_objects),
            journal_bytes: Arc::clone(&limits.journal_bytes),
        };
        Self(Arc::new(shared))
    }

    /// Folds in a group of saves, whole batches, for which admission has taken room, and gives back to the limits what
    /// folding saved. Called by the journal's thread: never waits, never fails.
    pub fn offer(&self, group: Vec<Accepted>) {
        let mut saved = Footprint::default();
        let mut inner = self.lock();
        let (was_empty, was_full) = (inner.since.is_none(), inner.backlog.sealed().len());
        if let Some(first) = group.first().filter(|_| inner.backlog.is_empty() && inner.out.is_empty()) {
            inner.lull = Lull { after: inner.backlog.through(), before: first.sequence };
        }
        for accepted in group {
            saved += inner.backlog.offer(accepted);
        }
        (inner.passed.bytes, inner.passed.since) = (0, None);
        let filled = inner.backlog.sealed().len() > was_full;
        if was_empty || filled {
            inner.since = (inner.backlog.making().saves > 0).then(Instant::now);
        }
        drop(inner);
        drop(self.0.rooms.adopt(saved));
        if was_empty || filled {
            self.0.wake.notify_one();
        }
    }

    /// Every save up to `through` that is this lane's has been offered; `bytes` of others came since the last call. Called by the
    /// journal's thread, after [`Self::offer`]: never waits.
    pub fn pass(&self, through: Sequence, bytes: u64) {
        let bytes_max = self.pass_bytes_max();
        let mut inner = self.lock();
        let idle = inner.backlog.is_empty();
        let passed = &mut inner.passed;
        let fresh = passed.since.is_none();
        let due = passed.bytes < bytes_max && passed.bytes + bytes >= bytes_max;
        passed.through = passed.through.max(through);
        passed.bytes += bytes;
        passed.since.get_or_insert_with(Instant::now);
        drop(inner);
        if idle && (fresh || due) {
            self.0.wake.notify_one();
        }
    }

    /// As [`Self::offer`], for saves that recovery read from the journal: takes the room, whatever the limits say.
    pub fn recover(&self, group: Vec<Accepted>) {
        let bytes = group.iter().map(|accepted| accepted.save.bytes()).sum();
        self.0.rooms.take_anyway(Footprint { bytes, objects: group.len() as u64 }).keep();
        self.offer(group);
    }

    /// The last save offered.
    pub fn through(&self) -> Sequence {
        self.lock().backlog.through()
    }

    /// Every save of the lane up to here has been offered, its own last one or another lane's.
    pub fn passed(&self) -> Sequence {
        let inner = self.lock();
        inner.passed.through.max(inner.backlog.through())
    }

    /// Up to where every save of the lane is in Postgres or has failed, if its position is this one: beyond it, where the lane
    /// has had no saves.
    pub fn settled(&self, position: Sequence) -> Sequence {
        let inner = self.lock();
        let Lull { after, before } = inner.lull;
        if position >= inner.backlog.through() {
            position.max(inner.passed.through)
        } else if position >= after {
            position.max(before.previous())
        } else {
            position
        }
    }

    /// What waits.
    pub fn summary(&self) -> BacklogSummary {
        let inner = self.lock();
        let backlog = &inner.backlog;
        let mut summary = BacklogSummary {
            footprint: Footprint { bytes: backlog.bytes(), objects: backlog.objects() },
            saves: backlog.saves(),
            oldest_accepted_at: backlog.oldest_accepted_at(),
            sealed: backlog.sealed().len(),
            making_objects: backlog.making().footprint.objects,
            through: backlog.through(),
        };
        for out in inner.out.iter().rev() {
            summary.saves += out.saves;
            summary.oldest_accepted_at = out.oldest_accepted_at.or(summary.oldest_accepted_at);
            summary.footprint = out.by_collection.iter().fold(summary.footprint, |sum, (_, part)| sum + *part);
        }
        summary
    }

    /// How many saves are written before this one or together with it, itself included.
    pub fn saves_up_to(&self, sequence: Sequence) -> u64 {
        let inner = self.lock();
        let mut ahead = 0;
        for out in &inner.out {
            ahead += out.saves;
            if sequence <= out.through {
                return ahead;
            }
        }
        ahead + inner.backlog.saves_up_to(sequence)
    }

    /// What waits of each collection.
    pub fn by_collection(&self) -> HashMap<CollectionId, Footprint> {
        let inner = self.lock();
        let mut sums = inner.backlog.by_collection();
        for (id, footprint) in inner.out.iter().flat_map(|out| &out.by_collection) {
            *sums.entry(*id).or_default() += *footprint;
        }
        sums
    }

    /// Where the next generation begins.
    pub(super) fn after(&self) -> Sequence {
        self.lock().backlog.after()
    }

    pub(super) fn view(&self) -> View {
        let inner = self.lock();
        let Passed { through, bytes, since } = inner.passed;
        let behind = inner.backlog.is_empty() && through > inner.backlog.through();
        let wait = if bytes >= self.pass_bytes_max() { Duration::ZERO } else { MOVE_INTERVAL };
        let moves_up = since.filter(|_| behind).map(|since| since + wait);
        let objects = inner.backlog.making().footprint.objects;
        View { full: inner.backlog.sealed().len() > 0, objects, since: inner.since, moves_up }
    }

    /// From the next generation on saves are folded by these.
    pub(super) fn know(&self, reaches: &Arc<Reaches>) {
        self.lock().backlog.know(reaches);
    }

    /// Moves up to the last save of any lane, if nothing waits: where the next generation begins.
    pub(super) fn move_up(&self) -> Option<Sequence> {
        let mut inner = self.lock();
        let (after, through) = (inner.backlog.after(), inner.passed.through);
        (inner.passed.bytes, inner.passed.since) = (0, None);
        let moves = inner.backlog.move_up(through);
        if moves {
            // For reads: between the position and the backlog there is nothing, and nothing is missing.
            inner.refolded = Some(Arc::new(Generation { through, ..Generation::empty(after, Arc::default()) }));
        }
        moves.then_some(through)
    }

    /// Takes the oldest generation out, with the room that it holds.
    pub(super) fn seal(&self) -> Option<(Arc<Generation>, Room)> {
        let mut inner = self.lock();
        let generation = inner.backlog.seal()?;
        if inner.backlog.making().saves == 0 {
            inner.since = None;
        }
        inner.out.push(Out::of(&generation));
        self.0.generation_objects.saw(generation.footprint.objects);
        let room = self.0.rooms.adopt(generation.footprint);
        Some((generation, room))
    }

    /// What was taken out is given to the lane alone, to be folded together.
    pub(super) fn refold(&self) -> Refolding {
        Refolding::begin(self)
    }

    /// This was folded from the journal and is applied next.
    pub(super) fn refolded(&self, generation: &Arc<Generation>) {
        let before = self.lock().refolded.replace(Arc::clone(generation));
        drop_aside(before);
    }

    /// What was taken out up to here is in Postgres: returns what nobody looks for any more.
    pub(super) fn settle(&self, position: Sequence) -> Vec<Arc<Generation>> {
        let bytes_max = self.0.backlog_bytes.max() / KEPT_PART;
        let mut inner = self.lock();
        inner.settled = position;
        let mut settled: Vec<_> = inner.refolded.take_if(|refolded| refolded.through <= position).into_iter().collect();
        let over = inner.out.iter().take_while(|out| out.through <= position).count();
        settled.extend(inner.out.drain(..over).filter_map(|out| out.generation));
        inner.kept.keep(settled, bytes_max)
    }

    /// Room for a generation that was folded from the journal and is larger than the one it replaces.
    pub(super) fn take_anyway(&self, footprint: Footprint) -> Room {
        self.0.rooms.take_anyway(footprint)
    }

    /// Returns when something has come to an empty backlog, or a generation is full.
    pub(super) async fn woken(&self) {
        self.0.wake.notified().await;
    }

    fn pass_bytes_max(&self) -> u64 {
        MOVE_BYTES.min(self.0.journal_bytes.max() / MOVE_PART)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().expect("folding doesn't panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backlog::model::{ROWS, save},
        save::{Body, Change},
        settings::Settings,
    };

    pub(super) fn seq(n: u64) -> Sequence {
        Sequence::from_u64(n)
    }

    pub(super) fn backlog() -> LaneBacklog {
        LaneBacklog::new(1_000, seq(3), Arc::default(), &Limits::new(&Settings::default()))
    }

    pub(super) fn offer(backlog: &LaneBacklog, sequence: u64) {
        let body = Body::parse(b"{\"c0\": 1}").expect("a body");
        backlog.recover(vec![Accepted { sequence: seq(sequence), save: save(1, ROWS, Change::Set(body)) }]);
        backlog.pass(seq(sequence), 0);
    }

    #[test]
    fn a_lane_is_settled_up_to_where_it_has_had_no_saves() {
        let backlog = backlog();
        assert_eq!(backlog.settled(seq(3)), seq(3));
        backlog.pass(seq(9), 0);
        assert_eq!(backlog.settled(seq(3)), seq(9), "others have passed it by");
        assert_eq!(backlog.settled(seq(2)), seq(2), "postgres went back in time");
        offer(&backlog, 10);
        backlog.pass(seq(20), 0);
        assert_eq!([2, 3, 10].map(|n| backlog.settled(seq(n)).get()), [2, 9, 20], "it has one again");
        let _written = backlog.seal().expect("a generation");
        offer(&backlog, 21);
        assert_eq!([2, 3, 10, 21].map(|n| backlog.settled(seq(n)).get()), [2, 9, 10, 21], "and another one while that is written");
        drop(backlog.settle(seq(21)));
        offer(&backlog, 22);
        backlog.pass(seq(30), 0);
        assert_eq!([10, 22].map(|n| backlog.settled(seq(n)).get()), [10, 30]);
    }

    #[test]
    fn what_is_folded_together_is_the_lanes_alone() {
        let backlog = backlog();
        offer(&backlog, 4);
        let (earlier, _room) = backlog.seal().expect("a generation");
        backlog.refolded(&earlier);
        let _refolding = backlog.refold();
        assert_eq!(Arc::strong_count(&earlier), 1, "or all of it would be copied");
    }
}
