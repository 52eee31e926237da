//! Reading rows together with the lane's position: one statement, one snapshot.
//!
//! A statement travels with its BEGIN and COMMIT in one flight, so that a read costs one way there and back, and no connection
//! is held between reads. Rows come as Postgres prints them in JSON; what a page may hold of our memory is cut by Postgres.

use std::sync::Arc;

use futures_util::future::join3;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{
    Action, Failure,
    encode::Parameters,
    lease::{Lease, within},
    quote::{identifier, qualified},
    reading::get,
    session::Session,
    statements,
};
use crate::{
    collections::{Collection, Column, KeyForm},
    save::{ColumnSet, Key, Sequence},
};

/// A lane whose rows are read.
#[derive(Clone, Debug)]
pub struct LaneRow {
    /// The journal.
    pub journal: Uuid,
    /// The lane's name.
    pub lane: Arc<str>,
    /// This daemon's token.
    pub owner: Uuid,
}

/// Keys between two, both included unless said otherwise, in the order of Postgres.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first; `None`: there is no smaller one.
    pub from: Option<Key>,
    /// The last; `None`: there is no larger one.
    pub to: Option<Key>,
    /// Only those beyond this one.
    pub after: Option<Key>,
}

/// How much one statement reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize {
    /// Rows.
    pub rows_max: u64,
    /// Bytes of their JSON, but at least one row.
    pub bytes_max: u64,
}

/// A row that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// Its key.
    pub key: Key,
    /// As JSON; `None`: there is none.
    pub json: Option<String>,
}

/// What one statement read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Up to where the tables held everything of the lane.
    pub position: Sequence,
    /// Columns that a new row doesn't leave NULL.
    pub defaulted: Vec<String>,
    /// The rows, in the order asked for: of the keys given, or by key.
    pub rows: Vec<StoredRow>,
    /// How many of the keys that were given are dealt with; the page was full before the others.
    pub keys_done: usize,
    /// By key: there may be more.
    pub more: bool,
}

/// Why rows can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// The position row is none that tells what these rows hold.
    #[error("the lane's position row in Postgres is {0}")]
    Position(&'static str),
    /// The statement, or the way there.
    #[error("{0}")]
    Failed(#[from] Failure),
}

impl RowsError {
    /// Whether the table may be another than the catalog said when it was read.
    pub fn may_be_outdated(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.sqlstate.as_deref().is_some_and(|code| code.starts_with("42") && code != "42501"))
    }
}

/// What is known of a table as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    /// How many rows it has, as it was estimated last; 0 if it never was.
    pub rows: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// A statement in the making.
struct Query<'a> {
    collection: &'a Collection,
    params: Vec<(Box<dyn ToSql + Sync + Send>, Type)>,
}

impl<'a> Query<'a> {
    fn new(collection: &'a Collection) -> Self {
        Self { collection, params: Vec::new() }
    }

    /// Adds a parameter and gives its place in the text.
    fn param(&mut self, value: impl ToSql + Sync + Send + 'static, ty: Type) -> String {
        self.params.push((Box::new(value), ty));
        format!("${}", self.params.len())
    }

    fn text(&mut self, value: impl Into<String>) -> String {
        self.param(value.into(), Type::TEXT)
    }

    fn number(&mut self, value: u64) -> String {
        self.param(i64::try_from(value).unwrap_or(i64::MAX), Type::INT8)
    }

    fn table(&self) -> String {
        qualified(&self.collection.schema, &self.collection.table)
    }

    /// Where `columns`, one for each part of the key, are in the range.
    fn within(&mut self, columns: &[String], range: &KeyRange) -> String {
        let mut conditions = vec!["true".to_owned()];
        for (key, operator) in [(&range.from, ">="), (&range.to, "<="), (&range.after, ">")] {
            let Some(key) = key else { continue };
            let collection = self.collection;
            let parts = collection.key_columns().zip(key.parts());
            let parts: Vec<_> = parts.map(|(column, part)| format!("{}::{}", self.text(part), column.cast)).collect();
            conditions.push(format!("({}) {operator} ({})", columns.join(", "), parts.join(", ")));
        }
        conditions.join(" and ")
    }

