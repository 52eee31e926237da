//! `forebay demo`: the product in one minute, on real parts: a private Postgres, the daemon as a process of its own, 200,000
//! saves of 5,000 objects.
//!
//! In the middle Postgres is stopped for a while and the daemon is killed with SIGKILL, both under load. In the end every
//! object is compared with what was acknowledged (P1, P2, P3, P10): each carries a version that its saves count up.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use serde::Serialize;
use tokio::task::block_in_place;

use crate::{
    child::Daemon,
    client::Client,
    sandbox::{Database, Sandbox, SandboxOptions, StopMode},
    save::Sequence,
};
use ledger::{Ledger, Phase};
use load::Latencies;
use progress::Progress;

mod ledger;
mod load;
mod objects;
mod progress;

const SAVES: u64 = 200_000;
/// Of the saves, in percent: when what happens.
const WARMED_UP: u64 = 5;
const POSTGRES_STOPS: u64 = 30;
const DAEMON_KILLED: u64 = 65;
const POSTGRES_STARTS: u64 = 80;
/// For what the outage has piled up.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// What the demo found. As JSON: the fields up to `stale`, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Saves acknowledged.
    pub acknowledged: u64,
    /// Rows that Postgres got for them.
    pub rows_written: u64,
    /// Acknowledgement latency before the outage.
    pub ack_p50_us: u64,
    /// Acknowledgement latency before the outage.
    pub ack_p99_us: u64,
    /// Acknowledgement latency while Postgres was away.
    pub ack_p99_us_outage: u64,
    /// Saves that the killed daemon had acknowledged and Postgres did not have: read back from the journal.
    pub recovered_saves: u64,
    /// From the start of the new daemon until it served.
    pub recovery_ms: u64,
    /// Objects that were acknowledged and are missing.
    pub lost: u64,
    /// Objects that are older than what was acknowledged.
    pub stale: u64,
    #[serde(skip)]
    ack_p50_us_outage: u64,
    #[serde(skip)]
    backlog: Backlog,
    #[serde(skip)]
    failed_saves: u64,
}

/// The backlog at its highest.
#[derive(Clone, Copy, Debug, Default)]
struct Backlog {
    objects: u64,
    saves: u64,
}

impl Report {
    /// Whether nothing was lost.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.stale == 0
    }

    /// For people.
    pub fn text(&self) -> String {
        let saves_per_row = self.acknowledged as f64 / self.rows_written.max(1) as f64;
        let failed = match self.failed_saves {
            0 => String::new(),
            failed => format!("  failed saves         {failed:>9}   see forebay.failed_save\n"),
        };
        format!(
            "  saves acknowledged   {:>9}   p50 {}, p99 {}\n\
             \x20 while Postgres was away            p50 {}, p99 {}\n\
             \x20 rows written         {:>9}   {saves_per_row:.1} saves a row\n\
             \x20 backlog at most      {:>9}   objects of {} saves\n\
             \x20 read back after kill {:>9}   saves, serving again after {} ms\n{failed}\
             \x20 lost                 {:>9}\n\
             \x20 stale                {:>9}",
            self.acknowledged,
            Micros(self.ack_p50_us),
            Micros(self.ack_p99_us),
            Micros(self.ack_p50_us_outage),
            Micros(self.ack_p99_us_outage),
            self.rows_written,
            self.backlog.objects,
            self.backlog.saves,
            self.recovered_saves,
            self.recovery_ms,
            self.lost,
            self.stale,
        )
    }
}

struct Micros(u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} ms", self.0 as f64 / 1_000.0)
    }
}

/// Runs the demo. Needs a runtime of more than one thread; ends what it started, also when dropped.
///
/// # Errors
/// No private Postgres, a daemon that doesn't start, or a save that is refused.
pub async fn run() -> anyhow::Result<Report> {
    let progress = Progress::new(SAVES);
    progress.say("starting a private Postgres");
    let postgres = block_in_place(|| Sandbox::create(SandboxOptions::default())).context("start a private Postgres")?;
    Database::connect(&postgres.url()).await?.run(objects::SCHEMA).await.context("make the tables")?;
    let daemon = Daemon::start(&postgres.url()).await?;
    let ledger = Arc::new(Ledger::new(SAVES));
    load::fill(daemon.client(), &ledger).await?;
    let mut stage = Stage { postgres, daemon, progress, ledger, backlog: Backlog::default() };
    let load = load::run(stage.daemon.address(), Arc::clone(&stage.ledger));
    let (trouble, latencies) = tokio::try_join!(stage.play(), load)?;
    stage.finish(trouble, latencies).await
}

