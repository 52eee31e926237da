//! The shortcut for rows that Postgres won't take for a fault of their own (a value that its column can't hold, a missing
//! value, a check): they are taken out of the generation, and the others are written in the same transaction.
//!
//! Every statement stands under a savepoint. One that is refused is searched for the row at fault, which is left out; the saves
//! behind it are executed one by one at the end, each under a savepoint, and those that are refused again become failed saves
//! (P2: they fail at their place, as the fault lies in no other row). Anything else that goes wrong ends the transaction, and
//! the generation is halved: so is one whose rows reach others, or whose row belongs to a batch.

use std::{future::Future, pin::Pin, sync::Arc};

use super::{
    Action, FailedSave, Failure,
    answers::{Meaning, hold_against, send_portion},
    flight::Flight,
    plan::{self, Operation, Row, Step},
    sqlstate::Phase,
    writer::{ApplyError, Work, Writer, Written},
};
use crate::{
    backlog::Generation,
    failed::{Close, FailedState},
    save::{Accepted, CollectionId, Key, Sequence},
};

/// The saves behind rows that are taken out: the journal has them.
pub trait Aside: Send + Sync {
    /// The saves of these rows, in order.
    fn saves<'a>(&'a self, taken: &'a [TakenOut]) -> Pin<Box<dyn Future<Output = Result<Vec<Accepted>, Failure>> + Send + 'a>>;

    /// As the row of `forebay.failed_save` that this save becomes.
    fn failed(&self, accepted: &Accepted, why: &Failure) -> FailedSave;

    /// How many more failed saves there may be.
    fn room(&self) -> u64;
}

/// A row that is left out of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenOut {
    /// Its collection.
    pub collection: CollectionId,
    /// Its key; none for an append.
    pub key: Option<Key>,
    /// The last save folded into it.
    pub last: Sequence,
    /// How many there are.
    pub saves: u32,
    why: Failure,
}

/// So many rows are taken out of one transaction; with more, something is wrong that isn't single rows.
const TAKEN_OUT_MAX: usize = 1_000;
/// Rows of one statement, as a part of what it usually has: a row at fault costs its statement again.
const STATEMENT_PART: u64 = 2;

impl Writer {
    /// Writes what of a generation can be written; tells the saves that can't and what is closed by those that can.
    pub(super) async fn write_carefully(&self, work: &Work<'_>, generation: &Generation, aside: &dyn Aside) -> Result<Written, ApplyError> {
        let (mut written, mut taken) = (Written::sized(work.statement_rows), Vec::new());
        for step in plan::steps(work.collections, generation)? {
            let mut rest = &step.rows[..];
            while let Some((portion, others)) = Step::portion(rest, written.statement_rows.get() / STATEMENT_PART) {
                self.write_portion(generation, &step, portion, &mut written, &mut taken).await?;
                rest = others;
            }
        }
        let saves = if taken.is_empty() { Vec::new() } else { aside.saves(&taken).await? };
        written.failed = self.write_aside(work, generation, &taken, &saves, &mut written).await?;
        written.supersede_stale(generation, &saves);
        written.closed = closes(work.closes, &saves, &written.failed);
        match written.failed.first() {
            Some((_, why)) if written.failed.len() as u64 > aside.room() => Err(why.clone().into()),
            _ => Ok(written),
        }
    }

    /// Writes the rows of a portion but those at fault.
    async fn write_portion(
        &self,
        generation: &Generation,
        step: &Step<'_>,
        portion: &[Row<'_>],
        written: &mut Written,
        taken: &mut Vec<TakenOut>,
    ) -> Result<(), ApplyError> {
        let mut rest = portion;
        while let Some(why) = self.attempt(step, rest, written).await? {
            let (at, why) = self.search(step, rest, why, written).await?;
            let row = rest[at];
            let can_go = row.alone && step.operation != Operation::Delete && stands_apart(generation, step.collection.id);
            if !can_go || taken.len() == TAKEN_OUT_MAX {
                return Err(why.into());
            }
            let (collection, key) = (step.collection.id, row.key.cloned());
            taken.push(TakenOut { collection, key, last: row.last, saves: row.saves, why });
            rest = &rest[at + 1..];
        }
        Ok(())
    }

    /// Finds the first row at fault among rows that were refused together, and writes those before it: no row is written twice.
    async fn search(&self, step: &Step<'_>, rows: &[Row<'_>], why: Failure, written: &mut Written) -> Result<(usize, Failure), ApplyError> {
        let (mut from, mut to) = (0, rows.len());
        // What Postgres tells often names the row.
        if let Some(at) = rows.iter().position(|row| is_named(row, &why)) {
            if self.attempt(step, &rows[..at], written).await?.is_some() {
                to = at;
            } else if let Some(own) = self.attempt(step, &rows[at..=at], written).await? {
                return Ok((at, own));
            } else {
                from = at + 1;
            }
        }
        while to - from > 1 {
            let middle = from + (to - from) / 2;
            match self.attempt(step, &rows[from..middle], written).await? {
                None => from = middle,
                Some(_) => to = middle,
            }
        }
        match self.attempt(step, &rows[from..to], written).await? {
            Some(why) => Ok((from, why)),
            // Refused together, taken one by one: not its own fault after all.
            None => Err(Failure::local(Action::Halve, "rows that are refused together are taken apart").of(&step.collection.name).into()),
        }
    }

