//! How fast a full backlog gets into Postgres.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::{
    load::{self, Poison},
    pause,
    target::{ENDPOINT, Target},
    usage::{Cost, Usage},
};
use crate::client::{Client, StreamOptions};

/// A flush of millions of rows takes its time.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3_600);

/// A run of `forebay bench drain`.
#[derive(Clone, Copy, Debug)]
pub struct DrainOptions {
    /// Objects to save before the drain begins.
    pub rows: u64,
    /// Make one in a thousand one that Postgres won't take.
    pub poison: Option<Poison>,
    /// Have each save's outcome told to an endpoint where nobody listens.
    pub callbacks: bool,
}

/// What `forebay bench drain` prints, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct DrainReport {
    rows: u64,
    rows_per_second: u64,
    commits: u64,
    /// With poison: saves that became failed saves.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<u64>,
    /// From the resume until all is drained.
    #[serde(flatten)]
    cost: Cost,
}

impl DrainReport {
    /// For people, in one line.
    pub fn text(&self) -> String {
        let failed = self.failed.map_or_else(String::new, |failed| format!(", {failed} failed"));
        format!("{} rows/s ({} rows in {} commits{failed})", self.rows_per_second, self.rows, self.commits)
    }
}

/// Fills the backlog while the drain is paused, resumes it and times it.
///
/// # Errors
/// No private Postgres, a daemon that doesn't start, or rows that don't arrive.
pub async fn drain(options: DrainOptions) -> anyhow::Result<DrainReport> {
    ensure!(options.rows > 0, "--rows is 0: there would be nothing to drain");
    let target = Target::start_own(options.poison.map_or("", Poison::changes), options.callbacks).await?;
    let client = Client::connect(target.address()).await.context("connect to the daemon")?;
    pause(&client).await?;
    let poisoned = fill(&client, options).await?;
    let (_, before) = written(&client).await?;
    let (idle, start) = (Usage::now()?, Instant::now());
    client.resume(false).await.context("resume the drain")?;
    client.flush(&[], FLUSH_TIMEOUT).await.context("wait for the drain")?;
    let (elapsed, used) = (start.elapsed(), Usage::now()?);
    let (_, after) = written(&client).await?;
    let rows = target.rows().await?;
    target.stop().await?;
    let sound = options.rows - poisoned;
    ensure!(rows == sound, "{sound} rows were saved and {rows} are in Postgres");
    let rows_per_second = (rows as f64 / elapsed.as_secs_f64()).round() as u64;
    let cost = used.cost_since(&idle, rows, rows as f64 * load::save_bytes(options.rows))?;
    Ok(DrainReport { rows, rows_per_second, commits: after - before, failed: options.poison.map(|_| poisoned), cost })
}

/// Returns how many saves will be refused.
async fn fill(client: &Client, DrainOptions { rows, poison, callbacks }: DrainOptions) -> anyhow::Result<u64> {
    let is_poisoned = |key: u64| poison.filter(|_| key % Poison::EVERY == Poison::EVERY / 2);
    let stream = client.save_stream_with(StreamOptions {
        unacknowledged_max: 4_000,
        callback: if callbacks { ENDPOINT.to_owned() } else { String::new() },
        ..StreamOptions::default()
    });
    for key in 0..rows {
        let save = is_poisoned(key).map_or_else(|| load::save(key, key), |poison| poison.save(key));
        stream.send(save.into()).await.context("fill the backlog")?;
    }
    let finished = stream.finish().await.context("fill the backlog")?;
    match finished.not_saved.into_iter().next() {
        Some(not_saved) => Err(not_saved.error).context("fill the backlog"),
        None => Ok((0..rows).filter(|&key| is_poisoned(key).is_some()).count() as u64),
    }
}

/// Rows written and transactions committed by this run of the daemon.
async fn written(client: &Client) -> anyhow::Result<(u64, u64)> {
    let status = client.status().await.context("read the daemon's status")?;
    Ok(status.lanes.iter().fold((0, 0), |(rows, commits), lane| (rows + lane.rows_written, commits + lane.transactions)))
}
