//! Everything behind the front door: journal, catalog, backlog and lanes, opened and recovered; the same for a daemon that
//! serves and for `forebay drain`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Left,
    callbacks::{self, Callbacks},
    catalog::SharedCollections,
    control::Controls,
    failed::FailedSaves,
    gaps::Gaps,
    lanes::LaneMaker,
    layout::{Choice, EMPTY_PATIENCE, EMPTY_TIMEOUT, Handover, Layout, Wanted},
    observe::Observer,
    outcomes::{self, Outcomes},
    reads::Reads,
    recovery::{self, Backlogs},
    rewinds::Rewinds,
    streams,
    watch::Watches,
};
use crate::{
    collections::Lanes,
    drain::{End, LaneBacklog, LaneHandle, LaneState},
    exit::{Exit, Failure, OrExit},
    grpc::{RequestIds, Streams},
    journal::{self, Journal, Ledger, LedgerError, OpenError, Running},
    limits::Limits,
    metrics::Metrics,
    outcomes::{Superseded, Tickets},
    postgres::{PositionRow, Postgres},
    save::{LaneId, Sequence},
    settings::{JournalSettings, Settings},
    webhooks::Targets,
};

/// With a catalog in the journal, a start doesn't wait longer for Postgres.
const CATALOG_TIMEOUT: Duration = Duration::from_millis(500);
/// Between looks for a Postgres that the first start needs.
const FIRST_WAIT_INTERVAL: Duration = Duration::from_millis(500);
/// Lanes that are drained end at once: longer than any transaction that moves an idle one up.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// What the last transactions covered is asked of Postgres and noted: a few milliseconds, or it is away.
const NOTE_TIMEOUT: Duration = Duration::from_secs(2);

/// A daemon without its front door.
pub(super) struct Core {
    pub(super) journal: Running,
    pub(super) controls: Arc<Controls>,
    pub(super) reads: Reads,
    pub(super) streams: Arc<Streams>,
    pub(super) request_ids: Arc<RequestIds>,
    pub(super) limits: Limits,
    pub(super) observer: Observer,
    pub(super) started: Instant,
    /// This start's token of each lane.
    owners: Vec<Uuid>,
    lanes: JoinSet<End>,
    /// What goes on beside the lanes. Dropped, it ends.
    attendants: JoinSet<()>,
    callbacks: callbacks::Tasks,
    fatal: oneshot::Receiver<String>,
}

impl Core {
    /// Opens the journal, learns the catalog, folds what is not in Postgres, starts the lanes of the settings.
    pub(super) async fn start(settings: &Settings, take_over: bool, stop: &CancellationToken) -> Result<Self, Failure> {
        let (core, other) = Self::open(settings, Wanted::Settings(settings.layout()), take_over, stop).await?;
        match other {
            Some(lanes) => core.change_lanes(lanes, settings, stop).await,
            None => Ok(core),
        }
    }

    /// The same with the lanes that the journal has, whatever the settings say.
    pub(super) async fn start_as_it_is(settings: &Settings, take_over: bool, stop: &CancellationToken) -> Result<Self, Failure> {
        Ok(Self::open(settings, Wanted::Kept, take_over, stop).await?.0)
    }

