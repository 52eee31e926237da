//! Everything behind the front door: journal, catalog, backlog and lanes, opened and recovered; the same for a daemon that
//! serves and for `forebay drain`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::oneshot,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Left, catalog::SharedCollections, control::Controls, failed::FailedSaves, lanes::LaneMaker, observe::Observer, streams};
use crate::{
    collections::CollectionRules,
    drain::{End, LaneBacklog, LaneHandle, LaneState},
    exit::{Exit, Failure, OrExit},
    grpc::Streams,
    journal::{self, Journal, LedgerError, OpenError, OpenOptions, Running},
    limits::{Limit, Limits},
    metrics::Metrics,
    postgres::Postgres,
    save::{LaneId, Sequence},
    settings::{JournalSettings, Settings},
};

/// The one lane's name.
const LANE: &str = "default";
const LANES: usize = 1;
/// How much of the journal is read at a time.
const READ_BYTES: usize = 4 << 20;
/// With a catalog in the journal, a start doesn't wait longer for Postgres.
const CATALOG_TIMEOUT: Duration = Duration::from_millis(500);
/// Between looks for a Postgres that the first start needs.
const FIRST_WAIT_INTERVAL: Duration = Duration::from_millis(500);

/// A daemon without its front door.
pub(super) struct Core {
    pub(super) journal: Running,
    pub(super) postgres: Postgres,
    pub(super) controls: Arc<Controls>,
    pub(super) streams: Arc<Streams>,
    pub(super) limits: Limits,
    pub(super) observer: Observer,
    pub(super) started: Instant,
    lanes: JoinSet<End>,
    forgetting: AbortHandle,
    fatal: oneshot::Receiver<String>,
}

impl Core {
    /// Opens the journal, learns the catalog, folds what is not in Postgres, starts the lanes.
    pub(super) async fn start(settings: &Settings, take_over: bool, stop: &CancellationToken) -> Result<Self, Failure> {
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let limits = limits(settings);
        let observer = Observer(Metrics::new(&[LANE]));
        let postgres = Postgres::new(&settings.postgres, LANES).or_exit(Exit::Settings, "read postgres.url")?;
        let opened = open(settings.journal.clone()).await?;
        tell_opened(&opened, settings);
        let journal_id = Uuid::from_bytes(opened.id().to_bytes());
        let ledger = opened.ledger().clone();
        let rules = CollectionRules { schemas: settings.postgres.schemas.clone(), named: settings.collections.clone() };
        let collections = SharedCollections::new(rules, postgres.clone(), ledger.clone(), observer.0.clone());
        learn_catalog(&collections, settings.postgres.first_wait, stop).await?;
        tell_collections(&collections);

        let last = opened.last();
        // Saves are only removed once Postgres was seen to hold them, which may be later than the position that was noted. (A
        // fold that began before the gap would hide it from a database that went back in time.)
        let after = opened.settled_hint(LaneId(0)).max(opened.oldest());
        let backlog = LaneBacklog::new(settings.drain.generation_objects_max, after, &limits);
        let (failed_journal, fatal) = oneshot::channel();
        let failed = FailedSaves::new(postgres.clone(), journal_id, collections.clone(), Arc::clone(&limits.failed_saves));
        let journal = start_journal(opened, &limits, (&backlog, &failed), &observer, failed_journal)?;
        let monitor = journal.monitor();
        let retained = monitor.clone();
        let streams = Streams::new(Arc::clone(&limits.request_ids), move || retained.oldest());
        recover(&journal, &collections, &backlog, &streams, (after, last)).await?;

        let maker = LaneMaker {
            settings,
            limits: &limits,
            postgres: &postgres,
            journal: journal_id,
            ledger: &ledger,
            reader: &journal.reader(),
            monitor: &monitor,
            collections: &collections,
            failed: &failed,
            observer: &observer,
            take_over,
        };
        let mut lanes = JoinSet::new();
        let lane = maker.start(LaneId(0), LANE, backlog, &mut lanes).await.or_exit(Exit::JournalIo, "write the journal's ledger")?;
        let forgetting = tokio::spawn(failed.clone().forget(settings.failed.closed_kept)).abort_handle();
        let controls = Controls {
            collections,
            lanes: vec![lane],
            limits: limits.clone(),
            journal: monitor,
            journal_id: journal_id.to_string(),
            run: journal.run(),
            started_at,
            failed,
        };
        Ok(Self { journal, postgres, controls: Arc::new(controls), streams, limits, observer, started, lanes, forgetting, fatal })
    }

