//! The callers: as cheap as those of `benches/ceiling`, over as many connections.

use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{Load, Mode, Pace, SaveOptions};
use crate::proto::{
    Save, SaveBatchRequest, SaveRequest, SaveStreamRequest, save_service_client::SaveServiceClient, save_stream_response::Event,
};

/// As `benches/ceiling` has.
pub(super) const CONNECTIONS: usize = 4;
/// Below `grpc.streams_per_connection_max`.
pub(super) const CALLERS_PER_CONNECTION: usize = 250;
const BATCH_SAVES: u64 = 100;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// An error may come back at once: a caller then waits, to be no hot loop.
const ERROR_WAIT: Duration = Duration::from_millis(10);
/// Streams of one connection share its window unevenly: on a busy machine some wait until others have ended.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// What callers saw.
#[derive(Debug)]
pub(super) struct Seen {
    /// Saves.
    pub(super) acknowledged: u64,
    /// Calls that failed, or saves refused on a stream.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Microseconds of a call.
    pub(super) latencies: Histogram<u64>,
}

impl Seen {
    pub(super) fn nothing() -> Self {
        let latencies = Histogram::new(3).expect("three digits are valid");
        Self { acknowledged: 0, errors: 0, first_error: None, latencies }
    }

    fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.latencies.add(other.latencies).expect("both grow as they need");
    }

    /// Of a call, due or made so long ago. Whether it succeeded.
    pub(super) fn answer(&mut self, since: Instant, answer: Result<u64, Status>) -> bool {
        match answer {
            Ok(saves) => {
                self.acknowledged += saves;
                let latency = u64::try_from(since.elapsed().as_micros()).expect("a call takes less than an aeon");
                self.latencies.record(latency).expect("the histogram grows as it needs");
                true
            }
            Err(status) => {
                self.error(&status);
                false
            }
        }
    }

    fn error(&mut self, status: &Status) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| format!("{:?}: {}", status.code(), status.message()));
    }
}

/// Runs the load to its end; what was seen, and how long it took.
pub(super) async fn run(address: &str, options: &SaveOptions) -> anyhow::Result<(Seen, Duration)> {
    let channels = connect(address, connections(options.callers)).await?;
    let start = Instant::now();
    let end = start + options.time;
    let mut paces = options.rate.map(|rate| Pace::spread(calls_rate(options.mode, rate), options.callers, start, end)).unwrap_or_default();
    let mut callers = JoinSet::new();
    for number in 0..options.callers {
        let client = SaveServiceClient::new(channels[number % channels.len()].clone());
        let caller = Caller { client, load: options.load, first: options.load.first(number, options.callers), end, pace: paces.pop() };
        callers.spawn(caller.run(options.mode));
    }
    let mut seen = Seen::nothing();
    while let Some(caller) = callers.join_next().await {
        seen.add(caller.context("a caller panicked")?);
    }
    Ok((seen, start.elapsed()))
}

fn connections(callers: usize) -> usize {
    callers.div_ceil(CALLERS_PER_CONNECTION).max(CONNECTIONS).min(callers)
}

fn calls_rate(mode: Mode, saves_rate: f64) -> f64 {
    match mode {
        Mode::Unary | Mode::Stream => saves_rate,
        Mode::Batch => saves_rate / BATCH_SAVES as f64,
    }
}

pub(super) async fn connect(address: &str, connections: usize) -> anyhow::Result<Vec<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address:?} is no address like 127.0.0.1:7420"))?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let mut channels = Vec::with_capacity(connections);
    for _ in 0..connections {
        channels.push(endpoint.connect().await.with_context(|| format!("connect to {address}"))?);
    }
    Ok(channels)
}

struct Caller {
    client: SaveServiceClient<Channel>,
    load: Load,
    /// The save of the load that it begins with.
    first: u64,
    end: Instant,
    pace: Option<Pace>,
}

impl Caller {
    async fn run(self, mode: Mode) -> Seen {
        match mode {
            Mode::Unary | Mode::Batch => self.calls(mode).await,
            Mode::Stream => self.stream().await,
        }
    }

    async fn calls(mut self, mode: Mode) -> Seen {
        let mut seen = Seen::nothing();
        for n in 0.. {
            let Some(start) = self.start().await else { break };
            let answer = match mode {
                Mode::Batch => self.batch(self.first + n * BATCH_SAVES).await,
                Mode::Unary | Mode::Stream => self.unary(self.first + n).await,
            };
            if !seen.answer(start, answer) {
                tokio::time::sleep(ERROR_WAIT).await;
            }
        }
        seen
    }