    /// Starts with the layout of the ledger; gives the wanted lanes if they are others.
    async fn open(
        settings: &Settings,
        wanted: Wanted,
        take_over: bool,
        stop: &CancellationToken,
    ) -> Result<(Self, Option<Lanes>), Failure> {
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let limits = Limits::new(settings);
        check_url(settings)?;
        let targets = load_targets(settings).await?;
        let opened = open(settings.journal.clone()).await?;
        tell_opened(&opened, settings);
        let journal_id = Uuid::from_bytes(opened.id().to_bytes());
        let ledger = opened.ledger().clone();
        let choice = Choice::make(&ledger, opened.last(), wanted).await.or_exit(Exit::JournalIo, "read the journal's ledger")?;
        let layout = choice.layout.clone();
        let names: Vec<&str> = layout.lanes.names().collect();
        let observer = Observer(Metrics::new(&names));
        let postgres = Postgres::new(&settings.postgres, names.len()).or_exit(Exit::Settings, "read postgres.url")?;
        let rules = settings.collection_rules(layout.lanes.clone());
        let collections = SharedCollections::new(rules, postgres.clone(), ledger.clone(), observer.0.clone());
        learn_catalog(&collections, settings.postgres.first_wait, stop).await?;
        tell_collections(&collections);
        let other = choice.hold_against(&collections.now(), &ledger).await?;

        let (last, after) = (opened.last(), positions(&opened, &layout));
        let reaches = Arc::clone(collections.now().reaches());
        let objects_max = settings.drain.generation_objects_max;
        let backlogs = after.iter().map(|&after| LaneBacklog::new(objects_max, after, Arc::clone(&reaches), &limits));
        let backlogs = Backlogs::new(backlogs.collect());
        let (failed_journal, fatal) = oneshot::channel();
        let gaps = recall(&ledger, Gaps::recall).await?;
        let tickets = Tickets::new(journal_id, &recall(&ledger, outcomes::ticket_key).await?);
        let rewinds = recall(&ledger, Rewinds::recall).await?;
        let superseded = Arc::<Superseded>::default();
        let failed = FailedSaves::new(postgres.clone(), journal_id, collections.clone(), Arc::clone(&limits.failed_saves));
        let pending = (&collections, &limits.callbacks_pending);
        let opening = Callbacks::open((settings, &layout), targets, (&ledger, &tickets), pending, &after).await;
        let (callbacks, opening) = opening.or_exit(Exit::JournalIo, "read the journal's ledger")?;
        let ends = (&callbacks, &failed, &backlogs);
        let journal = start_journal(opened, &limits, &after, ends, &observer, failed_journal)?;
        let monitor = journal.monitor();
        callbacks.attach(monitor.clone());
        let retained = monitor.clone();
        let streams = Streams::new(Arc::clone(&limits.request_ids), move || retained.oldest());
        let retained = journal.monitor();
        let retention = settings.request_ids.retention;
        let request_ids = RequestIds::new(Arc::clone(&limits.request_ids), retention, move || retained.oldest());
        let remembering = (&streams, &request_ids, &callbacks, &opening);
        recovery::recover(&journal, &collections, &backlogs, remembering, (&after, last)).await?;

        let handover = Handover::new(layout.clone(), postgres.clone(), ledger.clone(), journal_id, take_over);
        let maker = LaneMaker {
            settings,
            limits: &limits,
            postgres: &postgres,
            journal: journal_id,
            ledger: &ledger,
            reader: &journal.reader(),
            monitor: &monitor,
            collections: &collections,
            layout: &layout,
            handover: &handover.await.or_exit(Exit::JournalIo, "read the journal's ledger")?,
            failed: &failed,
            gaps: &gaps,
            rewinds: &rewinds,
            superseded: &superseded,
            observer: &observer,
            take_over,
            found: last,
            run: journal.run(),
        };
        let mut lanes = JoinSet::new();
        let started_lanes = maker.start_all(&backlogs, &mut lanes).await.or_exit(Exit::JournalIo, "write the journal's ledger")?;
        let (handles, owners): (Vec<_>, Vec<_>) = started_lanes.iter().map(|lane| (lane.handle.clone(), lane.owner)).unzip();
        let telling = callbacks.start((settings, opening), last, &failed, (&handles, &owners));
        let watches = Watches {
            lanes: handles.clone(),
            collections: collections.clone(),
            failed: failed.clone(),
            gaps: gaps.clone(),
            rewinds,
            superseded: Arc::clone(&superseded),
        };
        let outcomes = Outcomes::new(&handles, failed.clone(), (gaps, superseded), collections.clone(), (journal.run(), layout.begins()));
        let reads = Reads::new(postgres.clone(), collections.clone(), journal_id, settings.postgres.readers, started_lanes);
        let mut attendants = JoinSet::new();
        let asked = callbacks.clone();
        attendants.spawn(failed.clone().forget(settings.failed.closed_kept, move || asked.asked_through()));
        outcomes.follow_lanes(&mut attendants);
        let controls = Controls {
            collections,
            postgres,
            lanes: handles,
            limits: limits.clone(),
            journal: monitor,
            tickets,
            outcomes,
            watches,
            run: journal.run(),
            started_at,
            failed,
            callbacks,
        };
        let core = Self {
            journal,
            controls: Arc::new(controls),
            reads,
            streams,
            request_ids,
            limits,
            observer,
            started,
            owners,
            lanes,
            attendants,
            callbacks: telling,
            fatal,
        };
        Ok((core, other))
    }

