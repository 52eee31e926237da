//! The drain: distinct new objects, so that folding helps nothing, faster and faster until its backlog grows without end.
//!
//! Saves come by batches, whose acknowledgement is far from its limit: what breaks is the drain. Their time in the backlog is
//! taken from outside: from a batch's acknowledgement until a watermark of `WatchOutcomes` covers it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::{Status, transport::Channel};

use super::{
    super::load,
    Broke, Step,
    arrivals::Arrivals,
    growth::{drift, is_growth},
    little::{Little, mean},
    page::Watched,
    utilisation::Utilisation,
};
use crate::{
    child::Daemon,
    client::{Client, Outcome, Ticket, Watermark},
    proto::{SaveBatchRequest, save_service_client::SaveServiceClient},
    sandbox::Database,
};

/// So that a batch is a hundredth of a second: arrivals stay as fine as the drain's window is long.
const BATCHES_PER_SECOND: f64 = 100.0;
/// Batches at once; one that is due while so many wait is not made, and the step is broken: then ingest was the bottleneck.
const OUTSTANDING_MAX: usize = 64;
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// What came in a step that broke gets into Postgres before the next one.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(600);

const BACKLOG: &str = r#"forebay_backlog_objects{collection="players"}"#;
const APPLYING: &str = r#"forebay_lane_state{lane="default",state="applying"}"#;

/// What a step at one rate showed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// From the acknowledgement of a save until its outcome was told.
    pub(super) persist_p50_us: u64,
    pub(super) persist_p95_us: u64,
    pub(super) persist_p99_us: u64,
    /// Objects by which the backlog grew in a second: see `growth`.
    pub(super) drift_per_second: f64,
    /// Share of the time in which the lane was writing a generation; the rest is its window.
    pub(super) lane_busy: f64,
    pub(super) utilisation: Utilisation,
    /// Of the backlog: objects, which are as many as saves.
    pub(super) little: Little,
}

/// A daemon and its Postgres, to be filled.
#[derive(Debug)]
pub(super) struct Drain<'a> {
    /// Batches take turns on them.
    pub(super) channels: Vec<Channel>,
    pub(super) daemon: &'a Daemon,
    pub(super) database: Database,
    /// A third of what is measured.
    pub(super) step: Duration,
    /// The next object that no step has saved.
    pub(super) fresh: AtomicU64,
}

impl Drain<'_> {
    /// Empties the table, warms up for one step and measures for three.
    pub(super) async fn step(&self, rate: f64, seed: u64) -> anyhow::Result<Step<Measured>> {
        self.database.run(&format!("truncate {}", load::COLLECTION)).await.context("empty the table")?;
        let begin = Instant::now();
        let from = begin + self.step;
        let until = from + 3 * self.step;
        let stays = Arc::new(Mutex::new(Stays::between(from, until)));
        let watching = AbortOnDropHandle::new(tokio::spawn(watch(self.daemon.client().clone(), Arc::clone(&stays))));
        let levels = [BACKLOG, APPLYING];
        let (fed, watched) = tokio::join!(self.feed(rate, begin, until, seed, &stays), Watched::watch(self.daemon, from, until, levels));
        self.daemon.client().flush(&[], FLUSH_TIMEOUT).await.context("wait for the drain")?;
        all_told(&stays, watching).await?;
        let Fed { missed, error } = fed;
        let measured = measured(&stays.lock().expect("no holder panics"), &watched?);
        let broke = match () {
            () if missed => Some(Broke::Outstanding),
            () if error.is_some() => Some(Broke::Errors),
            () if is_growth(measured.drift_per_second, rate) => Some(Broke::Backlog),
            () => None,
        };
        Ok(Step { broke, error, measured })
    }

    /// Sends the batches that are due, until they end or one has to be missed; hears every answer.
    async fn feed(&self, rate: f64, begin: Instant, until: Instant, seed: u64, stays: &Arc<Mutex<Stays>>) -> Fed {
        let saves = (rate / BATCHES_PER_SECOND).ceil() as u64;
        let mut arrivals = Arrivals::begin(rate / saves as f64, begin, until, seed);
        let (outstanding, tracker) = (Arc::new(Semaphore::new(OUTSTANDING_MAX)), TaskTracker::new());
        let (mut missed, error) = (false, Arc::new(Mutex::new(None)));
        let mut turns = self.channels.iter().cycle();
        while arrivals.next().await.is_some() {
            let Ok(permit) = Arc::clone(&outstanding).try_acquire_owned() else {
                missed = true;
                break;
            };
            let channel = turns.next().expect("there is a connection").clone();
            let first = self.fresh.fetch_add(saves, Ordering::Relaxed);
            let (stays, error) = (Arc::clone(stays), Arc::clone(&error));
            tracker.spawn(async move {
                match batch(channel, first, saves).await {
                    Ok(ticket) => stays.lock().expect("no holder panics").entered(ticket, saves, Instant::now()),
                    Err(status) => drop(error.lock().expect("no holder panics").get_or_insert(status)),
                }
                drop(permit);
            });
        }
        tracker.close();
        tracker.wait().await;
        let error = error.lock().expect("no holder panics").take();
        Fed { missed, error: error.map(|status| format!("{:?}: {}", status.code(), status.message())) }
    }
}

