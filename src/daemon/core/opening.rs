//! A start, step by step: what there is, what waits, and then the lanes go.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Core, journal_failure};
use crate::{
    collections::Lanes,
    daemon::{
        callbacks::{self, Callbacks},
        catalog::SharedCollections,
        control::Controls,
        failed::FailedSaves,
        gaps::Gaps,
        lanes::{LaneMaker, Started},
        layout::{Choice, Handover, Layout, Wanted},
        observe::Observer,
        outcomes::{self, Outcomes},
        reads::Reads,
        recovery::{self, Backlogs},
        rewinds::Rewinds,
        watch::Watches,
    },
    drain::{End, LaneBacklog, RowRate},
    exit::{Exit, Failure, OrExit},
    grpc::{RequestIds, Streams},
    journal::{self, Journal, Ledger, LedgerError, Running},
    limits::Limits,
    metrics::Metrics,
    outcomes::{Superseded, Tickets},
    postgres::Postgres,
    save::{LaneId, Sequence},
    settings::{JournalSettings, Settings},
    webhooks::Targets,
};

/// With a catalog in the journal, a start doesn't wait longer for Postgres.
const CATALOG_TIMEOUT: Duration = Duration::from_millis(500);
/// Between looks for a Postgres that the first start needs.
const FIRST_WAIT_INTERVAL: Duration = Duration::from_millis(500);

/// The journal and the catalog, before anything runs.
pub(super) struct Found {
    started: Instant,
    started_at: SystemTime,
    limits: Limits,
    targets: Targets,
    opened: Journal,
    layout: Layout,
    /// The lanes that the settings want instead.
    pub(super) other: Option<Lanes>,
    observer: Observer,
    postgres: Postgres,
    collections: SharedCollections,
}

/// The journal runs, and what it holds is folded.
pub(super) struct Recovered {
    started: Instant,
    started_at: SystemTime,
    limits: Limits,
    layout: Layout,
    observer: Observer,
    postgres: Postgres,
    collections: SharedCollections,
    journal: Running,
    journal_id: Uuid,
    /// Told when the journal fails.
    fatal: oneshot::Receiver<String>,
    /// The last save that it held.
    last: Sequence,
    backlogs: Backlogs,
    known: Known,
    callbacks: Callbacks,
    opening: callbacks::Opening,
    streams: Arc<Streams>,
    request_ids: Arc<RequestIds>,
}

/// What is known of outcomes.
struct Known {
    tickets: Tickets,
    failed: FailedSaves,
    gaps: Gaps,
    rewinds: Rewinds,
    superseded: Arc<Superseded>,
}

impl Found {
    /// Opens the journal and learns the catalog.
    pub(super) async fn look(settings: &Settings, wanted: Wanted, stop: &CancellationToken) -> Result<Self, Failure> {
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let limits = Limits::new(settings);
        check_url(settings)?;
        let targets = load_targets(settings).await?;
        let opened = open(settings.journal.clone()).await?;
        tell_opened(&opened, settings);
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
        Ok(Self { started, started_at, limits, targets, opened, layout, other, observer, postgres, collections })
    }

    /// Starts the journal and folds what is not in Postgres, as far as it knows.
    pub(super) async fn recover(self, settings: &Settings) -> Result<Recovered, Failure> {
        let Self { started, started_at, limits, targets, opened, layout, observer, postgres, collections, .. } = self;
        let (journal_id, ledger) = (Uuid::from_bytes(opened.id().to_bytes()), opened.ledger().clone());
        let (last, after) = (opened.last(), positions(&opened, &layout));
        let backlogs = backlogs(settings, &after, &collections, &limits);
        let failed = FailedSaves::new(postgres.clone(), journal_id, collections.clone(), Arc::clone(&limits.failed_saves));
        let known = Known::recall(&ledger, journal_id, failed).await?;
        let pending = (&collections, &limits.callbacks_pending);
        let callbacks = Callbacks::open((settings, &layout), targets, (&ledger, &known.tickets, &known.rewinds), pending, &after).await;
        let (callbacks, opening) = callbacks.or_exit(Exit::JournalIo, "read the journal's ledger")?;
        let (failed_journal, fatal) = oneshot::channel();
        let journal = start_journal(opened, &limits, &after, (&callbacks, &known.failed, &backlogs), &observer, failed_journal)?;
        callbacks.attach(journal.monitor());
        let retained = journal.monitor();
        let streams = Streams::new(Arc::clone(&limits.request_ids), move || retained.oldest());
        let (retained, retention) = (journal.monitor(), settings.request_ids.retention);
        let request_ids = RequestIds::new(Arc::clone(&limits.request_ids), retention, move || retained.oldest());
        let remembering = (&streams, &request_ids, &callbacks, &opening);
        recovery::recover(&journal, &collections, &backlogs, remembering, (&after, last)).await?;
        Ok(Recovered {
            started,
            started_at,
            limits,
            layout,
            observer,
            postgres,
            collections,
            journal,
            journal_id,
            fatal,
            last,
            backlogs,
            known,
            callbacks,
            opening,
            streams,
            request_ids,
        })
    }
}

