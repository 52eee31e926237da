//! What those who read the same tables directly notice of the drain.
//!
//! Readers come in an open loop: what they wait for is counted from when it was due. They, the daemon and Postgres are processes
//! of their own, as they would be.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Pace,
    fill::{fill, room},
    load, pause,
    scrape::Times,
};
use crate::{
    child::Daemon,
    client::Client,
    sandbox::{Database, Sandbox, SandboxOptions},
};

const READERS: usize = 8;
/// Of all of them: little for Postgres, so that it is the drain that they wait for.
const READS_PER_SECOND: f64 = 800.0;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3_600);
const RATE: &str = "drain.rows_per_second_max";
const TARGET: &str = "drain.statement_target";
/// One row in five takes a millisecond, the least that can be slept: so the target is some two hundred rows.
const THROTTLE: &str = "
    create function throttle() returns trigger language plpgsql as $$
    begin if new.id % 5 = 0 then perform pg_sleep(0.001); end if; return new; end $$;
    create trigger throttle before insert or update on players for each row execute function throttle()";
/// About as many as go through.
const THROTTLED_ROWS_PER_SECOND: u64 = 2_000;
/// Statements have come to the target after so many.
const WARM_UP_ROWS: u64 = 6_000;

/// A run of `forebay bench readers`.
#[derive(Clone, Copy, Debug)]
pub struct ReadersOptions {
    /// Rows of the table, all of which are saved before each drain begins.
    pub rows: u64,
    /// Rows a second of the drain that is held to a rate.
    pub rows_per_second: u64,
    /// How long to read at the most, each time.
    pub time: Duration,
}

/// What `forebay bench readers` prints, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct ReadersReport {
    readers: usize,
    reads_per_second: f64,
    statement_target_ms: u64,
    /// Nothing is drained.
    idle: PhaseReport,
    /// At full speed.
    draining: PhaseReport,
    /// Held to `rows_per_second`.
    limited: PhaseReport,
    /// Postgres takes a millisecond for every fifth row; statements have come to their size before.
    throttled: PhaseReport,
}

/// What was seen meanwhile.
#[derive(Clone, Debug, Serialize)]
struct PhaseReport {
    seconds: f64,
    reads: u64,
    /// Of a read.
    p50_us: u64,
    p99_us: u64,
    /// Rows that the drain wrote.
    rows: u64,
    /// Of the statements that wrote them, and what was left to write; none if there were none.
    statement_p50_ms: Option<f64>,
    statement_p99_ms: Option<f64>,
    /// Rows of the last full one.
    statement_rows: u64,
}

impl ReadersReport {
    /// For people, a line for each phase.
    pub fn text(&self) -> String {
        let phases = [("idle", &self.idle), ("draining", &self.draining), ("limited", &self.limited), ("throttled", &self.throttled)];
        let lines = phases.map(|(name, phase)| {
            let PhaseReport { p50_us, p99_us, rows, seconds, .. } = phase;
            format!("{name}: reads p50 {p50_us} us, p99 {p99_us} us; {rows} rows written in {seconds:.1} s{}", phase.statements())
        });
        format!("{}\nthe target of a statement is {} ms", lines.join("\n"), self.statement_target_ms)
    }
}

impl PhaseReport {
    fn statements(&self) -> String {
        match (self.statement_p50_ms, self.statement_p99_ms) {
            (Some(p50), Some(p99)) => format!(", statements p50 {p50:.1} ms, p99 {p99:.1} ms, now of {} rows", self.statement_rows),
            _ => String::new(),
        }
    }
}

/// Reads without a drain, beside one at full speed, beside one held to a rate, and beside one into a slow Postgres.
///
/// # Errors
/// No private Postgres, a daemon that doesn't start, or a read that fails.
pub async fn readers(options: ReadersOptions) -> anyhow::Result<ReadersReport> {
    ensure!(options.rows > 0, "--rows is 0: there would be nothing to read");
    let postgres = tokio::task::spawn_blocking(|| Sandbox::create(SandboxOptions::default())).await.context("start a private Postgres")?;
    let postgres = postgres.context("start a private Postgres")?;
    let database = Database::connect(&postgres.url()).await?;
    database.run(&format!("{}; {}", load::SCHEMA, filling(options.rows))).await.context("make the table")?;
    let daemon = Daemon::start_with(&postgres.url(), room()).await?;
    let bench = Bench { url: postgres.url(), database, daemon, options };
    let report = bench.phases().await;
    bench.daemon.stop().await?;
    report
}

/// Every row is there: what is drained are updates, and what is read is found.
fn filling(rows: u64) -> String {
    format!("insert into players select n, 'player', 1, 0, now(), '\"\"' from generate_series(0, {rows} - 1) as n; analyze players")
}

struct Bench {
    url: String,
    database: Database,
    daemon: Daemon,
    options: ReadersOptions,
}

impl Bench {
    fn client(&self) -> &Client {
        self.daemon.client()
    }

