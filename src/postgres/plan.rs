//! From a generation to the statements that write it, in order. Pure.
//!
//! Parents before the tables that reference them: their sets, their appended rows; then, in the same order, the second entries
//! of objects that have more than one, then the third ones, and so on. Last the deletes, children first: what they reach may
//! have been set before.

use super::{Action, Failure, array::TextArray, encode::Parameters, statements, statements::Upsert};
use crate::{
    backlog::{AppendedRow, CollectionFold, Entry, Fold, Generation, Guard, Object, Part},
    collections::{Collection, Collections},
    save::{Body, ColumnIndex, ColumnSet, Key, Sequence},
};

/// What a statement does to its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Update these columns, insert what is missing.
    Set,
    /// The same; all other columns return to their defaults.
    Replace,
    /// Delete what is there.
    Delete,
    /// Insert.
    Append,
}

/// Rows of one collection that one statement text writes, in the order in which they are sent.
#[derive(Clone, Debug)]
pub(super) struct Step<'g> {
    pub(super) collection: &'g Collection,
    pub(super) operation: Operation,
    pub(super) columns: ColumnSet,
    /// Those of them that are added to.
    pub(super) adds: ColumnSet,
    /// The version column, if it guards the rows.
    pub(super) version: Option<ColumnIndex>,
    pub(super) rows: Vec<Row<'g>>,
}

/// A row: its key (not for appends) and its body (not for deletes).
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'g> {
    pub(super) key: Option<&'g Key>,
    pub(super) body: Option<&'g Body>,
    /// What decides whether it has an effect.
    pub(super) guard: Option<&'g Guard>,
    /// The last save folded into it.
    pub(super) last: Sequence,
    /// How many there are.
    pub(super) saves: u32,
    /// Nothing else depends on it: no save of its batch, no other entry of its object.
    pub(super) alone: bool,
}

impl<'g> Row<'g> {
    fn appended(row: &'g AppendedRow) -> Self {
        Self { key: None, body: Some(&row.body), guard: None, last: row.sequence, saves: 1, alone: !row.batched }
    }

    fn bytes(&self) -> usize {
        self.key.map_or(0, |key| key.as_bytes().len()) + self.body.map_or(0, |body| body.as_bytes().len())
    }
}

/// All steps of a generation, part by part.
pub(super) fn steps<'g>(collections: &'g Collections, generation: &'g Generation) -> Result<Vec<Step<'g>>, Failure> {
    let mut steps = Vec::new();
    for part in &generation.parts {
        steps.extend(part_steps(collections, part)?);
    }
    Ok(steps)
}

fn part_steps<'g>(collections: &'g Collections, part: &'g Part) -> Result<Vec<Step<'g>>, Failure> {
    let (mut steps, mut deletes) = (Vec::new(), Vec::new());
    for &id in collections.parents_first() {
        let Some(fold) = part.collections.get(&id) else { continue };
        let collection = collections.get(id);
        if collection.gone && !(fold.objects.is_empty() && fold.appended.is_empty()) {
            let message = format!("the table of collection {:?} is gone, or is no collection any more", collection.name);
            return Err(Failure::as_if(Action::Halt, "42P01", message).of(&collection.name));
        }
        steps.extend(set_steps(collection, fold, 0));
        steps.extend(append_steps(collection, &fold.appended));
        deletes.extend(delete_step(collection, fold));
    }
    let rounds = part.collections.values().map(|fold| fold.later_rounds).max().unwrap_or(0);
    for round in 1..=rounds {
        for &id in collections.parents_first() {
            let fold = part.collections.get(&id).filter(|fold| fold.later_rounds >= round);
            steps.extend(fold.into_iter().flat_map(|fold| set_steps(collections.get(id), fold, round)));
        }
    }
    steps.extend(deletes.into_iter().rev());
    Ok(steps)
}

/// What the rows of a step have in common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Alike<'g> {
    replaces: bool,
    columns: &'g ColumnSet,
    adds: &'g ColumnSet,
    guarded: bool,
}

impl<'g> Alike<'g> {
    /// The entry of this round, if the object has one that sets something: what it is like, its body and its guard.
    fn of(fold: &'g Fold, round: usize) -> Option<(Self, &'g Body, Option<&'g Guard>)> {
        let plain = |replaces, columns| Self { replaces, columns, adds: &ColumnSet::EMPTY, guarded: false };
        match fold {
            Fold::Entries(entries) => entries.get(round).map(|Entry { replaces, columns, adds, body, guard }| {
                let guard = guard.as_deref().filter(|_| !replaces);
                (Self { replaces: *replaces, columns, adds, guarded: guard.is_some() }, body, guard)
            }),
            _ if round > 0 => None,
            Fold::Set { columns, body } => Some((plain(false, columns), body, None)),
            Fold::Replace { columns, body } => Some((plain(true, columns), body, None)),
            Fold::Delete => None,
        }
    }
}

