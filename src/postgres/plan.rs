//! From a generation to the statements that write it, in order. Pure.
//!
//! Parents before the tables that reference them: their sets, their appended rows. Then deletes, children first.

use super::{Action, Failure, array::TextArray, encode::Parameters, statements};
use crate::{
    backlog::{AppendedRow, CollectionFold, Fold, Generation, Part},
    collections::{Collection, Collections},
    save::{Body, ColumnSet, Key},
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
    pub(super) rows: Vec<Row<'g>>,
}

/// A row: its key (not for appends) and its body (not for deletes).
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'g> {
    key: Option<&'g Key>,
    body: Option<&'g Body>,
}

impl Row<'_> {
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
        steps.extend(set_steps(collection, fold));
        steps.extend(append_steps(collection, &fold.appended));
        deletes.extend(delete_step(collection, fold));
    }
    steps.extend(deletes.into_iter().rev());
    Ok(steps)
}

/// One step for every set of columns. Within it by key: transactions that lock the same rows do so in the same order.
fn set_steps<'g>(collection: &'g Collection, fold: &'g CollectionFold) -> Vec<Step<'g>> {
    let mut sets: Vec<(Operation, &ColumnSet, &Key, &Body)> = Vec::with_capacity(fold.objects.len());
    for (key, object) in &fold.objects {
        match &object.fold {
            Fold::Set { columns, body } => sets.push((Operation::Set, columns, key, body)),
            Fold::Replace { columns, body } => sets.push((Operation::Replace, columns, key, body)),
            Fold::Delete => {}
        }
    }
    sets.sort_unstable_by_key(|&(operation, columns, key, _)| (operation == Operation::Replace, columns, key));
    let alike = sets.chunk_by(|a, b| a.0 == b.0 && a.1 == b.1);
    let step = |rows: &[(Operation, &'g ColumnSet, &'g Key, &'g Body)]| {
        let (operation, columns, ..) = rows[0];
        let rows = rows.iter().map(|&(_, _, key, body)| Row { key: Some(key), body: Some(body) }).collect();
        Step { collection, operation, columns: columns.clone(), rows }
    };
    alike.map(step).collect()
}

/// In sequence order: neighbours that name the same columns share a statement, no others do.
fn append_steps<'g>(collection: &'g Collection, appended: &'g [AppendedRow]) -> impl Iterator<Item = Step<'g>> {
    appended.chunk_by(|a, b| a.columns == b.columns).map(move |rows| Step {
        collection,
        operation: Operation::Append,
        columns: rows[0].columns.clone(),
        rows: rows.iter().map(|row| Row { key: None, body: Some(&row.body) }).collect(),
    })
}

fn delete_step<'g>(collection: &'g Collection, fold: &'g CollectionFold) -> Option<Step<'g>> {
    let deleted = fold.objects.iter().filter(|(_, object)| object.fold == Fold::Delete);
    let mut rows: Vec<_> = deleted.map(|(key, _)| Row { key: Some(key), body: None }).collect();
    rows.sort_unstable_by_key(|row| row.key);
    (!rows.is_empty()).then(|| Step { collection, operation: Operation::Delete, columns: ColumnSet::default(), rows })
}

impl<'g> Step<'g> {
    /// Bodies of one statement, whatever the number of its rows.
    const STATEMENT_BYTES_MAX: usize = 1 << 20;

    /// The text of its statements.
    pub(super) fn statement(&self) -> String {
        match self.operation {
            Operation::Set => statements::upsert(self.collection, &self.columns, false),
            Operation::Replace => statements::upsert(self.collection, &self.columns, true),
            Operation::Delete => statements::delete(self.collection),
            Operation::Append if self.columns.is_empty() => statements::append_defaults(self.collection),
            Operation::Append => statements::append(self.collection, &self.columns),
        }
    }

    /// Its rows in portions for one statement each.
    pub(super) fn portions(&self, rows_max: usize) -> impl Iterator<Item = &[Row<'g>]> {
        let mut rest = &self.rows[..];
        std::iter::from_fn(move || {
            let mut bytes = 0;
            let fits = |row: &&Row<'_>| {
                bytes += row.bytes();
                bytes <= Self::STATEMENT_BYTES_MAX
            };
            let count = rest.iter().take(rows_max).take_while(fits).count().max(1).min(rest.len());
            let (portion, others) = rest.split_at(count);
            rest = others;
            (!portion.is_empty()).then_some(portion)
        })
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