    /// From `r` (place, n, json, bytes, keys) what fits into the page; with it the lane's row and the defaults.
    fn page(&mut self, lane: &LaneRow, with: &str, keys: usize, size: PageSize) -> String {
        let table = self.table().replace('\'', "''");
        let (journal, name, owner) = (self.text(lane.journal), self.text(&*lane.lane), self.text(lane.owner));
        let bytes_max = self.number(size.bytes_max);
        let keys: String = (1..=keys).map(|n| format!(", r.k{n}")).collect();
        format!(
            "with {with} select p.through, p.owner = {owner}::uuid, case when coalesce(r.place, 1) = 1 then array(\
             select a.attname::text from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid \
             where a.attrelid = '{table}'::regclass and a.attnum > 0 and not a.attisdropped \
             and (a.atthasdef or a.attidentity <> '' or t.typdefault is not null)) end, \
             (select count(*) from r), r.n, r.json{keys} from (select) as one \
             left join forebay.lane_position p on p.journal_id = {journal}::uuid and p.lane = {name} \
             left join r on r.place = 1 or r.bytes <= {bytes_max} order by r.place"
        )
    }

    async fn rows(self, lease: Lease, session: &Session, statement: &str) -> Result<Vec<Row>, Failure> {
        let params: Vec<_> = self.params.iter().map(|(value, ty)| (&**value as &(dyn ToSql + Sync), ty.clone())).collect();
        fly(lease, session, statement, &params).await
    }
}

