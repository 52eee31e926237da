//! Failed saves as every stage speaks of them: rows of `forebay.failed_save`, how they are chosen and how they are closed.
//!
//! Plain data. A row is *open* until somebody takes care of it: it is retried as a new save, discarded by an operator, or
//! overtaken by a later save of the same object. A closed row stays, so that its ticket can be answered, until
//! `failed.closed_kept` newer ones are closed.

use std::time::SystemTime;

use crate::save::Sequence;

/// What a save wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveKind {
    /// To set columns.
    Set,
    /// To delete the object.
    Delete,
    /// To add a row.
    Append,
}

/// How a failed save stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedState {
    /// Nobody has taken care of it.
    Open,
    /// It was saved again; what became of that save is told by its own ticket.
    Retried,
    /// An operator gave it up.
    Discarded,
    /// A later save of the same object is in Postgres.
    Overtaken,
}

/// A row of `forebay.failed_save`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRow {
    /// Its number.
    pub sequence: Sequence,
    /// The collection's name.
    pub collection: String,
    /// The parts of its key; empty for an append.
    pub key: Vec<String>,
    /// What it wanted.
    pub kind: SaveKind,
    /// The body as it was sent; `None` for a delete, and where bodies were not asked for.
    pub body: Option<String>,
    /// Members of the body that were to be added to their columns.
    pub added: Vec<String>,
    /// The SQLSTATE, if Postgres gave one.
    pub sqlstate: Option<String>,
    /// The constraint, if Postgres named one.
    pub constraint: Option<String>,
    /// Why, in words.
    pub message: String,
    /// What Postgres said of the row: holds values, so only where bodies were asked for.
    pub detail: Option<String>,
    /// When the front door took it.
    pub accepted_at: SystemTime,
    /// When it failed.
    pub failed_at: SystemTime,
    /// Who took care of it, if somebody did.
    pub closed: Option<Closed>,
}

/// The end of a failed save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// When.
    pub at: SystemTime,
    /// How; never [`FailedState::Open`].
    pub state: FailedState,
    /// The save that retried or overtook it.
    pub by: Option<Sequence>,
    /// Why it was discarded.
    pub note: Option<String>,
}

/// Closes a failed save in the transaction that applies a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// The failed save.
    pub sequence: Sequence,
    /// Retried or overtaken.
    pub state: FailedState,
    /// By this save.
    pub by: Sequence,
}

/// Which failed saves: what is set narrows, all of it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedFilter {
    /// These.
    pub sequences: Option<Vec<Sequence>>,
    /// Of this collection.
    pub collection: Option<String>,
    /// With this SQLSTATE.
    pub sqlstate: Option<String>,
    /// Refused by this constraint.
    pub constraint: Option<String>,
    /// Failed at or after.
    pub failed_from: Option<SystemTime>,
    /// Failed before.
    pub failed_until: Option<SystemTime>,
    /// In one of these states; none is any.
    pub states: Vec<FailedState>,
}

/// One page of them, by sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedQuery {
    /// Which.
    pub filter: FailedFilter,
    /// Only above this one.
    pub after: Sequence,
    /// Newest first instead of oldest first.
    pub newest_first: bool,
    /// With body and detail.
    pub bodies: bool,
    /// So many rows.
    pub rows_max: u32,
    /// So many bytes of their texts, but at least one row.
    pub bytes_max: u64,
}

/// The rows of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailedPage {
    /// In the order asked for.
    pub rows: Vec<FailedRow>,
    /// There are more.
    pub more: bool,
}

impl SaveKind {
    const ALL: [(Self, &'static str); 3] = [(Self::Set, "set"), (Self::Delete, "delete"), (Self::Append, "append")];

    /// As it stands in the row.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Read back from a row.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(kind, _)| kind)
    }
}

impl FailedState {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Open, "open"), (Self::Retried, "retried"), (Self::Discarded, "discarded"), (Self::Overtaken, "overtaken")];

    /// As it stands in the row, where an open one has none.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Read back from a row.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(state, _)| state)
    }
}

impl FailedRow {
    /// How it stands.
    pub fn state(&self) -> FailedState {
        self.closed.as_ref().map_or(FailedState::Open, |closed| closed.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in [SaveKind::Set, SaveKind::Delete, SaveKind::Append] {
            assert_eq!(SaveKind::parse(kind.name()), Some(kind));
        }
        for state in [FailedState::Open, FailedState::Retried, FailedState::Discarded, FailedState::Overtaken] {
            assert_eq!(FailedState::parse(state.name()), Some(state));
        }
        assert_eq!((SaveKind::parse("other"), FailedState::parse("")), (None, None));
    }
}
