//! What the front door asks of the daemon: the seam that keeps the stages apart. `daemon` implements it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    collections::Collections,
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

    /// Lets lanes go on and halted ones probe at once; returns those that were paused or halted. With `fail`, what halted lanes
    /// stand in front of becomes failed saves.
    async fn resume(&self, lanes: &[LaneId], fail: bool) -> Vec<LaneId>;

    /// How the daemon stands.
    async fn status(&self) -> StatusSnapshot;
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
