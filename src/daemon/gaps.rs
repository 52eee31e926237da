//! Saves that were given up: Postgres had lost them, the journal no longer held them, and an operator accepted it
//! (`forebay lane accept-gap`). The position passes them, and their tickets must not say that they are in Postgres (P6).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::{
    journal::{Ledger, LedgerError},
    save::{LaneId, Sequence},
};

const LEDGER_KEY: &str = "gaps";

/// Every gap of this journal. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Gaps(Arc<Mutex<Vec<Gap>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Gap {
    /// In the layout that the saves were accepted in: the one of today begins below them.
    lane: u16,
    after: u64,
    through: u64,
}

impl Gaps {
    /// As the ledger has them. Blocks.
    pub(super) fn recall(ledger: &Ledger) -> Result<Self, LedgerError> {
        let known = ledger.get(LEDGER_KEY)?.unwrap_or_default();
        let gaps = if known.is_empty() { Ok(Vec::new()) } else { serde_json::from_slice(&known) };
        let gaps = gaps.map_err(|_| LedgerError::Damaged(LEDGER_KEY.to_owned()))?;
        Ok(Self(Arc::new(Mutex::new(gaps))))
    }

    /// A lane gives up its saves after `after` up to `through`; durable when this returns. Blocks.
    pub(super) fn note(&self, ledger: &Ledger, lane: LaneId, after: Sequence, through: Sequence) -> Result<(), LedgerError> {
        let gap = Gap { lane: lane.0, after: after.get(), through: through.get() };
        // Held while it is written: two lanes don't overwrite each other's.
        let mut gaps = self.lock();
        if gaps.contains(&gap) {
            return Ok(());
        }
        let mut noted = gaps.clone();
        noted.push(gap);
        ledger.put(LEDGER_KEY, &serde_json::to_vec(&noted).expect("numbers are JSON"))?;
        *gaps = noted;
        Ok(())
    }

    /// Whether a save was given up.
    pub(super) fn hold(&self, lane: LaneId, sequence: Sequence) -> bool {
        let (lane, sequence) = (lane.0, sequence.get());
        self.lock().iter().any(|gap| gap.lane == lane && gap.after < sequence && sequence <= gap.through)
    }

    /// The last save that was given up. Up to there no watermark may say what became of saves.
    pub(super) fn end(&self) -> Sequence {
        Sequence::from_u64(self.lock().iter().map(|gap| gap.through).max().unwrap_or_default())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Gap>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
