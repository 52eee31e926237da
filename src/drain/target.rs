//! The two ends of a lane: Postgres and the journal.
//!
//! Both are traits because they have two real implementations each: the daemon's, over the writer's connection and the
//! segments on disk, and the simulation's, which fails in every way a seed can think of. They are as narrow as that allows.

use std::{future::Future, sync::Arc};

use crate::{
    backlog::Generation,
    collections::Reaches,
    postgres::{ApplyError, Failure, PositionRow, StatementRows, Written},
    save::{Accepted, Sequence},
};

/// Postgres as a lane needs it: one connection, one transaction at a time, every call under a timeout of its own.
///
/// Dropping a call's future is safe at any time; the connection is then thrown away.
pub trait Target: Send {
    /// Reads the position row, over a new connection if there is none.
    fn contact(&mut self) -> impl Future<Output = Result<Option<PositionRow>, Failure>> + Send;

    /// Counts the open failed saves: they are what is in use of `failed.saves_max`. From then on [`Self::apply`] keeps count.
    fn count_failed(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Writes this daemon's token into the position row if the row is still as it was read; if there was none, inserts one
    /// at zero. What came of it is read afterwards.
    fn claim(&mut self, read: Option<PositionRow>) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// What saves change beside their own row, by the catalog as it was read last.
    fn reaches(&self) -> Arc<Reaches>;

    /// Reads the catalog again, for everybody.
    fn refresh(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// One transaction: compares the position row with `work.after` and this daemon's token on the server, writes, advances
    /// the row, and reads it back after COMMIT. [`ApplyError::Catalog`] unless the generation was folded by the catalog that the
    /// server has.
    fn apply(&mut self, work: Work<'_>) -> impl Future<Output = Result<Written, ApplyError>> + Send;

    /// Whether there is a connection that can be used again.
    fn is_connected(&self) -> bool;

    /// Throws the connection away, if there is one.
    fn disconnect(&mut self);

    /// Returns when the idle connection is lost.
    fn lost(&mut self) -> impl Future<Output = ()> + Send;
}

/// The journal as a lane needs it.
pub trait Log: Send + Sync {
    /// The lane's saves after `after` up to `through`, in order: as many as fit into `bytes_max` but at least one batch, and
    /// whole batches only. Empty only if there are none: a bound need not be a save of the lane.
    fn read(&self, after: Sequence, through: Sequence, bytes_max: u64) -> impl Future<Output = Result<Vec<Accepted>, LogError>> + Send;

    /// Whether this number is the journal's: of a save of any lane that it holds or held, or below one. What another state of
    /// the journal gave after the two parted lies below numbers of this start, and yet is not its own.
    fn knows(&self, sequence: Sequence) -> bool;

    /// Makes durable that the lane has a position row in Postgres: should it be missing later, that is no fresh start.
    fn note_row(&self) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Makes durable that the lane's saves after `after` up to `through` were given up.
    fn note_gap(&self, after: Sequence, through: Sequence) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Makes durable that Postgres went back in time, to here: outcomes of the lane's saves above were told and no longer hold.
    fn note_rewind(&self, to: Sequence) -> impl Future<Output = Result<(), LogError>> + Send;
}

/// One transaction.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The position before it.
    pub after: Sequence,
    /// The position after it.
    pub through: Sequence,
    /// What it writes.
    pub what: What<'a>,
    /// Rows of one statement, to begin with.
    pub statement_rows: StatementRows,
    /// Take rows out that are refused for a fault of their own.
    pub careful: bool,
}

/// What a transaction writes.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A generation's rows.
    Generation(&'a Generation),
    /// Rows of `forebay.failed_save`: a save or an atomic batch that Postgres would not take, and why.
    Failed(&'a [Accepted], &'a Failure),
}

/// The journal could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Saves that are asked for are no longer there: retention has passed.
    #[error("the journal no longer holds the saves before {oldest}")]
    Forgotten {
        /// The oldest save that it may hold.
        oldest: Sequence,
    },
    /// Where saves were accepted there are none.
    #[error("the journal holds nothing between {after} and {through}, where saves were accepted")]
    Missing {
        /// After this one.
        after: Sequence,
        /// Up to this one.
        through: Sequence,
    },
    /// It is damaged or its disk fails.
    #[error("{0}")]
    Broken(String),
}
