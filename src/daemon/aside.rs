//! The saves behind rows that are taken out of a generation, read from the journal.

use std::{
    collections::{BTreeMap, HashSet},
    future::Future,
    pin::Pin,
};

use super::{log::LaneLog, target::failed_save};
use crate::{
    collections::Collections,
    drain::{Log, LogError},
    postgres::{Action, Aside, FailedSave, Failure, TakenOut},
    save::{Accepted, Sequence},
};

/// How much of the journal is read at a time.
const READ_BYTES: u64 = 4 << 20;

/// What lies between two positions of a lane.
pub(super) struct LaneAside<'a> {
    pub(super) log: &'a LaneLog,
    pub(super) after: Sequence,
    pub(super) through: Sequence,
    pub(super) collections: &'a Collections,
    /// How many more failed saves there may be.
    pub(super) room: u64,
}

impl Aside for LaneAside<'_> {
    fn saves<'a>(&'a self, taken: &'a [TakenOut]) -> Pin<Box<dyn Future<Output = Result<Vec<Accepted>, Failure>> + Send + 'a>> {
        Box::pin(async move {
            let (single, several): (Vec<_>, Vec<_>) = taken.iter().partition(|taken| taken.saves == 1);
            let mut found = BTreeMap::new();
            for TakenOut { last, .. } in single {
                let before = Sequence::from_u64(last.get() - 1);
                let saves = self.log.read(before, *last, READ_BYTES).await.map_err(unreadable)?;
                found.extend(saves.into_iter().filter(|accepted| accepted.sequence == *last).map(|accepted| (*last, accepted)));
            }
            if !several.is_empty() {
                self.scan(&several, &mut found).await?;
            }
            let wanted = taken.iter().map(|taken| u64::from(taken.saves)).sum::<u64>();
            if found.len() as u64 == wanted { Ok(found.into_values().collect()) } else { Err(missing(found.len(), wanted)) }
        })
    }

    fn failed(&self, accepted: &Accepted, why: &Failure) -> FailedSave {
        failed_save(accepted, why, self.collections)
    }

    fn room(&self) -> u64 {
        self.room
    }
}

impl LaneAside<'_> {
    /// Every save of these objects: they may lie anywhere.
    async fn scan(&self, objects: &[&TakenOut], found: &mut BTreeMap<Sequence, Accepted>) -> Result<(), Failure> {
        let wanted: HashSet<_> = objects.iter().filter_map(|taken| Some((taken.collection, taken.key.as_ref()?))).collect();
        let mut read = self.after;
        while read < self.through {
            let page = self.log.read(read, self.through, READ_BYTES).await.map_err(unreadable)?;
            let Some(last) = page.last() else { break };
            read = last.sequence;
            let ours = page.into_iter().filter(|accepted| wanted.contains(&(accepted.save.collection, &accepted.save.key)));
            found.extend(ours.map(|accepted| (accepted.sequence, accepted)));
        }
        Ok(())
    }
}

/// Halving reads the journal too, and tells what is wrong with it.
fn unreadable(error: LogError) -> Failure {
    Failure::local(Action::Halve, format!("the saves behind a row can't be read: {error}"))
}

fn missing(found: usize, wanted: u64) -> Failure {
    Failure::local(Action::Halve, format!("{wanted} saves are behind the rows at fault, the journal shows {found}"))
}
