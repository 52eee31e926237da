//! Where a fold must be cut: acting saves, whose foreign keys reach rows beside their own.
//!
//! A part is applied sets first, deletes last. As long as every save changes only its own row, all orders that Postgres
//! accepts end in the same rows. An acting save changes others, so what of the order still counts is kept: what it reaches is
//! not saved again in its part; a set that acts has nothing of what it reaches before it either (a delete may, as it comes last
//! anyway, unless it takes back the insert that rows before it refer to, or another save reaches the same rows otherwise);
//! and its own row is deleted and inserted, or changed twice, where that shows.

use super::{Fold, Part};
use crate::{
    collections::Reaches,
    save::{Change, CollectionId, ColumnSet, Save},
};

impl Part {
    /// Whether this save has to begin another part.
    pub(super) fn ends_before(&self, save: &Save, reaches: &Reaches) -> bool {
        let meets = || reaches.of(save).is_some_and(|reached| reached.iter().any(|&id| self.concerns(id)));
        self.acted.contains(&save.collection)
            || match save.change {
                Change::Set(_) => {
                    meets() || self.object(save, reaches).is_some_and(|fold| !joins(fold, save.collection, &save.columns, reaches))
                }
                Change::Delete => {
                    self.crosses(save, reaches) || self.object(save, reaches).is_some_and(|fold| *fold != Fold::Delete) && meets()
                }
                Change::Append(_) => false,
            }
    }

    /// Whether a later part may become one with this one.
    pub(super) fn joins(&self, later: &Self, reaches: &Reaches) -> bool {
        let apart = later.collections.keys().all(|id| !self.acted.contains(id)) && later.acted.iter().all(|&id| !self.concerns(id));
        apart
            && later.collections.iter().all(|(&id, fold)| {
                let Some(earlier) = self.collections.get(&id) else { return true };
                let mut both = fold.objects.iter().filter_map(|(key, later)| Some((&earlier.objects.get(key)?.fold, &later.fold)));
                both.all(|(earlier, later)| match later {
                    // What its entries do depends on what was before the first.
                    Fold::Entries(_) => false,
                    _ if !reaches.forbids_replace(id) => true,
                    Fold::Set { columns, .. } | Fold::Replace { columns, .. } => joins(earlier, id, columns, reaches),
                    Fold::Delete => *earlier == Fold::Delete,
                })
            })
    }

    /// Whether a save of the part is of this collection, or reaches its rows.
    fn concerns(&self, id: CollectionId) -> bool {
        self.collections.contains_key(&id) || self.acted.contains(&id)
    }

    /// Whether this delete and what acted before it reach the same rows, and their order may show.
    fn crosses(&self, save: &Save, reaches: &Reaches) -> bool {
        let alike = || self.acting.iter().all(|id| *id == save.collection) && reaches.deletes_commute(save.collection);
        reaches.of(save).is_some_and(|reached| reached.iter().any(|id| self.acted.contains(id))) && !alike()
    }

    /// What the part has of an object whose saves reach others.
    fn object(&self, save: &Save, reaches: &Reaches) -> Option<&Fold> {
        let collection = self.collections.get(&save.collection).filter(|_| reaches.forbids_replace(save.collection))?;
        collection.objects.get(&save.key).map(|object| &object.fold)
    }
}

/// Whether a set of these columns may be folded into what an object has.
fn joins(earlier: &Fold, collection: CollectionId, columns: &ColumnSet, reaches: &Reaches) -> bool {
    match earlier {
        Fold::Delete => false,
        Fold::Set { columns: earlier, .. } | Fold::Replace { columns: earlier, .. } => !reaches.forbids_union(collection, earlier, columns),
        Fold::Entries(entries) => !entries.iter().any(|entry| reaches.forbids_union(collection, &entry.columns, columns)),
    }
}
