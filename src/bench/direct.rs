//! What an application does without Forebay: it writes into Postgres itself, row by row or, if it took the care, by the thousand.
//!
//! Prepared statements, values in the types of their columns, every statement a transaction of its own, the server's defaults: an
//! answer means that the row is on disk.

use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};

use super::{
    Load, RivalReport, load,
    rival::{self, Calls, Connection},
    target,
};
use crate::sandbox::{Database, Statement, ToSql};

/// One row.
const ROW: &str = "
    insert into players (id, name, level, score, seen_at, inventory) values ($1, $2, $3, $4, $5, $6::text::jsonb)
    on conflict (id) do update set name = excluded.name, level = excluded.level, score = excluded.score,
        seen_at = excluded.seen_at, inventory = excluded.inventory";

/// Many rows, an array for each column: no other way of one statement is faster.
const ROWS: &str = "
    insert into players (id, name, level, score, seen_at, inventory)
    select id, name, level, score, seen_at, inventory::jsonb
    from unnest($1::int8[], $2::text[], $3::int4[], $4::int8[], $5::timestamptz[], $6::text[])
        as r(id, name, level, score, seen_at, inventory)
    on conflict (id) do update set name = excluded.name, level = excluded.level, score = excluded.score,
        seen_at = excluded.seen_at, inventory = excluded.inventory";

/// A run of `forebay bench direct`.
#[derive(Clone, Copy, Debug)]
pub struct DirectOptions {
    /// Connections, each waiting for its answer.
    pub connections: usize,
    /// What is written.
    pub load: Load,
    /// Rows of a statement.
    pub statement_rows: u64,
    /// How long.
    pub time: Duration,
}

/// Writes the load into a private Postgres, without Forebay.
///
/// # Errors
/// No private Postgres, or a statement that it refuses.
pub async fn direct(options: DirectOptions) -> anyhow::Result<RivalReport> {
    ensure!(options.connections > 0, "--connections is 0: nobody would write");
    ensure!(options.statement_rows > 0, "--statement-rows is 0: nothing would be written");
    ensure!(options.statement_rows <= options.load.objects(), "a statement can't write one row twice: the load has fewer objects");
    let postgres = target::postgres("").await?;
    let mut connections = Vec::with_capacity(options.connections);
    for _ in 0..options.connections {
        connections.push(Writer::connect(&postgres.url(), options).await.context("connect to the private Postgres")?);
    }
    rival::run(connections, Calls { load: options.load, saves_per_call: options.statement_rows, time: options.time }).await
}

struct Writer {
    database: Database,
    statement: Statement,
    load: Load,
}

impl Writer {
    async fn connect(url: &str, DirectOptions { load, statement_rows, .. }: DirectOptions) -> anyhow::Result<Self> {
        let database = Database::connect(url).await?;
        let statement = database.prepare(if statement_rows == 1 { ROW } else { ROWS }).await?;
        Ok(Self { database, statement, load })
    }
}

impl Connection for Writer {
    async fn save(&mut self, saves: Range<u64>) -> anyhow::Result<()> {
        let single = saves.end - saves.start == 1;
        let rows = Rows::of(self.load, saves);
        let values = if single { rows.first() } else { rows.all() };
        Ok(self.database.execute(&self.statement, &values).await?)
    }
}

/// Rows in the making, column by column.
struct Rows {
    ids: Vec<i64>,
    names: Vec<&'static str>,
    levels: Vec<i32>,
    scores: Vec<i64>,
    seen: Vec<SystemTime>,
    inventories: Vec<String>,
}

impl Rows {
    /// In the order of their keys: two statements that lock the same rows in the same order don't deadlock.
    fn of(load: Load, saves: Range<u64>) -> Self {
        let mut keys: Vec<_> = saves.map(|n| (load.key(n).cast_signed(), load::score(n).cast_signed())).collect();
        keys.sort_unstable();
        let count = keys.len();
        let (ids, scores) = keys.into_iter().unzip();
        Self {
            ids,
            names: vec![load::NAME; count],
            levels: vec![load::LEVEL; count],
            scores,
            seen: vec![load::seen_at(); count],
            inventories: vec![load::inventory(); count],
        }
    }

    fn first(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.ids[0], &self.names[0], &self.levels[0], &self.scores[0], &self.seen[0], &self.inventories[0]]
    }

    fn all(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.ids, &self.names, &self.levels, &self.scores, &self.seen, &self.inventories]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_that_are_written_directly_are_those_of_the_load() {
        let postgres = target::postgres("").await.expect("a private Postgres");
        let database = Database::connect(&postgres.url()).await.expect("a connection");
        for (statement_rows, first) in [(1, 7), (100, 1_000)] {
            let options = DirectOptions { connections: 1, load: Load::Hot, statement_rows, time: Duration::ZERO };
            let mut writer = Writer::connect(&postgres.url(), options).await.expect("a connection");
            writer.save(first..first + statement_rows).await.expect("it is written");
            for n in [first, first + statement_rows - 1] {
                let query = load::matches(Load::Hot.key(n), n);
                assert_eq!(database.value(&query).await.expect("an answer").as_deref(), Some("1"), "{query}");
            }
        }
    }
}
