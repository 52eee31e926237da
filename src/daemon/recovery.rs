//! The lanes' backlogs as the journal fills them: with what it accepts, and at a start with what it holds.

use std::sync::Arc;

use super::{
    callbacks::{Callbacks, Opening},
    catalog::SharedCollections,
    streams,
};
use crate::{
    drain::LaneBacklog,
    exit::{Exit, Failure, OrExit},
    grpc::{RequestIds, Streams},
    journal::{Entry, LedgerError, ReadError, Running},
    save::{Accepted, Sequence},
};

/// How much of the journal is read at a time.
const READ_BYTES: usize = 4 << 20;

/// The backlogs by the lanes' numbers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Backlogs(Arc<[LaneBacklog]>);

impl Backlogs {
    pub(super) fn new(backlogs: Vec<LaneBacklog>) -> Self {
        Self(backlogs.into())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LaneBacklog> {
        self.0.iter()
    }

    /// A group that is synced: each lane gets its own, and learns how far the others are. On the journal's thread.
    pub(super) fn offer(&self, group: Vec<Accepted>) {
        if let [only] = &*self.0 {
            return only.offer(group);
        }
        let Some(last) = group.last().map(|accepted| accepted.sequence) else { return };
        let bytes = group.iter().map(|accepted| accepted.save.bytes()).sum();
        for (backlog, own) in self.0.iter().zip(self.split(group)) {
            if !own.is_empty() {
                backlog.offer(own);
            }
            backlog.pass(last, bytes);
        }
    }

    fn split(&self, group: Vec<Accepted>) -> Vec<Vec<Accepted>> {
        let mut parts: Vec<_> = self.0.iter().map(|_| Vec::new()).collect();
        for accepted in group {
            parts[usize::from(accepted.save.lane.0)].push(accepted);
        }
        parts
    }

    fn recover(&self, saves: Vec<Accepted>) {
        let parts = self.split(saves);
        let filled = self.0.iter().zip(parts).filter(|(_, own)| !own.is_empty());
        filled.for_each(|(backlog, own)| backlog.recover(own));
    }

    /// Recovery is over: what lies up to `last` and was not offered is no lane's that has not settled it.
    fn recovered(&self, last: Sequence) {
        if self.0.len() > 1 {
            self.0.iter().for_each(|backlog| backlog.pass(last, 0));
        }
    }
}

/// Folds what lies above the positions that the journal knows; the position rows may say otherwise later.
pub(super) async fn recover(
    journal: &Running,
    collections: &SharedCollections,
    backlogs: &Backlogs,
    (streams, request_ids, callbacks, opening): (&Arc<Streams>, &Arc<RequestIds>, &Callbacks, &Opening),
    (after, last): (&[Sequence], Sequence),
) -> Result<(), Failure> {
    let reader = journal.reader();
    // Streams are remembered as long as the journal is: without a note of the last stop all of it is read. A stop that left
    // callbacks to be noted has made no such note. Folding begins at the positions.
    let noted = recall_streams(journal, streams, request_ids, last).await.or_exit(Exit::JournalIo, "read the journal's ledger")?;
    let folds_after = after.iter().copied().min().unwrap_or_default();
    let (mut read, mut folded) = (if noted { folds_after } else { journal.monitor().oldest() }, 0_u64);
    let page = |after| {
        let reader = reader.clone();
        tokio::spawn(async move { reader.read(after, last, READ_BYTES).await })
    };
    // One page is read and decoded while the one before it is folded.
    let mut ahead = page(read);
    while read < last {
        let entries = ahead.await.expect("reading doesn't panic").map_err(unreadable)?;
        let Some(end) = entries.last() else { break };
        read = end.sequence;
        ahead = page(read);
        if !noted {
            callbacks.recall(opening, &entries);
        }
        for Entry { sequence, record } in entries.iter().filter(|_| !noted) {
            record.origin.into_iter().for_each(|origin| streams.observe(origin, *sequence));
            if let Some(id) = record.request_id.as_deref() {
                request_ids.observe(id, &record.collection, *sequence, record.accepted_at);
            }
        }
        let waits = |entry: &Entry| entry.sequence > after[usize::from(collections.lane_of(entry).0)];
        let pending: Vec<_> = entries.into_iter().filter(waits).collect();
        folded += pending.len() as u64;
        if !pending.is_empty() {
            backlogs.recover(collections.number(pending));
        }
    }
    backlogs.recovered(last);
    let objects: u64 = backlogs.iter().map(|backlog| backlog.summary().footprint.objects).sum();
    let (streams, request_ids) = (streams.count(), request_ids.count());
    tracing::info!(saves = folded, objects, streams, request_ids, streams_noted = noted, "recovered what may not be in postgres yet");
    Ok(())
}

fn unreadable(error: ReadError) -> Failure {
    let exit = if matches!(error, ReadError::Damaged(_)) { Exit::DamagedJournal } else { Exit::JournalIo };
    Failure { exit, error: anyhow::Error::new(error).context("read the journal") }
}

async fn recall_streams(
    journal: &Running,
    streams: &Arc<Streams>,
    request_ids: &Arc<RequestIds>,
    last: Sequence,
) -> Result<bool, LedgerError> {
    let (ledger, streams, request_ids) = (journal.ledger().clone(), Arc::clone(streams), Arc::clone(request_ids));
    tokio::task::spawn_blocking(move || streams::recall(&ledger, &streams, &request_ids, last)).await.expect("the ledger doesn't panic")
}
