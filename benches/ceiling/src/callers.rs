//! The load: callers over four connections, in the process of the server, as in `forebay bench save`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};

use crate::{
    Failure, Load,
    proto::{Save, Saves, ceiling_client::CeilingClient},
};

const CONNECTIONS: usize = 4;
const OBJECTS: u64 = 50_000;
const BODY_BYTES: usize = 300;
const BATCH_SAVES: u64 = 100;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// What the callers saw.
pub(crate) struct Outcome {
    pub(crate) saves_per_second: f64,
    /// Microseconds; empty for streams.
    pub(crate) latencies: Histogram<u64>,
}

/// Runs the load to its end.
pub(crate) async fn run(address: SocketAddr, load: Load, callers: u64, time: Duration) -> Result<Outcome, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS.min(callers as usize) {
        channels.push(endpoint.connect().await?);
    }
    let start = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        running.spawn(call(channels[caller as usize % channels.len()].clone(), load, caller, start + time));
    }
    let (mut acknowledged, mut latencies) = (0, Histogram::new(3)?);
    while let Some(caller) = running.join_next().await {
        let (saves, observed) = caller??;
        acknowledged += saves;
        latencies.add(observed)?;
    }
    Ok(Outcome { saves_per_second: acknowledged as f64 / start.elapsed().as_secs_f64(), latencies })
}

/// One caller's load until the end: acknowledged saves, and latencies of unary calls.
async fn call(channel: Channel, load: Load, caller: u64, end: Instant) -> Result<(u64, Histogram<u64>), Failure> {
    let client = CeilingClient::new(channel);
    let mut latencies = Histogram::new(3)?;
    let acknowledged = match load {
        Load::Unary => one_by_one(client, caller, end, &mut latencies).await?,
        Load::Stream => stream(client, caller, end).await?,
        Load::Batch => batches(client, end).await?,
    };
    Ok((acknowledged, latencies))
}

async fn one_by_one(mut client: CeilingClient<Channel>, caller: u64, end: Instant, seen: &mut Histogram<u64>) -> Result<u64, Failure> {
    let mut acknowledged = 0;
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(acknowledged);
        }
        client.one(save(acknowledged + caller)).await?;
        seen.record(start.elapsed().as_micros() as u64)?;
        acknowledged += 1;
    }
}

/// Sends as flow control lets it, to the end, and hears every answer.
async fn stream(mut client: CeilingClient<Channel>, caller: u64, end: Instant) -> Result<u64, Failure> {
    let saves = (caller..).take_while(move |_| Instant::now() < end).map(save);
    let mut answers = client.stream(tokio_stream::iter(saves)).await?.into_inner();
    let mut acknowledged = 0;
    while answers.next().await.transpose()?.is_some() {
        acknowledged += 1;
    }
    Ok(acknowledged)
}

async fn batches(mut client: CeilingClient<Channel>, end: Instant) -> Result<u64, Failure> {
    let batches = (0..).take_while(move |_| Instant::now() < end);
    let batches = batches.map(|n| Saves { saves: (n * BATCH_SAVES..(n + 1) * BATCH_SAVES).map(save).collect() });
    let mut answers = client.batch(tokio_stream::iter(batches)).await?.into_inner();
    let mut acknowledged = 0;
    while let Some(answer) = answers.next().await.transpose()? {
        acknowledged += answer.saves;
    }
    Ok(acknowledged)
}

/// Uniform over the objects: 7919 is coprime to their number.
fn save(n: u64) -> Save {
    Save { collection: "players".to_owned(), key: (n * 7_919 % OBJECTS).to_string(), json: vec![b'x'; BODY_BYTES] }
}
