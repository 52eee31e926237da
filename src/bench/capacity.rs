//! How much a daemon bears: the highest rate of arrivals at which saves are acknowledged within a bound, and the highest at which
//! the drain keeps up; how busy the machine is then, and whether Little's law agrees with what is measured.
//!
//! Open loop: saves arrive by chance (`arrivals`) at a rate that doesn't wait for answers, and their latency counts from when
//! they were due. The rate is searched (`search`): a step at each, after a warm-up. A step breaks if the 95th percentile is above
//! the bound, a call fails or can't be made for want of room, or (drain) the backlog grows without end (`growth`).
//!
//! Ingest and drain are two answers. Ingest is measured with the drain paused, by single calls over so many connections, without
//! slow clients and beside them (`slow`), each with a daemon of its own; the drain with objects that no step has saved before. The
//! daemons are processes of their own, so that their CPU time can be told from that of the callers. A daemon that ends by itself
//! ends the run with an error: a report says that each was alive until it was stopped.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::{callers, pause, target};
use crate::{
    child::Daemon,
    open_files,
    sandbox::{Database, Sandbox},
    settings::Settings,
};
use drain::Drain;
use ingest::Ingest;
use search::Search;
use slow::{SlowClients, Slowness};

mod arrivals;
mod drain;
mod growth;
mod ingest;
mod little;
mod page;
mod search;
mod slow;
mod utilisation;

/// Saves per second: any machine holds that, and few steps lead up from there.
const INGEST_RATE_FIRST: f64 = 200.0;
const DRAIN_RATE_FIRST: f64 = 2_000.0;
/// Of the drain's batches.
const DRAIN_CONNECTIONS: usize = 4;
const CONNECTIONS_LIMIT: &str = "grpc.connections_max";
/// Until all slow clients are connected.
const PATIENCE: Duration = Duration::from_secs(60);

/// A run of `forebay bench capacity`.
#[derive(Clone, Debug)]
pub struct CapacityOptions {
    /// The bound of the 95th percentile of a call.
    pub p95: Duration,
    /// Connections of the callers: a search for each.
    pub connections: Vec<usize>,
    /// Slow clients that each search is repeated beside; none: it is not.
    pub slow: usize,
    /// How long a step measures; the drain's three times as long.
    pub step: Duration,
    /// The highest rate to try.
    pub rate_max: f64,
}

/// What `forebay bench capacity` prints, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct CapacityReport {
    p95_bound_us: u64,
    ingest: Vec<IngestCapacity>,
    drain: Capacity<drain::Measured>,
}

/// What single calls over so many connections came to.
#[derive(Clone, Debug, Serialize)]
struct IngestCapacity {
    connections: usize,
    #[serde(flatten)]
    slow: Slowness,
    #[serde(flatten)]
    capacity: Capacity<ingest::Measured>,
}

/// What a search found.
#[derive(Clone, Debug, Serialize)]
struct Capacity<M> {
    /// Saves per second: the highest rate that held twice; 0 if none did.
    capacity_per_second: f64,
    /// What broke the lowest rate above; none if the highest rate to be tried held.
    broken_by: Option<Broke>,
    /// The step in which the capacity held for the second time; the last one, if none held twice.
    #[serde(flatten)]
    measured: M,
}

/// Why a step didn't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Broke {
    /// The 95th percentile is above the bound.
    P95,
    /// Calls failed or were refused.
    Errors,
    /// A call was due while as many as may be were unanswered.
    Outstanding,
    /// The backlog grows without end.
    Backlog,
}

/// A step at one rate.
#[derive(Debug)]
struct Step<M> {
    broke: Option<Broke>,
    /// The first of its calls.
    error: Option<String>,
    measured: M,
}

/// Searches for the capacity of ingest, once for each number of connections without slow clients and once beside them, and for
/// that of the drain.
///
/// # Errors
/// No private Postgres, a daemon that doesn't start or ends by itself, or too few open files allowed.
pub async fn capacity(options: CapacityOptions) -> anyhow::Result<CapacityReport> {
    let most = options.connections.iter().max().copied().context("--connections is empty: nobody would save")?;
    allow_connections(most + options.slow)?;
    let postgres = target::postgres("").await?;
    let mut ingest = Vec::new();
    for slow in [0, options.slow].into_iter().take(1 + usize::from(options.slow > 0)) {
        for &connections in &options.connections {
            ingest.push(ingest_capacity(&postgres, &options, connections, slow).await?);
        }
    }
    let drain = drain_capacity(&postgres, &options).await?;
    let p95_bound_us = u64::try_from(options.p95.as_micros()).context("the bound is less than an aeon")?;
    Ok(CapacityReport { p95_bound_us, ingest, drain })
}

async fn ingest_capacity(postgres: &Sandbox, options: &CapacityOptions, connections: usize, slow: usize) -> anyhow::Result<IngestCapacity> {
    let daemon = start(postgres).await?;
    pause(daemon.client()).await?;
    let slow_clients = SlowClients::begin(&daemon.address(), slow).await?;
    let channels = callers::connect(&daemon.address(), connections).await?;
    all_connected(&daemon, (connections + slow) as u64).await?;
    let ingest = Ingest { channels, daemon: &daemon, bound: options.p95, step: options.step };
    let name = format!("ingest, {connections} connections, {slow} slow clients");
    let search = Search::new(INGEST_RATE_FIRST, options.rate_max);
    let capacity = climb(&name, search, async |rate, seed| ingest.step(rate, seed).await).await?;
    let slow = slow_clients.seen();
    drop((ingest, slow_clients));
    daemon.stop().await?;
    Ok(IngestCapacity { connections, slow, capacity })
}