/// One step for every set of columns. Within it by key: transactions that lock the same rows do so in the same order.
fn set_steps<'g>(collection: &'g Collection, fold: &'g CollectionFold, round: usize) -> Vec<Step<'g>> {
    let mut sets: Vec<(Alike<'g>, &Key, Row<'g>)> = Vec::with_capacity(if round == 0 { fold.objects.len() } else { 0 });
    for (key, object) in &fold.objects {
        let alone = !object.batched && !matches!(&object.fold, Fold::Entries(entries) if entries.len() > 1);
        let row = |body, guard| Row { key: Some(key), body: Some(body), guard, last: object.last, saves: object.saves, alone };
        sets.extend(Alike::of(&object.fold, round).map(|(alike, body, guard)| (alike, key, row(body, guard))));
    }
    sets.sort_unstable_by_key(|&(alike, key, _)| (alike, key));
    let step = |rows: &[(Alike<'g>, &'g Key, Row<'g>)]| {
        let Alike { replaces, columns, adds, guarded } = rows[0].0;
        let operation = if replaces { Operation::Replace } else { Operation::Set };
        let rows = rows.iter().map(|&(.., row)| row).collect();
        Step { collection, operation, columns: columns.clone(), adds: adds.clone(), version: collection.version.filter(|_| guarded), rows }
    };
    sets.chunk_by(|a, b| a.0 == b.0).map(step).collect()
}

/// In sequence order: neighbours that name the same columns share a statement, no others do.
fn append_steps<'g>(collection: &'g Collection, appended: &'g [AppendedRow]) -> impl Iterator<Item = Step<'g>> {
    appended.chunk_by(|a, b| a.columns == b.columns).map(move |rows| Step {
        collection,
        operation: Operation::Append,
        columns: rows[0].columns.clone(),
        adds: ColumnSet::EMPTY,
        version: None,
        rows: rows.iter().map(Row::appended).collect(),
    })
}

fn delete_step<'g>(collection: &'g Collection, fold: &'g CollectionFold) -> Option<Step<'g>> {
    let deleted = fold.objects.iter().filter(|(_, object)| object.fold == Fold::Delete);
    let row = |(key, object): (&'g Key, &'g Object)| {
        let Object { last, saves, batched, .. } = *object;
        Row { key: Some(key), body: None, guard: None, last, saves, alone: !batched }
    };
    let mut rows: Vec<_> = deleted.map(row).collect();
    rows.sort_unstable_by_key(|row| row.key);
    (!rows.is_empty()).then_some(Step {
        collection,
        operation: Operation::Delete,
        columns: ColumnSet::EMPTY,
        adds: ColumnSet::EMPTY,
        version: None,
        rows,
    })
}

impl<'g> Step<'g> {
    /// Bodies of one statement, whatever the number of its rows.
    const STATEMENT_BYTES_MAX: usize = 1 << 20;

    /// The text of its statements.
    pub(super) fn statement(&self) -> String {
        match self.operation {
            Operation::Set | Operation::Replace => {
                let replace = self.operation == Operation::Replace;
                statements::upsert(self.collection, Upsert { set: &self.columns, adds: &self.adds, replace, version: self.version })
            }
            Operation::Delete => statements::delete(self.collection),
            Operation::Append if self.columns.is_empty() => statements::append_defaults(self.collection),
            Operation::Append => statements::append(self.collection, &self.columns),
        }
    }

    /// About what these rows take of a message.
    pub(super) fn bytes(rows: &[Row<'_>]) -> usize {
        rows.iter().map(Row::bytes).sum()
    }

    /// The first of these rows, as many as one statement takes, and the others; `None` if there are none.
    pub(super) fn portion<'r>(rows: &'r [Row<'g>], rows_max: u64) -> Option<(&'r [Row<'g>], &'r [Row<'g>])> {
        let rows_max = usize::try_from(rows_max).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |row: &&Row<'_>| {
            bytes += row.bytes();
            bytes <= Self::STATEMENT_BYTES_MAX
        };
        let count = rows.iter().take(rows_max).take_while(fits).count().max(1);
        rows.split_at_checked(count)
    }

    /// The parameters of one portion, one array a column.
    pub(super) fn parameters(&self, portion: &[Row<'_>]) -> Result<Vec<TextArray>, Failure> {
        let mut parameters = Parameters::new(self.collection, &self.columns);
        for row in portion {
            if let Some(key) = row.key {
                parameters.push_key(key)?;
            }
            if let Some(body) = row.body {
                parameters.push_body(body)?;
            }
        }
        Ok(parameters.into_arrays())
    }
}
