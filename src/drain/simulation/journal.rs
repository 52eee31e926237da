//! The journal of the simulation: pages of random size, whole batches.

use super::world::World;
use crate::{
    drain::{Log, LogError},
    save::{Accepted, Sequence},
};

pub(super) struct FakeJournal(pub(super) World);

impl Log for FakeJournal {
    async fn read(&self, after: Sequence, through: Sequence, _bytes_max: u64) -> Result<Vec<Accepted>, LogError> {
        tokio::task::yield_now().await;
        let mut inner = self.0.lock();
        if after < inner.forgotten {
            return Err(LogError::Forgotten { oldest: inner.forgotten.plus(1) });
        }
        let count = inner.chance.usize(1..8);
        let mut page = Vec::new();
        for accepted in inner.journal.iter().filter(|accepted| accepted.sequence > after && accepted.sequence <= through) {
            page.push(accepted.clone());
            if page.len() >= count && accepted.save.batch_left == 0 {
                break;
            }
        }
        Ok(page)
    }

    fn knows(&self, sequence: Sequence) -> bool {
        sequence <= self.0.last()
    }

    async fn note_row(&self) -> Result<(), LogError> {
        self.0.lock().had_row = true;
        Ok(())
    }

    async fn note_gap(&self, _after: Sequence, _through: Sequence) -> Result<(), LogError> {
        Ok(())
    }

    async fn note_rewind(&self, _to: Sequence) -> Result<(), LogError> {
        Ok(())
    }
}
