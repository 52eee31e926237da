//! Folding a generation again from the journal: the one repair for everything.

use std::sync::Arc;

use super::target::LogError;
use crate::{
    backlog::Generation,
    collections::Reaches,
    save::{Accepted, Sequence},
};

/// Bytes that one read of the journal brings.
pub(super) const PAGE_BYTES_MAX: u64 = 4 << 20;
/// And at the least: about what the journal holds as one value.
const PAGE_BYTES_MIN: u64 = 32 << 10;
/// What a save may have, for guessing how many bytes hold so many.
const SAVE_BYTES: u64 = 512;

/// How much to read for so many saves.
pub(super) fn page_bytes(saves: u64) -> u64 {
    saves.saturating_mul(SAVE_BYTES).clamp(PAGE_BYTES_MIN, PAGE_BYTES_MAX)
}

/// A generation that is being folded from the journal.
#[derive(Debug)]
pub(super) struct Rebuild {
    generation: Generation,
    /// Never beyond this bound.
    through: Sequence,
    most: Most,
    /// The saves of a batch up to its last one.
    unit: Vec<Accepted>,
    /// The first batch, as long as there is no more: alone it is executed as it was sent, save by save.
    first: Vec<Accepted>,
    units: u64,
    /// The last save seen, folded in or not.
    seen: Sequence,
    ended: bool,
}

/// How much is folded at the most, but at least one save or one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Most {
    /// As many saves.
    pub(super) saves: u64,
    /// It ends after the save or batch that brings so many objects.
    pub(super) objects: u64,
}

impl Rebuild {
    pub(super) fn new(after: Sequence, through: Sequence, reaches: Arc<Reaches>, most: Most) -> Self {
        let generation = Generation::empty(after, reaches);
        Self { generation, through, most, unit: Vec::new(), first: Vec::new(), units: 0, seen: after, ended: false }
    }

    /// How much to read next: a search for a save at fault wants few at a time, as a rate of rows does, and reading is what they
    /// spend most on.
    pub(super) fn page_bytes(&self) -> u64 {
        page_bytes(self.most.saves.min(self.most.objects))
    }

    /// Where to read on; `None` when it is done.
    pub(super) fn reads_after(&self) -> Option<Sequence> {
        (!self.ended && self.seen < self.through).then_some(self.seen)
    }

    /// Folds in what the journal held next.
    pub(super) fn take(&mut self, page: Vec<Accepted>) -> Result<(), LogError> {
        if page.is_empty() {
            return self.run_out();
        }
        for accepted in page {
            if self.ended {
                break;
            }
            self.seen = accepted.sequence;
            let ends_unit = accepted.save.batch_left == 0;
            self.unit.push(accepted);
            if ends_unit {
                self.take_unit();
            }
        }
        Ok(())
    }

    /// The lane has no more saves up to the bound. A generation ends with its last save; one without any moves the position only.
    fn run_out(&mut self) -> Result<(), LogError> {
        if !self.unit.is_empty() {
            return Err(LogError::Missing { after: self.seen, through: self.through });
        }
        if self.units == 0 {
            self.generation.through = self.through;
        }
        self.ended = true;
        Ok(())
    }

    /// The generation, and whether it is a single save or batch, or nothing.
    pub(super) fn finish(self) -> Result<(Generation, bool), LogError> {
        if self.generation.through == self.generation.after {
            let (after, through) = (self.generation.after, self.through);
            return Err(LogError::Broken(format!("the journal holds no whole batch between {after} and {through}")));
        }
        if self.first.is_empty() {
            return Ok((self.generation, self.units <= 1));
        }
        let Generation { after, reaches, .. } = self.generation;
        Ok((Generation::one_by_one(after, reaches, self.first), true))
    }

