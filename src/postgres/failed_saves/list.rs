//! Reading failed saves: pages that a filter chooses, and the open ones that the daemon keeps in mind.

use std::{
    fmt::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::{
    failed::{Closed, FailedFilter, FailedPage, FailedQuery, FailedRow, FailedState, SaveKind},
    postgres::{
        Action, Failure,
        reading::{Reading, get},
    },
    save::Sequence,
};

/// An open failed save, as far as it takes to know it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFailed {
    /// Its number.
    pub sequence: Sequence,
    /// The collection's name.
    pub collection: String,
    /// The parts of its key; empty for an append.
    pub key: Vec<String>,
}

/// Every failed save of a journal, as far as the daemon keeps it in mind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownFailed {
    /// The open ones, by number.
    pub open: Vec<OpenFailed>,
    /// Closed ones alike.
    pub closed: Vec<ClosedFailed>,
    /// Up to here closed ones may have been removed.
    pub horizon: Sequence,
}

/// Closed failed saves of one collection that ended in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedFailed {
    /// The collection's name.
    pub collection: String,
    /// How; never [`FailedState::Open`].
    pub state: FailedState,
    /// Their numbers.
    pub sequences: Vec<Sequence>,
}

type Param = (Box<dyn ToSql + Sync + Send>, Type);

/// The `where` of a statement over `forebay.failed_save f`, and its parameters; the journal is `$1`.
pub(super) struct Conditions {
    pub(super) text: String,
    pub(super) params: Vec<Param>,
}

impl Conditions {
    pub(super) fn of(journal: Uuid) -> Self {
        Self { text: "f.journal_id = $1::uuid".to_owned(), params: vec![(Box::new(journal.to_string()), Type::TEXT)] }
    }

    /// Adds a parameter and gives its number.
    pub(super) fn param(&mut self, value: impl ToSql + Sync + Send + 'static, ty: Type) -> usize {
        self.params.push((Box::new(value), ty));
        self.params.len()
    }

    pub(super) fn and(&mut self, condition: &str) {
        let _ = write!(self.text, " and {condition}");
    }

    fn compare(&mut self, left: &str, value: impl ToSql + Sync + Send + 'static, ty: Type) {
        let n = self.param(value, ty);
        self.and(&format!("{left} ${n}"));
    }

    pub(super) fn choose(&mut self, filter: &FailedFilter) {
        if let Some(sequences) = &filter.sequences {
            let n = self.param(sequences.iter().map(|&sequence| int8(sequence)).collect::<Vec<_>>(), Type::INT8_ARRAY);
            self.and(&format!("f.sequence = any(${n})"));
        }
        let texts =
            [("f.collection =", &filter.collection), ("f.sqlstate =", &filter.sqlstate), ("f.constraint_name =", &filter.constraint)];
        for (left, text) in texts {
            text.iter().for_each(|text| self.compare(left, text.clone(), Type::TEXT));
        }
        for (left, time) in [("f.failed_at >=", filter.failed_from), ("f.failed_at <", filter.failed_until)] {
            if let Some(time) = time {
                let n = self.param(micros(time), Type::INT8);
                self.and(&format!("{left} timestamptz 'epoch' + ${n} * interval '1 microsecond'"));
            }
        }
        match &filter.states[..] {
            [] => {}
            // In words that the partial index is known by.
            [FailedState::Open] => self.and("f.closed_at is null"),
            states => {
                let n = self.param(states.iter().map(|state| state.name()).collect::<Vec<_>>(), Type::TEXT_ARRAY);
                self.and(&format!("coalesce(f.closed_reason, 'open') = any(${n})"));
            }
        }
    }

    pub(super) fn borrowed(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.params.iter().map(|(value, ty)| (&**value as &(dyn ToSql + Sync), ty.clone())).collect()
    }
}

/// Every failed save: the open ones one by one, closed ones (there may be a million) as numbers only.
pub(in crate::postgres) async fn known(reading: &Reading, journal: Uuid) -> Result<KnownFailed, Failure> {
    let open = open(reading, journal).await?;
    let journal: &(dyn ToSql + Sync) = &journal.to_string();
    let text = "select collection, closed_reason, array_agg(sequence) from forebay.failed_save \
                where journal_id = $1::uuid and closed_at is not null group by collection, closed_reason";
    let rows = reading.rows(text, &[(journal, Type::TEXT)]).await?;
    let closed = rows.iter().map(closed_alike).collect::<Result<_, _>>()?;
    let text = "select coalesce(max(through), 0) from forebay.failed_horizon where journal_id = $1::uuid";
    let rows = reading.rows(text, &[(journal, Type::TEXT)]).await?;
    let horizon = rows.first().map_or(Ok(Sequence::ZERO), |row| sequence(row, 0))?;
    Ok(KnownFailed { open, closed, horizon })
}

fn closed_alike(row: &Row) -> Result<ClosedFailed, Failure> {
    let reason: &str = get(row, 1)?;
    Ok(ClosedFailed {
        collection: get(row, 0)?,
        state: FailedState::parse(reason).ok_or_else(|| unreadable("closed_reason", reason))?,
        sequences: get::<Vec<i64>>(row, 2)?.into_iter().map(|number| Sequence::from_u64(number.cast_unsigned())).collect(),
    })
}