/// Everything that plays.
struct Stage {
    postgres: Sandbox,
    daemon: Daemon,
    progress: Progress,
    ledger: Arc<Ledger>,
    backlog: Backlog,
}

/// What the middle of the play has brought.
struct Trouble {
    /// By the daemon that was killed.
    rows_written: u64,
    recovered_saves: u64,
    recovery: Duration,
}

impl Stage {
    /// Stops Postgres, kills the daemon, starts Postgres, while the load goes on.
    async fn play(&mut self) -> anyhow::Result<Trouble> {
        self.progress.say("200,000 saves, 5,000 objects in three tables joined by foreign keys");
        self.reach(WARMED_UP).await?;
        self.ledger.enter(Phase::Before);
        self.reach(POSTGRES_STOPS).await?;
        self.ledger.enter(Phase::Between);
        block_in_place(|| self.postgres.stop(StopMode::Fast)).context("stop Postgres")?;
        self.progress.say("Postgres is stopped: saves go on, the backlog folds");
        self.ledger.enter(Phase::Outage);
        self.reach(DAEMON_KILLED).await?;
        self.ledger.enter(Phase::Between);
        let rows_written = rows_written(self.daemon.client()).await?;
        let recovery = self.daemon.kill_and_start().await?;
        let recovered_saves = recovered_saves(self.daemon.client()).await?;
        self.progress.say(&format!("killed the daemon: {recovered_saves} saves back from the journal in {} ms", recovery.as_millis()));
        self.reach(POSTGRES_STARTS).await?;
        block_in_place(|| self.postgres.start()).context("start Postgres")?;
        self.progress.say("Postgres is back");
        self.reach(100).await?;
        Ok(Trouble { rows_written, recovered_saves, recovery })
    }

    /// Waits for a part of the saves and watches the backlog meanwhile.
    async fn reach(&mut self, percent: u64) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(Progress::INTERVAL);
        while self.ledger.issued() < SAVES * percent / 100 {
            ticks.tick().await;
            self.progress.set(self.ledger.acknowledged());
            let status = self.daemon.client().status().await.context("read the daemon's status")?;
            let lanes = status.lanes.iter();
            let now = lanes.fold(Backlog::default(), |sum, lane| Backlog {
                objects: sum.objects + lane.backlog_objects,
                saves: sum.saves + lane.backlog_saves,
            });
            if now.saves > self.backlog.saves {
                self.backlog = now;
            }
        }
        Ok(())
    }

    /// Flushes, and compares every object with what was acknowledged.
    async fn finish(self, trouble: Trouble, latencies: Latencies) -> anyhow::Result<Report> {
        let Self { postgres, daemon, progress, ledger, backlog } = self;
        progress.say("waiting for Postgres to have it all");
        daemon.client().flush(&[], FLUSH_TIMEOUT).await.context("flush")?;
        let status = daemon.client().status().await.context("read the daemon's status")?;
        let rows_written = trouble.rows_written + rows_written(daemon.client()).await?;
        let difference = objects::compare(&Database::connect(&postgres.url()).await?, &ledger).await?;
        daemon.stop().await?;
        progress.finish();
        Ok(Report {
            acknowledged: ledger.acknowledged(),
            rows_written,
            ack_p50_us: latencies.before.value_at_quantile(0.5),
            ack_p99_us: latencies.before.value_at_quantile(0.99),
            ack_p99_us_outage: latencies.outage.value_at_quantile(0.99),
            recovered_saves: trouble.recovered_saves,
            recovery_ms: u64::try_from(trouble.recovery.as_millis()).unwrap_or(u64::MAX),
            lost: difference.lost,
            stale: difference.stale,
            ack_p50_us_outage: latencies.outage.value_at_quantile(0.5),
            backlog,
            failed_saves: status.failed_saves,
        })
    }
}

/// By this run of the daemon.
async fn rows_written(client: &Client) -> anyhow::Result<u64> {
    let status = client.status().await.context("read the daemon's status")?;
    Ok(status.lanes.iter().map(|lane| lane.rows_written).sum())
}

/// The backlog without what this run of the daemon has accepted itself: Postgres is away, so nothing of it has gone yet.
async fn recovered_saves(client: &Client) -> anyhow::Result<u64> {
    let status = client.status().await.context("read the daemon's status")?;
    let last = Sequence::from_u64(status.accepted_through);
    let first = Sequence::before_run(status.run).context("the daemon's run number is out of range")?;
    let backlog: u64 = status.lanes.iter().map(|lane| lane.backlog_saves).sum();
    Ok(backlog.saturating_sub(last.get().saturating_sub(first.get())))
}