impl Known {
    async fn recall(ledger: &Ledger, journal: Uuid, failed: FailedSaves) -> Result<Self, Failure> {
        Ok(Self {
            tickets: Tickets::new(journal, &recall(ledger, outcomes::ticket_key).await?),
            failed,
            gaps: recall(ledger, Gaps::recall).await?,
            rewinds: recall(ledger, Rewinds::recall).await?,
            superseded: Arc::default(),
        })
    }
}

impl Recovered {
    /// Starts the lanes and what goes on beside them.
    pub(super) async fn start(self, settings: &Settings, take_over: bool) -> Result<Core, Failure> {
        let mut lanes = JoinSet::new();
        let row_rate = RowRate::new(Arc::clone(&self.limits.rows_per_second));
        let started_lanes = self.start_lanes(settings, &row_rate, take_over, &mut lanes).await?;
        let Self { limits, layout, observer, postgres, collections, journal, callbacks, streams, request_ids, .. } = self;
        let Known { tickets, failed, gaps, rewinds, superseded } = self.known;
        let (handles, owners): (Vec<_>, Vec<_>) = started_lanes.iter().map(|lane| (lane.handle.clone(), lane.owner)).unzip();
        let telling = callbacks.start((settings, self.opening), self.last, &failed, (&handles, &owners));
        let outcomes = Outcomes::new(
            &handles,
            failed.clone(),
            (gaps.clone(), Arc::clone(&superseded)),
            collections.clone(),
            (journal.run(), layout.begins()),
        );
        let reads = Reads::new(postgres.clone(), collections.clone(), self.journal_id, settings.postgres.readers, started_lanes);
        let mut attendants = JoinSet::new();
        let asked = callbacks.clone();
        attendants.spawn(failed.clone().forget(settings.failed.closed_kept, move || asked.asked_through()));
        outcomes.follow_lanes(&mut attendants);
        let watches =
            Watches { lanes: handles.clone(), collections: collections.clone(), failed: failed.clone(), gaps, rewinds, superseded };
        let controls = Controls {
            collections,
            postgres,
            lanes: handles,
            limits: limits.clone(),
            row_rate,
            journal: journal.monitor(),
            tickets,
            outcomes,
            watches,
            run: journal.run(),
            started_at: self.started_at,
            failed,
            callbacks,
        };
        Ok(Core {
            journal,
            controls: Arc::new(controls),
            reads,
            streams,
            request_ids,
            limits,
            observer,
            started: self.started,
            owners,
            lanes,
            attendants,
            callbacks: telling,
            fatal: self.fatal,
        })
    }

    async fn start_lanes(
        &self,
        settings: &Settings,
        row_rate: &RowRate,
        take_over: bool,
        tasks: &mut JoinSet<End>,
    ) -> Result<Vec<Started>, Failure> {
        let ledger = self.journal.ledger();
        let handover = Handover::new(self.layout.clone(), self.postgres.clone(), ledger.clone(), self.journal_id, take_over);
        let maker = LaneMaker {
            settings,
            limits: &self.limits,
            row_rate,
            postgres: &self.postgres,
            journal: self.journal_id,
            ledger,
            reader: &self.journal.reader(),
            monitor: &self.journal.monitor(),
            collections: &self.collections,
            layout: &self.layout,
            handover: &handover.await.or_exit(Exit::JournalIo, "read the journal's ledger")?,
            failed: &self.known.failed,
            gaps: &self.known.gaps,
            rewinds: &self.known.rewinds,
            superseded: &self.known.superseded,
            observer: &self.observer,
            take_over,
            found: self.last,
            run: self.journal.run(),
        };
        maker.start_all(&self.backlogs, tasks).await.or_exit(Exit::JournalIo, "write the journal's ledger")
    }
}

/// A backlog for each lane, which begins at its position.
fn backlogs(settings: &Settings, after: &[Sequence], collections: &SharedCollections, limits: &Limits) -> Backlogs {
    let reaches = Arc::clone(collections.now().reaches());
    let objects_max = settings.drain.generation_objects_max;
    Backlogs::new(after.iter().map(|&after| LaneBacklog::new(objects_max, after, Arc::clone(&reaches), limits)).collect())
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

async fn open(settings: JournalSettings) -> Result<Journal, Failure> {
    let opened = tokio::task::spawn_blocking(move || Journal::open(&settings)).await;
    opened.or_exit(Exit::Internal, "open journal")?.map_err(|error| journal_failure(error).during("open journal"))
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
