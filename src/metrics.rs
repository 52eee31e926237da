//! Every metric: names, units, help, buckets and label values live here; elsewhere one calls a function named after what
//! happened.
//!
//! Each daemon has a recorder of its own (tests and benches run several in a process); nothing global is installed, and no
//! port is opened: `http` shows what [`Metrics::render`] gives. Counters and histograms are handles made once, so that a save
//! costs a few atomic operations; levels and states are read when somebody looks ([`Observation`]).
//!
//! Imports nothing of ours: collections and lanes are names and numbers here.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Histogram, counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusHandle, PrometheusRecorder};

mod families;
mod labels;
mod observation;

pub use labels::{AttemptResult, GiveUpReason, LaneState, LimitKind, Refused, RetryReason, RowOp, Rpc, TransactionResult};
pub use observation::{CollectionObservation, EndpointObservation, JournalObservation, LaneObservation, LimitObservation, Observation};

/// The metrics of one daemon. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    process: metrics_process::Collector,
    handles: Handles,
    lanes: Vec<Lane>,
    /// By the collections' numbers. Grows when a re-read catalog brings new ones.
    collections: RwLock<Vec<Collection>>,
    calls_in_flight: [AtomicU64; Rpc::ALL.len()],
}

/// What belongs to no lane and no collection.
struct Handles {
    refused_unknown: [Counter; Refused::ALL.len()],
    acknowledge_seconds: [Histogram; Rpc::ALL.len()],
    drain_retries: [Counter; RetryReason::ALL.len()],
    persist_seconds: Histogram,
    journal_sync_seconds: Histogram,
    journal_group_saves: Histogram,
}

struct Lane {
    name: String,
    transactions: [Counter; TransactionResult::ALL.len()],
    transaction_seconds: Histogram,
    statement_seconds: Histogram,
}

struct Collection {
    name: String,
    accepted: Counter,
    refused: [Counter; Refused::ALL.len()],
    deduplicated: Counter,
    folded: Counter,
    superseded: Counter,
    persisted: Counter,
    failed: Counter,
    rows: [Counter; RowOp::ALL.len()],
}

impl Metrics {
    /// Metrics of a daemon with these lanes, numbered in this order. Collections come with [`Metrics::know_collections`].
    pub fn new(lanes: &[&str]) -> Self {
        let recorder = families::builder().expect("every histogram has buckets").build_recorder();
        let process = metrics_process::Collector::default();
        let (handles, lanes) = with_local_recorder(&recorder, || {
            families::describe();
            process.describe();
            gauge!(families::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            gauge!(families::RECOVERY_SECONDS).set(0.0);
            (Handles::register(), lanes.iter().copied().map(Lane::register).collect())
        });
        let handle = recorder.handle();
        let collections = RwLock::default();
        let calls_in_flight = Default::default();
        Self(Arc::new(Inner { recorder, handle, process, handles, lanes, collections, calls_in_flight }))
    }

    /// Tells the collections in the order of their numbers, at the start and whenever there are new ones. Known ones keep
    /// their place.
    pub fn know_collections<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let mut known = self.0.collections.write().unwrap_or_else(PoisonError::into_inner);
        let new = names.into_iter().skip(known.len());
        with_local_recorder(&self.0.recorder, || known.extend(new.map(Collection::register)));
    }

