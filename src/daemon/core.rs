//! Everything behind the front door: journal, catalog, backlog and lanes, opened and recovered; the same for a daemon that
//! serves and for `forebay drain`.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Left, callbacks,
    control::Controls,
    layout::{EMPTY_PATIENCE, EMPTY_TIMEOUT, Layout, Wanted},
    observe::Observer,
    reads::Reads,
    streams,
};
use crate::{
    collections::Lanes,
    drain::{End, LaneHandle, LaneState},
    exit::{Exit, Failure, OrExit},
    grpc::{RequestIds, Streams},
    journal::{OpenError, Running},
    limits::Limits,
    postgres::PositionRow,
    settings::Settings,
};

mod opening;

use self::opening::Found;

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
        let mut found = Found::look(settings, wanted, stop).await?;
        let other = found.other.take();
        let core = found.recover(settings).await?.start(settings, take_over).await?;
        Ok((core, other))
    }

    /// Puts these lanes in the place of those that run, once nothing waits, to be written or to be noted; see [`layout`](super::layout).
    async fn change_lanes(mut self, lanes: Lanes, settings: &Settings, stop: &CancellationToken) -> Result<Self, Failure> {
        tracing::info!(%lanes, "the settings have other lanes than the journal: draining before they change");
        let emptied = timeout(EMPTY_TIMEOUT, self.emptied(stop)).await;
        let emptied = emptied.unwrap_or_else(|_| Err(self.not_emptied()));
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

    /// The same, and until every callback is noted: a lane's mark says nothing of what another lane has accepted.
    async fn emptied(&self, stop: &CancellationToken) -> Result<(), String> {
        self.drained(EMPTY_PATIENCE, stop).await?;
        tokio::select! {
            () = self.controls.callbacks.all_noted() => {}
            () = stop.cancelled() => {}
        }
        Ok(())
    }

    fn not_emptied(&self) -> String {
        let what = if left(&self.controls.lanes).drained { "callbacks are still to be noted after" } else { "not drained within" };
        format!("{what} {} s", EMPTY_TIMEOUT.as_secs())
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
