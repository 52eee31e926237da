//! What the lane has taken out of its backlog and not settled.

use std::{sync::Arc, time::SystemTime};

use super::{Inner, LaneBacklog};
use crate::{
    backlog::{Footprint, Generation},
    drain::aside::drop_aside,
    save::{CollectionId, Sequence},
};

/// A generation that was taken out: what status counts of it, and itself for reads.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) through: Sequence,
    pub(super) saves: u64,
    pub(super) oldest_accepted_at: Option<SystemTime>,
    pub(super) by_collection: Vec<(CollectionId, Footprint)>,
    /// None while the lane has it alone.
    pub(super) generation: Option<Arc<Generation>>,
}

impl Out {
    pub(super) fn of(generation: &Arc<Generation>) -> Self {
        Self {
            through: generation.through,
            saves: generation.saves,
            oldest_accepted_at: generation.oldest_accepted_at,
            by_collection: generation.by_collection().collect(),
            generation: Some(Arc::clone(generation)),
        }
    }
}

impl Inner {
    /// Whether what was taken out is being folded together: reads wait for the end, which is near.
    pub(super) fn is_refolding(&self) -> bool {
        self.out.iter().any(|out| out.generation.is_none())
    }
}

/// What was taken out is being folded together. Dropped without [`Refolding::done`] (the lane ends), it is left to the journal.
#[derive(Debug)]
pub(in crate::drain) struct Refolding(LaneBacklog);

impl Refolding {
    pub(super) fn begin(backlog: &LaneBacklog) -> Self {
        let mut inner = backlog.lock();
        inner.out.iter_mut().for_each(|out| out.generation = None);
        // What was folded from the journal is in hand: shared, it would have to be copied.
        let refolded = inner.refolded.take();
        drop(inner);
        drop_aside(refolded);
        Self(backlog.clone())
    }

    /// It became this one.
    pub(in crate::drain) fn done(self, generation: &Arc<Generation>) {
        let out = Out::of(generation);
        self.0.lock().out = vec![out];
    }
}

impl Drop for Refolding {
    fn drop(&mut self) {
        self.0.lock().out.retain(|out| out.generation.is_some());
        self.0.0.folded.notify_waiters();
    }
}
