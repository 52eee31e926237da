//! What the front door tells the metrics.

use std::{sync::Arc, time::Duration};

use crate::save::{CollectionId, Save};

/// A call, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rpc {
    /// `Save`
    Save,
    /// `SaveBatch`
    SaveBatch,
    /// `SaveStream`
    SaveStream,
    /// `GetTicket`
    GetTicket,
    /// `AwaitTicket`
    AwaitTicket,
    /// `WatchOutcomes`
    WatchOutcomes,
    /// `Flush`
    Flush,
    /// `Get`
    Get,
    /// `Load`
    Load,
}

impl Rpc {
    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Save => "Save",
            Self::SaveBatch => "SaveBatch",
            Self::SaveStream => "SaveStream",
            Self::GetTicket => "GetTicket",
            Self::AwaitTicket => "AwaitTicket",
            Self::WatchOutcomes => "WatchOutcomes",
            Self::Flush => "Flush",
            Self::Get => "Get",
            Self::Load => "Load",
        }
    }
}

/// Told what happens. Must be quick: some of it is told on the journal's thread. What isn't implemented is told to nobody.
///
/// A trait, because metrics live behind `daemon`: the door knows none of them.
pub trait Events: Send + Sync + 'static {
    /// So many saves of a collection are accepted.
    fn saves_accepted(&self, _collection: CollectionId, _count: u64) {}
    /// So many saves are refused, with the reason of the error; no collection if there is none of that name.
    fn saves_refused(&self, _collection: Option<CollectionId>, _reason: &'static str, _count: u64) {}
    /// So many saves of a resumed stream had been accepted before.
    fn saves_deduplicated(&self, _collection: CollectionId, _count: u64) {}
    /// From the start of a call (of a stream: from the append) to its acknowledgement; if that waits for the outcome, to the sync.
    fn acknowledged(&self, _rpc: Rpc, _after: Duration) {}
    /// A call has begun.
    fn call_started(&self, _rpc: Rpc) {}
    /// A call has ended.
    fn call_ended(&self, _rpc: Rpc) {}
}

/// A call in flight.
pub(super) struct OpenCall {
    events: Arc<dyn Events>,
    rpc: Rpc,
}

impl OpenCall {
    /// Begins a call: it ends when this is dropped.
    pub(super) fn begin(events: &Arc<dyn Events>, rpc: Rpc) -> Self {
        events.call_started(rpc);
        Self { events: Arc::clone(events), rpc }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.events.call_ended(self.rpc);
    }
}

/// How many saves of which collections an append holds: known before the saves are handed over, told when they are accepted.
pub(super) enum Tally {
    /// Of one collection, as most are.
    One((CollectionId, u64)),
    /// Runs of saves of one collection.
    Many(Vec<(CollectionId, u64)>),
}

impl Tally {
    /// Counts saves; neighbours of one collection are counted together.
    pub(super) fn of(saves: &[Save]) -> Self {
        let runs = saves.chunk_by(|a, b| a.collection == b.collection);
        let mut counts = runs.map(|run| (run[0].collection, run.len() as u64));
        match (counts.next(), counts.next()) {
            (Some(one), None) => Self::One(one),
            (first, second) => Self::Many(first.into_iter().chain(second).chain(counts).collect()),
        }
    }

    pub(super) fn accepted(&self, events: &dyn Events) {
        self.counts().iter().for_each(|&(collection, count)| events.saves_accepted(collection, count));
    }

    pub(super) fn refused(&self, events: &dyn Events, reason: &'static str) {
        self.counts().iter().for_each(|&(collection, count)| events.saves_refused(Some(collection), reason, count));
    }

    fn counts(&self) -> &[(CollectionId, u64)] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(counts) => counts,
        }
    }
}
