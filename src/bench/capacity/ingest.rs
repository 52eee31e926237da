//! Ingest: single saves, each acknowledged within the bound. The drain is paused: what it bears is `drain`'s to find.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;
use tonic::{Status, transport::Channel};

use super::{
    super::{Load, callers::Seen},
    Broke, Step,
    arrivals::Arrivals,
    little::Little,
    page::Watched,
    utilisation::Utilisation,
};
use crate::{
    child::Daemon,
    proto::{SaveRequest, save_service_client::SaveServiceClient},
};

/// Calls at once; one that is due while so many wait is not made, and the step is broken. Just below
/// `grpc.calls_in_flight_max`, where the daemon would refuse them itself.
const OUTSTANDING_MAX: usize = 16_000;
/// Many times any bound: a call that takes longer counts as an error.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

const IN_FLIGHT: &str = r#"forebay_calls_in_flight{rpc="Save"}"#;
const ACKNOWLEDGED: &str = r#"forebay_acknowledge_seconds_count{rpc="Save"}"#;
const ACKNOWLEDGE_SECONDS: &str = r#"forebay_acknowledge_seconds_sum{rpc="Save"}"#;

/// What a step at one rate showed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Measured {
    /// From when a call was due until it was answered.
    pub(super) p50_us: u64,
    pub(super) p95_us: u64,
    pub(super) p99_us: u64,
    /// How late this program made the calls (95th percentile): part of the above, and no doing of the daemon's.
    pub(super) late_p95_us: u64,
    pub(super) utilisation: Utilisation,
    /// Of the calls in the daemon, by its own metrics: from their arrival until they are durable.
    pub(super) little: Little,
}

/// The callers of one daemon.
#[derive(Debug)]
pub(super) struct Ingest<'a> {
    /// Calls take turns on them.
    pub(super) channels: Vec<Channel>,
    pub(super) daemon: &'a Daemon,
    pub(super) bound: Duration,
    pub(super) step: Duration,
}

/// What the calls of a step saw.
struct Calls {
    seen: Seen,
    late: Histogram<u64>,
}

impl Ingest<'_> {
    /// Warms up for half a step, then measures for one.
    pub(super) async fn step(&self, rate: f64, seed: u64) -> anyhow::Result<Step<Measured>> {
        let begin = Instant::now();
        let from = begin + self.step / 2;
        let until = from + self.step;
        let arrivals = Arrivals::begin(rate, begin, until, seed);
        let levels = [IN_FLIGHT];
        let ((calls, missed), watched) = tokio::join!(self.call(arrivals, from), Watched::watch(self.daemon, from, until, levels));
        let (Calls { seen, late }, watched) = (calls, watched?);
        let measured = Measured {
            p50_us: seen.latencies.value_at_quantile(0.5),
            p95_us: seen.latencies.value_at_quantile(0.95),
            p99_us: seen.latencies.value_at_quantile(0.99),
            late_p95_us: late.value_at_quantile(0.95),
            utilisation: watched.utilisation,
            little: little(&watched)?,
        };
        let broke = match () {
            () if missed => Some(Broke::Outstanding),
            () if seen.errors > 0 => Some(Broke::Errors),
            () if u128::from(measured.p95_us) > self.bound.as_micros() => Some(Broke::P95),
            () => None,
        };
        Ok(Step { broke, error: seen.first_error, measured })
    }

    /// Makes the calls that are due, until they end or one has to be missed; hears every answer. Whether one was missed.
    async fn call(&self, mut arrivals: Arrivals, from: Instant) -> (Calls, bool) {
        let nothing = Histogram::new(3).expect("three digits are valid");
        let calls = Arc::new(Mutex::new(Calls { seen: Seen::nothing(), late: nothing }));
        let (outstanding, tracker) = (Arc::new(Semaphore::new(OUTSTANDING_MAX)), TaskTracker::new());
        let (mut missed, mut n) = (false, 0);
        while let Some(due) = arrivals.next().await {
            let Ok(permit) = Arc::clone(&outstanding).try_acquire_owned() else {
                missed = true;
                break;
            };
            let channel = self.channels[n % self.channels.len()].clone();
            let (calls, save) = (Arc::clone(&calls), unary(channel, n as u64));
            tracker.spawn(async move {
                let late = due.elapsed();
                let answer = save.await;
                drop(permit);
                calls.lock().expect("no holder panics").heard(due, late, answer, due >= from);
            });
            n += 1;
        }
        tracker.close();
        tracker.wait().await;
        let calls = Arc::into_inner(calls).expect("every call has ended").into_inner();
        (calls.expect("no holder panics"), missed)
    }
}

impl Calls {
    /// While it warms up, only errors count.
    fn heard(&mut self, due: Instant, late: Duration, answer: Result<u64, Status>, is_warm: bool) {
        if is_warm || answer.is_err() {
            self.seen.answer(due, answer);
            self.late.record(u64::try_from(late.as_micros()).expect("less than an aeon")).expect("the histogram grows as it needs");
        }
    }
}

async fn unary(channel: Channel, n: u64) -> Result<u64, Status> {
    let request = SaveRequest { save: Some(Load::Reference.save(n)), ..SaveRequest::default() };
    let call = async { SaveServiceClient::new(channel).save(request).await };
    timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("not answered"))).map(|_| 1)
}

fn little(watched: &Watched<1>) -> anyhow::Result<Little> {
    let calls = watched.growth(ACKNOWLEDGED)?;
    let time = if calls > 0.0 { watched.growth(ACKNOWLEDGE_SECONDS)? / calls } else { 0.0 };
    let [in_flight] = &watched.samples;
    Ok(Little::new(calls / watched.seconds(), time, in_flight))
}
