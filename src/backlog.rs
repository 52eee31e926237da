//! Folding and generations: what is accepted and not yet in Postgres.
//!
//! A pure structure: no clock, no I/O, no async, no metrics. The fold is a cache of the journal: whatever goes wrong with
//! a generation, it is dropped and the journal is folded again. Keeps P2 (folding never shows) and P5 (a generation never
//! ends inside an atomic batch).

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::{Add, AddAssign},
    sync::Arc,
    time::SystemTime,
};

use indexmap::IndexMap;

use crate::{
    collections::Reaches,
    save::{Accepted, Body, CollectionId, ColumnSet, Key, Sequence},
};

mod cut;
mod entry;
mod fold;
mod row;

pub use entry::{Entry, Guard};
pub use row::{Shown, Stored, lay};

/// What it takes of the limits to remember a save by its number.
const SEQUENCE_BYTES: u64 = size_of::<Sequence>() as u64;

/// What a save or a fold takes of the limits `backlog.bytes_max` and `backlog.objects_max`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes, as [`Save::bytes`](crate::save::Save::bytes) counts them.
    pub bytes: u64,
    /// Objects, each as often as it has entries, and appended rows.
    pub objects: u64,
}

/// The folded saves of one object: what one row has to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What to do with the row.
    pub fold: Fold,
    /// The last save folded in.
    pub last: Sequence,
    /// How many saves are folded in.
    pub saves: u32,
    /// One of them is part of an atomic batch.
    pub batched: bool,
}

/// What to do with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Update these columns, insert if missing.
    Set {
        /// The columns named, key columns left out.
        columns: ColumnSet,
        /// Their values.
        body: Body,
    },
    /// As a delete followed by an insert: columns not named return to their defaults.
    Replace {
        /// The columns named, key columns left out.
        columns: ColumnSet,
        /// Their values.
        body: Body,
    },
    /// Delete it, if it is there.
    Delete,
    /// What one plain set can't say: something is added, or there is more than one step. Never empty; all but the first find
    /// the row there.
    Entries(Vec<Entry>),
}

/// A row to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendedRow {
    /// The save.
    pub sequence: Sequence,
    /// It is part of an atomic batch.
    pub batched: bool,
    /// The columns named.
    pub columns: ColumnSet,
    /// Their values.
    pub body: Body,
}

/// What one collection has in a generation.
#[derive(Clone, Debug, Default)]
pub struct CollectionFold {
    /// Upsert collections.
    pub objects: IndexMap<Key, Object, foldhash::fast::RandomState>,
    /// Append collections: rows in sequence order.
    pub appended: Vec<AppendedRow>,
    /// No object has more entries beyond its first.
    pub later_rounds: usize,
    /// Saves that were stale for certain: one before them has a version as high. They are not in the objects, but are counted
    /// there ([`Object::saves`]).
    pub stale: Vec<Sequence>,
    /// What its objects and rows take of the limits.
    pub footprint: Footprint,
}

/// Saves that may be folded together, whatever they do to rows of others: applied as one, sets first, deletes last.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The folds.
    pub collections: HashMap<CollectionId, CollectionFold, foldhash::fast::RandomState>,
    /// Tables whose rows its saves change beside their own ([`Reaches::of`]).
    pub acted: BTreeSet<CollectionId>,
    /// The collections of those saves.
    pub acting: BTreeSet<CollectionId>,
}

/// What is applied as one transaction: every save of a lane after `after` up to `through`.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The lane's position before it.
    pub after: Sequence,
    /// Its last save; the lane's position once it is applied.
    pub through: Sequence,
    /// What is applied one after the other; nearly always one.
    pub parts: Vec<Part>,
    /// By what its saves were folded.
    pub reaches: Arc<Reaches>,
    /// Saves folded in.
    pub saves: u64,
    /// The last of them came with more of its batch to follow.
    pub inside_batch: bool,
    /// Which of them save a failed save again.
    pub retries: Vec<Retry>,
    /// What it takes of the limits.
    pub footprint: Footprint,
    /// When its first save was accepted.
    pub oldest_accepted_at: Option<SystemTime>,
}

/// A failed save that is saved again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The failed save.
    pub failed: Sequence,
    /// The new one.
    pub by: Sequence,
}

/// The backlog of one lane: generations that are sealed, oldest first, and the one in the making.
#[derive(Debug)]
pub struct Backlog {
    /// Shared with whoever reads them.
    sealed: VecDeque<Arc<Generation>>,
    making: Generation,
    generation_objects_max: u64,
    /// By what saves are folded from the next generation on.
    reaches: Arc<Reaches>,
    /// The last save came with more of its batch to follow: here the making generation can't end.
    inside_batch: bool,
    footprint: Footprint,
    saves: u64,
}

impl Backlog {
    /// An empty backlog of a lane whose saves up to `after` are in Postgres.
    ///
    /// A generation is sealed at the latest with `generation_objects_max` objects, unless an atomic batch goes on there.
    pub fn new(generation_objects_max: u64, after: Sequence, reaches: Arc<Reaches>) -> Self {
        Self {
            sealed: VecDeque::new(),
            making: Generation::empty(after, Arc::clone(&reaches)),
            generation_objects_max,
            reaches,
            inside_batch: false,
            footprint: Footprint::default(),
            saves: 0,
        }
    }

