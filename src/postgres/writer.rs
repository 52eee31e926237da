//! One lane's connection: a generation becomes a transaction.
//!
//! BEGIN and the fence are answered first, then all statements travel in one flight; the first error aborts what comes after it,
//! and nothing is committed unless every answer was as expected. COMMIT and the position row read after it travel together: the row, not the tag,
//! says whether it happened (P3).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    Action, Aside, FailedSave, Failure, PositionRow, StatementRows,
    answers::{Meaning, Param, array, land_all, make_room, send_step, text},
    failed_saves, fingerprint,
    flight::{Answer, Flight, Refusal},
    lease::{Lease, within},
    plan,
    position::{self, LaneKey},
    session::Session,
    sqlstate::Phase,
    suspect,
};
use crate::{
    backlog::Generation,
    collections::Collections,
    failed::Close,
    save::{Accepted, CollectionId, Sequence},
};

/// What one transaction writes.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "the way to the journal has nothing to show")]
pub struct Work<'a> {
    /// The catalog that the generation was folded with.
    pub collections: &'a Collections,
    /// Where the lane's position has to be now.
    pub after: Sequence,
    /// Where it is afterwards.
    pub through: Sequence,
    /// The rows; `None` moves the position only.
    pub generation: Option<&'a Generation>,
    /// Saves at or below `through` that are given up.
    pub failed: &'a [FailedSave],
    /// Failed saves that are retried or overtaken by this transaction.
    pub closes: &'a [Close],
    /// Rows of one statement, to begin with.
    pub statement_rows: StatementRows,
    /// Take rows out that are refused for a fault of their own; their saves are there. `None`: such a row refuses all.
    pub aside: Option<&'a dyn Aside>,
}

/// What a transaction wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Saves of the generation that became failed saves.
    pub failed: Vec<(Accepted, Failure)>,
    /// Saves of the generation that had no effect because their row had a version as high, by collection, in order. Never a failed
    /// save, nor one that a later save hides (`backlog::fold` says which). If COMMIT's answer is lost, so is this: then it is told of
    /// none.
    pub superseded: BTreeMap<CollectionId, Vec<Sequence>>,
    /// What was closed.
    pub closed: Vec<Close>,
    /// Rows by collection.
    pub collections: BTreeMap<CollectionId, RowsWritten>,
    /// How long each statement took that wrote them.
    pub statement_times: Vec<Duration>,
    /// Rows of the next one, by that.
    pub statement_rows: StatementRows,
}

/// Rows of one collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowsWritten {
    /// Objects that were there.
    pub updated: u64,
    /// Objects that were not.
    pub inserted: u64,
    /// Objects that were there and are no more.
    pub deleted: u64,
    /// Rows added to an append collection.
    pub appended: u64,
}

impl Written {
    /// Nothing yet; statements begin with so many rows.
    pub(super) fn sized(statement_rows: StatementRows) -> Self {
        Self { statement_rows, ..Self::default() }
    }

    /// These saves had no effect.
    pub(super) fn supersede(&mut self, collection: CollectionId, saves: impl Iterator<Item = Sequence>) {
        saves.for_each(|save| self.superseded.entry(collection).or_default().push(save));
    }

    /// Nor had those that were stale in the fold, but for those that were executed one by one instead; these are in order.
    pub(super) fn supersede_stale(&mut self, generation: &Generation, executed: &[Accepted]) {
        let folded = |save: &Sequence| executed.binary_search_by_key(save, |accepted| accepted.sequence).is_err();
        for (&collection, fold) in generation.parts.iter().flat_map(|part| &part.collections) {
            self.supersede(collection, fold.stale.iter().copied().filter(folded));
        }
    }
}

/// Why a transaction has no certain, good end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The position row is not as expected; nothing was written. Read it.
    #[error("the position row in Postgres is not as expected")]
    Fence,
    /// The tables are no longer as they were read; nothing was written. Read the catalog.
    #[error("the catalog of Postgres has changed")]
    Catalog,
    /// Nothing was committed, for sure; [`Failure::action`] says what to do.
    #[error("{0}")]
    Failed(Failure),
    /// COMMIT was sent and its fate is unknown. Connect again and read the position row.
    #[error("commit in doubt: {0}")]
    InDoubt(Failure),
}

