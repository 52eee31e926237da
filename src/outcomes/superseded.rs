//! Saves that changed nothing, of late: the row had a version as high. For those who ask soon and for those who watch; nobody is
//! told later.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::save::{CollectionId, LaneId, Sequence};

/// The newest of them.
#[derive(Debug, Default)]
pub struct Superseded(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    saves: BTreeMap<Sequence, (LaneId, CollectionId)>,
    /// Some up to here are forgotten.
    forgotten: Sequence,
}

/// Those of a lane, up to somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupersededSaves {
    /// In order.
    pub saves: Vec<(Sequence, CollectionId)>,
    /// All of them up to here.
    pub through: Sequence,
}

impl Superseded {
    /// As many are remembered.
    pub const MAX: usize = 100_000;

    /// A lane has settled these. Before its position shows it.
    pub fn note(&self, lane: LaneId, collection: CollectionId, saves: &[Sequence]) {
        let mut inner = self.lock();
        inner.saves.extend(saves.iter().map(|&save| (save, (lane, collection))));
        while inner.saves.len() > Self::MAX {
            let (oldest, _) = inner.saves.pop_first().expect("it is not empty");
            inner.forgotten = inner.forgotten.max(oldest);
        }
    }

    /// Whether this is one.
    pub fn holds(&self, save: Sequence) -> bool {
        self.lock().saves.contains_key(&save)
    }

    /// A lane has lost what it settled after this one.
    pub fn lose(&self, lane: LaneId, after: Sequence) {
        self.lock().saves.retain(|&save, (of, _)| *of != lane || save <= after);
    }

    /// Those of a lane after `after`, up to `through` or as many as `max`. `None`: some are forgotten.
    pub fn between(&self, lane: LaneId, after: Sequence, through: Sequence, max: usize) -> Option<SupersededSaves> {
        let inner = self.lock();
        if after < inner.forgotten {
            return None;
        }
        let span = inner.saves.range(after.plus(1)..);
        let own = span.take_while(|(save, _)| **save <= through).filter(|(_, (of, _))| *of == lane);
        let saves: Vec<_> = own.take(max).map(|(&save, &(_, collection))| (save, collection)).collect();
        let through = saves.last().filter(|_| saves.len() == max).map_or(through, |&(save, _)| save);
        Some(SupersededSaves { saves, through })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: LaneId = LaneId(0);
    const ROWS: CollectionId = CollectionId(3);

    fn seq(n: u64) -> Sequence {
        Sequence::from_u64(n)
    }

    fn between(superseded: &Superseded, after: u64, through: u64, max: usize) -> Option<(Vec<u64>, u64)> {
        let found = superseded.between(HERE, seq(after), seq(through), max)?;
        Some((found.saves.iter().map(|(save, _)| save.get()).collect(), found.through.get()))
    }

    #[test]
    fn they_are_told_by_lane_and_page() {
        let superseded = Superseded::default();
        superseded.note(HERE, ROWS, &[5, 3, 8].map(seq));
        superseded.note(LaneId(1), ROWS, &[seq(4)]);
        assert_eq!(between(&superseded, 3, 9, 9), Some((vec![5, 8], 9)));
        assert_eq!(between(&superseded, 0, 9, 2), Some((vec![3, 5], 5)));
        assert_eq!(between(&superseded, 5, 7, 2), Some((vec![], 7)));
        assert!(superseded.holds(seq(8)) && !superseded.holds(seq(7)));
        superseded.lose(HERE, seq(4));
        assert_eq!(between(&superseded, 0, 9, 9), Some((vec![3], 9)));
        assert_eq!(superseded.between(LaneId(1), seq(0), seq(9), 9).map(|found| found.saves), Some(vec![(seq(4), ROWS)]));
    }

    #[test]
    fn what_is_forgotten_is_said_to_be() {
        let superseded = Superseded::default();
        let many: Vec<_> = (1..=Superseded::MAX as u64 + 2).map(seq).collect();
        superseded.note(HERE, ROWS, &many);
        assert_eq!(between(&superseded, 1, 9, 9), None);
        assert_eq!(between(&superseded, 2, 4, 9), Some((vec![3, 4], 4)));
    }
}
