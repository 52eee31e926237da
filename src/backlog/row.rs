//! What a row will be: folds laid over what Postgres holds. Pure.
//!
//! Values stay the JSON text that they came as: what is pending as it was sent, what is stored as Postgres prints it. What only
//! Postgres can tell is named as unknown: defaults, generated columns, and without Postgres everything that isn't pending. What
//! triggers and foreign keys will do to the row isn't foreseen.

use super::{Entry, Fold};
use crate::{
    collections::{Collection, Column},
    save::{Body, ColumnSet, Key},
};

/// What Postgres holds of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored<'a> {
    /// It can't be asked.
    Unknown,
    /// No row.
    Missing,
    /// The row as a JSON object.
    Row(&'a str),
}

/// An object as it will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The row as a JSON object, without what is unknown; `None`: there is none.
    pub json: Option<Vec<u8>>,
    /// Columns whose value can't be told.
    pub unknown: Vec<String>,
}

/// Lays folds over a row, in order. `defaulted` names the columns that a new row doesn't leave NULL; `None` if that can't be told.
pub fn lay(collection: &Collection, key: &Key, stored: Stored<'_>, defaulted: Option<&[String]>, folds: &[Fold]) -> Shown {
    let mut row = Row { collection, key, defaulted, exists: true, columns: Vec::new() };
    match stored {
        Stored::Unknown => row.columns = row.every_column(|_| None),
        Stored::Missing => row.exists = false,
        Stored::Row(json) if folds.is_empty() => return Shown { json: Some(json.as_bytes().to_vec()), unknown: Vec::new() },
        Stored::Row(json) => row.columns = members(json).into_iter().map(|(name, value)| (name, Some(value.to_owned()))).collect(),
    }
    folds.iter().for_each(|fold| row.take(fold));
    row.shown()
}

/// A row in the making. Of one that Postgres can't be asked for nothing is known, not even whether it is there: that makes no
/// difference to what can be told of it.
struct Row<'a> {
    collection: &'a Collection,
    key: &'a Key,
    defaulted: Option<&'a [String]>,
    exists: bool,
    /// Names and values; no value is an unknown one.
    columns: Vec<(String, Option<String>)>,
}