impl From<Failure> for ApplyError {
    fn from(failure: Failure) -> Self {
        if failure.action == Action::InDoubt { Self::InDoubt(failure) } else { Self::Failed(failure) }
    }
}

/// One lane's connection. After an error that breaks it ([`Writer::is_usable`]) drop it and ask
/// [`Postgres::writer`](super::Postgres::writer) for another.
#[derive(Debug)]
pub struct Writer {
    lease: Lease,
    session: Arc<Session>,
    lane: LaneKey,
    owner: Uuid,
}

impl Writer {
    pub(super) fn new(lease: Lease, session: Arc<Session>, journal: Uuid, lane: &str, owner: Uuid) -> Self {
        Self { lease, session, lane: LaneKey { journal: journal.to_string(), lane: lane.to_owned() }, owner }
    }

    pub(super) fn client(&self) -> &tokio_postgres::Client {
        &self.lease
    }

    pub(super) fn call_timeout(&self) -> Duration {
        self.session.call_timeout()
    }

    /// Whether the connection can be used again.
    pub fn is_usable(&self) -> bool {
        self.lease.is_sound()
    }

    /// The lane's position row; `None` if there is none, or no schema `forebay` at all.
    ///
    /// # Errors
    /// [`Failure`]; the connection may be broken.
    pub async fn read_position(&mut self) -> Result<Option<PositionRow>, Failure> {
        self.lease.enter();
        let row = position::read(&self.lease, &self.session, &self.lane).await;
        match row {
            Ok(row) => {
                self.lease.leave();
                Ok(row)
            }
            Err(failure) if matches!(failure.sqlstate.as_deref(), Some("42P01" | "3F000")) => {
                self.lease.leave();
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Makes the lane ours: by its first row, at `at`, if there was none; else by putting our token into the row that was read.
    ///
    /// # Errors
    /// [`ApplyError::Fence`] if the row is no longer as it was read.
    pub async fn claim(&mut self, read: Option<PositionRow>, at: Sequence) -> Result<(), ApplyError> {
        let through = read.map_or(at, |row| row.through);
        self.lease.enter();
        let flown = self.fly_claim(read, at).await;
        let flown = flown.map_err(|error| match error {
            // The row count tells what the fence tells elsewhere.
            ApplyError::Failed(failure) if failure.action == Action::Halve && failure.sqlstate.is_none() => ApplyError::Fence,
            other => other,
        });
        self.finish(flown, None, through).await
    }

    /// Writes one generation: rows, failed saves and the position, or nothing.
    ///
    /// # Errors
    /// [`ApplyError`] says whether anything can have been committed.
    pub async fn apply(&mut self, work: &Work<'_>) -> Result<Written, ApplyError> {
        self.lease.enter();
        let flown = self.fly(work).await;
        let applied = self.finish(flown, Some(work.after), work.through).await;
        let spoilt = matches!(&applied, Err(ApplyError::Failed(failure)) if failure.may_be_of_session());
        let applied = match applied {
            Err(ApplyError::Failed(failure)) if failure.is_refusal() && self.is_outdated(work).await => Err(ApplyError::Catalog),
            Err(ApplyError::Failed(mut failure)) if failure.action == Action::Halve => {
                failure.suspect = work.generation.and_then(|generation| suspect::suspect(&failure, work.collections, generation));
                Err(failure.into())
            }
            applied => applied,
        };
        if spoilt {
            // Never left: whatever is tried next is tried over another one.
            self.lease.enter();
        }
        applied
    }

    /// Whether the tables are no longer what the statements were made for, as far as a connection is left to ask.
    async fn is_outdated(&mut self, work: &Work<'_>) -> bool {
        let Some(generation) = work.generation.filter(|generation| fingerprint::has_all(work.collections, generation)) else {
            return false;
        };
        if !self.is_usable() {
            return false;
        }
        let (arrays, tables) = fingerprint::expected(work.collections, generation);
        self.lease.enter();
        let mut flight = Flight::new(&self.lease, self.session.call_timeout());
        flight.send_typed((), &fingerprint::compare(), 0, arrays.into_iter().map(array).collect()).await;
        let landed = flight.land(Phase::BeforeCommit).await.expect("it was sent");
        drop(flight);
        let Ok(((), answer)) = landed else { return false };
        self.lease.leave();
        usize::try_from(answer.counts[1]) != Ok(tables)
    }

    /// Rolls back or commits, and leaves a sound connection where that is possible.
    async fn finish<T>(&mut self, flown: Result<T, ApplyError>, before: Option<Sequence>, through: Sequence) -> Result<T, ApplyError> {
        match flown {
            Ok(written) => {
                let committed = self.commit(before, through).await;
                if committed.as_ref().err().is_none_or(|error| self.can_roll_back(error)) {
                    // Every answer is read, and no transaction is left.
                    self.lease.leave();
                }
                committed.map(|()| written)
            }
            Err(error) => {
                if self.can_roll_back(&error) {
                    let rolled_back = within(self.session.call_timeout(), "roll back", self.lease.batch_execute("rollback")).await;
                    rolled_back.is_ok().then(|| self.lease.leave());
                }
                Err(error)
            }
        }
    }

    fn can_roll_back(&self, error: &ApplyError) -> bool {
        match error {
            ApplyError::Fence | ApplyError::Catalog => true,
            ApplyError::Failed(failure) => {
                !matches!(failure.action, Action::Reconnect | Action::ReconnectThenHalt) && !self.lease.is_closed()
            }
            ApplyError::InDoubt(_) => false,
        }
    }

    async fn fly(&self, work: &Work<'_>) -> Result<Written, ApplyError> {
        let mut written = Written::sized(work.statement_rows);
        let mut flight = Flight::new(&self.lease, self.session.call_timeout());
        flight.send_simple(Meaning::Done, self.session.begin_writing()).await;
        flight.send_typed(Meaning::Fence, position::FENCE, 0, self.row_params(work.after)).await;
        // Only a BEGIN that was answered makes a transaction of the rest: had it been refused (a cancel, a pooler), every
        // statement after it would commit alone.
        land_all(&mut flight, &mut written).await?;
        let mut failed = work.failed.to_vec();
        match (work.generation, work.aside) {
            (Some(generation), Some(aside)) => {
                written = self.write_carefully(work, generation, aside).await?;
                failed.extend(written.failed.iter().map(|(accepted, why)| aside.failed(accepted, why)));
            }
            (Some(generation), None) => {
                for step in &plan::steps(work.collections, generation)? {
                    send_step(&mut flight, step, &mut written).await?;
                }
                written.supersede_stale(generation, &[]);
                written.closed = work.closes.to_vec();
            }
            (None, _) => written.closed = work.closes.to_vec(),
        }
        let rows_max = usize::try_from(work.statement_rows.get()).unwrap_or(usize::MAX);
        for saves in failed.chunks(rows_max) {
            self.send_failed(&mut flight, saves, &mut written).await?;
        }
        for closes in written.closed.clone().chunks(rows_max) {
            self.send_closes(&mut flight, closes, &mut written).await?;
        }
        if let Some(generation) = work.generation {
            let (arrays, tables) = fingerprint::expected(work.collections, generation);
            let params = arrays.into_iter().map(array).collect();
            flight.send_typed(Meaning::Catalog { tables }, &fingerprint::compare(), 0, params).await;
        }
        // So that COMMIT has nothing left to refuse.
        flight.send_simple(Meaning::Done, "set constraints all immediate").await;
        let mut params = self.row_params(work.after);
        params.push((Box::new(position::as_int8(work.through)), Type::INT8));
        flight.send_typed(Meaning::Own { table: "lane_position", rows: 1 }, position::ADVANCE, 0, params).await;
        land_all(&mut flight, &mut written).await?;
        written.superseded.values_mut().for_each(|saves| saves.sort_unstable());
        Ok(written)
    }

    async fn fly_claim(&self, read: Option<PositionRow>, at: Sequence) -> Result<(), ApplyError> {
        let mut flight = Flight::new(&self.lease, self.session.call_timeout());
        flight.send_simple(Meaning::Done, self.session.begin_writing()).await;
        land_all(&mut flight, &mut Written::default()).await?;
        let meaning = Meaning::Own { table: "lane_position", rows: 1 };
        match read {
            None => flight.send_typed(meaning, position::FIRST_CLAIM, 0, self.row_params(at)).await,
            Some(row) => {
                let mut params = self.row_params(row.through);
                params[2] = text(row.owner.to_string());
                params.push(text(self.owner.to_string()));
                flight.send_typed(meaning, position::CLAIM, 0, params).await;
            }
        }
        land_all(&mut flight, &mut Written::default()).await
    }

    async fn send_failed(
        &self,
        flight: &mut Flight<'_, Meaning<'_>>,
        saves: &[FailedSave],
        written: &mut Written,
    ) -> Result<(), ApplyError> {
        let mut params = vec![text(self.lane.journal.clone()), text(self.lane.lane.clone())];
        params.extend(failed_saves::arrays(saves).into_iter().map(array));
        let bytes = saves.iter().map(|save| save.body.as_ref().map_or(0, String::len)).sum();
        make_room(flight, bytes, written).await?;
        let meaning = Meaning::Own { table: "failed_save", rows: i64::try_from(saves.len()).expect("a short list") };
        flight.send_typed(meaning, failed_saves::INSERT, bytes, params).await;
        Ok(())
    }

    async fn send_closes(&self, flight: &mut Flight<'_, Meaning<'_>>, closes: &[Close], written: &mut Written) -> Result<(), ApplyError> {
        let mut params = vec![text(self.lane.journal.clone())];
        params.extend(failed_saves::close_arrays(closes).into_iter().map(array));
        make_room(flight, 0, written).await?;
        flight.send_typed(Meaning::Done, failed_saves::CLOSE, 0, params).await;
        Ok(())
    }

    /// Sends COMMIT and reads the position row back. `before` is where the row stands if COMMIT did nothing.
    async fn commit(&self, before: Option<Sequence>, through: Sequence) -> Result<(), ApplyError> {
        let mut flight = Flight::new(&self.lease, self.session.call_timeout());
        flight.send_simple((), "commit").await;
        let params = vec![text(self.lane.journal.clone()), text(self.lane.lane.clone()), text(self.owner.to_string())];
        flight.send_typed((), position::READ_BACK, 0, params).await;
        let mut refused = flight.land(Phase::CommitSent).await.expect("it was sent").err().map(|refusal| refusal.failure);
        if let Some(silence) = refused.take_if(|failure| failure.sqlstate.is_none()) {
            // Nor would the row be read: not worth another wait.
            return Err(in_doubt(silence));
        }
        let stands = match flight.land(Phase::CommitSent).await.expect("it was sent") {
            Ok(((), Answer { counts: [position, 1], .. })) => Some(position),
            Ok(_) => None,
            Err(Refusal { failure, .. }) => return Err(in_doubt(refused.unwrap_or(failure))),
        };
        let at = |sequence: Option<Sequence>| stands.is_some() && stands == sequence.map(position::as_int8);
        match refused {
            None if at(Some(through)) => Ok(()),
            // Seen with COMMIT in a failed transaction: answered by ROLLBACK, without an error.
            None if at(before) => Err(Failure::local(Action::Reconnect, "Postgres rolled back instead of committing").into()),
            None => Err(in_doubt(Failure::local(Action::InDoubt, "after COMMIT the position row is not as written"))),
            Some(failure) if at(before) => Err(failure.into()),
            Some(failure) => Err(in_doubt(failure)),
        }
    }

    /// Journal, lane, owner, position: `$1` to `$4`.
    fn row_params(&self, through: Sequence) -> Vec<Param> {
        let through = Box::new(position::as_int8(through));
        vec![text(self.lane.journal.clone()), text(self.lane.lane.clone()), text(self.owner.to_string()), (through, Type::INT8)]
    }
}

fn in_doubt(failure: Failure) -> ApplyError {
    ApplyError::InDoubt(Failure { action: Action::InDoubt, ..failure })
}
