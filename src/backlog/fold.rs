//! Folding: one save at a time into a generation. The same code serves live saves, recovery and rebuilding.
//!
//! An object is a list of entries, nearly always one; entry k of every object is applied in round k of the generation. A save is
//! laid over the last entry if one entry can do what both do, else it becomes the next. The rules, by what is in which place:
//!
//! - anything, then a delete: the delete alone. A delete, then a save: a *replace*, in which `add` is the value.
//! - set, then set: all columns of both, the later value wins. The same over a replace.
//! - A column that is set, then added to: the sum, if it can be said without Postgres ([`NumberForm::sum`](crate::save::NumberForm::sum));
//!   if not, two entries. Added to, then set: the value set. Added to twice: the sum of both.
//! - A column that is added to and that the entry doesn't name: on a row that is there it is added to the stored value, on a
//!   new row the first save has left it at its default. One statement can't do both, so that save is the next entry: by then
//!   there is a row. In that entry, and those after it, such a column is one more of those added to.
//! - With versions, a set may be stale, depending on what Postgres holds. So it folds into a later one only if that one has a higher
//!   version, names every column of it and adds nothing; over a replace, whose version is known, any higher one folds. A version
//!   that isn't higher than the one before it is stale for certain: that save is dropped, and noted. What was saved without
//!   one, before the collection had a version column, stays apart from what has one.
//! - When the last entry adds nothing any more, as it was all set since, it is laid over the one before.
//!
//! A save is *superseded* if it ends without effect because the row has a version as high. Told as such are the saves that were
//! stale for certain, and those of an entry that Postgres did not write: [all of them](Guard::saves), as the last and highest was
//! stale. Of a save below one that is written, or below a delete, nobody can say whether it had an effect in between, nor see it:
//! it is not told. So what is told is what would be stale executed directly, but for saves that a later one hides which is not.
//! Executed one by one, nothing hides anything.

use std::sync::Arc;

use indexmap::map::Entry as Place;

use super::{AppendedRow, CollectionFold, Entry, Fold, Footprint, Generation, Guard, Object, Part, Retry, SEQUENCE_BYTES, entry::Laid};
use crate::{
    collections::Reaches,
    save::{Accepted, Added, Change, CollectionId, ColumnSet, Save, Sequence},
};

impl Generation {
    /// A generation that holds nothing yet.
    pub fn empty(after: Sequence, reaches: Arc<Reaches>) -> Self {
        let (parts, retries, footprint) = (Vec::new(), Vec::new(), Footprint::default());
        Self { after, through: after, parts, reaches, saves: 0, inside_batch: false, retries, footprint, oldest_accepted_at: None }
    }

    /// Folds saves, in sequence order, into one generation.
    pub fn fold(after: Sequence, reaches: Arc<Reaches>, saves: impl IntoIterator<Item = Accepted>) -> Self {
        let mut generation = Self::empty(after, reaches);
        for accepted in saves {
            generation.fold_in(accepted);
        }
        generation
    }

    /// Saves to be executed one by one, in one transaction: nothing of them is folded.
    pub fn one_by_one(after: Sequence, reaches: Arc<Reaches>, saves: impl IntoIterator<Item = Accepted>) -> Self {
        let mut generation = Self::empty(after, reaches);
        for accepted in saves {
            generation.parts.push(Part::default());
            generation.fold_in(accepted);
        }
        generation
    }

    /// Folds in the next save and returns what of its reservation that saved.
    pub fn fold_in(&mut self, Accepted { sequence, save }: Accepted) -> Footprint {
        debug_assert!(sequence > self.through, "{sequence} is offered after {}", self.through);
        self.through = sequence;
        self.saves += 1;
        self.oldest_accepted_at.get_or_insert(save.accepted_at);
        self.retries.extend(save.retries.map(|failed| Retry { failed, by: sequence }));
        let bytes = save.bytes();
        if self.parts.last().is_none_or(|part| part.ends_before(&save, &self.reaches)) {
            self.parts.push(Part::default());
        }
        let part = self.parts.last_mut().expect("one was there or pushed");
        if let Some(reached) = self.reaches.of(&save) {
            part.acted.extend(reached);
            part.acting.insert(save.collection);
        }
        let collection = part.collections.entry(save.collection).or_default();
        let batched = std::mem::replace(&mut self.inside_batch, save.batch_left > 0) || save.batch_left > 0;
        let saved = collection.fold_in(sequence, save, batched);
        // Kept is what this save adds, less what it frees of the earlier ones: that may be more than it adds.
        collection.footprint.bytes = collection.footprint.bytes + bytes - saved.bytes;
        collection.footprint.objects = collection.footprint.objects + 1 - saved.objects;
        self.footprint.bytes = self.footprint.bytes + bytes - saved.bytes;
        self.footprint.objects = self.footprint.objects + 1 - saved.objects;
        saved
    }