async fn open(reading: &Reading, journal: Uuid) -> Result<Vec<OpenFailed>, Failure> {
    // The last condition always holds. It names what a table that another version made may lack: that is found before anything
    // is written to it.
    let text = "select sequence, collection, key from forebay.failed_save where journal_id = $1::uuid and closed_at is null \
                and coalesce(closed_note, closed_reason, closed_by::text, detail, added::text) is not null order by sequence";
    let rows = reading.rows(text, &[(&journal.to_string(), Type::TEXT)]).await.map_err(explain_old_table)?;
    let read = |row: &Row| Ok(OpenFailed { sequence: sequence(row, 0)?, collection: get(row, 1)?, key: get(row, 2)? });
    rows.iter().map(read).collect()
}

fn explain_old_table(failure: Failure) -> Failure {
    if failure.sqlstate.as_deref() != Some("42703") {
        return failure;
    }
    let message = format!("forebay.failed_save is not as this version of Forebay needs it: {}", failure.message);
    let remedy = "compare it with the output of `forebay schema` and add what is missing";
    Failure { action: Action::Halt, message: message.into(), remedy: remedy.into(), ..failure }
}

pub(in crate::postgres) async fn page(reading: &Reading, journal: Uuid, query: &FailedQuery) -> Result<FailedPage, Failure> {
    let mut conditions = Conditions::of(journal);
    conditions.choose(&query.filter);
    conditions.compare("f.sequence >", int8(query.after), Type::INT8);
    // One more than is shown tells whether there are more.
    let rows_max = conditions.param(i64::from(query.rows_max) + 1, Type::INT8);
    let shown = conditions.param(i64::from(query.rows_max), Type::INT8);
    let bytes_max = conditions.param(i64::try_from(query.bytes_max).unwrap_or(i64::MAX), Type::INT8);
    let order = if query.newest_first { "desc" } else { "asc" };
    let (body, detail) = if query.bodies { ("f.body::text", "f.detail") } else { ("null::text", "null::text") };
    let text = format!(
        "select sequence, collection, key, kind, body, sqlstate, constraint_name, message, detail, accepted_at, failed_at, \
         closed_at, closed_reason, closed_by, closed_note, found, added from (select *, count(*) over () as found, row_number() over w as n, \
         sum(octet_length(key::text) + octet_length(message) + coalesce(octet_length(body), 0) + coalesce(octet_length(detail), 0)) \
         over w as bytes from (select f.sequence, f.collection, f.key, f.kind, {body} as body, \
         f.sqlstate, f.constraint_name, f.message, {detail} as detail, f.accepted_at, f.failed_at, f.closed_at, f.closed_reason, \
         f.closed_by, f.closed_note, f.added from forebay.failed_save f where {} order by f.sequence {order} limit ${rows_max}) p \
         window w as (order by sequence {order})) p where n <= ${shown} and (n = 1 or bytes <= ${bytes_max}) order by sequence {order}",
        conditions.text
    );
    let rows = reading.rows(&text, &conditions.borrowed()).await?;
    let found = rows.first().map_or(Ok(0), |row| get::<i64>(row, 15))?;
    Ok(FailedPage { more: found > rows.len() as i64, rows: rows.iter().map(row).collect::<Result<_, _>>()? })
}

fn row(row: &Row) -> Result<FailedRow, Failure> {
    let kind: &str = get(row, 3)?;
    Ok(FailedRow {
        sequence: sequence(row, 0)?,
        collection: get(row, 1)?,
        key: get(row, 2)?,
        kind: SaveKind::parse(kind).ok_or_else(|| unreadable("kind", kind))?,
        body: get(row, 4)?,
        added: get(row, 16)?,
        sqlstate: get(row, 5)?,
        constraint: get(row, 6)?,
        message: get(row, 7)?,
        detail: get(row, 8)?,
        accepted_at: get(row, 9)?,
        failed_at: get(row, 10)?,
        closed: closed(row)?,
    })
}

fn closed(row: &Row) -> Result<Option<Closed>, Failure> {
    let (Some(at), Some(reason)) = (get::<Option<SystemTime>>(row, 11)?, get::<Option<&str>>(row, 12)?) else { return Ok(None) };
    let state = FailedState::parse(reason).ok_or_else(|| unreadable("closed_reason", reason))?;
    let by = get::<Option<i64>>(row, 13)?.map(|by| Sequence::from_u64(by.cast_unsigned()));
    Ok(Some(Closed { at, state, by, note: get(row, 14)? }))
}

fn unreadable(column: &str, text: &str) -> Failure {
    Failure::local(Action::Halt, format!("forebay.failed_save.{column} holds {text:?}, which this version of Forebay doesn't know"))
}

pub(super) fn sequence(row: &Row, column: usize) -> Result<Sequence, Failure> {
    Ok(Sequence::from_u64(get::<i64>(row, column)?.cast_unsigned()))
}

pub(super) fn int8(sequence: Sequence) -> i64 {
    sequence.get().cast_signed()
}

fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