    /// One statement under a savepoint; the failure if it is a row's own.
    async fn attempt(&self, step: &Step<'_>, rows: &[Row<'_>], written: &mut Written) -> Result<Option<Failure>, ApplyError> {
        if rows.is_empty() {
            return Ok(None);
        }
        let mut flight = Flight::new(self.client(), self.call_timeout());
        flight.send_simple(Meaning::Done, "savepoint attempt").await;
        send_portion(&mut flight, step, &step.statement(), rows).await?;
        flight.send_simple(Meaning::Done, "release savepoint attempt").await;
        let began = flight.land(Phase::BeforeCommit).await.expect("it was sent");
        began.map_err(|refusal| ApplyError::from(refusal.failure))?;
        let answer = flight.land(Phase::BeforeCommit).await.expect("it was sent");
        let released = flight.land(Phase::BeforeCommit).await.expect("it was sent");
        match answer {
            Ok((meaning, answer)) => {
                released.map_err(|refusal| ApplyError::from(refusal.failure))?;
                hold_against(meaning, &answer, written).map(|()| None)
            }
            Err(refusal) if refusal.failure.action == Action::RowsOwn => {
                let mut flight = Flight::new(self.client(), self.call_timeout());
                flight.send_simple((), "rollback to savepoint attempt; release savepoint attempt").await;
                let back = flight.land(Phase::BeforeCommit).await.expect("it was sent");
                back.map_err(|refusal| ApplyError::from(refusal.failure))?;
                Ok(Some(refusal.failure.of(&step.collection.name)))
            }
            Err(refusal) => Err(refusal.failure.of(&step.collection.name).into()),
        }
    }

    /// Executes the saves behind what was taken out, one by one, and gives those that are refused.
    async fn write_aside(
        &self,
        work: &Work<'_>,
        generation: &Generation,
        taken: &[TakenOut],
        saves: &[Accepted],
        written: &mut Written,
    ) -> Result<Vec<(Accepted, Failure)>, ApplyError> {
        let mut failed = Vec::new();
        for accepted in saves {
            // Alone in its row it was refused as it stands.
            let known = taken.iter().find(|taken| taken.saves == 1 && taken.last == accepted.sequence).map(|taken| taken.why.clone());
            let why = match known {
                Some(why) => Some(why),
                None => self.execute(work, generation, accepted, written).await?,
            };
            failed.extend(why.map(|why| (accepted.clone(), why)));
        }
        Ok(failed)
    }

    async fn execute(
        &self,
        work: &Work<'_>,
        generation: &Generation,
        accepted: &Accepted,
        written: &mut Written,
    ) -> Result<Option<Failure>, ApplyError> {
        let alone = Generation::one_by_one(generation.after, Arc::clone(&generation.reaches), [accepted.clone()]);
        for step in plan::steps(work.collections, &alone)? {
            if let Some(why) = self.attempt(&step, &step.rows, written).await? {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }
}

/// Whether the rows of a collection can be written at another place of the generation: no other save reaches them, nor do
/// theirs reach others.
fn stands_apart(generation: &Generation, collection: CollectionId) -> bool {
    let [part] = &generation.parts[..] else { return false };
    !part.acted.contains(&collection) && !generation.reaches.forbids_replace(collection)
}

/// Whether Postgres' words fit this row: the value that it quotes, or the key in the row that it shows.
fn is_named(row: &Row<'_>, why: &Failure) -> bool {
    let quoted = || why.message.split('"').nth(1).filter(|value| !value.is_empty());
    match (&why.detail, row.body) {
        (Some(shown), _) if row.key.is_some() => {
            let values = shown.rsplit_once('(').map_or("", |(_, values)| values).trim_end_matches(['.', ')']);
            let mut parts = row.key.into_iter().flat_map(Key::parts);
            parts.all(|part| values.split(", ").any(|value| value == part))
        }
        (None, Some(body)) => quoted().is_some_and(|value| body.as_str().contains(value)),
        _ => false,
    }
}

/// What is closed by a transaction in which some of these saves, in order, fail: a row that was refused is overtaken by the last
/// save of its object that was not, be it an earlier failed save or one of these.
fn closes(planned: &[Close], saves: &[Accepted], failed: &[(Accepted, Failure)]) -> Vec<Close> {
    let fails = |sequence: Sequence| failed.iter().any(|(accepted, _)| accepted.sequence == sequence);
    let last_taken = |of: &Accepted| {
        let same = |other: &&Accepted| other.save.key == of.save.key && other.save.collection == of.save.collection;
        let taken = saves.iter().filter(|other| of.save.key != Key::none() && !fails(other.sequence));
        taken.filter(same).map(|other| other.sequence).next_back()
    };
    let overtakes = |sequence: Sequence, by: &Accepted| {
        last_taken(by).filter(|&by| by > sequence).map(|by| Close { sequence, state: FailedState::Overtaken, by })
    };
    let earlier = planned.iter().filter_map(|close| match failed.iter().find(|(accepted, _)| accepted.sequence == close.by) {
        Some((by, _)) if close.state == FailedState::Overtaken => overtakes(close.sequence, by),
        _ => Some(*close),
    });
    earlier.chain(failed.iter().filter_map(|(accepted, _)| overtakes(accepted.sequence, accepted))).collect()
}