    /// Puts these lanes in the place of those that run, once nothing waits; see [`layout`](super::layout).
    async fn change_lanes(mut self, lanes: Lanes, settings: &Settings, stop: &CancellationToken) -> Result<Self, Failure> {
        tracing::info!(%lanes, "the settings have other lanes than the journal: draining before they change");
        let emptied = timeout(EMPTY_TIMEOUT, self.drained(EMPTY_PATIENCE, stop)).await;
        let emptied = emptied.unwrap_or_else(|_| Err(format!("not drained within {} s", EMPTY_TIMEOUT.as_secs())));
        if emptied.is_err() || stop.is_cancelled() {
            let why = emptied.err().unwrap_or_else(|| "stopped".to_owned());
            tracing::warn!(%why, "the lanes stay as they were: a start that finds them drained changes them");
            return Ok(self);
        }
        self.end_lanes(Instant::now(), Instant::now() + END_TIMEOUT).await;
        let rows = self.controls.lanes.iter().zip(&self.owners).map(|(lane, &owner)| {
            let row = PositionRow { owner, through: *lane.position().borrow() };
            (lane.name().to_string(), row)
        });
        let layout = Layout::following(lanes, self.journal.run(), rows.collect());
        layout.keep(self.journal.ledger()).await.or_exit(Exit::JournalIo, "write the journal's ledger")?;
        self.close(Instant::now() + settings.stop.timeout).await?;
        Ok(Self::open(settings, Wanted::Settings(settings.layout()), false, stop).await?.0)
    }

    /// Waits for the stop, or for what ends the daemon.
    pub(super) async fn wait(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            reason = &mut self.fatal => Err(journal_failed(reason.unwrap_or_else(|_| "its thread is gone".to_owned()))),
            Some(end) = self.lanes.join_next() => Err(lane_ended(end)),
            reason = self.callbacks.broken() => Err(journal_failed(reason)),
        }
    }

    /// Waits until nothing is left, no lane can go on by itself, or Postgres has been away for `patience`; says why something is
    /// left.
    pub(super) async fn drained(&self, patience: Duration, stop: &CancellationToken) -> Result<(), String> {
        let lanes = self.controls.lanes.iter().map(|lane| drained(lane, patience));
        tokio::select! {
            drained = join_all(lanes) => drained.into_iter().collect(),
            () = stop.cancelled() => Ok(()),
        }
    }

    /// Spares the next start from reading the whole journal for the streams and request ids that are remembered.
    async fn note_streams(&self, deadline: Instant) {
        let (ledger, streams, through) = (self.journal.ledger().clone(), Arc::clone(&self.streams), self.journal.monitor().stats().last);
        let request_ids = Arc::clone(&self.request_ids);
        let noted = tokio::task::spawn_blocking(move || streams::note(&ledger, &streams, &request_ids, through));
        if !matches!(tokio::time::timeout_at(deadline, noted).await, Ok(Ok(Ok(())))) {
            tracing::warn!("the save streams can't be noted: the next start reads the whole journal for them");
        }
    }

    /// No more appends; drains until the deadline; closes. What is left is in the journal.
    pub(super) async fn stop(mut self, settings: &Settings, deadline: Instant) -> Result<Left, Failure> {
        let drain_until = (Instant::now() + settings.stop.drain_timeout).min(deadline);
        self.end_lanes(drain_until, deadline).await;
        let left = left(&self.controls.lanes);
        self.close(deadline).await?;
        Ok(left)
    }

    async fn end_lanes(&mut self, drain_until: Instant, deadline: Instant) {
        self.controls.lanes.iter().for_each(|lane| lane.stop(drain_until));
        self.attendants.abort_all();
        let ended = async { while self.lanes.join_next().await.is_some() {} };
        if tokio::time::timeout_at(deadline, ended).await.is_err() {
            tracing::warn!("a transaction did not end before stop.timeout: the next start finds out what became of it");
            self.lanes.abort_all();
        }
        let noted = tokio::time::timeout_at(deadline.min(Instant::now() + NOTE_TIMEOUT), self.callbacks.end()).await;
        if noted.is_err() {
            self.callbacks.abort();
        }
    }

    async fn close(self, deadline: Instant) -> Result<(), Failure> {
        // A start that finds the note looks for callbacks no more than for streams.
        if self.controls.callbacks.awaited() == 0 {
            self.note_streams(deadline).await;
        }
        match tokio::time::timeout_at(deadline, self.journal.stop()).await {
            Ok(stopped) => stopped.or_exit(Exit::JournalIo, "stop the journal"),
            // Its thread hangs in the disk: whoever waits for it waits for ever.
            Err(_) => Err(journal_failed("it did not close before the stop's deadline".to_owned())),
        }
    }
}