    /// Waits for the stop, or for what ends the daemon.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            reason = &mut self.fatal => Err(journal_failed(reason.unwrap_or_else(|_| "its thread is gone".to_owned()))),
            Some(end) = self.lanes.join_next() => Err(lane_ended(end)),
        }
    }

    /// Waits until nothing is left, no lane can go on by itself, or Postgres has been away for `patience`.
    pub(super) async fn drained(&self, patience: Duration, stop: &CancellationToken) {
        let lane = &self.controls.lanes[0];
        let away = async {
            let mut state = lane.state();
            loop {
                let up = |state: &LaneState| !matches!(state, LaneState::Connecting | LaneState::Retrying { .. });
                if timeout(patience, state.wait_for(up)).await.is_err() {
                    return;
                }
                if state.wait_for(|state| !up(state)).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            outcome = lane.flush(None) => if let Err(why) = outcome { tracing::error!(%why, "the journal can't be drained") },
            () = away => tracing::error!("postgres can't be reached: the journal can't be drained now"),
            () = stop.cancelled() => {}
        }
    }

    /// Spares the next start from reading the whole journal for the streams that are remembered.
    async fn note_streams(&self, deadline: Instant) {
        let (ledger, streams, through) = (self.journal.ledger().clone(), Arc::clone(&self.streams), self.journal.monitor().stats().last);
        let noted = tokio::task::spawn_blocking(move || streams::note(&ledger, &streams, through));
        if !matches!(tokio::time::timeout_at(deadline, noted).await, Ok(Ok(Ok(())))) {
            tracing::warn!("the save streams can't be noted: the next start reads the whole journal for them");
        }
    }

    /// No more appends; drains until the deadline; closes. What is left is in the journal.
    pub(super) async fn stop(mut self, settings: &Settings, deadline: Instant) -> Result<Left, Failure> {
        let drain_until = (Instant::now() + settings.stop.drain_timeout).min(deadline);
        self.controls.lanes.iter().for_each(|lane| lane.stop(drain_until));
        self.forgetting.abort();
        let ended = async { while self.lanes.join_next().await.is_some() {} };
        if tokio::time::timeout_at(deadline, ended).await.is_err() {
            tracing::warn!("a transaction did not end before stop.timeout: the next start finds out what became of it");
            self.lanes.abort_all();
        }
        let left = left(&self.controls.lanes);
        self.note_streams(deadline).await;
        match tokio::time::timeout_at(deadline, self.journal.stop()).await {
            Ok(stopped) => stopped.or_exit(Exit::JournalIo, "stop the journal")?,
            // Its thread hangs in the disk: whoever waits for it waits for ever.
            Err(_) => return Err(journal_failed("it did not close before the stop's deadline".to_owned())),
        }
        Ok(left)
    }
}

fn left(lanes: &[LaneHandle]) -> Left {
    let nothing = Left { saves: 0, objects: 0, drained: true };
    lanes.iter().fold(nothing, |left, lane| {
        let summary = lane.backlog().summary();
        Left {
            saves: left.saves + summary.saves,
            objects: left.objects + summary.footprint.objects,
            drained: left.drained && lane.is_drained(),
        }
    })
}

fn limits(settings: &Settings) -> Limits {
    Limits {
        backlog_bytes: Limit::new("backlog.bytes_max", settings.backlog.bytes_max),
        backlog_objects: Limit::new("backlog.objects_max", settings.backlog.objects_max),
        journal_bytes: Limit::new("journal.bytes_max", settings.journal.bytes_max),
        journal_inbox_bytes: Limit::new("journal.inbox_bytes_max", settings.journal.inbox_bytes_max),
        connections: Limit::new("grpc.connections_max", settings.grpc.connections_max),
        calls_in_flight: Limit::new("grpc.calls_in_flight_max", settings.grpc.calls_in_flight_max),
        awaiting_calls: Limit::new("grpc.awaiting_calls_max", settings.grpc.awaiting_calls_max),
        save_streams: Limit::new("grpc.save_streams_max", settings.grpc.save_streams_max),
        request_ids: Limit::new("request_ids.count_max", settings.request_ids.count_max),
        failed_saves: Limit::new("failed.saves_max", settings.failed.saves_max),
    }
}

async fn open(settings: JournalSettings) -> Result<Journal, Failure> {
    let lanes = OpenOptions { lanes: LANES as u16 };
    let opened = tokio::task::spawn_blocking(move || Journal::open(&settings, lanes)).await;
    opened.or_exit(Exit::Internal, "open journal")?.map_err(|error| journal_failure(error).during("open journal"))
}

/// What can't be done with a journal, with its exit code.
pub fn journal_failure(error: OpenError) -> Failure {
    let exit = match &error {
        OpenError::Locked { .. } => Exit::TryAgain,
        OpenError::Damaged(_) => Exit::DamagedJournal,
        OpenError::Directory { .. } => Exit::JournalDirectory,
        OpenError::Io { .. } => Exit::JournalIo,
    };
    Failure { exit, error: error.into() }
}

fn start_journal(
    opened: Journal,
    limits: &Limits,
    (backlog, failed): (&LaneBacklog, &FailedSaves),
    observer: &Observer,
    fatal: oneshot::Sender<String>,
) -> Result<Running, Failure> {
    let (backlog, failed, metrics) = (backlog.clone(), failed.clone(), observer.0.clone());
    let events = journal::Events {
        offer: Box::new(move |group| failed.hand_on(group, |group| backlog.offer(group))),
        on_group: Box::new(move |group| metrics.group_synced(u64::from(group.saves), group.sync)),
        on_fatal: Box::new(move |reason| drop(fatal.send(reason))),
    };
    opened.start(limits, events).or_exit(Exit::JournalIo, "start the journal")
}

