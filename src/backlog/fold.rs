//! Folding: one save at a time into a generation. The same code serves live saves, recovery and rebuilding.

use std::collections::{HashMap, hash_map::Entry};

use super::{AppendedRow, CollectionFold, Fold, Footprint, Generation, Object, Retry};
use crate::save::{Accepted, Body, Change, CollectionId, ColumnSet, Save, Sequence};

impl Generation {
    /// A generation that holds nothing yet.
    pub fn empty(after: Sequence) -> Self {
        Self {
            after,
            through: after,
            collections: HashMap::default(),
            saves: 0,
            retries: Vec::new(),
            footprint: Footprint::default(),
            oldest_accepted_at: None,
        }
    }

    /// Folds saves, in sequence order, into one generation.
    pub fn fold(after: Sequence, saves: impl IntoIterator<Item = Accepted>) -> Self {
        let mut generation = Self::empty(after);
        for accepted in saves {
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
        let collection = self.collections.entry(save.collection).or_default();
        let saved = collection.fold_in(sequence, save);
        // Kept is what this save adds, less what it frees of the earlier ones: that may be more than it adds.
        collection.bytes = collection.bytes + bytes - saved.bytes;
        self.footprint.bytes = self.footprint.bytes + bytes - saved.bytes;
        self.footprint.objects += 1 - saved.objects;
        saved
    }

    /// What each collection takes of the limits.
    pub fn by_collection(&self) -> impl Iterator<Item = (CollectionId, Footprint)> {
        self.collections.iter().map(|(&id, fold)| {
            let objects = (fold.objects.len() + fold.appended.len()) as u64;
            (id, Footprint { bytes: fold.bytes, objects })
        })
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
        let frame = key.as_bytes().len() as u64 + Save::OVERHEAD_BYTES;
        match self.objects.entry(key) {
            Entry::Vacant(place) => {
                place.insert(Object { fold, last: sequence, saves: 1 });
                Footprint::default()
            }
            Entry::Occupied(mut place) => {
                let bytes = frame + place.get_mut().fold_in(sequence, fold);
                Footprint { bytes, objects: 1 }
            }
        }
    }
}

impl Object {
    /// Lays a later set or delete over this object; returns the bytes of bodies that are gone.
    fn fold_in(&mut self, sequence: Sequence, later: Fold) -> u64 {
        let earlier = std::mem::replace(&mut self.fold, Fold::Delete);
        let both = earlier.body_bytes() + later.body_bytes();
        self.last = sequence;
        self.saves += 1;
        self.fold = earlier.then(later);
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