    /// A call has begun: it is in flight until it has ended.
    pub fn call_started(&self, rpc: Rpc) {
        self.0.calls_in_flight[rpc as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A call that had begun has ended.
    pub fn call_ended(&self, rpc: Rpc) {
        self.0.calls_in_flight[rpc as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// A call (in a stream: a message) was acknowledged so long after it came.
    pub fn acknowledged(&self, rpc: Rpc, elapsed: Duration) {
        self.0.handles.acknowledge_seconds[rpc as usize].record(elapsed);
    }

    /// Saves of a collection were accepted.
    pub fn saves_accepted(&self, collection: usize, count: u64) {
        self.collection(collection, |collection| collection.accepted.increment(count));
    }

    /// Saves were turned away; `None` if they named no known collection.
    pub fn saves_refused(&self, collection: Option<usize>, reason: Refused, count: u64) {
        match collection {
            Some(collection) => self.collection(collection, |collection| collection.refused[reason as usize].increment(count)),
            None => self.0.handles.refused_unknown[reason as usize].increment(count),
        }
    }

    /// Saves were recognised as sent before.
    pub fn saves_deduplicated(&self, collection: usize, count: u64) {
        self.collection(collection, |collection| collection.deduplicated.increment(count));
    }

    /// A group was written and synced.
    pub fn group_synced(&self, saves: u64, elapsed: Duration) {
        self.0.handles.journal_group_saves.record(observation::number(saves));
        self.0.handles.journal_sync_seconds.record(elapsed);
    }

    /// Saves of a committed generation needed no row of their own.
    pub fn saves_folded(&self, collection: usize, count: u64) {
        self.collection(collection, |collection| collection.folded.increment(count));
    }

    /// Committed saves changed nothing: their row had a version as high.
    pub fn saves_superseded(&self, collection: usize, count: u64) {
        self.collection(collection, |collection| collection.superseded.increment(count));
    }

    /// Saves are committed.
    pub fn saves_persisted(&self, collection: usize, count: u64) {
        self.collection(collection, |collection| collection.persisted.increment(count));
    }

    /// Saves became failed saves.
    pub fn saves_failed(&self, collection: usize, count: u64) {
        self.collection(collection, |collection| collection.failed.increment(count));
    }

    /// Rows of a committed generation.
    pub fn rows_written(&self, collection: usize, op: RowOp, count: u64) {
        self.collection(collection, |collection| collection.rows[op as usize].increment(count));
    }

    /// A writing transaction of a lane ended.
    pub fn transaction_ended(&self, lane: usize, result: TransactionResult, elapsed: Duration) {
        let Some(lane) = self.0.lanes.get(lane) else { return };
        lane.transactions[result as usize].increment(1);
        lane.transaction_seconds.record(elapsed);
    }

    /// A statement of a committed transaction took so long.
    pub fn statement_ended(&self, lane: usize, took: Duration) {
        if let Some(lane) = self.0.lanes.get(lane) {
            lane.statement_seconds.record(took);
        }
    }

    /// A generation was committed so long after its oldest save was accepted.
    pub fn generation_persisted(&self, oldest_age: Duration) {
        self.0.handles.persist_seconds.record(oldest_age);
    }

    /// A generation is tried again.
    pub fn drain_retried(&self, reason: RetryReason) {
        self.0.handles.drain_retries[reason as usize].increment(1);
    }

    /// The start is over: saves are accepted.
    pub fn recovered(&self, elapsed: Duration) {
        with_local_recorder(&self.0.recorder, || gauge!(families::RECOVERY_SECONDS).set(elapsed.as_secs_f64()));
    }

    /// Adds waiting samples to their buckets. To be called every second or so: until then each sample takes 16 bytes.
    pub fn run_upkeep(&self) {
        self.0.handle.run_upkeep();
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self, observation: &Observation) -> String {
        let known = self.0.collections.read().unwrap_or_else(PoisonError::into_inner);
        let collections = known.iter().map(|collection| collection.name.as_str());
        let lanes = self.0.lanes.iter().map(|lane| lane.name.as_str());
        with_local_recorder(&self.0.recorder, || {
            self.0.process.collect();
            observation.record(collections, lanes);
            for (rpc, in_flight) in Rpc::ALL.into_iter().zip(&self.0.calls_in_flight) {
                gauge!(families::CALLS_IN_FLIGHT, "rpc" => rpc.label()).set(observation::number(in_flight.load(Ordering::Relaxed)));
            }
        });
        self.0.handle.render()
    }

    /// A collection that was not made known is none of ours: nothing is counted, nothing breaks.
    fn collection(&self, number: usize, count: impl FnOnce(&Collection)) {
        let known = self.0.collections.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(collection) = known.get(number) {
            count(collection);
        }
    }
}

// The register functions make every known series at once, so that it shows as 0 before its first event.

impl Handles {
    fn register() -> Self {
        Self {
            refused_unknown: refused_counters(""),
            acknowledge_seconds: Rpc::ALL.map(|rpc| match rpc {
                Rpc::Save | Rpc::SaveBatch | Rpc::SaveStream => histogram!(families::ACKNOWLEDGE_SECONDS, "rpc" => rpc.label()),
                Rpc::GetTicket | Rpc::AwaitTicket | Rpc::WatchOutcomes | Rpc::Get | Rpc::Load | Rpc::Flush | Rpc::Other => {
                    Histogram::noop()
                }
            }),
            drain_retries: RetryReason::ALL.map(|reason| counter!(families::DRAIN_RETRIES, "reason" => reason.label())),
            persist_seconds: histogram!(families::PERSIST_SECONDS),
            journal_sync_seconds: histogram!(families::JOURNAL_SYNC_SECONDS),
            journal_group_saves: histogram!(families::JOURNAL_GROUP_SAVES),
        }
    }
}

impl Lane {
    fn register(name: &str) -> Self {
        let lane = name.to_owned();
        Self {
            transactions: TransactionResult::ALL
                .map(|result| counter!(families::TRANSACTIONS, "lane" => lane.clone(), "result" => result.label())),
            transaction_seconds: histogram!(families::TRANSACTION_SECONDS, "lane" => lane.clone()),
            statement_seconds: histogram!(families::STATEMENT_SECONDS, "lane" => lane.clone()),
            name: lane,
        }
    }
}

impl Collection {
    fn register(name: &str) -> Self {
        let counter_of = |family| counter!(family, "collection" => name.to_owned());
        Self {
            accepted: counter_of(families::SAVES_ACCEPTED),
            refused: refused_counters(name),
            deduplicated: counter_of(families::SAVES_DEDUPLICATED),
            folded: counter_of(families::SAVES_FOLDED),
            superseded: counter_of(families::SAVES_SUPERSEDED),
            persisted: counter_of(families::SAVES_PERSISTED),
            failed: counter_of(families::SAVES_FAILED),
            rows: RowOp::ALL.map(|op| counter!(families::ROWS_WRITTEN, "collection" => name.to_owned(), "op" => op.label())),
            name: name.to_owned(),
        }
    }
}

fn refused_counters(collection: &str) -> [Counter; Refused::ALL.len()] {
    Refused::ALL.map(|reason| counter!(families::SAVES_REFUSED, "collection" => collection.to_owned(), "reason" => reason.label()))
}

#[cfg(test)]
mod tests;
