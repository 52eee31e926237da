//! What a run does: operations, as saves for the daemon and as statements for Postgres.

use std::fmt;

use forebay::proto::{Delete, Save, save};
use serde_json::Value;

use super::schema::{self, Table};

/// One save.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) table: &'static Table,
    /// Empty for an append.
    pub(super) key: Vec<&'static str>,
    pub(super) change: Change,
}

/// What becomes of the row.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Updated by key, inserted if there is none; in an append table added.
    Set(Vec<Assignment>),
    Delete,
}

/// A member of the body.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    pub(super) column: &'static str,
    pub(super) value: Option<&'static str>,
    /// Added to the column instead of set.
    pub(super) adds: bool,
}

/// What the client, or the world around it, does next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Save(Operation),
    /// Committed or failed as one.
    Batch(Vec<Operation>),
    /// Ends the generation.
    Flush,
    /// SIGKILL to the daemon, with saves in flight, and a new start.
    Kill,
    /// As a crash would.
    StopPostgres,
    StartPostgres,
}

impl Step {
    /// What it saves.
    pub(super) fn operations(&self) -> &[Operation] {
        match self {
            Self::Save(operation) => std::slice::from_ref(operation),
            Self::Batch(operations) => operations,
            Self::Flush | Self::Kill | Self::StopPostgres | Self::StartPostgres => &[],
        }
    }

    /// Whether it is one transaction whose constraints may wait for its end.
    pub(super) fn is_batch(&self) -> bool {
        matches!(self, Self::Batch(_))
    }
}

impl Operation {
    /// As the daemon takes it.
    pub(super) fn save(&self) -> Save {
        let (change, add) = match &self.change {
            Change::Delete => (save::Change::Delete(Delete {}), Vec::new()),
            Change::Set(assignments) => {
                let adds = assignments.iter().filter(|assignment| assignment.adds).map(|assignment| assignment.column.to_owned());
                (save::Change::Json(self.body(assignments).to_string().into()), adds.collect())
            }
        };
        Save {
            collection: self.table.name.to_owned(),
            key: self.key.iter().map(|&part| part.to_owned()).collect(),
            change: Some(change),
            add,
        }
    }

    fn body(&self, assignments: &[Assignment]) -> Value {
        if !assignments.is_empty() {
            return assignments.iter().map(|assignment| (assignment.column, assignment.json())).collect();
        }
        // A body names something: part of the key, or what an append table leaves NULL anyway.
        match self.key_columns().next() {
            Some((name, part)) => [(name, part)].into_iter().collect(),
            None => [(self.table.columns[0].name, Value::Null)].into_iter().collect(),
        }
    }

    /// What finds and changes the row; `None` for an append, which has none.
    pub(super) fn update(&self) -> Option<String> {
        let matching = self.key_columns().map(|(name, value)| format!("{name} = '{value}'")).collect::<Vec<_>>().join(" and ");
        match &self.change {
            _ if self.table.appends() => None,
            Change::Delete => Some(format!("delete from {} where {matching}", self.table.name)),
            Change::Set(assignments) => {
                let mut list: Vec<_> = assignments.iter().map(Assignment::update).collect();
                if list.is_empty() {
                    list.push(format!("{0} = {0}", self.table.key[0].name));
                }
                Some(format!("update {} set {} where {matching}", self.table.name, list.join(", ")))
            }
        }
    }

    /// What adds the row where the update found none; `None` for a delete.
    pub(super) fn insert(&self) -> Option<String> {
        let Change::Set(assignments) = &self.change else { return None };
        let key = self.key_columns().map(|(name, value)| (name, literal(Some(value))));
        let others = assignments.iter().map(|assignment| (assignment.column, literal(assignment.value)));
        let (names, values): (Vec<_>, Vec<_>) = key.chain(others).unzip();
        Some(match names.is_empty() {
            true => format!("insert into {} default values", self.table.name),
            false => format!("insert into {} ({}) values ({})", self.table.name, names.join(", "), values.join(", ")),
        })
    }

    fn key_columns(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.table.key.iter().map(|column| column.name).zip(self.key.iter().copied())
    }
}

impl Assignment {
    /// In the relaxed schema the column is text.
    fn update(&self) -> String {
        let value = literal(self.value);
        match self.adds {
            true => format!("{0} = coalesce({0}::numeric, 0) + {value}::numeric", self.column),
            false => format!("{} = {value}", self.column),
        }
    }

    fn json(&self) -> Value {
        match self.value {
            Some(number) if self.adds => serde_json::from_str(number).expect("only numbers are added"),
            Some(text) => text.into(),
            None => Value::Null,
        }
    }
}

/// The values of this test hold no quotes.
fn literal(value: Option<&str>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| format!("'{value}'"))
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.join(" ");
        match &self.change {
            Change::Delete => write!(f, "delete {} {key}", self.table.name),
            Change::Set(assignments) => {
                let verb = if self.table.appends() { "append" } else { "set" };
                write!(f, "{verb} {} {key}", self.table.name)?;
                assignments.iter().try_for_each(|Assignment { column, value, adds }| {
                    write!(f, " {column}{}{}", if *adds { "+=" } else { "=" }, value.unwrap_or("null"))
                })
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Save(operation) => operation.fmt(f),
            Self::Batch(operations) => {
                write!(f, "batch")?;
                operations.iter().try_for_each(|operation| write!(f, "\n        {operation}"))
            }
            Self::Flush => f.write_str("flush"),
            Self::Kill => f.write_str("kill the daemon"),
            Self::StopPostgres => f.write_str("stop Postgres"),
            Self::StartPostgres => f.write_str("start Postgres"),
        }
    }
}

/// A set of one object.
pub(super) fn save(table: &str, key: &'static str, values: &[(&'static str, &'static str)]) -> Step {
    let table = schema::named(table);
    let assignments = values.iter().map(|&(column, value)| Assignment { column, value: Some(value), adds: false });
    Step::Save(Operation { table, key: vec![key], change: Change::Set(assignments.collect()) })
}
