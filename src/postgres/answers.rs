//! Statements on their way and what their answers are held against: every row count is compared with what was sent (P6).

use std::sync::Arc;

use tokio_postgres::types::{ToSql, Type};

use super::{
    Action, ApplyError, Failure, RowsWritten, Written,
    flight::{Answer, Flight, Refusal},
    plan::{Operation, Row, Step},
    sqlstate::Phase,
};
use crate::{backlog::Guard, save::CollectionId};

/// What an answer is held against.
#[derive(Debug)]
pub(super) enum Meaning<'g> {
    /// Any answer will do.
    Done,
    /// 22012 means: the position row is not as expected.
    Fence,
    /// Rows of a collection.
    Rows {
        collection: CollectionId,
        name: Arc<str>,
        operation: Operation,
        /// With a version, one for each row; else none. Another writer may have been there in between: the same again shows what
        /// it did.
        guards: Vec<&'g Guard>,
        sent: u64,
        /// Its triggers may leave some out.
        or_fewer: bool,
    },
    /// So many tables that are still as they were read.
    Catalog { tables: usize },
    /// So many rows of our own tables.
    Own { table: &'static str, rows: i64 },
}

pub(super) type Param = (Box<dyn ToSql + Sync + Send>, Type);

pub(super) fn text(text: String) -> Param {
    (Box::new(text), Type::TEXT)
}

pub(super) fn array(array: super::array::TextArray) -> Param {
    (Box::new(array), Type::TEXT_ARRAY)
}

/// Full statements of which Postgres has not answered the first: it never waits for the next one, and a size that turns out
/// wrong is soon another.
const STATEMENTS_AHEAD: u64 = 3;

pub(super) async fn send_step<'g>(flight: &mut Flight<'_, Meaning<'g>>, step: &Step<'g>, written: &mut Written) -> Result<(), ApplyError> {
    let statement = step.statement();
    let mut rest = &step.rows[..];
    while let Some((portion, others)) = Step::portion(rest, written.statement_rows.get()) {
        make_room(flight, Step::bytes(portion), written).await?;
        send_portion(flight, step, &statement, portion).await?;
        while rows_under_way(flight) >= written.statement_rows.get() * STATEMENTS_AHEAD {
            land_one(flight, written).await?;
        }
        rest = others;
    }
    Ok(())
}

pub(super) async fn send_portion<'g>(
    flight: &mut Flight<'_, Meaning<'g>>,
    step: &Step<'g>,
    statement: &str,
    portion: &[Row<'g>],
) -> Result<(), ApplyError> {
    let arrays = step.parameters(portion)?;
    let bytes = arrays.iter().map(super::array::TextArray::bytes).sum();
    let params = match arrays.is_empty() {
        true => vec![(Box::new(portion.len().cast_signed() as i64) as Box<dyn ToSql + Sync + Send>, Type::INT8)],
        false => arrays.into_iter().map(array).collect(),
    };
    let meaning = Meaning::Rows {
        collection: step.collection.id,
        name: Arc::clone(&step.collection.name),
        operation: step.operation,
        guards: step.version.map_or_else(Vec::new, |_| portion.iter().filter_map(|row| row.guard).collect()),
        sent: portion.len() as u64,
        or_fewer: step.collection.triggers_skip,
    };
    flight.send_typed(meaning, statement, bytes, params).await;
    Ok(())
}

fn rows_under_way(flight: &Flight<'_, Meaning<'_>>) -> u64 {
    let rows = |meaning: &Meaning<'_>| if let Meaning::Rows { sent, .. } = meaning { *sent } else { 0 };
    flight.under_way().map(rows).sum()
}

/// Bounds what is under way: a generation may hold a million rows.
pub(super) async fn make_room(flight: &mut Flight<'_, Meaning<'_>>, bytes: usize, written: &mut Written) -> Result<(), ApplyError> {
    while flight.is_full_for(bytes) {
        land_one(flight, written).await?;
    }
    Ok(())
}

pub(super) async fn land_all(flight: &mut Flight<'_, Meaning<'_>>, written: &mut Written) -> Result<(), ApplyError> {
    while land_one(flight, written).await? {}
    Ok(())
}

/// False if nothing was outstanding.
async fn land_one(flight: &mut Flight<'_, Meaning<'_>>, written: &mut Written) -> Result<bool, ApplyError> {
    match flight.land(Phase::BeforeCommit).await {
        None => Ok(false),
        Some(Ok((meaning, answer))) => hold_against(meaning, &answer, written).map(|()| true),
        Some(Err(Refusal { meaning, failure })) => Err(match meaning {
            Meaning::Fence if failure.sqlstate.as_deref() == Some("22012") => ApplyError::Fence,
            Meaning::Rows { name, guards, .. } if !guards.is_empty() && failure.sqlstate.as_deref() == Some("23505") => {
                Failure { action: Action::RetryThenHalve, ..failure }.of(&name).into()
            }
            Meaning::Rows { name, .. } => failure.of(&name).into(),
            _ => failure.into(),
        }),
    }
}

pub(super) fn hold_against(meaning: Meaning<'_>, answer: &Answer, written: &mut Written) -> Result<(), ApplyError> {
    let counts = answer.counts;
    match meaning {
        Meaning::Done | Meaning::Fence => Ok(()),
        Meaning::Catalog { tables } if usize::try_from(counts[1]) == Ok(tables) => Ok(()),
        Meaning::Catalog { .. } => Err(ApplyError::Catalog),
        Meaning::Own { rows, .. } if counts[1] == rows => Ok(()),
        Meaning::Own { table, rows } => {
            let message = format!("forebay.{table}: {rows} rows were sent, {} arrived", counts[1]);
            Err(Failure::local(Action::Halve, message).into())
        }
        Meaning::Rows { collection, name, operation, guards, sent, or_fewer } => {
            let [first, second] = counts.map(|count| u64::try_from(count).unwrap_or(u64::MAX));
            let arrived = first.saturating_add(second).saturating_add(answer.superseded.len() as u64);
            // A trigger that leaves a row out does so to a direct write, too: that save is executed.
            let complete = if operation == Operation::Delete || or_fewer { arrived <= sent } else { arrived == sent };
            if !complete {
                let swallowed = swallowed(&name, sent, arrived);
                let action = if guards.is_empty() { swallowed.action } else { Action::RetryThenHalve };
                return Err(Failure { action, ..swallowed }.into());
            }
            written.statement_times.push(answer.took);
            written.statement_rows.took(sent, answer.took);
            written.collections.entry(collection).or_default().add(operation, first, second);
            let superseded = answer.superseded.iter().filter_map(|&n| guards.get(usize::try_from(n).ok()?.checked_sub(1)?));
            written.supersede(collection, superseded.flat_map(|guard| guard.saves()));
            Ok(())
        }
    }
}

/// No error, and yet not what was asked for.
fn swallowed(name: &str, sent: u64, arrived: u64) -> Failure {
    let message = format!("{sent} rows were sent, {arrived} arrived: something took the others out");
    Failure::local(Action::Halve, message).of(name)
}

impl RowsWritten {
    fn add(&mut self, operation: Operation, first: u64, second: u64) {
        match operation {
            Operation::Set | Operation::Replace => {
                self.updated += first;
                self.inserted += second;
            }
            Operation::Delete => self.deleted += first,
            Operation::Append => self.appended += second,
        }
    }
}
