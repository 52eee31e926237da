//! What is pending of objects whose rows were read: from the lane's memory, or folded again from its journal.

use std::{collections::HashMap, sync::Arc};

use super::{
    lane_backlog::{LaneBacklog, Look, Pin},
    rebuild::PAGE_BYTES_MAX,
    target::{Log, LogError},
};
use crate::{
    backlog::{Fold, Generation},
    save::{Accepted, CollectionId, Key, Sequence},
};

/// Reads a lane's backlog for those who read its rows.
#[derive(Debug)]
pub struct BacklogReader<L> {
    backlog: LaneBacklog,
    log: L,
    /// Whoever holds it reads the journal: one read at a time, so that reads never slow the lane more than one would.
    reading: tokio::sync::Mutex<()>,
}

/// What is laid over the rows of objects, in the order asked.
#[derive(Debug)]
pub struct Pending {
    /// Every save above the position, as folds in order; none if nothing is pending.
    pub folds: Vec<Vec<Fold>>,
    /// The last save that was looked at.
    pub through: Sequence,
}

/// Why it can't be told what is pending.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PendingError {
    /// The position is none of this journal.
    #[error("the row of forebay.lane_position says {0}, which this journal never reached")]
    Beyond(Sequence),
    /// What Postgres has lost the journal doesn't hold any more either, or it can't be read.
    #[error("{0}")]
    Journal(#[from] LogError),
}

impl<L: Log> BacklogReader<L> {
    /// Over a backlog and its journal.
    pub fn new(backlog: LaneBacklog, log: L) -> Self {
        Self { backlog, log, reading: tokio::sync::Mutex::default() }
    }

    /// To be had before rows are read.
    pub fn pin(&self) -> Pin {
        self.backlog.pin()
    }

    /// What is pending of these objects above the position that was read together with their rows.
    ///
    /// # Errors
    /// [`PendingError`]
    pub async fn pending(&self, pin: &Pin, collection: CollectionId, keys: &[Key], position: Sequence) -> Result<Pending, PendingError> {
        let Look { mut objects, through, passed } = pin.look(collection, keys, position).await;
        if position > passed {
            return Err(PendingError::Beyond(position));
        }
        let unclear = keys.iter().zip(&objects).filter_map(|(key, found)| Some((key, found.journal_through?)));
        let unclear: HashMap<&Key, Sequence> = unclear.collect();
        if !unclear.is_empty() {
            let mut refolded = self.refold(collection, &unclear, position).await?;
            for (key, found) in keys.iter().zip(&mut objects) {
                found.folds.splice(..0, refolded.remove(key));
            }
        }
        Ok(Pending { folds: objects.into_iter().map(|found| found.folds).collect(), through })
    }

    /// The saves of each of these objects after the position, up to the one named with it.
    async fn refold(
        &self,
        collection: CollectionId,
        wanted: &HashMap<&Key, Sequence>,
        position: Sequence,
    ) -> Result<HashMap<Key, Fold>, LogError> {
        let _alone = self.reading.lock().await;
        let through = wanted.values().copied().max().unwrap_or(position);
        let is_wanted = |Accepted { sequence, save }: &Accepted| {
            save.collection == collection && wanted.get(&save.key).is_some_and(|through| sequence <= through)
        };
        let (mut folded, mut read) = (Generation::empty(position, Arc::default()), position);
        while read < through {
            let page = self.log.read(read, through, PAGE_BYTES_MAX).await?;
            let Some(last) = page.last() else { break };
            read = last.sequence;
            for accepted in page.into_iter().filter(is_wanted) {
                folded.fold_in(accepted);
            }
        }
        let objects = folded.parts.into_iter().filter_map(|mut part| part.collections.remove(&collection)).flat_map(|fold| fold.objects);
        Ok(objects.map(|(key, object)| (key, object.fold)).collect())
    }
}
