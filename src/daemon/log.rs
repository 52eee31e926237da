//! The journal as a lane sees it: its own saves, with numbers instead of names.

use std::sync::Arc;

use super::{catalog::SharedCollections, gaps::Gaps, rewinds::Rewinds};
use crate::{
    drain::{Log, LogError},
    journal::{Ledger, Monitor, ReadError, Reader},
    outcomes::Superseded,
    save::{Accepted, LaneId, Sequence},
};

/// One lane's view of the journal. Cheap to clone.
#[derive(Clone)]
pub(super) struct LaneLog {
    pub(super) lane: LaneId,
    /// The last number that is not of this start: of a save, or where the layout of the lanes begins, which a row may say too.
    pub(super) found: Sequence,
    /// The start.
    pub(super) run: u64,
    pub(super) reader: Reader,
    pub(super) monitor: Monitor,
    pub(super) ledger: Ledger,
    pub(super) collections: SharedCollections,
    /// The ledger's key for the row's existence.
    pub(super) row_key: String,
    pub(super) gaps: Gaps,
    pub(super) rewinds: Rewinds,
    pub(super) superseded: Arc<Superseded>,
}

impl Log for LaneLog {
    async fn read(&self, after: Sequence, through: Sequence, bytes_max: u64) -> Result<Vec<Accepted>, LogError> {
        let mut after = after;
        loop {
            let entries = self.reader.read(after, through, bytes_max as usize).await.map_err(|error| match error {
                ReadError::Gone { oldest } => LogError::Forgotten { oldest },
                _ => LogError::Broken(error.to_string()),
            })?;
            let Some(last) = entries.last().map(|entry| entry.sequence) else { return Ok(Vec::new()) };
            let ours: Vec<_> = entries.into_iter().filter(|entry| self.collections.lane_of(entry) == self.lane).collect();
            if !ours.is_empty() {
                return Ok(self.collections.number(ours));
            }
            after = last;
        }
    }

    fn knows(&self, sequence: Sequence) -> bool {
        sequence <= self.found || (sequence.run() == self.run && sequence <= self.monitor.stats().last)
    }

    async fn note_row(&self) -> Result<(), LogError> {
        let (ledger, key) = (self.ledger.clone(), self.row_key.clone());
        let noted = tokio::task::spawn_blocking(move || ledger.put(&key, b"1")).await.expect("the ledger doesn't panic");
        noted.map_err(|error| LogError::Broken(error.to_string()))
    }

    async fn note_gap(&self, after: Sequence, through: Sequence) -> Result<(), LogError> {
        let (gaps, ledger, lane) = (self.gaps.clone(), self.ledger.clone(), self.lane);
        let noted = tokio::task::spawn_blocking(move || gaps.note(&ledger, lane, after, through)).await.expect("the ledger doesn't panic");
        noted.map_err(|error| LogError::Broken(error.to_string()))
    }

    async fn note_rewind(&self, to: Sequence) -> Result<(), LogError> {
        self.superseded.lose(self.lane, to);
        let (rewinds, ledger) = (self.rewinds.clone(), self.ledger.clone());
        let noted = tokio::task::spawn_blocking(move || rewinds.note(&ledger, to)).await.expect("the ledger doesn't panic");
        noted.map_err(|error| LogError::Broken(error.to_string()))
    }
}