    /// When the next call starts, or was due; nothing at the end of the run.
    async fn start(&mut self) -> Option<Instant> {
        match &mut self.pace {
            Some(pace) => pace.next().await,
            None => Some(Instant::now()).filter(|&now| now < self.end),
        }
    }

    async fn unary(&mut self, n: u64) -> Result<u64, Status> {
        let request = SaveRequest { save: Some(self.load.save(n)), ..Default::default() };
        self.client.save(request).await.map(|_| 1)
    }

    async fn batch(&mut self, first: u64) -> Result<u64, Status> {
        let saves = (first..first + BATCH_SAVES).map(|n| self.load.save(n)).collect();
        let request = SaveBatchRequest { saves, ..Default::default() };
        self.client.save_batch(request).await.map(|_| BATCH_SAVES)
    }

    /// To the end of the run.
    async fn stream(self) -> Seen {
        let (load, first, end) = (self.load, self.first, self.end);
        let saves = (1..).take_while(move |_| Instant::now() < end).map(move |n| load.save(first + n));
        stream(self.client, saves).await
    }
}

/// Sends these as flow control lets it, one save a message, and hears every answer.
pub(super) async fn stream(mut client: SaveServiceClient<Channel>, saves: impl Iterator<Item = Save> + Send + 'static) -> Seen {
    let mut seen = Seen::nothing();
    let requests = (1..).zip(saves).map(|(offset, save)| SaveStreamRequest { offset, saves: vec![save], ..Default::default() });
    let mut answers = match client.save_stream(tokio_stream::iter(requests)).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => {
            seen.error(&status);
            return seen;
        }
    };
    let mut through = 0;
    loop {
        let Ok(answer) = tokio::time::timeout(SILENCE_MAX, answers.message()).await else {
            seen.error(&Status::deadline_exceeded(format!("a stream was silent for {SILENCE_MAX:?}, after save {through} of its own")));
            break;
        };
        match answer {
            Ok(Some(answer)) => match answer.event {
                Some(Event::Acknowledged(acknowledged)) => through = acknowledged.through,
                Some(Event::Refused(refused)) => seen.error(&Status::new(refused.code.into(), refused.message)),
                Some(Event::Opened(_) | Event::Failed(_)) | None => (),
            },
            Ok(None) => break,
            Err(status) => {
                seen.error(&status);
                break;
            }
        }
    }
    seen.acknowledged = through.saturating_sub(seen.errors);
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::{Fake, error};

    fn options(mode: Mode, rate: Option<f64>) -> SaveOptions {
        SaveOptions { mode, load: Load::Hot, callers: 6, time: Duration::from_millis(100), paused: false, target: None, rate }
    }

    #[tokio::test]
    async fn every_mode_counts_what_was_acknowledged() {
        for mode in [Mode::Unary, Mode::Batch, Mode::Stream] {
            let fake = Fake::start().await;
            let (seen, elapsed) = run(&fake.address.to_string(), &options(mode, None)).await.expect("it runs");
            assert!(seen.acknowledged > 0 && seen.errors == 0, "{mode:?}: {:?}", seen.first_error);
            assert_eq!(seen.acknowledged, fake.state().accepted.len() as u64, "{mode:?}");
            assert!(elapsed >= Duration::from_millis(100));
        }
    }

    #[test]
    fn no_connection_has_more_calls_than_the_daemon_allows() {
        let found: Vec<_> = [1, 4, 64, 1_000, 1_001, 4_000].into_iter().map(connections).collect();
        assert_eq!(found, [1, 4, 4, 4, 5, 16]);
    }

    #[tokio::test]
    async fn an_open_loop_makes_the_calls_that_were_due() {
        let fake = Fake::start().await;
        let (seen, _) = run(&fake.address.to_string(), &options(Mode::Unary, Some(500.0))).await.expect("it runs");
        assert_eq!((seen.acknowledged, seen.latencies.len()), (50, 50));
    }

    #[tokio::test]
    async fn failed_calls_are_counted_and_the_first_is_told() {
        let fake = Fake::start().await;
        fake.state().errors.extend((0..3).map(|_| error(tonic::Code::ResourceExhausted, "LIMIT_REACHED", None)));
        let (seen, _) = run(&fake.address.to_string(), &options(Mode::Unary, None)).await.expect("it runs");
        assert_eq!(seen.errors, 3);
        assert_eq!(seen.first_error.as_deref(), Some("ResourceExhausted: as told"));
    }
}