    async fn phases(&self) -> anyhow::Result<ReadersReport> {
        let rows = self.options.rows;
        let limits = self.client().status().await.context("read the daemon's status")?.limits;
        let target = limits.iter().find(|limit| limit.name == TARGET).with_context(|| format!("the daemon has {TARGET}"))?;
        let idle = self.phase(0).await?;
        let draining = self.phase(rows).await?;
        self.client().set_limits(&[(RATE, self.options.rows_per_second)]).await.context("limit the drain")?;
        let limited = self.phase(rows).await?;
        self.database.run(THROTTLE).await.context("slow the table down")?;
        fill(&self.daemon.address(), rows.min(WARM_UP_ROWS), |key| load::save(key, key)).await?;
        self.client().flush(&[], FLUSH_TIMEOUT).await.context("wait for the drain")?;
        let throttled = self.phase(rows.min(self.options.time.as_secs() * THROTTLED_ROWS_PER_SECOND)).await?;
        Ok(ReadersReport {
            readers: READERS,
            reads_per_second: READS_PER_SECOND,
            statement_target_ms: target.max,
            idle,
            draining,
            limited,
            throttled,
        })
    }

    /// Saves so many rows and reads while they are drained, or for as long as a phase may be; then drains the rest.
    async fn phase(&self, rows: u64) -> anyhow::Result<PhaseReport> {
        if rows > 0 {
            pause(self.client()).await?;
            fill(&self.daemon.address(), rows, |key| load::save(key, key)).await?;
        }
        let (before, written) = (Times::scrape(&self.daemon).await?, self.lane().await?.rows_written);
        let start = Instant::now();
        let end = start + self.options.time;
        let reading = self.read(start, end).await?;
        if rows > 0 {
            self.client().resume(false).await.context("resume the drain")?;
            tokio::select! {
                flushed = self.client().flush(&[], FLUSH_TIMEOUT) => drop(flushed.context("wait for the drain")?),
                () = tokio::time::sleep_until(end.into()) => {}
            }
        } else {
            tokio::time::sleep_until(end.into()).await;
        }
        let (elapsed, lane) = (start.elapsed(), self.lane().await?);
        let latencies = reading.end().await?;
        self.client().set_limits(&[(RATE, 0)]).await.context("lift the limit")?;
        self.client().flush(&[], FLUSH_TIMEOUT).await.context("wait for the drain")?;
        let times = Times::scrape(&self.daemon).await?.since(&before);
        Ok(PhaseReport {
            seconds: elapsed.as_secs_f64(),
            reads: latencies.len(),
            p50_us: latencies.value_at_quantile(0.5),
            p99_us: latencies.value_at_quantile(0.99),
            rows: lane.rows_written - written,
            statement_p50_ms: times.quantile(0.5).map(|seconds| seconds * 1_000.0),
            statement_p99_ms: times.quantile(0.99).map(|seconds| seconds * 1_000.0),
            statement_rows: self.lane().await?.statement_rows,
        })
    }

    async fn lane(&self) -> anyhow::Result<crate::proto::LaneStatus> {
        let mut status = self.client().status().await.context("read the daemon's status")?;
        status.lanes.pop().context("the daemon has a lane")
    }

    async fn read(&self, start: Instant, end: Instant) -> anyhow::Result<Reading> {
        let (mut readers, ended) = (JoinSet::new(), CancellationToken::new());
        for (number, pace) in (0..).zip(Pace::spread(READS_PER_SECOND, READERS, start, end)) {
            let database = Database::connect(&self.url).await?;
            readers.spawn(read(database, pace, number, self.options.rows, ended.clone()));
        }
        Ok(Reading { readers, ended })
    }
}

/// Readers under way.
struct Reading {
    readers: JoinSet<anyhow::Result<Histogram<u64>>>,
    /// Nothing is drained any more: what is read from now on doesn't count.
    ended: CancellationToken,
}

impl Reading {
    async fn end(mut self) -> anyhow::Result<Histogram<u64>> {
        self.ended.cancel();
        let mut all = histogram();
        while let Some(reader) = self.readers.join_next().await {
            all.add(reader.context("a reader panicked")??).context("add up what readers measured")?;
        }
        Ok(all)
    }
}

/// Reads a row whenever one is due; microseconds from when it was due.
async fn read(database: Database, mut pace: Pace, number: u64, rows: u64, ended: CancellationToken) -> anyhow::Result<Histogram<u64>> {
    let mut latencies = histogram();
    // Spread over the table, each time other rows.
    let mut keys = (number..).step_by(READERS).map(|n| n * 7_919 % rows);
    while let Some(Some(due)) = ended.run_until_cancelled(pace.next()).await {
        let key = keys.next().expect("numbers don't end");
        let found = database.rows(&format!("select * from {} where id = {key}", load::COLLECTION)).await.context("read a row")?;
        ensure!(found.len() == 1, "row {key} is missing");
        let latency = u64::try_from(due.elapsed().as_micros()).context("a read takes less than an aeon")?;
        latencies.record(latency).context("the histogram grows as it needs")?;
    }
    Ok(latencies)
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are valid")
}
