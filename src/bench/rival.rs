//! What a user would pick instead of Forebay, measured as Forebay is: callers at once, each on a connection of its own, each waiting
//! for its answer before it saves again.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    Load,
    usage::{Cost, Usage},
};

/// One caller's connection.
pub(super) trait Connection: Send + 'static {
    /// Makes these saves of the load durable, in one call.
    fn save(&mut self, saves: Range<u64>) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What the callers do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calls {
    pub(super) load: Load,
    pub(super) saves_per_call: u64,
    pub(super) time: Duration,
}

/// What `forebay bench direct` and `forebay bench redis` print, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct RivalReport {
    callers: usize,
    saves_per_call: u64,
    saves_per_second: u64,
    /// Of a call.
    p50_us: u64,
    p99_us: u64,
    #[serde(flatten)]
    cost: Cost,
}

impl RivalReport {
    /// For people, in one line.
    pub fn text(&self) -> String {
        let Self { saves_per_second, p50_us, p99_us, .. } = self;
        format!("{saves_per_second} saves/s, answered within p50 {p50_us} us, p99 {p99_us} us")
    }
}

/// Runs the load over these connections; the first error ends it.
pub(super) async fn run<C: Connection>(connections: Vec<C>, calls: Calls) -> anyhow::Result<RivalReport> {
    let callers = connections.len();
    let (idle, start) = (Usage::now()?, Instant::now());
    let mut running = JoinSet::new();
    for (number, connection) in connections.into_iter().enumerate() {
        running.spawn(call(connection, calls, calls.load.first(number, callers), start + calls.time));
    }
    let mut latencies = histogram();
    while let Some(caller) = running.join_next().await {
        latencies.add(caller.context("a caller panicked")??).context("add up latencies")?;
    }
    let (elapsed, used) = (start.elapsed(), Usage::now()?);
    let saves = latencies.len() * calls.saves_per_call;
    Ok(RivalReport {
        callers,
        saves_per_call: calls.saves_per_call,
        saves_per_second: (saves as f64 / elapsed.as_secs_f64()).round() as u64,
        p50_us: latencies.value_at_quantile(0.5),
        p99_us: latencies.value_at_quantile(0.99),
        cost: used.cost_since(&idle, saves, saves as f64 * calls.load.save_bytes())?,
    })
}

/// Saves until the end; how long each call took, in microseconds.
async fn call(mut connection: impl Connection, calls: Calls, mut next: u64, end: Instant) -> anyhow::Result<Histogram<u64>> {
    let mut latencies = histogram();
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(latencies);
        }
        connection.save(next..next + calls.saves_per_call).await?;
        next += calls.saves_per_call;
        let latency = u64::try_from(start.elapsed().as_micros()).context("a call takes less than an aeon")?;
        latencies.record(latency).context("record a latency")?;
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are valid")
}