    /// Takes in the next generation and returns what of both footprints that saved. Both were folded by the same
    /// [`Reaches`], and this one ends where the next begins.
    pub fn absorb(&mut self, later: Self) -> Footprint {
        debug_assert!(self.through == later.after && self.reaches == later.reaches, "only neighbours are folded together");
        let mut saved = Footprint::default();
        for part in later.parts {
            match self.parts.last_mut() {
                Some(last) if last.joins(&part, &self.reaches) => saved += last.absorb(part),
                _ => self.parts.push(part),
            }
        }
        self.through = later.through;
        self.saves += later.saves;
        self.inside_batch = later.inside_batch;
        self.retries.extend(later.retries);
        self.footprint.bytes = self.footprint.bytes + later.footprint.bytes - saved.bytes;
        self.footprint.objects = self.footprint.objects + later.footprint.objects - saved.objects;
        self.oldest_accepted_at = self.oldest_accepted_at.or(later.oldest_accepted_at);
        saved
    }

    /// What each collection takes of the limits, part by part.
    pub fn by_collection(&self) -> impl Iterator<Item = (CollectionId, Footprint)> {
        let folds = self.parts.iter().flat_map(|part| &part.collections);
        folds.map(|(&id, fold)| (id, fold.footprint))
    }
}

impl Part {
    /// Folds in a later part that [joins](Self::joins), and returns what that saved.
    fn absorb(&mut self, later: Self) -> Footprint {
        self.acted.extend(later.acted);
        self.acting.extend(later.acting);
        let mut sum = Footprint::default();
        for (id, fold) in later.collections {
            let collection = self.collections.entry(id).or_default();
            let saved = collection.absorb(fold);
            sum += saved;
        }
        sum
    }
}

impl CollectionFold {
    fn fold_in(&mut self, sequence: Sequence, save: Save, batched: bool) -> Footprint {
        let Save { key, change, columns, adds, version, .. } = save;
        let change = match change {
            Change::Append(body) => {
                self.appended.push(AppendedRow { sequence, batched, columns, body });
                return Footprint::default();
            }
            Change::Set(body) => {
                let guard = version.map(|version| Box::new(Guard::new(version, sequence)));
                Some(Entry { replaces: false, columns, adds: adds.iter().map(|added| added.column).collect(), body, guard })
            }
            Change::Delete => None,
        };
        let frame = key.as_bytes().len() as u64 + Save::OVERHEAD_BYTES;
        match self.objects.entry(key) {
            Place::Vacant(place) => {
                let fold = change.map_or(Fold::Delete, Fold::of);
                place.insert(Object { fold, last: sequence, saves: 1, batched });
                Footprint::default()
            }
            Place::Occupied(mut place) => {
                let object = place.get_mut();
                object.batched |= batched;
                let folded = object.fold_in(sequence, change, &adds);
                self.later_rounds = self.later_rounds.max(folded.entries - 1);
                let mut saved = Footprint { bytes: frame * folded.saved.objects + folded.saved.bytes, ..folded.saved };
                if folded.stale {
                    self.stale.push(sequence);
                    saved.bytes -= SEQUENCE_BYTES;
                }
                saved
            }
        }
    }
}

impl CollectionFold {
    /// Folds in what a later part has, and returns what that saved.
    fn absorb(&mut self, later: Self) -> Footprint {
        let mut saved = Footprint::default();
        for (key, object) in later.objects {
            let frame = key.as_bytes().len() as u64 + Save::OVERHEAD_BYTES;
            match self.objects.entry(key) {
                Place::Vacant(place) => drop(place.insert(object)),
                Place::Occupied(mut place) => {
                    let folded = place.get_mut().absorb(object);
                    self.later_rounds = self.later_rounds.max(folded.entries - 1);
                    saved += Footprint { bytes: frame * folded.saved.objects + folded.saved.bytes, ..folded.saved };
                }
            }
        }
        self.appended.extend(later.appended);
        self.later_rounds = self.later_rounds.max(later.later_rounds);
        self.stale.extend(later.stale);
        let sum = self.footprint + later.footprint;
        self.footprint = Footprint { bytes: sum.bytes - saved.bytes, objects: sum.objects - saved.objects };
        saved
    }
}

