//! `forebay.failed_save`: what was accepted and Postgres would not take, with its reason. Written in the transaction that moves
//! the position past it, and closed in the one that applies what retries or overtakes it, so that they never disagree.

use std::time::{SystemTime, UNIX_EPOCH};

use super::array::TextArray;
use crate::{
    failed::{Close, SaveKind},
    save::Sequence,
};

pub(super) mod care;
pub(super) mod list;
pub(super) mod outcomes;

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
    /// What Postgres said of the row.
    pub detail: Option<String>,
    /// When the front door took it.
    pub accepted_at: SystemTime,
}

/// Journal, lane, then one array a column; answers (0, rows). A row may be there: the position was set back by hand.
pub(super) const INSERT: &str = "with made as (insert into forebay.failed_save \
     (journal_id, lane, sequence, collection, key, kind, body, added, sqlstate, constraint_name, message, detail, accepted_at) \
     select $1::uuid, $2, p.sequence::int8, p.collection, array(select e.part from jsonb_array_elements_text(p.key::jsonb) \
     with ordinality as e(part, n) order by e.n), p.kind, p.body::json, \
     array(select e.name from jsonb_array_elements_text(p.added::jsonb) with ordinality as e(name, n) order by e.n), \
     p.sqlstate, p.constraint_name, p.message, p.detail, timestamptz 'epoch' + p.accepted::int8 * interval '1 microsecond' \
     from unnest($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
     as p(sequence, collection, key, kind, body, added, sqlstate, constraint_name, message, detail, accepted) \
     on conflict (journal_id, sequence) do update set closed_at = null, closed_reason = null, closed_by = null, closed_note = null, \
     sqlstate = excluded.sqlstate, constraint_name = excluded.constraint_name, message = excluded.message, detail = excluded.detail, \
     failed_at = now() \
     returning 1) select 0::int8, count(*) from made";

/// Journal, then one array a column; answers (0, rows), of which there may be fewer: somebody may have closed them by hand. What
/// was overtaken before an operator insisted on its retry is retried.
pub(super) const CLOSE: &str = "with closed as (update forebay.failed_save f \
     set closed_at = now(), closed_reason = c.reason, closed_by = c.by::int8 \
     from unnest($2, $3, $4) as c(sequence, reason, by) \
     where f.journal_id = $1::uuid and f.sequence = c.sequence::int8 \
     and (f.closed_at is null or (f.closed_reason = 'overtaken' and c.reason = 'retried')) \
     returning 1) select 0::int8, count(*) from closed";

/// The arrays of [`INSERT`].
pub(super) fn arrays(saves: &[FailedSave]) -> [TextArray; 11] {
    let mut arrays = <[TextArray; 11]>::default();
    for save in saves {
        let list = |texts: &[String]| serde_json::to_string(texts).expect("a list of texts is JSON");
        let (key, added) = (list(&save.key), list(&save.added));
        let accepted = save.accepted_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let row: [_; 11] = [
            Some(&*save.sequence.to_string()),
            Some(&save.collection),
            Some(&key),
            Some(save.kind.name()),
            save.body.as_deref(),
            Some(&added),
            save.sqlstate.as_deref(),
            save.constraint.as_deref(),
            Some(&save.message),
            save.detail.as_deref(),
            Some(&accepted.to_string()),
        ];
        arrays.iter_mut().zip(row).for_each(|(array, text)| array.push(text));
    }
    arrays
}

/// The arrays of [`CLOSE`].
pub(super) fn close_arrays(closes: &[Close]) -> [TextArray; 3] {
    let mut arrays = <[TextArray; 3]>::default();
    for close in closes {
        let row = [&*close.sequence.to_string(), close.state.name(), &close.by.to_string()];
        arrays.iter_mut().zip(row).for_each(|(array, text)| array.push(Some(text)));
    }
    arrays
}