/// What became of the batches.
struct Fed {
    missed: bool,
    error: Option<String>,
}

/// The ticket of the last.
async fn batch(channel: Channel, first: u64, saves: u64) -> Result<Ticket, Status> {
    let saves = (first..first + saves).map(|n| load::save(n, n)).collect();
    let request = SaveBatchRequest { saves, ..SaveBatchRequest::default() };
    let call = async { SaveServiceClient::new(channel).save_batch(request).await };
    let answer = timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("not answered")))?;
    answer.into_inner().results.pop().map(|result| result.ticket.into()).ok_or_else(|| Status::internal("no ticket"))
}

/// How long saves stay in the backlog.
#[derive(Debug)]
struct Stays {
    /// Those acknowledged in between count.
    from: Instant,
    until: Instant,
    /// The last ticket of each batch, when it was acknowledged, and its saves.
    inside: BTreeMap<Ticket, (Instant, u64)>,
    through: Option<Watermark>,
    left: Histogram<u64>,
}

impl Stays {
    fn between(from: Instant, until: Instant) -> Self {
        let left = Histogram::new(3).expect("three digits are valid");
        Self { from, until, inside: BTreeMap::new(), through: None, left }
    }

    /// A batch is acknowledged. Its outcome may have been told already.
    fn entered(&mut self, last: Ticket, saves: u64, at: Instant) {
        match &self.through {
            Some(through) if through.covers(&last) => self.stayed(Duration::ZERO, saves, at),
            _ => drop(self.inside.insert(last, (at, saves))),
        }
    }

    /// Everything below is final.
    fn settled(&mut self, through: Watermark, now: Instant) {
        while let Some(first) = self.inside.first_entry() {
            if !through.covers(first.key()) {
                break;
            }
            let (at, saves) = first.remove();
            self.stayed(now.saturating_duration_since(at), saves, at);
        }
        self.through = Some(through);
    }

    fn stayed(&mut self, time: Duration, saves: u64, entered_at: Instant) {
        if (self.from..self.until).contains(&entered_at) {
            let micros = u64::try_from(time.as_micros()).expect("less than an aeon");
            self.left.record_n(micros, saves).expect("the histogram grows as it needs");
        }
    }
}

/// Hears of outcomes until it is dropped, or a save fails.
async fn watch(client: Client, stays: Arc<Mutex<Stays>>) -> anyhow::Result<()> {
    let mut watch = client.watch(&[], None);
    loop {
        match watch.next().await.context("watch the outcomes")? {
            Outcome::Watermark(through) => stays.lock().expect("no holder panics").settled(through, Instant::now()),
            Outcome::Superseded { .. } => {}
            Outcome::Failed { ticket, failure, .. } => bail!("{ticket} failed: {failure}"),
            Outcome::Rewound(watermark) => bail!("Postgres went back in time, to {watermark}"),
        }
    }
}

/// Everything is in Postgres; waits until the watch has said so.
async fn all_told(stays: &Mutex<Stays>, mut watching: AbortOnDropHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    let told = async {
        while !stays.lock().expect("no holder panics").inside.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        told = timeout(CALL_TIMEOUT, told) => told.context("the outcomes were not told"),
        ended = &mut watching => ended.context("the watch panicked")?.context("the watch ended"),
    }
}

fn measured(stays: &Stays, watched: &Watched<2>) -> Measured {
    let [backlog, applying] = &watched.samples;
    let rate = stays.left.len() as f64 / (stays.until - stays.from).as_secs_f64();
    Measured {
        persist_p50_us: stays.left.value_at_quantile(0.5),
        persist_p95_us: stays.left.value_at_quantile(0.95),
        persist_p99_us: stays.left.value_at_quantile(0.99),
        drift_per_second: drift(backlog, watched.seconds()),
        lane_busy: mean(applying),
        utilisation: watched.utilisation,
        little: Little::new(rate, stays.left.mean() / 1e6, backlog),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_stays_from_its_acknowledgement_until_a_watermark_covers_it() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mark = |text: &str| Watermark::from(text.to_owned());
        let mut stays = Stays::between(at(100), at(200));
        stays.entered("a1".to_owned().into(), 5, at(50));
        stays.entered("a3".to_owned().into(), 10, at(120));
        stays.entered("a2".to_owned().into(), 20, at(110));
        stays.settled(mark("a3"), at(150));
        assert_eq!(stays.inside.len(), 1, "a watermark covers what lies below it");
        assert_eq!((stays.left.len(), stays.left.max()), (20, 40_031), "what came before is not measured");
        stays.settled(mark("a5"), at(160));
        stays.entered("a4".to_owned().into(), 70, at(165));
        stays.entered("a6".to_owned().into(), 1, at(200));
        assert_eq!((stays.left.len(), stays.left.count_at(0), stays.inside.len()), (100, 70, 1));
        stays.settled(mark("a7"), at(300));
        assert_eq!(stays.left.len(), 100, "nor what came after");
    }
}