/// BEGIN, the statement and COMMIT, one behind the other.
async fn fly(mut lease: Lease, session: &Session, statement: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, Failure> {
    lease.enter();
    // What is polled in order is sent in order.
    let flight = async {
        let (begun, rows, ended) =
            join3(lease.batch_execute(session.begin_rows()), lease.query_typed(statement, params), lease.batch_execute("commit")).await;
        Ok((begun, rows, ended))
    };
    let (begun, rows, ended) = within(session.call_timeout(), "read rows", flight).await?;
    if begun.is_ok() && ended.is_ok() {
        lease.leave();
    }
    let failed = |error: tokio_postgres::Error| Failure::from_error(&error, super::Phase::BeforeCommit);
    begun.map_err(failed)?;
    let rows = rows.map_err(failed)?;
    ended.map_err(failed)?;
    Ok(rows)
}

/// The rows of these keys, in the order given, as far as they are in the range; keys without a row too.
pub(super) async fn by_keys(
    lease: Lease,
    session: &Session,
    lane: &LaneRow,
    collection: &Collection,
    (keys, range): (&[Key], &KeyRange),
    size: PageSize,
) -> Result<Rows, RowsError> {
    let mut query = Query::new(collection);
    let mut arrays = Parameters::new(collection, &ColumnSet::EMPTY);
    keys.iter().try_for_each(|key| arrays.push_key(key))?;
    for array in arrays.into_arrays() {
        query.param(array, Type::TEXT_ARRAY);
    }
    let (u, matching) = (statements::rows(collection, &ColumnSet::EMPTY), statements::key_matches(collection));
    // Of the row, though it may be missing: so they are compared in the column's type and collation, as a range is.
    let columns: Vec<_> = collection.key_columns().zip(1..).map(|(column, n)| format!("coalesce({}, u.c{n})", compared(column))).collect();
    let inside = query.within(&columns, range);
    let r = format!(
        "r as (select row_number() over w as place, x.n, x.json, sum(coalesce(octet_length(x.json), 0)) over w as bytes \
         from (select u.n, row_to_json(t.*)::text as json from u left join {} as t on {matching} where {inside}) as x \
         window w as (order by x.n rows unbounded preceding))",
        query.table()
    );
    let statement = query.page(lane, &format!("{u}, {r}"), 0, size);
    let answer = query.rows(lease, session, &statement).await?;
    let mut rows = read(&answer, |row| {
        let n: i64 = get(row, 4)?;
        let place = usize::try_from(n - 1).ok().filter(|&place| place < keys.len());
        place.map(|place| keys[place].clone()).ok_or_else(|| Failure::local(Action::Halt, format!("a row came for key {n}")))
    })?;
    if rows.more {
        let last = answer.last().map_or(Ok(0), |row| get::<i64>(row, 4))?;
        rows.keys_done = usize::try_from(last).unwrap_or_default();
    } else {
        rows.keys_done = keys.len();
    }
    Ok(rows)
}

/// The next rows of a range, by key.
pub(super) async fn by_range(
    lease: Lease,
    session: &Session,
    lane: &LaneRow,
    collection: &Collection,
    range: &KeyRange,
    size: PageSize,
) -> Result<Rows, RowsError> {
    let mut query = Query::new(collection);
    let statement = range_statement(&mut query, lane, range, size);
    let answer = query.rows(lease, session, &statement).await?;
    let parts = collection.key.len();
    let mut rows = read(&answer, |row| {
        let parts = (6..6 + parts).map(|n| get::<&str>(row, n)).collect::<Result<Vec<_>, _>>()?;
        Ok(Key::from_parts(parts))
    })?;
    let found = answer.first().map_or(Ok(0), |row| get::<i64>(row, 3))?;
    rows.more |= found.cast_unsigned() >= size.rows_max;
    Ok(rows)
}

fn range_statement(query: &mut Query<'_>, lane: &LaneRow, range: &KeyRange, size: PageSize) -> String {
    let collection = query.collection;
    let columns: Vec<_> = collection.key_columns().map(compared).collect();
    let inside = query.within(&columns, range);
    let limit = query.number(size.rows_max);
    let number = |prefix: &str| (1..=columns.len()).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>().join(", ");
    let texts: String =
        collection.key_columns().zip(1..).map(|(column, n)| format!(", t.{}::text as k{n}", identifier(&column.name))).collect();
    let ordered: String = columns.iter().zip(1..).map(|(column, n)| format!(", {column} as o{n}")).collect();
    let r = format!(
        "r as (select row_number() over w as place, 0::int8 as n, x.json, sum(octet_length(x.json)) over w as bytes, {} \
         from (select row_to_json(t.*)::text as json{texts}{ordered} from {} as t where {inside} order by {} limit {limit}) as x \
         window w as (order by {} rows unbounded preceding))",
        number("x.k"),
        query.table(),
        columns.join(", "),
        number("x.o"),
    );
    query.page(lane, &r, columns.len(), size)
}

/// A key column as it is compared: enums have no operator of their own, theirs wants the same type on both sides.
fn compared(column: &Column) -> String {
    match column.key_form {
        Some(KeyForm::Enum { .. }) => format!("t.{}::{}", identifier(&column.name), column.cast),
        _ => format!("t.{}", identifier(&column.name)),
    }
}

fn read(answer: &[Row], key: impl Fn(&Row) -> Result<Key, Failure>) -> Result<Rows, RowsError> {
    let first = answer.first().ok_or_else(|| Failure::local(Action::Halt, "a statement that has a row answered with none"))?;
    let position: i64 = get::<Option<i64>>(first, 0)?.ok_or(RowsError::Position("missing"))?;
    if get::<Option<bool>>(first, 1)? != Some(true) {
        return Err(RowsError::Position("another daemon's, or of an earlier start"));
    }
    let found: i64 = get(first, 3)?;
    let there = answer.iter().filter_map(|row| match get::<Option<i64>>(row, 4) {
        Ok(Some(_)) => Some(key(row).and_then(|key| Ok(StoredRow { key, json: get(row, 5)? }))),
        Ok(None) => None,
        Err(failure) => Some(Err(failure)),
    });
    let rows = there.collect::<Result<Vec<_>, _>>()?;
    Ok(Rows {
        position: Sequence::from_u64(position.cast_unsigned()),
        defaulted: get::<Option<Vec<String>>>(first, 2)?.unwrap_or_default(),
        more: found > rows.len() as i64,
        rows,
        keys_done: 0,
    })
}

/// How large the collection's table is, with all its partitions.
pub(super) async fn size(lease: Lease, session: &Session, collection: &Collection) -> Result<TableSize, Failure> {
    let mut query = Query::new(collection);
    let table = query.text(query.table());
    let statement = format!(
        "select coalesce(sum(greatest(c.reltuples, 0)), 0)::int8, coalesce(sum(pg_catalog.pg_table_size(c.oid)), 0)::int8 \
         from pg_catalog.pg_class c where c.relkind = 'r' \
         and (c.oid = {table}::regclass or c.oid in (select t.relid from pg_catalog.pg_partition_tree({table}::regclass) t))"
    );
    let rows = query.rows(lease, session, &statement).await?;
    let number = |column: usize| rows.first().map_or(Ok(0), |row| get::<i64>(row, column)).map(i64::unsigned_abs);
    Ok(TableSize { rows: number(0)?, bytes: number(1)? })
}

/// How Postgres reads a page of a range.
#[cfg(test)]
pub(super) async fn explain(postgres: &super::Postgres, lane: &LaneRow, collection: &Collection, range: &KeyRange) -> String {
    let mut query = Query::new(collection);
    let statement = range_statement(&mut query, lane, range, PageSize { rows_max: 100, bytes_max: 1 << 20 });
    let lease = postgres.reader().await.expect("a connection");
    let rows = query.rows(lease, &postgres.session, &format!("explain {statement}")).await.expect("a plan");
    rows.iter().map(|row| format!("{}\n", row.get::<_, &str>(0))).collect()
}