/// Folds what lies above the position that the journal knows; the position row may say otherwise later.
async fn recover(
    journal: &Running,
    collections: &SharedCollections,
    backlog: &LaneBacklog,
    streams: &Arc<Streams>,
    (after, last): (Sequence, Sequence),
) -> Result<(), Failure> {
    let reader = journal.reader();
    // Streams are remembered as long as the journal is: without a note of the last stop all of it is read. Folding begins at
    // the position.
    let noted = recall_streams(journal, streams, last).await.or_exit(Exit::JournalIo, "read the journal's ledger")?;
    let (mut read, mut folded) = (if noted { after } else { journal.monitor().oldest() }, 0_u64);
    while read < last {
        let entries = reader.read(read, last, READ_BYTES).await.or_exit(Exit::JournalIo, "read the journal")?;
        let Some(end) = entries.last() else { break };
        read = end.sequence;
        let origins = entries.iter().filter(|_| !noted).filter_map(|entry| Some((entry.record.origin?, entry.sequence)));
        origins.for_each(|(origin, at)| streams.observe(origin, at));
        let pending: Vec<_> = entries.into_iter().filter(|entry| entry.sequence > after).collect();
        folded += pending.len() as u64;
        if !pending.is_empty() {
            backlog.recover(collections.number(pending));
        }
    }
    let objects = backlog.summary().footprint.objects;
    tracing::info!(saves = folded, objects, streams = streams.count(), streams_noted = noted, "recovered what may not be in postgres yet");
    Ok(())
}

async fn recall_streams(journal: &Running, streams: &Arc<Streams>, last: Sequence) -> Result<bool, LedgerError> {
    let (ledger, streams) = (journal.ledger().clone(), Arc::clone(streams));
    tokio::task::spawn_blocking(move || streams::recall(&ledger, &streams, last)).await.expect("the ledger doesn't panic")
}

async fn learn_catalog(collections: &SharedCollections, first_wait: Duration, stop: &CancellationToken) -> Result<(), Failure> {
    if collections.recall().await.or_exit(Exit::JournalIo, "read the journal's ledger")? {
        match timeout(CATALOG_TIMEOUT, collections.refresh()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "postgres can't be asked: starting with the catalog that the journal remembers"),
            Err(_) => tracing::warn!("postgres doesn't answer: starting with the catalog that the journal remembers"),
        }
        return Ok(());
    }
    let (deadline, mut told) = (Instant::now() + first_wait, false);
    loop {
        let Err(error) = collections.refresh().await else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(Failure {
                exit: Exit::Unavailable,
                error: anyhow::Error::new(error).context("read the catalog for the first time"),
            });
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%error, seconds = first_wait.as_secs(), "waiting for postgres: the first start needs its catalog");
        }
        tokio::select! {
            () = sleep(FIRST_WAIT_INTERVAL) => {}
            () = stop.cancelled() => {
                return Err(Failure { exit: Exit::Unavailable, error: anyhow::anyhow!("stopped before postgres could be asked for its catalog") });
            }
        }
    }
}

fn tell_opened(journal: &Journal, settings: &Settings) {
    let found = journal.recovered();
    tracing::info!(
        directory = %settings.journal.directory.display(),
        id = %journal.id(),
        run = journal.run(),
        segments = found.segments,
        saves = found.saves,
        carried_groups = found.carried_groups,
        "journal opened"
    );
    if found.torn_chunks > 0 {
        tracing::warn!(chunks = found.torn_chunks, "dropped a torn group at the journal's end: nobody was told that it was accepted");
    }
}

fn tell_collections(collections: &SharedCollections) {
    let known = collections.now();
    let names: Vec<_> = known.iter().map(|collection| &*collection.name).collect();
    tracing::info!(count = names.len(), names = %names.join(", "), "collections found");
    for table in known.refused() {
        match table.named {
            true => tracing::warn!(table = %table.name, reason = %table.reason, "table is no collection"),
            false => tracing::info!(table = %table.name, reason = %table.reason, "table is no collection"),
        }
    }
}

fn journal_failed(reason: String) -> Failure {
    Failure {
        exit: Exit::JournalIo,
        error: anyhow::anyhow!("the journal failed: {reason}: nothing is acknowledged any more; restart to recover"),
    }
}

fn lane_ended(end: Result<End, tokio::task::JoinError>) -> Failure {
    match end {
        Ok(End::Fenced { by }) => Failure {
            exit: Exit::TryAgain,
            error: anyhow::anyhow!("another daemon ({by}) has taken over this journal's position row in postgres: only one may write"),
        },
        Ok(End::JournalUnreadable(reason)) => journal_failed(reason),
        Ok(End::Stopped) => Failure { exit: Exit::Internal, error: anyhow::anyhow!("a lane ended by itself") },
        Err(error) => Failure { exit: Exit::Internal, error: anyhow::Error::new(error).context("run a lane") },
    }
}
