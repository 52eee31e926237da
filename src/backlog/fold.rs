//! Folding: one save at a time into a generation. The same code serves live saves, recovery and rebuilding.

use std::{collections::hash_map::Entry, sync::Arc};

use super::{AppendedRow, CollectionFold, Fold, Footprint, Generation, Object, Part};
use crate::{
    collections::Reaches,
    save::{Accepted, Body, Change, CollectionId, ColumnSet, Key, Save, Sequence},
};

impl Generation {
    /// A generation that holds nothing yet.
    pub fn empty(after: Sequence, reaches: Arc<Reaches>) -> Self {
        let (parts, footprint) = (Vec::new(), Footprint::default());
        Self { after, through: after, parts, reaches, saves: 0, footprint, oldest_accepted_at: None }
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
        let bytes = save.bytes();
        if self.parts.last().is_none_or(|part| part.ends_before(&save, &self.reaches)) {
            self.parts.push(Part::default());
        }
        let part = self.parts.last_mut().expect("one was there or pushed");
        part.acted.extend(self.reaches.of(&save).into_iter().flatten());
        let collection = part.collections.entry(save.collection).or_default();
        let saved = collection.fold_in(sequence, save);
        // Kept is what this save adds, less what it frees of the earlier ones: that may be more than it adds.
        collection.bytes = collection.bytes + bytes - saved.bytes;
        self.footprint.bytes = self.footprint.bytes + bytes - saved.bytes;
        self.footprint.objects += 1 - saved.objects;
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
        self.footprint.bytes = self.footprint.bytes + later.footprint.bytes - saved.bytes;
        self.footprint.objects = self.footprint.objects + later.footprint.objects - saved.objects;
        self.oldest_accepted_at = self.oldest_accepted_at.or(later.oldest_accepted_at);
        saved
    }

    /// What each collection takes of the limits, part by part.
    pub fn by_collection(&self) -> impl Iterator<Item = (CollectionId, Footprint)> {
        let folds = self.parts.iter().flat_map(|part| &part.collections);
        folds.map(|(&id, fold)| {
            let objects = (fold.objects.len() + fold.appended.len()) as u64;
            (id, Footprint { bytes: fold.bytes, objects })
        })
    }
}

impl Part {
    /// Folds in a later part that [joins](Self::joins), and returns what that saved.
    fn absorb(&mut self, later: Self) -> Footprint {
        self.acted.extend(later.acted);
        let mut sum = Footprint::default();
        for (id, fold) in later.collections {
            let collection = self.collections.entry(id).or_default();
            let bytes = collection.bytes + fold.bytes;
            let mut saved = Footprint::default();
            for (key, object) in fold.objects {
                saved += collection.fold_object(key, object);
            }
            collection.appended.extend(fold.appended);
            collection.bytes = bytes - saved.bytes;
            sum += saved;
        }
        sum
    }
}

impl CollectionFold {
    fn fold_in(&mut self, sequence: Sequence, Save { key, change, columns, .. }: Save) -> Footprint {
        let fold = match change {
            Change::Append(body) => {
                self.appended.push(AppendedRow { sequence, columns, body });
                return Footprint::default();
            }
            Change::Set(body) => Fold::Set { columns, body },
            Change::Delete => Fold::Delete,
        };
        self.fold_object(key, Object { fold, last: sequence, saves: 1 })
    }

    fn fold_object(&mut self, key: Key, later: Object) -> Footprint {
        let frame = key.as_bytes().len() as u64 + Save::OVERHEAD_BYTES;
        match self.objects.entry(key) {
            Entry::Vacant(place) => {
                place.insert(later);
                Footprint::default()
            }
            Entry::Occupied(mut place) => {
                let bytes = frame + place.get_mut().fold_in(later);
                Footprint { bytes, objects: 1 }
            }
        }
    }
}

impl Object {
    /// Lays later sets and deletes over this object; returns the bytes of bodies that are gone.
    fn fold_in(&mut self, later: Self) -> u64 {
        let earlier = std::mem::replace(&mut self.fold, Fold::Delete);
        let both = earlier.body_bytes() + later.fold.body_bytes();
        self.last = later.last;
        self.saves += later.saves;
        self.fold = earlier.then(later.fold);
        // `Body::overlaid` never makes more of two bodies than they have: a brace pair and white space less.
        both - self.fold.body_bytes()
    }
}

impl Fold {
    fn then(self, later: Self) -> Self {
        match (self, later) {
            (Self::Set { columns, body }, Self::Set { columns: later_columns, body: later_body }) => {
                let (columns, body) = union(columns, &body, later_columns, later_body);
                Self::Set { columns, body }
            }
            (Self::Replace { columns, body }, Self::Set { columns: later_columns, body: later_body }) => {
                let (columns, body) = union(columns, &body, later_columns, later_body);
                Self::Replace { columns, body }
            }
            (Self::Delete, Self::Set { columns, body }) => Self::Replace { columns, body },
            (_, later @ (Self::Delete | Self::Replace { .. })) => later,
        }
    }

    fn body_bytes(&self) -> u64 {
        match self {
            Self::Set { body, .. } | Self::Replace { body, .. } => body.as_bytes().len() as u64,
            Self::Delete => 0,
        }
    }
}

/// Set + set: all columns of both, the later value wins. A later body that names every column is taken as it is; what the
/// earlier one may hold beyond them is the key.
fn union(mut columns: ColumnSet, body: &Body, later_columns: ColumnSet, later_body: Body) -> (ColumnSet, Body) {
    if later_columns.covers(&columns) {
        return (later_columns, later_body);
    }
    columns.extend(&later_columns);
    (columns, body.overlaid(&later_body))
}