async fn drained(lane: &LaneHandle, patience: Duration) -> Result<(), String> {
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
        flushed = lane.flush(None) => flushed.map(drop).map_err(|why| format!("lane {}: {why}", lane.name())),
        () = away => Err(format!("lane {}: postgres can't be reached", lane.name())),
    }
}

/// Up to where the journal knows everything of each lane to be in Postgres.
fn positions(opened: &Journal, layout: &Layout) -> Vec<Sequence> {
    // Saves are only removed once Postgres was seen to hold them, which may be later than the position that was noted. (A
    // fold that began before the gap would hide it from a database that went back in time.)
    let all = layout.begins().max(opened.oldest());
    let lanes = (0..).map(LaneId).take(layout.lanes.count());
    lanes.map(|lane| opened.settled_hint(lane).max(all)).collect()
}

/// Before the journal is made, like the check of `postgres.url`.
async fn load_targets(settings: &Settings) -> Result<Targets, Failure> {
    let settings = settings.clone();
    let loaded = tokio::task::spawn_blocking(move || Targets::load(&settings)).await;
    loaded.or_exit(Exit::Internal, "read the endpoints")?.or_exit(Exit::Settings, "read the endpoints of the settings")
}

/// What the journal's ledger has to say.
async fn recall<T: Send + 'static>(
    ledger: &Ledger,
    read: impl FnOnce(&Ledger) -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, Failure> {
    let ledger = ledger.clone();
    let read = tokio::task::spawn_blocking(move || read(&ledger)).await.expect("the ledger doesn't panic");
    read.or_exit(Exit::JournalIo, "read the journal's ledger")
}

/// Before the journal is made: a start that can't be leaves nothing behind.
fn check_url(settings: &Settings) -> Result<(), Failure> {
    Postgres::new(&settings.postgres, 1).map(drop).or_exit(Exit::Settings, "read postgres.url")
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

async fn open(settings: JournalSettings) -> Result<Journal, Failure> {
    let opened = tokio::task::spawn_blocking(move || Journal::open(&settings)).await;
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
    after: &[Sequence],
    (callbacks, failed, backlogs): (&Callbacks, &FailedSaves, &Backlogs),
    observer: &Observer,
    fatal: oneshot::Sender<String>,
) -> Result<Running, Failure> {
    let (callbacks, failed, backlogs, metrics) = (callbacks.clone(), failed.clone(), backlogs.clone(), observer.0.clone());
    let events = journal::Events {
        offer: Box::new(move |group| {
            callbacks.see(&group);
            failed.hand_on(group, |group| backlogs.offer(group));
        }),
        on_group: Box::new(move |group| metrics.group_synced(u64::from(group.saves), group.sync)),
        on_fatal: Box::new(move |reason| drop(fatal.send(reason))),
    };
    opened.start(limits, after, events).or_exit(Exit::JournalIo, "start the journal")
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