/// What laying a save over an object did.
struct Folded {
    /// Entries, and bytes beside their frames, that are gone.
    saved: Footprint,
    /// Entries there are now.
    entries: usize,
    /// The save changes nothing.
    stale: bool,
}

impl Object {
    /// Lays a later set, or else a delete, over this object.
    fn fold_in(&mut self, sequence: Sequence, later: Option<Entry>, added: &[Added]) -> Folded {
        let earlier = std::mem::replace(&mut self.fold, Fold::Delete);
        let entries = earlier.entries() + 1;
        let bytes = earlier.bytes() + later.as_ref().map_or(0, Entry::bytes);
        self.last = sequence;
        self.saves = self.saves.saturating_add(1);
        let mut stale = false;
        if let Some(later) = later {
            (self.fold, stale) = earlier.then(later, added);
        }
        let left = self.fold.entries();
        // No body is ever longer than the two that it is made of: a brace pair less, and sums that would be longer aren't made.
        // Nor is a guard with one save more larger than two.
        let saved = Footprint { bytes: bytes - self.fold.bytes(), objects: (entries - left) as u64 };
        Folded { saved, entries: left, stale }
    }
}

impl Object {
    /// Lays what a later part has over this object; that has [no entries](super::Part::joins) that depend on what was before.
    fn absorb(&mut self, later: Self) -> Folded {
        let before = self.saves;
        self.batched |= later.batched;
        let folded = match later.fold {
            Fold::Delete => self.fold_in(later.last, None, &[]),
            Fold::Set { columns, body } => self.fold_in(later.last, Some(Entry::plain(false, columns, body)), &[]),
            fold @ (Fold::Replace { .. } | Fold::Entries(_)) => {
                let (bytes, objects) = (self.fold.bytes(), self.fold.entries() as u64);
                let entries = fold.entries();
                self.fold = fold;
                Folded { saved: Footprint { bytes, objects }, entries, stale: false }
            }
        };
        (self.last, self.saves) = (later.last, before.saturating_add(later.saves));
        folded
    }
}

impl Fold {
    /// One entry, in the form that takes the least room.
    fn of(Entry { replaces, columns, adds, body, guard }: Entry) -> Self {
        match replaces {
            _ if !adds.is_empty() || guard.is_some() => Self::Entries(vec![Entry { replaces, columns, adds, body, guard }]),
            true => Self::Replace { columns, body },
            false => Self::Set { columns, body },
        }
    }

    /// The later entry over all of these, and whether it was stale.
    fn then(self, later: Entry, added: &[Added]) -> (Self, bool) {
        let earlier = match self {
            Self::Delete => return (Self::of(Entry { replaces: true, adds: ColumnSet::EMPTY, ..later }), false),
            Self::Set { columns, body } => Entry::plain(false, columns, body),
            Self::Replace { columns, body } => Entry::plain(true, columns, body),
            Self::Entries(mut entries) => {
                let last = entries.pop().expect("there is always one");
                return Self::on_top_of(entries, last, later, added);
            }
        };
        Self::on_top_of(Vec::new(), earlier, later, added)
    }

    fn on_top_of(mut before: Vec<Entry>, last: Entry, later: Entry, added: &[Added]) -> (Self, bool) {
        let mut laid = last.then(later, added, !before.is_empty());
        loop {
            match laid {
                Laid::Two(last, later) => {
                    before.extend([last, later]);
                    return (Self::Entries(before), false);
                }
                Laid::Stale(last) => {
                    before.push(last);
                    return (Self::Entries(before), true);
                }
                Laid::One(one) => match before.pop() {
                    None => return (Self::of(one), false),
                    Some(earlier) if one.adds.is_empty() => laid = earlier.then(one, &[], !before.is_empty()),
                    Some(earlier) => laid = Laid::Two(earlier, one),
                },
            }
        }
    }

    fn entries(&self) -> usize {
        if let Self::Entries(entries) = self { entries.len() } else { 1 }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Set { body, .. } | Self::Replace { body, .. } => body.as_bytes().len() as u64,
            Self::Delete => 0,
            Self::Entries(entries) => entries.iter().map(Entry::bytes).sum(),
        }
    }
}
