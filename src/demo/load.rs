//! Who saves: first batches that make the objects, then streams side by side, and single calls at a steady rate whose latency
//! is measured from when they were due.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    ledger::{Ledger, Phase},
    objects,
};
use crate::{
    bench::Pace,
    client::{Acknowledgement, Client, RetryPolicy, StreamOptions},
};

const BATCH_SAVES: usize = 500;
const STREAMS: usize = 4;
/// Saves of all streams together, told to them in bundles.
const STREAM_SAVES_PER_SECOND: f64 = 7_600.0;
const BUNDLE_SAVES: usize = 10;
/// Saves of one stream that are not acknowledged.
const STREAM_WINDOW: usize = 1_024;
const PROBES: usize = 16;
const PROBES_PER_SECOND: f64 = 400.0;
/// One object in so many is a probe's.
const PROBE_OBJECTS: usize = 10;
/// Longer than the demo can take.
const TIME_MAX: Duration = Duration::from_secs(3_600);

/// Microseconds from when a single call was due to its acknowledgement.
#[derive(Debug)]
pub(super) struct Latencies {
    pub(super) before: Histogram<u64>,
    pub(super) outage: Histogram<u64>,
}

impl Latencies {
    fn new() -> Self {
        let histogram = || Histogram::new(3).expect("three digits are valid");
        Self { before: histogram(), outage: histogram() }
    }

    fn record(&mut self, phase: Phase, since: Instant) {
        let micros = u64::try_from(since.elapsed().as_micros()).expect("a call takes less than an aeon");
        let histogram = match phase {
            Phase::Between => return,
            Phase::Before => &mut self.before,
            Phase::Outage => &mut self.outage,
        };
        histogram.record(micros).expect("the histogram grows as it needs");
    }

    fn add(&mut self, other: &Self) {
        self.before.add(&other.before).expect("the histogram grows as it needs");
        self.outage.add(&other.outage).expect("the histogram grows as it needs");
    }
}

/// Makes every object, parents first.
pub(super) async fn fill(client: &Client, ledger: &Ledger) -> anyhow::Result<()> {
    let numbers: Vec<_> = (0..objects::COUNT).collect();
    for numbers in numbers.chunks(BATCH_SAVES) {
        let saves: Vec<_> = numbers.iter().filter_map(|&number| Some((number, ledger.issue(number)?))).collect();
        let batch = saves.iter().map(|&(number, version)| objects::save(number, version));
        client.save_batch(batch, false).await.context("save a batch")?;
        saves.iter().for_each(|&(number, version)| ledger.acknowledge(number, version));
    }
    Ok(())
}

/// Saves until all saves have been made and answered.
pub(super) async fn run(address: String, ledger: Arc<Ledger>) -> anyhow::Result<Latencies> {
    // The daemon will be killed: what it may have accepted is saved again. Each object has one caller, who waits for each answer.
    let retry = RetryPolicy { repeat_unknown: true, ..RetryPolicy::default() };
    let client = Client::builder(address).connections(STREAMS).retry(retry).connect().await.context("connect to the daemon")?;
    let (probed, streamed): (Vec<_>, Vec<_>) = (0..objects::COUNT).partition(|number| number % PROBE_OBJECTS == 0);
    let start = Instant::now();
    let mut callers = JoinSet::new();
    let bundles = STREAM_SAVES_PER_SECOND / BUNDLE_SAVES as f64;
    for (n, pace) in Pace::spread(bundles, STREAMS, start, start + TIME_MAX).into_iter().enumerate() {
        let caller = Caller { client: client.clone(), ledger: Arc::clone(&ledger), objects: every(&streamed, STREAMS, n), pace };
        callers.spawn(caller.stream());
    }
    for (n, pace) in Pace::spread(PROBES_PER_SECOND, PROBES, start, start + TIME_MAX).into_iter().enumerate() {
        let caller = Caller { client: client.clone(), ledger: Arc::clone(&ledger), objects: every(&probed, PROBES, n), pace };
        callers.spawn(caller.probe());
    }
    let mut latencies = Latencies::new();
    while let Some(caller) = callers.join_next().await {
        latencies.add(&caller.context("a caller panicked")??);
    }
    Ok(latencies)
}

fn every(numbers: &[usize], step: usize, from: usize) -> Vec<usize> {
    numbers.iter().copied().skip(from).step_by(step).collect()
}

/// Saves the objects that are its own, as its pace tells.
struct Caller {
    client: Client,
    ledger: Arc<Ledger>,
    objects: Vec<usize>,
    pace: Pace,
}

impl Caller {
    fn issue(&self) -> Option<(usize, u64)> {
        let number = self.objects[fastrand::usize(..self.objects.len())];
        Some((number, self.ledger.issue(number)?))
    }

    /// One call after the other.
    async fn probe(mut self) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::new();
        while let Some(due) = self.pace.next().await {
            let phase = self.ledger.phase();
            let Some((number, version)) = self.issue() else { break };
            self.client.save(objects::save(number, version)).await.context("save")?;
            self.ledger.acknowledge(number, version);
            if phase == self.ledger.phase() {
                latencies.record(phase, due);
            }
        }
        Ok(latencies)
    }

    /// Many saves in flight.
    async fn stream(mut self) -> anyhow::Result<Latencies> {
        let options = StreamOptions { unacknowledged_max: STREAM_WINDOW, ..StreamOptions::default() };
        let stream = self.client.save_stream_with(options);
        let (tell, sent) = mpsc::channel(STREAM_WINDOW);
        let acknowledged = tokio::spawn(acknowledge(Arc::clone(&self.ledger), sent));
        'saves: while self.pace.next().await.is_some() {
            for _ in 0..BUNDLE_SAVES {
                let Some((number, version)) = self.issue() else { break 'saves };
                let answer = stream.send_tracked(objects::save(number, version)).await.context("save on a stream")?;
                if tell.send((number, version, answer)).await.is_err() {
                    break 'saves;
                }
            }
        }
        drop(tell);
        acknowledged.await.context("the reader of acknowledgements panicked")??;
        stream.finish().await.context("finish a stream")?;
        Ok(Latencies::new())
    }
}

/// Notes what the stream acknowledges, in its order.
async fn acknowledge(ledger: Arc<Ledger>, mut sent: mpsc::Receiver<(usize, u64, Acknowledgement)>) -> anyhow::Result<()> {
    while let Some((number, version, answer)) = sent.recv().await {
        answer.wait().await.context("save on a stream")?;
        ledger.acknowledge(number, version);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::Fake;

    #[tokio::test]
    async fn every_save_is_made_once_and_acknowledged_in_its_phase() {
        let fake = Fake::start().await;
        let ledger = Arc::new(Ledger::new(7_000));
        let client = Client::connect(fake.address.to_string()).await.expect("the fake listens");
        fill(&client, &ledger).await.expect("accepted");
        assert!((0..objects::COUNT).all(|number| ledger.version(number) == 1));
        ledger.enter(Phase::Outage);
        let latencies = run(fake.address.to_string(), Arc::clone(&ledger)).await.expect("accepted");
        assert_eq!((ledger.issued(), ledger.acknowledged()), (7_000, 7_000));
        assert_eq!(fake.state().accepted.len(), 7_000);
        assert!(latencies.before.is_empty() && !latencies.outage.is_empty());
    }
}