async fn drain_capacity(postgres: &Sandbox, options: &CapacityOptions) -> anyhow::Result<Capacity<drain::Measured>> {
    let daemon = start(postgres).await?;
    let drain = Drain {
        channels: callers::connect(&daemon.address(), DRAIN_CONNECTIONS).await?,
        daemon: &daemon,
        database: Database::connect(&postgres.url()).await?,
        step: options.step,
        fresh: 0.into(),
    };
    let search = Search::new(DRAIN_RATE_FIRST, options.rate_max);
    let capacity = climb("drain", search, async |rate, seed| drain.step(rate, seed).await).await?;
    drop(drain);
    daemon.stop().await?;
    Ok(capacity)
}

/// Steps until the search is over, and says on the way how each went.
async fn climb<M>(name: &str, mut search: Search, step: impl AsyncFn(f64, u64) -> anyhow::Result<Step<M>>) -> anyhow::Result<Capacity<M>> {
    let (mut broken_by, mut measured) = (None, None);
    for seed in 0.. {
        let Some(rate) = search.next() else { break };
        let step = step(rate, seed).await.with_context(|| format!("{name}, {rate:.0} saves/s"))?;
        match step.broke {
            Some(broke) => eprintln!("{name}: {rate:.0}/s broke by {broke}{}", step.error.map_or_else(String::new, |e| format!(": {e}"))),
            None => eprintln!("{name}: {rate:.0}/s held"),
        }
        search.tell(step.broke.is_none());
        // Each rate that breaks is lower than those before.
        broken_by = step.broke.or(broken_by);
        measured = Some(step.measured);
    }
    let measured = measured.context("a search has a step")?;
    Ok(Capacity { capacity_per_second: search.capacity().unwrap_or_default(), broken_by, measured })
}

/// With room for any backlog: what it may hold is not asked.
async fn start(postgres: &Sandbox) -> anyhow::Result<Daemon> {
    let room = [("backlog.objects_max", "1_000_000_000"), ("backlog.bytes_max", "1024 GiB"), ("stop.drain_timeout", "0 ms")];
    Daemon::start_with(&postgres.url(), room.map(|(key, value)| (key, value.to_owned())).to_vec()).await
}

/// The daemon has them all, by its own count.
async fn all_connected(daemon: &Daemon, connections: u64) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let limits = daemon.client().status().await.context("read the daemon's status")?.limits;
        if limits.iter().any(|limit| limit.name == CONNECTIONS_LIMIT && limit.used >= connections) {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "not all of {connections} clients are connected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// So many connections have to be among those that a daemon takes, and this process needs a file for its end of each.
fn allow_connections(connections: usize) -> anyhow::Result<()> {
    let max = Settings::default().grpc.connections_max;
    ensure!((connections as u64) < max, "{connections} callers and slow clients are too many: a daemon takes {max} ({CONNECTIONS_LIMIT})");
    open_files::allow_connections(connections as u64)
}

impl CapacityReport {
    /// For people: a table.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{:>11} {:>6} {:>9} {:>11} {:>8} {:>8} {:>8} {:>8} {:>7} {:>8} {:>9} {:>9} {:>6}\n",
            "connections",
            "slow",
            "saves/s",
            "broken by",
            "p50 us",
            "p95 us",
            "p99 us",
            "late us",
            "daemon",
            "callers",
            "in flight",
            "by Little",
            "ratio"
        );
        for IngestCapacity { connections, slow, capacity } in &self.ingest {
            let ingest::Measured { p50_us, p95_us, p99_us, late_p95_us, utilisation, little } = &capacity.measured;
            text += &format!(
                "{connections:>11} {:>6} {capacity} {p50_us:>8} {p95_us:>8} {p99_us:>8} {late_p95_us:>8} {utilisation} {little}\n",
                slow.slow_clients
            );
        }
        let drain::Measured { persist_p50_us, persist_p95_us, persist_p99_us, lane_busy, utilisation, little, .. } = &self.drain.measured;
        text += &format!(
            "{:>18} {} {persist_p50_us:>8} {persist_p95_us:>8} {persist_p99_us:>8} {:>8} {utilisation} {little}\n",
            "drain", self.drain, ""
        );
        let bound = self.p95_bound_us;
        text + &format!(
            "ingest: calls within p95 {bound} us, drain paused; drain: objects, times until they are in Postgres, lane busy for {:.0} %\n\
             daemon, callers: of all cores; in flight (drain: backlog): observed, and as rate x time says",
            lane_busy * 100.0
        )
    }
}

impl<M> fmt::Display for Capacity<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken_by = self.broken_by.map_or_else(|| "-".to_owned(), |broke| broke.to_string());
        write!(f, "{:>9.0} {broken_by:>11}", self.capacity_per_second)
    }
}

impl fmt::Display for Broke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P95 => "p95",
            Self::Errors => "errors",
            Self::Outstanding => "outstanding",
            Self::Backlog => "backlog",
        })
    }
}