    /// Folds a save in and returns what of its reservation ([`Save::bytes`](crate::save::Save::bytes) and one object) that
    /// saved: the caller gives it back to the limits. The footprints of all generations are always what is left.
    pub fn offer(&mut self, accepted: Accepted) -> Footprint {
        let before = self.making.footprint;
        self.inside_batch = accepted.save.batch_left > 0;
        let saved = self.making.fold_in(accepted);
        let after = self.making.footprint;
        // Never below zero in sum: a generation's footprint is part of the total.
        self.footprint.bytes = self.footprint.bytes + after.bytes - before.bytes;
        self.footprint.objects = self.footprint.objects + after.objects - before.objects;
        self.saves += 1;
        if after.objects >= self.generation_objects_max && !self.inside_batch {
            self.cut();
        }
        saved
    }

    /// Ends the generation in the making here, unless it is empty or inside a batch: it is sealed, and changes no more.
    pub fn cut(&mut self) {
        if self.making.saves > 0 && !self.inside_batch {
            let ended = self.start_another();
            self.sealed.push_back(Arc::new(ended));
        }
    }

    /// What saves reach has changed. What is folded stays as it is: its [`Generation::reaches`] says by what.
    pub fn know(&mut self, reaches: &Arc<Reaches>) {
        self.reaches = Arc::clone(reaches);
        if self.making.saves == 0 {
            self.making.reaches = Arc::clone(reaches);
        }
    }

    /// Takes out the oldest sealed generation, else the one in the making; `None` when that is empty or inside a batch.
    pub fn seal(&mut self) -> Option<Arc<Generation>> {
        if self.sealed.is_empty() {
            self.cut();
        }
        let taken = self.sealed.pop_front()?;
        self.footprint.bytes -= taken.footprint.bytes;
        self.footprint.objects -= taken.footprint.objects;
        self.saves -= taken.saves;
        Some(taken)
    }

    /// Where the generation ends that [`Self::seal`] would give.
    pub fn seal_through(&self) -> Option<Sequence> {
        let makes = || (self.making.saves > 0 && !self.inside_batch).then_some(&self.making);
        self.sealed.front().map(Arc::as_ref).or_else(makes).map(|generation| generation.through)
    }

    /// An empty backlog moves up: the lane has no save after its last one up to `through`. `false` if something waits.
    pub fn move_up(&mut self, through: Sequence) -> bool {
        let moves = self.is_empty() && through > self.making.through;
        if moves {
            self.making = Generation::empty(through, Arc::clone(&self.reaches));
        }
        moves
    }

    /// Generations that are sealed and wait, oldest first.
    pub fn sealed(&self) -> impl ExactSizeIterator<Item = &Arc<Generation>> {
        self.sealed.iter()
    }

    /// The generation in the making.
    pub fn making(&self) -> &Generation {
        &self.making
    }

    /// Every save of the lane up to here has been taken out.
    pub fn after(&self) -> Sequence {
        self.oldest().after
    }

    /// Every save of the lane up to here has been offered.
    pub fn through(&self) -> Sequence {
        self.making.through
    }

    /// When the oldest save was accepted.
    pub fn oldest_accepted_at(&self) -> Option<SystemTime> {
        self.oldest().oldest_accepted_at
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.saves == 0
    }

    /// Objects and appended rows; an object counts once in every generation that holds it.
    pub fn objects(&self) -> u64 {
        self.footprint.objects
    }

    /// Bytes, as [`Save::bytes`](crate::save::Save::bytes) counts them.
    pub fn bytes(&self) -> u64 {
        self.footprint.bytes
    }

    /// Saves.
    pub fn saves(&self) -> u64 {
        self.saves
    }

    /// Saves of the generations up to the one that this save is in.
    pub fn saves_up_to(&self, sequence: Sequence) -> u64 {
        let generations = self.sealed.iter().map(AsRef::as_ref).chain([&self.making]);
        generations.take_while(|generation| generation.after < sequence).map(|generation| generation.saves).sum()
    }

    /// What each collection takes, for metrics.
    pub fn by_collection(&self) -> HashMap<CollectionId, Footprint> {
        let mut sums = HashMap::<_, Footprint>::new();
        for (id, footprint) in self.sealed.iter().map(Arc::as_ref).chain([&self.making]).flat_map(Generation::by_collection) {
            *sums.entry(id).or_default() += footprint;
        }
        sums
    }

    fn oldest(&self) -> &Generation {
        self.sealed.front().map_or(&self.making, Arc::as_ref)
    }

    fn start_another(&mut self) -> Generation {
        let next = Generation::empty(self.making.through, Arc::clone(&self.reaches));
        std::mem::replace(&mut self.making, next)
    }
}

impl Add for Footprint {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, objects: self.objects + other.objects }
    }
}

impl AddAssign for Footprint {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

#[cfg(test)]
mod cut_tests;
#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;
