//! Keys and bodies as the parameters of a statement.

use super::{Action, Failure, array::TextArray, statements};
use crate::{
    collections::{Collection, Column, ValueError},
    save::{Body, ColumnSet, Key},
};

/// The parameters of one statement in the making: one array a column, as [`statements::columns`] orders them.
#[derive(Debug)]
pub(super) struct Parameters<'a> {
    collection: &'a Collection,
    columns: Vec<&'a Column>,
    arrays: Vec<TextArray>,
    /// Where each column stood among the members of the last body: the next one most likely looks the same.
    places: Vec<usize>,
}

impl<'a> Parameters<'a> {
    pub(super) fn new(collection: &'a Collection, set: &ColumnSet) -> Self {
        let columns = statements::columns(collection, set);
        let (arrays, places) = (vec![TextArray::default(); columns.len()], vec![0; columns.len()]);
        Self { collection, columns, arrays, places }
    }

    /// Adds an object's key.
    pub(super) fn push_key(&mut self, key: &Key) -> Result<(), Failure> {
        let keys = self.collection.key.len();
        let mut parts = key.parts();
        for array in &mut self.arrays[..keys] {
            let part = parts.next().ok_or_else(|| self::key_changed(self.collection))?;
            array.push(Some(part));
        }
        if parts.next().is_some() { Err(key_changed(self.collection)) } else { Ok(()) }
    }

    /// Adds the values of a body that names every column of the set.
    pub(super) fn push_body(&mut self, body: &Body) -> Result<(), Failure> {
        let keys = self.collection.key.len();
        let members = body.members();
        for (n, column) in self.columns.iter().enumerate().skip(keys) {
            let hint = self.places[n];
            let place = if members.get(hint).is_some_and(|member| member.name == column.name) {
                hint
            } else {
                let found = members.iter().position(|member| member.name == column.name);
                found.ok_or_else(|| Failure::local(Action::Halt, format!("a folded save lacks the column {:?} it names", column.name)))?
            };
            self.places[n] = place;
            let text = column.form.text(members[place].value).map_err(|error| refused(self.collection, column, &error))?;
            self.arrays[n].push(text.as_deref());
        }
        Ok(())
    }

    /// What is sent.
    pub(super) fn into_arrays(self) -> Vec<TextArray> {
        self.arrays
    }
}

/// The front door checks values; this one fitted a column that has changed since. Postgres would say the same of its text.
fn refused(collection: &Collection, column: &Column, error: &ValueError) -> Failure {
    let failure = Failure::as_if(Action::RowsOwn, "22P02", format!("column {:?} {error}", column.name));
    Failure { column: Some(column.name.as_str().into()), ..failure }.of(&collection.name)
}

fn key_changed(collection: &Collection) -> Failure {
    let columns: Vec<_> = collection.key_columns().map(|column| column.name.as_str()).collect();
    let message = format!("the key is now ({}), which is not what its saves were accepted with", columns.join(", "));
    Failure::as_if(Action::Halt, "42P10", message).of(&collection.name)
}
