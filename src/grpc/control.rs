//! What the front door asks of the daemon: the seam that keeps the stages apart. `daemon` implements it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::OwnedMutexGuard;

use crate::{
    collections::Collections,
    failed::{FailedFilter, FailedPage, FailedQuery},
    outcomes::{Outcome, Ticket, TicketStatus, Untold, Waiting, Watch, WatchEnd, WatchEvent},
    save::{LaneId, Sequence},
    status::StatusSnapshot,
};

/// The daemon, as the front door sees it.
#[tonic::async_trait]
pub trait Control: Send + Sync + 'static {
    /// What may be saved now. Called for every call: must be cheap.
    fn collections(&self) -> Arc<Collections>;

    /// Reads the catalog again and returns what may be saved then; without Postgres, what may be saved now.
    async fn refresh_collections(&self) -> Arc<Collections>;

    /// Waits until everything that these lanes were given before the call has its outcome; returns the smallest of their
    /// positions.
    ///
    /// # Errors
    /// At once, if a lane can't get there by itself.
    async fn flush(&self, lanes: &[LaneId]) -> Result<Sequence, FlushError>;

    /// Pauses lanes and returns when nothing is being written any more; tells when the pause ends by itself.
    async fn pause(&self, lanes: &[LaneId], reason: &str, duration: Duration) -> SystemTime;

    /// Lets lanes go on and halted ones probe at once; returns those that were held by what is resumed.
    async fn resume(&self, lanes: &[LaneId], how: Resume) -> Vec<LaneId>;

    /// Lets lanes that are halted or wait to try again try at once.
    fn probe(&self);

    /// A page of failed saves.
    ///
    /// # Errors
    /// Postgres can't be asked, and why.
    async fn list_failed(&self, query: &FailedQuery) -> Result<FailedPage, String>;

    /// Waits until everything that had been accepted when the failed saves became known has its outcome: then
    /// [`Self::failed_standings`] tells the whole truth.
    ///
    /// # Errors
    /// At once, if that can't be.
    async fn settle_failed(&self) -> Result<(), SettleError>;

    /// To be held from reading failed saves to the end of saving them again, so that nobody closes them or saves them twice.
    async fn failed_care(&self) -> OwnedMutexGuard<()>;

    /// How failed saves stand to what was accepted after them.
    fn failed_standings(&self, sequences: &[Sequence]) -> Vec<FailedStanding>;

    /// Gives up the open failed saves that the filter chooses, but none that is being retried; gives their numbers.
    ///
    /// # Errors
    /// Postgres can't be asked, and why; some may have been given up.
    async fn discard_failed(&self, filter: &FailedFilter, reason: &str) -> Result<Vec<Sequence>, String>;

    /// The lane that writes a collection; a name that the catalog doesn't have has one too.
    fn lane_of(&self, collection: &str) -> LaneId;

    /// What is known of a save.
    ///
    /// # Errors
    /// It can't be told now, and why.
    async fn ticket(&self, ticket: Ticket) -> Result<TicketStatus, Untold>;

    /// What became of saves, from what is kept in mind: cheap for many. What can't be told yet counts as pending.
    fn outcomes(&self, tickets: &[Ticket]) -> Vec<Outcome>;

    /// A lane's newest save: once it has its outcome, every save that the lane was given before this call has.
    fn newest(&self, lane: LaneId) -> Ticket;

    /// Waits for the outcome of a save, and ends its lane's window. To be asked for before [`Self::ticket`] or [`Self::outcomes`],
    /// so that nothing is missed; and asked again afterwards: Postgres may have gone back in time.
    fn wait(&self, ticket: Ticket) -> Waiting;

    /// What a watcher is to be told next; waits until there is something. Dropped before that, nothing is lost.
    ///
    /// # Errors
    /// The watch has ended.
    async fn watched(&self, watch: &mut Watch) -> Result<Vec<WatchEvent>, WatchEnd>;

    /// How the daemon stands.
    async fn status(&self) -> StatusSnapshot;
}

/// What a resume is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// A pause, or a halt.
    GoOn,
    /// The same, and what halted lanes stand in front of becomes failed saves.
    Fail,
    /// The halt in front of what neither Postgres nor the journal holds: it is given up.
    AcceptGap,
}

/// How a failed save stands to what was accepted after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedStanding {
    /// It is not open.
    Closed,
    /// Its object has not been saved since.
    Open,
    /// Its object has.
    SavedSince,
    /// Its retry is accepted and not in Postgres yet.
    Retrying,
}

/// Why it can't be told how failed saves stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettleError {
    /// A lane can't get there by itself.
    Lane(FlushError),
    /// Postgres has not been asked in this run.
    Unavailable(String),
}

/// Why a flush can't succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlushError {
    /// An operator has paused the lane.
    Paused {
        /// The lane.
        lane: LaneId,
        /// Why.
        reason: String,
    },
    /// The lane stands in front of a save.
    Halted {
        /// The lane.
        lane: LaneId,
        /// Why.
        reason: String,
        /// What would help.
        remedy: String,
    },
    /// Another daemon writes the lane.
    Fenced {
        /// The lane.
        lane: LaneId,
    },
    /// The daemon stops.
    Stopping,
}
