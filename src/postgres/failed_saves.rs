//! `forebay.failed_save`: what was accepted and Postgres would not take, with its reason. Written in the transaction that moves
//! the position past it, so that the two never disagree.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{
    Failure,
    array::TextArray,
    reading::{Reading, get},
};
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

impl SaveKind {
    fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Delete => "delete",
            Self::Append => "append",
        }
    }
}

/// A save to be recorded as failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedSave {
    /// Its number.
    pub sequence: Sequence,
    /// The collection's name.
    pub collection: String,
    /// The parts of its key; empty for an append.
    pub key: Vec<String>,
    /// What it wanted.
    pub kind: SaveKind,
    /// The body as it was sent (what is added: as it was rounded); `None` for a delete.
    pub body: Option<String>,
    /// Members of the body that were to be added to their columns.
    pub added: Vec<String>,
    /// The SQLSTATE, if Postgres gave one.
    pub sqlstate: Option<String>,
    /// The constraint, if Postgres named one.
    pub constraint: Option<String>,
    /// Why, in words.
    pub message: String,
    /// When the front door took it.
    pub accepted_at: SystemTime,
}

/// A failed save as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedSaveRow {
    /// Its number.
    pub sequence: Sequence,
    /// The lane.
    pub lane: String,
    /// The collection's name.
    pub collection: String,
    /// The parts of its key.
    pub key: Vec<String>,
    /// `set`, `delete` or `append`.
    pub kind: String,
    /// The SQLSTATE, if Postgres gave one.
    pub sqlstate: Option<String>,
    /// The constraint, if Postgres named one.
    pub constraint: Option<String>,
    /// Why, in words.
    pub message: String,
    /// When the front door took it.
    pub accepted_at: SystemTime,
    /// When it failed.
    pub failed_at: SystemTime,
}

/// Journal, lane, then one array a column; answers (0, rows).
pub(super) const INSERT: &str = "with made as (insert into forebay.failed_save \
     (journal_id, lane, sequence, collection, key, kind, body, added, sqlstate, constraint_name, message, accepted_at) \
     select $1::uuid, $2, p.sequence::int8, p.collection, array(select e.part from jsonb_array_elements_text(p.key::jsonb) \
     with ordinality as e(part, n) order by e.n), p.kind, p.body::json, \
     array(select e.name from jsonb_array_elements_text(p.added::jsonb) with ordinality as e(name, n) order by e.n), p.sqlstate, p.constraint_name, p.message, \
     timestamptz 'epoch' + p.accepted::int8 * interval '1 microsecond' \
     from unnest($3, $4, $5, $6, $7, $8, $9, $10, $11, $12) as p(sequence, collection, key, kind, body, added, sqlstate, constraint_name, message, accepted) \
     returning 1) select 0::int8, count(*) from made";

/// The arrays of [`INSERT`].
pub(super) fn arrays(saves: &[FailedSave]) -> Vec<TextArray> {
    let mut arrays = vec![TextArray::default(); 10];
    for save in saves {
        let list = |texts: &[String]| serde_json::to_string(texts).expect("a list of texts is JSON");
        let (key, added) = (list(&save.key), list(&save.added));
        let accepted = save.accepted_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let row = [
            Some(&*save.sequence.to_string()),
            Some(&save.collection),
            Some(&key),
            Some(save.kind.name()),
            save.body.as_deref(),
            Some(&added),
            save.sqlstate.as_deref(),
            save.constraint.as_deref(),
            Some(&save.message),
            Some(&accepted.to_string()),
        ];
        arrays.iter_mut().zip(row).for_each(|(array, text)| array.push(text));
    }
    arrays
}

pub(super) async fn count_open(reading: &Reading, journal: Uuid) -> Result<BTreeMap<String, u64>, Failure> {
    let query =
        "select collection, count(*) from forebay.failed_save where journal_id = $1::uuid and closed_at is null group by collection";
    let rows = reading.rows(query, &[(&journal.to_string(), Type::TEXT)]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, get::<i64>(row, 1)?.cast_unsigned()))).collect()
}

pub(super) async fn list(reading: &Reading, journal: Uuid, count_max: u32) -> Result<Vec<FailedSaveRow>, Failure> {
    let query = "select sequence, lane, collection, key, kind, sqlstate, constraint_name, message, accepted_at, failed_at \
                 from forebay.failed_save where journal_id = $1::uuid and closed_at is null order by sequence desc limit $2";
    let journal = journal.to_string();
    let params: [(&(dyn ToSql + Sync), Type); 2] = [(&journal, Type::TEXT), (&i64::from(count_max), Type::INT8)];
    let rows = reading.rows(query, &params).await?;
    rows.iter().map(read).collect()
}

fn read(row: &tokio_postgres::Row) -> Result<FailedSaveRow, Failure> {
    Ok(FailedSaveRow {
        sequence: Sequence::from_u64(get::<i64>(row, 0)?.cast_unsigned()),
        lane: get(row, 1)?,
        collection: get(row, 2)?,
        key: get(row, 3)?,
        kind: get(row, 4)?,
        sqlstate: get(row, 5)?,
        constraint: get(row, 6)?,
        message: get(row, 7)?,
        accepted_at: get(row, 8)?,
        failed_at: get(row, 9)?,
    })
}
