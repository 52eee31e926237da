//! How the daemon stands, as plain data: gathered by `daemon`, shown by `grpc` (GetStatus) and `http`.

use std::time::{Duration, SystemTime};

use crate::{
    failed::FailedRow,
    limits::{Limit, LimitKind},
    save::Sequence,
};

/// The whole status at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusSnapshot {
    /// The program's version.
    pub version: &'static str,
    /// When this run started.
    pub started_at: SystemTime,
    /// The journal's id, hyphenated.
    pub journal_id: String,
    /// The number of this run.
    pub run: u64,
    /// The last save accepted.
    pub accepted_through: Sequence,
    /// Whether Postgres answered when it was last asked.
    pub postgres_up: bool,
    /// The lanes.
    pub lanes: Vec<LaneStatus>,
    /// Each collection with a backlog.
    pub collections: Vec<CollectionStatus>,
    /// The journal.
    pub journal: JournalStatus,
    /// Every limit.
    pub limits: Vec<LimitStatus>,
    /// How many failed saves are open.
    pub failed_saves: u64,
    /// The newest failed saves, at most [`StatusSnapshot::FAILED_SAVES_SHOWN`].
    pub newest_failed_saves: Vec<FailedRow>,
    /// How many tables may not be saved.
    pub refused_tables: u64,
    /// The endpoints, by name.
    pub endpoints: Vec<EndpointStatus>,
}

impl StatusSnapshot {
    /// How many failed saves a status shows.
    pub const FAILED_SAVES_SHOWN: usize = 20;
}

/// What a lane does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneState {
    /// Getting a connection, or reading its position.
    Connecting,
    /// Nothing to write.
    Idle,
    /// Gathering saves, for the coalescing window or until the rate of rows lets it write.
    Gathering,
    /// Writing a generation.
    Applying,
    /// Waiting before it tries again.
    Retrying,
    /// Paused by an operator.
    Paused,
    /// Standing in front of a save that a broken schema or the server doesn't take; it probes.
    Halted,
    /// Another daemon writes this lane.
    Fenced,
    /// Ended.
    Stopped,
}

/// One lane.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneStatus {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: LaneState,
    /// Why it is paused, halted or retrying, or gathers for longer than its window; else empty.
    pub reason: String,
    /// What would help a halted lane; else empty.
    pub remedy: String,
    /// The sequence up to which Postgres holds everything.
    pub position: Sequence,
    /// Objects not in Postgres yet.
    pub backlog_objects: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
    /// Saves not in Postgres yet.
    pub backlog_saves: u64,
    /// When the oldest of them was accepted.
    pub oldest_accepted_at: Option<SystemTime>,
    /// When a pause ends by itself.
    pub pause_ends_at: Option<SystemTime>,
    /// Rows written in this run.
    pub rows_written: u64,
    /// Transactions committed in this run.
    pub transactions: u64,
    /// Rows of its next full statement.
    pub statement_rows: u64,
}

/// The backlog of one collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionStatus {
    /// Its name.
    pub name: String,
    /// Objects not in Postgres yet.
    pub backlog_objects: u64,
    /// Their bytes.
    pub backlog_bytes: u64,
}

/// The journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalStatus {
    /// Bytes of what is not drained.
    pub bytes: u64,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Segments on disk.
    pub segments: u64,
    /// How far back drained groups are kept.
    pub retained: Duration,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitStatus {
    /// What it holds down.
    pub kind: LimitKind,
    /// The setting.
    pub name: &'static str,
    /// What it allows.
    pub max: u64,
    /// What is used of it, as its kind has it.
    pub used: u64,
}

impl From<&Limit> for LimitStatus {
    fn from(limit: &Limit) -> Self {
        Self { kind: limit.kind(), name: limit.name(), max: limit.max(), used: limit.used() }
    }
}

/// An endpoint that is told outcomes. Counts are of this run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Its name.
    pub name: String,
    /// It answered 410: nothing is sent to it until the next start.
    pub disabled: bool,
    /// Deliveries that wait or are under way.
    pub pending: u64,
    /// When the oldest pending delivery's save was accepted.
    pub oldest_accepted_at: Option<SystemTime>,
    /// Attempts that were answered with 2xx.
    pub delivered: u64,
    /// Attempts that were answered otherwise.
    pub refused: u64,
    /// Attempts that were not answered in time.
    pub timed_out: u64,
    /// Attempts without a connection, or with a broken one.
    pub unreachable: u64,
    /// Deliveries that were given up for their age.
    pub too_old: u64,
    /// Deliveries that were given up because the endpoint is disabled.
    pub dropped: u64,
    /// Why the last attempt failed; empty if it didn't.
    pub last_error: String,
}
