//! The bare loop that Forebay's drain is held against: the same rows, in the same order, in the same number of rows a statement, by
//! the same statement in one transaction on one connection, and nothing else. No journal, no folding, no fence, no position.
//!
//! It has what it can have of advantages: the values are made before the clock starts, the statement is prepared, and enough of them
//! are under way at once that the server never waits.

use std::time::Instant;

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::{
    load, target,
    usage::{Cost, Usage},
};
use crate::sandbox::{Database, Statement, ToSql};

/// What Forebay's writer sends for rows of this table (a test in `postgres::statements` says so), with the types of its parameters.
pub(crate) const UNNEST: &str = concat!(
    r#"with u as materialized (select p.n, p.c1::bigint as c1, p.c2::text as c2, p.c3::integer as c3, p.c4::bigint as c4, "#,
    r#"p.c5::timestamp with time zone as c5, p.c6::jsonb as c6 "#,
    r#"from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[]) with ordinality as p(c1, c2, c3, c4, c5, c6, n)), "#,
    r#"changed as (update "public"."players" as t set "name" = u.c2, "level" = u.c3, "score" = u.c4, "seen_at" = u.c5, "inventory" = u.c6 "#,
    r#"from u where t."id" = u.c1 returning u.n), "#,
    r#"added as (insert into "public"."players" ("id", "name", "level", "score", "seen_at", "inventory") "#,
    r#"select u.c1, u.c2, u.c3, u.c4, u.c5, u.c6 from u where not exists (select from changed as c where c.n = u.n) order by u.n returning 1) "#,
    r#"select (select count(*) from changed), (select count(*) from added)"#,
);

/// As Forebay's transactions begin: without it the plan would follow statistics that a growing table doesn't have.
const BEGIN: &str = "begin; set local enable_seqscan = off; set local jit = off";

const UNDER_WAY_MAX: usize = 16;

/// A run of `forebay bench unnest`.
#[derive(Clone, Copy, Debug)]
pub struct UnnestOptions {
    /// Rows in all.
    pub rows: u64,
    /// Rows of a statement.
    pub statement_rows: usize,
}

/// What `forebay bench unnest` prints, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct UnnestReport {
    rows: u64,
    statement_rows: usize,
    rows_per_second: u64,
    #[serde(flatten)]
    cost: Cost,
}

impl UnnestReport {
    /// For people, in one line.
    pub fn text(&self) -> String {
        format!("{} rows/s ({} rows, {} a statement)", self.rows_per_second, self.rows, self.statement_rows)
    }
}

/// Writes fresh rows into a private Postgres and times it.
///
/// # Errors
/// No private Postgres, or rows that don't arrive.
pub async fn unnest(options: UnnestOptions) -> anyhow::Result<UnnestReport> {
    let UnnestOptions { rows, statement_rows } = options;
    ensure!(rows > 0 && statement_rows > 0, "--rows or --statement-rows is 0: nothing would be written");
    let postgres = target::postgres("").await?;
    let database = Database::connect(&postgres.url()).await.context("connect to the private Postgres")?;
    let statement = database.prepare(UNNEST).await.context("prepare the statement")?;
    let portions = portions(rows, statement_rows);
    let (idle, start) = (Usage::now()?, Instant::now());
    write(&database, &statement, &portions).await.context("write the rows")?;
    let (elapsed, used) = (start.elapsed(), Usage::now()?);
    let written = database.value(&format!("select count(*) from {}", load::COLLECTION)).await?;
    ensure!(written.as_deref() == Some(&rows.to_string()), "{rows} rows were sent and {written:?} are in Postgres");
    let cost = used.cost_since(&idle, rows, rows as f64 * load::save_bytes(rows))?;
    Ok(UnnestReport { rows, statement_rows, rows_per_second: (rows as f64 / elapsed.as_secs_f64()).round() as u64, cost })
}

async fn write(database: &Database, statement: &Statement, portions: &[Portion]) -> anyhow::Result<()> {
    database.run(BEGIN).await?;
    let statements = stream::iter(portions).map(|portion| async move {
        let values: Vec<_> = portion.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        database.execute(statement, &values).await
    });
    statements.buffered(UNDER_WAY_MAX).try_collect::<()>().await?;
    Ok(database.run("commit").await?)
}

/// The values of one statement, as text, column by column.
type Portion = [Vec<String>; 6];

/// The rows that `bench drain` saves, in the order in which Forebay writes them: by the bytes of their keys.
fn portions(rows: u64, statement_rows: usize) -> Vec<Portion> {
    let mut keys: Vec<_> = (0..rows).map(|key| (key.to_string(), key)).collect();
    keys.sort_unstable();
    keys.chunks(statement_rows)
        .map(|keys| {
            let same = |value: &str| vec![value.to_owned(); keys.len()];
            [
                keys.iter().map(|(text, _)| text.clone()).collect(),
                same(load::NAME),
                same(&load::LEVEL.to_string()),
                keys.iter().map(|&(_, key)| load::score(key).to_string()).collect(),
                same(load::SEEN_AT),
                same(&load::inventory()),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bare_loop_writes_the_rows_of_the_load() {
        let postgres = target::postgres("").await.expect("a private Postgres");
        let database = Database::connect(&postgres.url()).await.expect("a connection");
        let statement = database.prepare(UNNEST).await.expect("prepared");
        write(&database, &statement, &portions(250, 100)).await.expect("it is written");
        assert_eq!(database.value("select count(*) from players").await.expect("an answer").as_deref(), Some("250"));
        for n in [0, 249] {
            let query = load::matches(n, n);
            assert_eq!(database.value(&query).await.expect("an answer").as_deref(), Some("1"), "{query}");
        }
    }
}
