//! What a lane is doing, for status, metrics and whoever waits.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use uuid::Uuid;

use super::{events::Counts, lane_backlog::BacklogSummary};
use crate::{
    postgres::Failure,
    save::{Accepted, CollectionId, LaneId, Sequence},
};

/// What a lane is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LaneState {
    /// On its way to Postgres, or reading the position row.
    #[default]
    Connecting,
    /// Nothing to do.
    Idle,
    /// Saves gather until then.
    Waiting {
        /// The end of the window, or when the rate lets it write again.
        until: Instant,
        /// The rate it is.
        for_rate: bool,
    },
    /// A generation is being folded or written.
    Applying {
        /// Its last save.
        through: Sequence,
    },
    /// Postgres is away or busy.
    Retrying {
        /// How often it was tried since something went well.
        attempt: u32,
        /// When it is tried next.
        next: Instant,
    },
    /// An operator said so.
    Paused {
        /// Why.
        reason: Arc<str>,
        /// It goes on by itself then.
        until: Instant,
    },
    /// Somebody has to act; it goes on by itself once they have.
    Halted(Halt),
    /// Another daemon owns the lane's position row: this one must write nothing more.
    Fenced {
        /// Its token.
        by: Uuid,
    },
    /// The lane has ended.
    Stopped,
}

/// Why a lane stands in front of a save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// What is wrong, without row data.
    pub reason: String,
    /// The collection, if one is at fault.
    pub collection: Option<Box<str>>,
    /// Postgres' code, if it was Postgres that spoke.
    pub sqlstate: Option<Box<str>>,
    /// What an operator can do.
    pub remedy: Box<str>,
    /// The journal no longer holds what Postgres has lost: it goes on once somebody gives that up.
    pub at_gap: bool,
    /// When it is tried next.
    pub next_probe: Instant,
}

/// The last thing that went wrong, without row data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// When.
    pub at: Instant,
    /// Postgres' code, if it was Postgres that spoke.
    pub sqlstate: Option<Box<str>>,
    /// What happened.
    pub message: String,
}

/// A save that failed, without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedNote {
    /// Its number.
    pub sequence: Sequence,
    /// Its collection.
    pub collection: CollectionId,
    /// Postgres' code.
    pub sqlstate: Option<Box<str>>,
    /// The constraint that refused it.
    pub constraint: Option<Box<str>>,
}

/// A lane at one moment.
#[derive(Clone, Debug)]
pub struct LaneStatus {
    /// Its number.
    pub id: LaneId,
    /// Its name in the settings.
    pub name: Arc<str>,
    /// What it is doing.
    pub state: LaneState,
    /// Up to here Postgres holds everything.
    pub position: Sequence,
    /// What waits.
    pub backlog: BacklogSummary,
    /// The last thing that went wrong since the start.
    pub last_error: Option<LastError>,
    /// The newest failed saves of this start, oldest first.
    pub failed: Vec<FailedNote>,
    /// What it did since the start.
    pub counts: Counts,
    /// Rows of its next full statement.
    pub statement_rows: u64,
}

impl LaneState {
    /// The state's name as a metric label and in status.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Idle => "idle",
            Self::Waiting { .. } => "waiting",
            Self::Applying { .. } => "applying",
            Self::Retrying { .. } => "retrying",
            Self::Paused { .. } => "paused",
            Self::Halted(_) => "halted",
            Self::Fenced { .. } => "fenced",
            Self::Stopped => "stopped",
        }
    }

    /// Every name, for metrics that set one of them.
    pub const NAMES: [&'static str; 9] = ["connecting", "idle", "waiting", "applying", "retrying", "paused", "halted", "fenced", "stopped"];
}

impl FailedNote {
    pub(super) fn new(accepted: &Accepted, why: &Failure) -> Self {
        Self {
            sequence: accepted.sequence,
            collection: accepted.save.collection,
            sqlstate: why.sqlstate.clone(),
            constraint: why.constraint.clone(),
        }
    }
}

impl Halt {
    pub(super) fn new(failure: &Failure, now: Instant, wait: Duration) -> Self {
        Self {
            // Without the remedy, which stands beside it.
            reason: Failure { remedy: Box::default(), ..failure.clone() }.to_string(),
            collection: failure.collection.clone(),
            sqlstate: failure.sqlstate.clone(),
            remedy: failure.remedy.clone(),
            at_gap: false,
            next_probe: now + wait,
        }
    }
}
