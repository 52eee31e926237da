//! What became of saves, asked together with the lane's position and its owner in one statement: so a save that a database gone
//! back in time has lost, or that is another daemon's, is never taken for persisted.

use std::time::SystemTime;

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::list::{int8, sequence};
use crate::{
    postgres::{
        Failure,
        reading::{Reading, get},
    },
    save::Sequence,
};

/// A failed save, open or closed, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedOutcome {
    /// Its number.
    pub sequence: Sequence,
    /// The collection's name.
    pub collection: String,
    /// The parts of its key; empty for an append.
    pub key: Vec<String>,
    /// The SQLSTATE, if Postgres gave one.
    pub sqlstate: Option<String>,
    /// The constraint, if Postgres named one.
    pub constraint: Option<String>,
    /// Why, in words.
    pub message: String,
    /// When the front door took it.
    pub accepted_at: SystemTime,
}

/// Which failed saves are asked for.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// Those of these that failed.
    Of(&'a [Sequence]),
    /// The next ones of these collections.
    Next {
        /// Above this one.
        after: Sequence,
        /// Of these collections, which are all the lane's; they may have been another lane's before.
        collections: &'a [String],
        /// So many.
        rows_max: u32,
    },
}

/// A lane's failed saves and position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneOutcomes {
    /// Postgres holds everything of the lane up to here.
    pub through: Sequence,
    /// By sequence.
    pub failed: Vec<FailedOutcome>,
}

const COLUMNS: &str = "select p.through, f.sequence, f.collection, f.key, f.sqlstate, f.constraint_name, f.message, f.accepted_at \
     from forebay.lane_position p";

/// Nothing is told of a row that is not `owner`'s.
pub(in crate::postgres) async fn read(
    reading: &Reading,
    journal: Uuid,
    (lane, owner): (&str, Uuid),
    which: Which<'_>,
) -> Result<LaneOutcomes, Failure> {
    let (wanted, after, names, rows_max): (Vec<i64>, i64, &[String], i64);
    let (journal, owner) = (journal.to_string(), owner.to_string());
    let mut params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&journal, Type::TEXT), (&lane, Type::TEXT), (&owner, Type::TEXT)];
    let chosen = match which {
        Which::Of(sequences) => {
            wanted = sequences.iter().map(|&sequence| int8(sequence)).collect();
            params.push((&wanted, Type::INT8_ARRAY));
            "f.sequence = any($4)) f on true"
        }
        Which::Next { after: above, collections, rows_max: most } => {
            (after, names, rows_max) = (int8(above), collections, i64::from(most));
            params.push((&after, Type::INT8));
            params.push((&names, Type::TEXT_ARRAY));
            params.push((&rows_max, Type::INT8));
            "f.sequence > $4 and f.collection = any($5) order by f.sequence limit $6) f on true"
        }
    };
    let text = format!(
        "{COLUMNS} left join lateral (select * from forebay.failed_save f where f.journal_id = p.journal_id and {chosen} \
         where p.journal_id = $1::uuid and p.lane = $2 and p.owner = $3::uuid order by f.sequence"
    );
    let rows = reading.rows(&text, &params).await?;
    let Some(first) = rows.first() else { return Ok(LaneOutcomes::default()) };
    let failed = rows.iter().filter_map(|row| failed(row).transpose()).collect::<Result<_, _>>()?;
    Ok(LaneOutcomes { through: sequence(first, 0)?, failed })
}

/// The position alone, where nothing failed.
fn failed(row: &Row) -> Result<Option<FailedOutcome>, Failure> {
    let Some(number) = get::<Option<i64>>(row, 1)? else { return Ok(None) };
    Ok(Some(FailedOutcome {
        sequence: Sequence::from_u64(number.cast_unsigned()),
        collection: get(row, 2)?,
        key: get(row, 3)?,
        sqlstate: get(row, 4)?,
        constraint: get(row, 5)?,
        message: get(row, 6)?,
        accepted_at: get(row, 7)?,
    }))
}