impl Row<'_> {
    fn take(&mut self, fold: &Fold) {
        match fold {
            Fold::Delete => self.exists = false,
            Fold::Set { body, .. } => self.set(body, 0),
            Fold::Replace { body, .. } => {
                self.exists = false;
                self.set(body, 0);
            }
            Fold::Entries(entries) => entries.iter().for_each(|entry| self.take_entry(entry)),
        }
    }

    fn take_entry(&mut self, Entry { replaces, columns, adds, body, guard }: &Entry) {
        self.exists &= !replaces;
        match guard.as_ref().map(|guard| guard.version).map_or(Some(true), |version| self.is_older_than(version)) {
            Some(true) => self.set(body, adds.len()),
            Some(false) => {}
            None => self.forget(columns),
        }
    }

    /// Whether a set of this version changes the row; `None` if only Postgres can tell.
    fn is_older_than(&self, version: i64) -> Option<bool> {
        if !self.exists {
            return Some(true);
        }
        let name = &self.collection.columns[usize::from(self.collection.version?)].name;
        match self.columns.iter().find(|(column, _)| column == name)?.1.as_deref()? {
            "null" => Some(true),
            stored => Some(stored.trim_matches('"').parse::<i64>().ok()? < version),
        }
    }

    /// Sets what the body names, or adds it for as many of its first members, or inserts it.
    fn set(&mut self, body: &Body, adds: usize) {
        let inserts = !self.exists;
        if inserts {
            let defaulted = self.defaulted;
            self.columns = self.every_column(|column| {
                let is_null = defaulted.is_some_and(|names| !names.contains(&column.name));
                is_null.then(|| "null".to_owned())
            });
            self.exists = true;
        }
        let members = body.members();
        let mut changes = false;
        for (n, member) in members.iter().enumerate() {
            let Some((index, column)) = self.collection.column(&member.name).filter(|&(index, _)| !self.collection.is_key(index)) else {
                continue;
            };
            changes = true;
            let place = self.place(index, &column.name);
            let value = &mut self.columns[place].1;
            *value = match value.take() {
                stored if n < adds && !inserts => stored.and_then(|stored| sum(column, stored, member.value)),
                _ => Some(member.value.to_owned()),
            };
        }
        if changes && !inserts {
            self.forget_generated();
        }
    }

    /// These can't be told any more, nor what Postgres makes of them.
    fn forget(&mut self, columns: &ColumnSet) {
        for index in columns.iter().filter(|&index| !self.collection.is_key(index)) {
            let place = self.place(index, &self.collection.columns[usize::from(index)].name);
            self.columns[place].1 = None;
        }
        self.forget_generated();
    }

    fn forget_generated(&mut self) {
        let collection = self.collection;
        let is_generated = |name: &str| collection.column(name).is_some_and(|(_, column)| column.is_generated());
        self.columns.iter_mut().filter(|(name, _)| is_generated(name)).for_each(|(_, value)| *value = None);
    }

    /// Where the column stands; nearly always where it stands in the table.
    fn place(&mut self, index: u16, name: &str) -> usize {
        let near = usize::from(index);
        if self.columns.get(near).is_some_and(|(known, _)| known == name) {
            return near;
        }
        self.columns.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.columns.push((name.to_owned(), None));
            self.columns.len() - 1
        })
    }

    /// The key's columns with their values, and the others.
    fn every_column(&self, value: impl Fn(&Column) -> Option<String>) -> Vec<(String, Option<String>)> {
        let columns = (0u16..).zip(&self.collection.columns).filter(|(_, column)| !column.gone);
        let columns = columns.map(|(index, column)| {
            let part = self.collection.key.iter().zip(self.key.parts()).find(|(of, _)| **of == index).map(|(_, part)| part);
            let value = match (part, &column.key_form) {
                (Some(part), Some(form)) => Some(form.json(part)),
                _ => value(column),
            };
            (column.name.clone(), value)
        });
        columns.collect()
    }

    fn shown(self) -> Shown {
        if !self.exists {
            return Shown { json: None, unknown: Vec::new() };
        }
        let (known, unknown): (Vec<_>, Vec<_>) = self.columns.into_iter().partition(|(_, value)| value.is_some());
        let bytes = known.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len) + 4).sum();
        let body = Body::of_members(bytes, known.into_iter().filter_map(|(name, value)| Some((name, value?))));
        Shown { json: Some(body.as_bytes().to_vec()), unknown: unknown.into_iter().map(|(name, _)| name).collect() }
    }
}

/// `coalesce(column, 0) + amount`; `None` if only Postgres can tell.
fn sum(column: &Column, stored: String, amount: &str) -> Option<String> {
    let endless = ["nan", "infinity", "-infinity"];
    if endless.iter().any(|text| stored.trim_matches('"').eq_ignore_ascii_case(text)) {
        return Some(stored);
    }
    column.number?.sum(&stored, amount)
}

/// The members of a JSON object as Postgres printed it, however deep their values nest.
fn members(json: &str) -> Vec<(String, &str)> {
    let inner = json.trim().strip_prefix('{').and_then(|json| json.strip_suffix('}')).expect("a row is printed as an object");
    let (mut members, mut begins) = (Vec::new(), 0);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth -= 1,
            b',' if !in_string && depth == 0 => {
                members.extend(member(&inner[begins..at]));
                begins = at + 1;
            }
            _ => {}
        }
    }
    members.extend(member(&inner[begins..]));
    members
}

/// A name, a colon, a value.
fn member(text: &str) -> Option<(String, &str)> {
    let mut names = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let name = names.next()?.ok()?;
    let value = text[names.byte_offset()..].trim_start().strip_prefix(':')?;
    Some((name, value.trim()))
}

#[cfg(test)]
mod tests;
