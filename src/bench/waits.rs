//! What callers that wait for outcomes cost the daemon and the others.
//!
//! The daemon is a process of its own, so that its memory can be weighed; its lane is paused, so that nobody is told before
//! everybody waits.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{
    Load, Mode, SaveOptions,
    callers::{self, Seen},
    load, pause, target,
};
use crate::{
    child::Daemon,
    client::Client,
    proto::{AwaitTicketRequest, SaveBatchRequest, TicketState, save_service_client::SaveServiceClient},
};

/// Below `grpc.streams_per_connection_max`.
const CALLS_PER_CONNECTION: usize = 250;
const BATCH_SAVES: u64 = 10_000;
/// Those who are timed.
const OTHER_CALLERS: usize = 8;
const LIMIT: &str = "grpc.awaiting_calls_max";
/// Everybody waits, and everybody is told.
const PATIENCE: Duration = Duration::from_secs(300);

/// A run of `forebay bench waits`.
#[derive(Clone, Copy, Debug)]
pub struct WaitsOptions {
    /// AwaitTicket calls outstanding at once.
    pub callers: u32,
    /// How long other calls are timed, without and with them.
    pub time: Duration,
}

/// What `forebay bench waits` prints, in this order.
#[derive(Clone, Debug, Serialize)]
pub struct WaitsReport {
    callers: u32,
    connections: usize,
    /// Of the daemon, for each call; its share of the connection included.
    bytes_per_caller: u64,
    /// Of a Save by eight others, while nobody waits.
    p99_us_without: u64,
    /// The same while all wait.
    p99_us_with: u64,
    /// From the resume of the drain until everybody was told PERSISTED.
    told_ms: u64,
}

impl WaitsReport {
    /// For people, in one line.
    pub fn text(&self) -> String {
        let Self { callers, connections, bytes_per_caller, p99_us_without, p99_us_with, told_ms } = self;
        format!(
            "{callers} calls wait over {connections} connections: {bytes_per_caller} bytes each; others within p99 {p99_us_with} us, \
             without them {p99_us_without} us; all told within {told_ms} ms"
        )
    }
}

/// Makes so many callers wait, weighs them, and has them told.
///
/// # Errors
/// No private Postgres, a daemon that doesn't start, or a caller that isn't told.
pub async fn waits(options: WaitsOptions) -> anyhow::Result<WaitsReport> {
    let postgres = target::postgres("").await?;
    let daemon = Daemon::start(&postgres.url()).await?;
    let report = measure(&daemon, options).await;
    daemon.stop().await?;
    report
}

async fn measure(daemon: &Daemon, options: WaitsOptions) -> anyhow::Result<WaitsReport> {
    let (address, client) = (daemon.address(), Client::connect(daemon.address()).await.context("connect to the daemon")?);
    pause(&client).await?;
    let tickets = save(&address, u64::from(options.callers)).await?;
    let without = p99(&address, options.time).await?;
    let connections = tickets.len().div_ceil(CALLS_PER_CONNECTION);
    let before = daemon.resident_bytes()?;
    let channels = callers::connect(&address, connections).await?;
    let mut waiting = JoinSet::new();
    for (n, ticket) in tickets.into_iter().enumerate() {
        waiting.spawn(told(SaveServiceClient::new(channels[n / CALLS_PER_CONNECTION].clone()), ticket));
    }
    all_wait(&client, &mut waiting, u64::from(options.callers)).await?;
    let after = daemon.resident_bytes()?;
    let with = p99(&address, options.time).await?;
    let resumed = Instant::now();
    client.resume(false).await.context("resume the drain")?;
    while let Some(told) = tokio::time::timeout(PATIENCE, waiting.join_next()).await.context("not everybody was told")? {
        told.context("a caller panicked")??;
    }
    Ok(WaitsReport {
        callers: options.callers,
        connections,
        bytes_per_caller: after.saturating_sub(before) / u64::from(options.callers),
        p99_us_without: without,
        p99_us_with: with,
        told_ms: u64::try_from(resumed.elapsed().as_millis()).context("it ended within an aeon")?,
    })
}

/// So many saves, each of its own object; their tickets.
async fn save(address: &str, count: u64) -> anyhow::Result<Vec<String>> {
    let channel = callers::connect(address, 1).await?.pop().context("one was asked for")?;
    let (mut client, mut tickets) = (SaveServiceClient::new(channel), Vec::new());
    for first in (0..count).step_by(BATCH_SAVES as usize) {
        let saves = (first..count.min(first + BATCH_SAVES)).map(|n| load::save(n, n)).collect();
        let answer = client.save_batch(SaveBatchRequest { saves, ..SaveBatchRequest::default() }).await.context("save")?;
        tickets.extend(answer.into_inner().results.into_iter().map(|result| result.ticket));
    }
    Ok(tickets)
}

async fn p99(address: &str, time: Duration) -> anyhow::Result<u64> {
    let options = SaveOptions { mode: Mode::Unary, load: Load::Hot, callers: OTHER_CALLERS, time, paused: false, target: None, rate: None };
    let (Seen { latencies, errors, first_error, .. }, _) = callers::run(address, &options).await?;
    ensure!(errors == 0, "{errors} calls failed, the first with {}", first_error.unwrap_or_default());
    Ok(latencies.value_at_quantile(0.99))
}

async fn told(mut client: SaveServiceClient<Channel>, ticket: String) -> anyhow::Result<()> {
    let status = client.await_ticket(AwaitTicketRequest { ticket }).await.context("await a ticket")?.into_inner().status;
    let state = status.context("a status")?.state();
    ensure!(state == TicketState::Persisted, "a save is {}", state.as_str_name());
    Ok(())
}

async fn all_wait(client: &Client, waiting: &mut JoinSet<anyhow::Result<()>>, count: u64) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        if let Some(ended) = waiting.try_join_next() {
            ended.context("a caller panicked")??;
            bail!("a caller was told before the drain was resumed");
        }
        let limits = client.status().await.context("read the daemon's status")?.limits;
        if limits.iter().any(|limit| limit.name == LIMIT && limit.used >= count) {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "not every call arrived");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
