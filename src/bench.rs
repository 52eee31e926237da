//! `forebay bench`: how fast saves are acknowledged and drained, through real gRPC and into a real Postgres.
//!
//! Daemon and callers share the process and the cores, as they do in `benches/ceiling`, so that the two compare. The callers
//! use the generated client as it is: retries and resumption would hide what is measured. Errors are counted, not retried. What
//! weighs the daemon or kills it starts it as a process of its own. `direct`, `redis` and `unnest` measure what it is held against, in
//! the same way; `compare` runs all of it in turn.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::client::Client;
use callers::Seen;
pub(crate) use pace::Pace;
use target::Target;
use usage::Usage;

mod callers;
mod capacity;
mod compare;
mod direct;
mod drain;
mod fill;
mod load;
mod memory;
mod outage;
mod pace;
mod readers;
mod recover;
mod redis;
mod rival;
mod rounds;
mod scrape;
mod target;
mod unnest;
mod usage;
mod waits;

pub use capacity::{CapacityOptions, CapacityReport, capacity};
pub use compare::{CompareOptions, CompareReport, compare, subjects};
pub use direct::{DirectOptions, direct};
pub use drain::{DrainOptions, DrainReport, drain};
pub use load::Poison;
pub use memory::{MemoryOptions, MemoryReport, memory};
pub use outage::{OutageOptions, OutageReport, outage};
pub use readers::{ReadersOptions, ReadersReport, readers};
pub use recover::{RecoverOptions, RecoverReport, recover};
pub use redis::{RedisOptions, redis};
pub use rival::RivalReport;
#[cfg(test)]
pub(crate) use unnest::UNNEST;
pub use unnest::{UnnestOptions, UnnestReport, unnest};
pub use usage::Cost;
pub use waits::{WaitsOptions, WaitsReport, waits};

/// How the callers save.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One save a call.
    Unary,
    /// A hundred saves a call.
    Batch,
    /// One save a message of a stream, acknowledgements by the many.
    Stream,
}

/// What the callers save: key and five columns, 300 bytes of JSON, uniform over the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// 50,000 objects.
    Reference,
    /// 1,000 objects.
    Hot,
    /// As many.
    #[value(skip)]
    Objects(u64),
}

/// A run of `forebay bench save`.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// How.
    pub mode: Mode,
    /// What.
    pub load: Load,
    /// Callers at once, each waiting for its answer before it saves again; or streams.
    pub callers: usize,
    /// How long.
    pub time: Duration,
    /// Hold the drain.
    pub paused: bool,
    /// The daemon to measure instead of one of our own; it must have the collection `players` of our own.
    pub target: Option<String>,
    /// Saves per second that are due, whether earlier ones are answered or not (open loop; not for streams).
    pub rate: Option<f64>,
}

/// What `forebay bench save` prints, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct SaveReport {
    mode: Mode,
    load: Load,
    callers: usize,
    saves_per_second: u64,
    /// Of a call; none for streams.
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    errors: u64,
    #[serde(flatten)]
    cost: Cost,
}

impl SaveReport {
    fn new(options: &SaveOptions, seen: &Seen, elapsed: Duration, cost: Cost) -> Self {
        let quantile = |quantile| (options.mode != Mode::Stream).then(|| seen.latencies.value_at_quantile(quantile));
        Self {
            mode: options.mode,
            load: options.load,
            callers: options.callers,
            saves_per_second: (seen.acknowledged as f64 / elapsed.as_secs_f64()).round() as u64,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            errors: seen.errors,
            cost,
        }
    }

    /// For people, in one line.
    pub fn text(&self) -> String {
        let latencies = match (self.p50_us, self.p99_us) {
            (Some(p50), Some(p99)) => format!(", acknowledged within p50 {p50} us, p99 {p99} us"),
            _ => String::new(),
        };
        format!("{} saves/s{latencies}, {} errors", self.saves_per_second, self.errors)
    }
}

/// Runs the load and reports.
///
/// # Errors
/// No private Postgres, a daemon that doesn't start, or callers that can't connect.
pub async fn save(options: SaveOptions) -> anyhow::Result<SaveReport> {
    ensure!(options.callers > 0, "--callers is 0: nobody would save");
    ensure!(options.rate.is_none() || options.mode != Mode::Stream, "--rate is for unary and batch: a stream has no single calls to time");
    let target = Target::start(options.target.as_deref()).await?;
    let client = Client::connect(target.address()).await.context("connect to the daemon")?;
    if options.paused {
        pause(&client).await?;
    }
    let before = Usage::now()?;
    let measured = callers::run(target.address(), &options).await;
    let used = Usage::now()?;
    if options.paused && options.target.is_some() {
        client.resume(false).await.context("resume the daemon's drain")?;
    }
    target.stop().await?;
    let (seen, elapsed) = measured?;
    if let Some(error) = &seen.first_error {
        eprintln!("first of {} errors: {error}", seen.errors);
    }
    let cost = match options.target {
        Some(_) => Cost::default(),
        None => used.cost_since(&before, seen.acknowledged, seen.acknowledged as f64 * options.load.save_bytes())?,
    };
    Ok(SaveReport::new(&options, &seen, elapsed, cost))
}

/// Holds the drain, for longer than any run takes.
async fn pause(client: &Client) -> anyhow::Result<()> {
    client.pause("forebay bench", Duration::from_secs(3_600)).await.context("pause the daemon's drain")
}
