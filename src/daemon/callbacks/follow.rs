//! Follows one lane: what its position covers gets its outcome noted, and what failed is told to those who want to know.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Callbacks,
    kept::{self, Mark},
};
use crate::{
    daemon::failed::FailedSaves,
    drain::LaneHandle,
    journal::LedgerError,
    postgres::{FailedOutcome, Failure, LaneOutcomes, Which},
    save::Sequence,
};

/// Saves and rows that are asked for and noted at a time.
const PAGE: usize = 500;
/// Until Postgres is asked again after it could not say.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// One lane's follower.
pub(super) struct Follower {
    callbacks: Callbacks,
    lane: LaneHandle,
    /// This start's token: what the row of another daemon says is no word on our saves.
    owner: Uuid,
    failed: FailedSaves,
    kept: kept::Lane,
    stop: CancellationToken,
}

/// How a look ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// Nothing is left to look for.
    All,
    /// Postgres could not say: to be asked again.
    Unanswered,
    /// There is no room for more.
    NoRoom,
}

impl Follower {
    pub(super) fn new(
        callbacks: Callbacks,
        lane: LaneHandle,
        owner: Uuid,
        failed: FailedSaves,
        kept: kept::Lane,
        stop: CancellationToken,
    ) -> Self {
        Self { callbacks, lane, owner, failed, kept, stop }
    }

    /// Until the stop, after which it looks once more.
    pub(super) async fn run(mut self) -> Result<(), LedgerError> {
        let (mut position, mut added, mut room) = (self.lane.position(), self.failed.added(), self.callbacks.0.room.subscribe());
        let mut failures = Looked::All;
        // The lane may have met Postgres before.
        if *added.borrow() > 0 {
            added.mark_changed();
        }
        loop {
            let stopping = self.stop.is_cancelled();
            position.mark_unchanged();
            room.mark_unchanged();
            let saves = self.note_saves().await?;
            if added.has_changed().unwrap_or(false) || failures != Looked::All {
                added.mark_unchanged();
                failures = self.tell_failures().await?;
            }
            if stopping {
                return Ok(());
            }
            let again = saves == Looked::Unanswered || failures == Looked::Unanswered;
            tokio::select! {
                _ = position.changed() => {}
                _ = added.changed(), if self.tells_failures() => added.mark_changed(),
                _ = room.changed(), if failures == Looked::NoRoom => {}
                () = tokio::time::sleep(ASK_AGAIN), if again => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// The saves that the position covers get their outcome noted.
    async fn note_saves(&self) -> Result<Looked, LedgerError> {
        loop {
            let position = *self.lane.position().borrow();
            let covered = self.callbacks.covered(self.lane.id(), position, PAGE);
            if covered.is_empty() {
                return Ok(Looked::All);
            }
            let sequences: Vec<_> = covered.iter().map(|awaited| awaited.sequence).collect();
            let Some(outcomes) = self.ask(Which::Of(&sequences)).await else { return Ok(Looked::Unanswered) };
            let known = covered.iter().take_while(|awaited| awaited.sequence <= outcomes.through);
            let (now, messages) = (SystemTime::now(), &self.callbacks.0.messages);
            let failed = |sequence| outcomes.failed.iter().find(|failed| failed.sequence == sequence);
            let noted: Vec<_> = known.map(|awaited| messages.of_save(awaited, failed(awaited.sequence), now)).collect();
            let Some(last) = noted.len().checked_sub(1) else { return Ok(Looked::Unanswered) };
            self.callbacks.note(&self.lane, noted, Mark::Noted(covered[last].sequence)).await?;
        }
    }

    /// Rows of failed saves that nobody was told of go to the endpoints of their collections, as far as there is room.
    async fn tell_failures(&mut self) -> Result<Looked, LedgerError> {
        let Some(told) = self.kept.told else { return Ok(Looked::All) };
        // A rewind is noted before anything is written again: one that we don't see here is seen by the look at what failed then.
        let mut told = told.after(self.callbacks.0.rewinds.since(told.rewinds));
        let collections: Vec<_> = self.kept.on_failed.keys().cloned().collect();
        loop {
            let room = self.callbacks.room_for_failures().min(PAGE as u64) as u32;
            if room == 0 {
                return Ok(Looked::NoRoom);
            }
            let which = Which::Next { after: told.through, collections: &collections, rows_max: room };
            let Some(LaneOutcomes { through, failed }) = self.ask(which).await else { return Ok(Looked::Unanswered) };
            if through == Sequence::ZERO {
                return Ok(Looked::Unanswered);
            }
            let Some(last) = failed.last().map(|failed| failed.sequence) else {
                // The database is about to be found to have gone back in time, or the mark is of a layout before.
                if through < told.through || told.through < self.kept.begins {
                    told.through = through;
                    self.callbacks.note(&self.lane, Vec::new(), Mark::Failures(told)).await?;
                }
                self.kept.told = Some(told);
                self.callbacks.told_through(self.lane.id(), through);
                return Ok(Looked::All);
            };
            if !self.callbacks.take_room(failed.len() as u64) {
                return Ok(Looked::NoRoom);
            }
            let (now, messages, lane) = (SystemTime::now(), &self.callbacks.0.messages, self.lane.id());
            let message = |failed: &FailedOutcome| messages.of_failure(failed, lane, &self.kept.on_failed[&failed.collection], now);
            let noted = failed.iter().map(message).collect();
            told.through = last;
            self.callbacks.note(&self.lane, noted, Mark::Failures(told)).await?;
            self.callbacks.told_through(self.lane.id(), last);
            self.kept.told = Some(told);
        }
    }

    fn tells_failures(&self) -> bool {
        self.kept.told.is_some()
    }

    async fn ask(&self, which: Which<'_>) -> Option<LaneOutcomes> {
        let lane: Arc<str> = Arc::clone(self.lane.name());
        match self.failed.outcomes((&lane, self.owner), which).await {
            Ok(outcomes) => Some(outcomes),
            Err(error) => {
                self.could_not_ask(&error);
                None
            }
        }
    }

    /// The lane says loudly enough what is wrong with Postgres.
    fn could_not_ask(&self, error: &Failure) {
        tracing::debug!(lane = %self.lane.name(), %error, "postgres can't be asked for the outcomes of callbacks");
    }
}
