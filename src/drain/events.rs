//! What happens in a lane, told in one place: log lines and counters. The rest of the drain calls a function that is named
//! after what happened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use uuid::Uuid;

use super::{
    judge::Verdict,
    status::{FailedNote, Halt},
};
use crate::{
    backlog::Generation,
    postgres::{Failure, RowsWritten, Written},
    save::Sequence,
};

/// One lane's events. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    lane: Arc<str>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    transactions: AtomicU64,
    rows: AtomicU64,
    saves_persisted: AtomicU64,
    saves_failed: AtomicU64,
    retries: AtomicU64,
    halves: AtomicU64,
    rebuilds: AtomicU64,
}

/// What a lane did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions that committed.
    pub transactions: u64,
    /// Rows that they wrote.
    pub rows: u64,
    /// Saves that are in Postgres.
    pub saves_persisted: u64,
    /// Saves that became failed saves.
    pub saves_failed: u64,
    /// Failures that were tried again.
    pub retries: u64,
    /// Generations that were halved.
    pub halves: u64,
    /// Generations that were folded again from the journal.
    pub rebuilds: u64,
}

impl Events {
    /// The events of the lane of this name.
    pub fn new(lane: Arc<str>) -> Self {
        Self { lane, counters: Arc::default() }
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.counters;
        Counts {
            transactions: counters.transactions.load(Relaxed),
            rows: counters.rows.load(Relaxed),
            saves_persisted: counters.saves_persisted.load(Relaxed),
            saves_failed: counters.saves_failed.load(Relaxed),
            retries: counters.retries.load(Relaxed),
            halves: counters.halves.load(Relaxed),
            rebuilds: counters.rebuilds.load(Relaxed),
        }
    }

    /// The position row was read and is ours.
    pub(super) fn contacted(&self, position: Sequence) {
        tracing::info!(lane = %self.lane, %position, "postgres holds everything up to the position");
    }

    /// Our token is in the position row.
    pub(super) fn claimed(&self, from: Option<Uuid>) {
        match from {
            Some(from) => tracing::info!(lane = %self.lane, %from, "took the position row over"),
            None => tracing::info!(lane = %self.lane, "inserted the position row"),
        }
    }

    pub(super) fn fenced(&self, by: Uuid) {
        tracing::error!(lane = %self.lane, %by, "another daemon owns the position row: nothing more is written");
    }

    /// A COMMIT without an answer had happened.
    pub(super) fn had_committed(&self, through: Sequence) {
        tracing::info!(lane = %self.lane, %through, "the transaction in doubt was committed");
    }

    /// Postgres holds more than the journal noted before the last stop.
    pub(super) fn moved_ahead(&self, from: Sequence, to: Sequence) {
        tracing::info!(lane = %self.lane, %from, %to, "the position is ahead of what the journal noted");
    }

    /// Postgres holds less than it did.
    pub(super) fn rewound(&self, from: Sequence, to: Sequence) {
        tracing::warn!(lane = %self.lane, %from, %to, "postgres went back in time: what it lost is written again from the journal");
    }

    /// Somebody has accepted that saves are in neither Postgres nor the journal.
    pub(super) fn gave_up(&self, after: Sequence, through: Sequence) {
        tracing::error!(lane = %self.lane, %after, %through, "gives up saves that postgres has lost and the journal no longer holds");
    }

    pub(super) fn connection_lost(&self) {
        tracing::info!(lane = %self.lane, "the idle connection was lost");
    }

    pub(super) fn rebuilt(&self, generation: &Generation, took: Duration) {
        self.counters.rebuilds.fetch_add(1, Relaxed);
        let (after, through, saves) = (generation.after, generation.through, generation.saves);
        tracing::debug!(lane = %self.lane, %after, %through, saves, ?took, "folded again from the journal");
    }

    /// A generation was committed.
    pub(super) fn applied(&self, generation: &Generation, written: &Written, took: Duration) {
        let rows = written.collections.values().map(rows_of).sum();
        self.counters.transactions.fetch_add(1, Relaxed);
        self.counters.rows.fetch_add(rows, Relaxed);
        self.counters.saves_persisted.fetch_add(generation.saves - written.failed.len() as u64, Relaxed);
        let (through, saves) = (generation.through, generation.saves);
        tracing::debug!(lane = %self.lane, %through, saves, rows, ?took, "applied a generation");
    }

    /// A condemned save or batch was committed as failed saves.
    pub(super) fn condemned(&self, notes: &[FailedNote]) {
        self.counters.transactions.fetch_add(1, Relaxed);
        self.failed(notes);
    }

    /// Saves became rows of `forebay.failed_save`.
    pub(super) fn failed(&self, notes: &[FailedNote]) {
        self.counters.saves_failed.fetch_add(notes.len() as u64, Relaxed);
        // One reason for all of them: a save or a batch.
        if let Some(FailedNote { sequence, sqlstate, constraint, .. }) = notes.first() {
            let (sqlstate, constraint, saves) = (sqlstate.as_deref(), constraint.as_deref(), notes.len());
            tracing::warn!(lane = %self.lane, %sequence, saves, sqlstate, constraint, "postgres would not take a save or batch: it failed");
        }
    }

    /// Something went wrong, and what is done about it.
    pub(super) fn judged(&self, failure: &Failure, verdict: Verdict) {
        let sqlstate = failure.sqlstate.as_deref();
        match verdict {
            Verdict::Again(wait) | Verdict::Reconnect(wait) | Verdict::Reread(wait) | Verdict::Shrink(wait) => {
                self.counters.retries.fetch_add(1, Relaxed);
                tracing::warn!(lane = %self.lane, sqlstate, error = %failure, ?wait, "postgres failed: trying again");
            }
            Verdict::Refold(wait) => {
                self.counters.retries.fetch_add(1, Relaxed);
                tracing::info!(lane = %self.lane, ?wait, "the catalog of postgres has changed: reading it again");
            }
            Verdict::TakeOut => {
                tracing::info!(lane = %self.lane, sqlstate, error = %failure, "postgres would not take a row: writing the others");
            }
            Verdict::Halve => {
                self.counters.halves.fetch_add(1, Relaxed);
                tracing::info!(lane = %self.lane, sqlstate, error = %failure, "postgres would not take a generation: halving it");
            }
            // Told by what follows.
            Verdict::Fail | Verdict::Halt(_) => {}
        }
    }

    /// The lane came to stand, or stands still after a probe.
    pub(super) fn halted(&self, halt: &Halt, probe: bool) {
        let (sqlstate, reason, remedy) = (halt.sqlstate.as_deref(), &halt.reason, &halt.remedy);
        if probe {
            tracing::debug!(lane = %self.lane, sqlstate, reason, "still halted");
        } else {
            tracing::error!(lane = %self.lane, sqlstate, reason, remedy, "halted: nothing is written until this is repaired");
        }
    }

    /// What was wrong isn't any more.
    pub(super) fn goes_on(&self) {
        tracing::info!(lane = %self.lane, "going on");
    }

    pub(super) fn paused(&self, reason: &str, duration: Duration) {
        tracing::info!(lane = %self.lane, reason, ?duration, "paused");
    }

    pub(super) fn resumed(&self) {
        tracing::info!(lane = %self.lane, "resumed");
    }

    pub(super) fn journal_unreadable(&self, error: &str) {
        tracing::error!(lane = %self.lane, error, "the journal can't be read");
    }
}

fn rows_of(rows: &RowsWritten) -> u64 {
    rows.updated + rows.inserted + rows.deleted + rows.appended
}