    fn take_unit(&mut self) {
        if self.units > 0 && self.generation.saves + self.unit.len() as u64 > self.most.saves {
            self.ended = true;
            return;
        }
        self.first.clear();
        if self.units == 0 && self.unit.len() > 1 {
            self.first.clone_from(&self.unit);
        }
        for accepted in self.unit.drain(..) {
            self.generation.fold_in(accepted);
        }
        self.units += 1;
        self.ended = self.generation.footprint.objects >= self.most.objects;
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::save::{Change, CollectionId, ColumnSet, Key, LaneId, Save};

    const ALL: Most = Most { saves: u64::MAX, objects: 99 };

    fn saves(batches: &[u32]) -> Vec<Accepted> {
        let left = batches.iter().flat_map(|&length| (0..length).rev());
        left.zip(1..).map(|(batch_left, n)| Accepted { sequence: Sequence::from_u64(n), save: save(n, batch_left) }).collect()
    }

    fn save(n: u64, batch_left: u32) -> Save {
        Save {
            lane: LaneId(0),
            collection: CollectionId(0),
            key: Key::from_parts([n.to_string().as_str()]),
            change: Change::Delete,
            columns: ColumnSet::default(),
            adds: [].into(),
            version: None,
            batch_left,
            origin: None,
            request_id: None,
            accepted_at: SystemTime::UNIX_EPOCH,
            retries: None,
            callback: None,
        }
    }

    fn rebuilt(batches: &[u32], saves: u64, objects: u64) -> (u64, u64, bool) {
        let all = super::tests::saves(batches);
        let mut rebuild = Rebuild::new(Sequence::ZERO, all[all.len() - 1].sequence, Arc::default(), Most { saves, objects });
        while let Some(after) = rebuild.reads_after() {
            let page = all.iter().filter(|accepted| accepted.sequence > after).take(3).cloned().collect();
            rebuild.take(page).expect("saves");
        }
        let (generation, single) = rebuild.finish().expect("whole batches");
        (generation.saves, generation.through.get(), single)
    }

    #[test]
    fn half_a_generation_never_ends_inside_a_batch() {
        assert_eq!(rebuilt(&[1, 1, 1, 1], 2, 99), (2, 2, false));
        assert_eq!(rebuilt(&[1, 9], 5, 99), (1, 1, true));
        assert_eq!(rebuilt(&[9, 1], 5, 99), (9, 9, true));
        assert_eq!(rebuilt(&[10], 5, 99), (10, 10, true));
        assert_eq!(rebuilt(&[1, 3, 1], 2, 99), (1, 1, true));
        assert_eq!(rebuilt(&[1, 3, 1], u64::MAX, 99), (5, 5, false));
    }

    #[test]
    fn a_batch_alone_is_executed_save_by_save() {
        let parts = |batches: &[u32], saves_max| {
            let (all, most) = (saves(batches), Most { saves: saves_max, objects: 99 });
            let mut rebuild = Rebuild::new(Sequence::ZERO, all[all.len() - 1].sequence, Arc::default(), most);
            rebuild.take(all).expect("saves");
            rebuild.finish().expect("whole batches").0.parts.len()
        };
        assert_eq!((parts(&[3], 9), parts(&[3, 1], 2), parts(&[3, 1], 9), parts(&[1], 9)), (3, 3, 1, 1));
    }

    #[test]
    fn a_rebuilt_generation_is_no_larger_than_the_setting() {
        assert_eq!(rebuilt(&[1, 1, 1, 1], u64::MAX, 3), (3, 3, false));
        assert_eq!(rebuilt(&[2, 4, 1], u64::MAX, 3), (6, 6, false));
    }

    #[test]
    fn a_bound_behind_the_lanes_last_save_is_reached_by_a_generation_of_nothing() {
        let (last, bound) = (Sequence::from_u64(2), Sequence::from_u64(5));
        let mut rebuild = Rebuild::new(Sequence::ZERO, bound, Arc::default(), ALL);
        rebuild.take(saves(&[1, 1])).expect("saves");
        rebuild.take(Vec::new()).expect("no more");
        let (generation, single) = rebuild.finish().expect("two saves");
        assert_eq!((generation.saves, generation.through, single), (2, last, false));
        let mut rest = Rebuild::new(last, bound, Arc::default(), ALL);
        rest.take(Vec::new()).expect("nothing");
        let (generation, _) = rest.finish().expect("nothing");
        assert_eq!((generation.saves, generation.after, generation.through), (0, last, bound));
    }

    #[test]
    fn the_missing_end_of_a_batch_is_an_error_and_never_skipped() {
        let mut rebuild = Rebuild::new(Sequence::ZERO, Sequence::from_u64(5), Arc::default(), ALL);
        let mut torn = saves(&[1, 3]);
        torn.pop();
        rebuild.take(torn).expect("saves");
        assert!(matches!(rebuild.take(Vec::new()), Err(LogError::Missing { .. })));
    }
}
