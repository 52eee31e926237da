//! What the front door may ask: answered by the lanes, the journal and the catalog.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::try_join_all;
use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::{callbacks::Callbacks, catalog::SharedCollections, failed::FailedSaves, outcomes::Outcomes, watch::Watches};
use crate::{
    backlog::Footprint,
    collections::Collections,
    drain::{LaneHandle, LaneState, NotFlushed, RowRate},
    failed::{FailedFilter, FailedPage, FailedQuery},
    grpc::{Control, FailedStanding, FlushError, Resume, SettleError},
    journal::Monitor,
    limits::{Limit, Limits},
    outcomes::{Outcome, Ticket, TicketStatus, Tickets, Untold, Waiting, Watch, WatchEnd, WatchEvent},
    postgres::Postgres,
    save::{CollectionId, LaneId, Sequence},
    status::{self, CollectionStatus, JournalStatus, LaneStatus, LimitStatus, StatusSnapshot},
};

/// The daemon as its callers see it.
pub(super) struct Controls {
    pub(super) collections: SharedCollections,
    pub(super) postgres: Postgres,
    pub(super) lanes: Vec<LaneHandle>,
    pub(super) limits: Limits,
    pub(super) row_rate: RowRate,
    pub(super) journal: Monitor,
    pub(super) tickets: Tickets,
    pub(super) outcomes: Outcomes,
    pub(super) watches: Watches,
    pub(super) run: u64,
    pub(super) started_at: SystemTime,
    pub(super) failed: FailedSaves,
    pub(super) callbacks: Callbacks,
}

impl Controls {
    /// The rows of a fenced daemon are another's to care for.
    fn not_fenced(&self) -> Result<(), String> {
        let fenced = self.lanes.iter().any(|lane| matches!(*lane.state().borrow(), LaneState::Fenced { .. }));
        if fenced { Err("another daemon has taken over".to_owned()) } else { Ok(()) }
    }

    fn lanes<'a>(&'a self, ids: &'a [LaneId]) -> impl Iterator<Item = &'a LaneHandle> {
        self.lanes.iter().filter(|lane| ids.contains(&lane.id()))
    }

    /// Somebody knows that the tables have changed.
    pub(super) async fn reread_catalog(&self) {
        self.collections.reread().await;
        // A lane may stand in front of what is repaired.
        self.probe();
    }

    /// Every limit as it is now.
    pub(super) fn limits(&self) -> impl Iterator<Item = &Limit> {
        self.limits.readers.set_used(self.postgres.readers() as u64);
        self.row_rate.measure(Instant::now());
        self.limits.all()
    }
}

#[tonic::async_trait]
impl Control for Controls {
    fn collections(&self) -> Arc<Collections> {
        self.collections.now()
    }

    async fn refresh_collections(&self) -> Arc<Collections> {
        match self.collections.refresh().await {
            Ok(collections) => collections,
            Err(error) => {
                tracing::debug!(%error, "the catalog can't be read again");
                self.collections.now()
            }
        }
    }

    async fn flush(&self, lanes: &[LaneId]) -> Result<Sequence, FlushError> {
        // What each has to reach is fixed before any is waited for. One that can't get there ends the wait for the others.
        let flushes = self.lanes(lanes).map(|lane| {
            let (through, passed) = (lane.backlog().through(), lane.backlog().passed());
            async move {
                lane.flush(Some(through)).await.map_err(|why| flush_error(lane, why))?;
                // Up to where others have passed it by, the lane has no save after its own last one.
                Ok(passed.max(*lane.position().borrow()))
            }
        });
        let flushes: Vec<_> = flushes.collect();
        Ok(try_join_all(flushes).await?.into_iter().min().unwrap_or_default())
    }

    async fn pause(&self, lanes: &[LaneId], reason: &str, duration: Duration) -> SystemTime {
        let ends_at = SystemTime::now() + duration;
        for lane in self.lanes(lanes) {
            lane.pause(reason, Some(duration));
        }
        for lane in self.lanes(lanes) {
            lane.paused().await;
        }
        ends_at
    }

    async fn resume(&self, lanes: &[LaneId], how: Resume) -> Vec<LaneId> {
        let held = |lane: &&LaneHandle| match &*lane.state().borrow() {
            LaneState::Halted(halt) => how != Resume::AcceptGap || halt.at_gap,
            LaneState::Paused { .. } => how != Resume::AcceptGap,
            _ => false,
        };
        let resumed: Vec<_> = self.lanes(lanes).filter(held).map(LaneHandle::id).collect();
        self.lanes(lanes).for_each(|lane| match how {
            Resume::GoOn => lane.resume(false),
            Resume::Fail => lane.resume(true),
            Resume::AcceptGap => lane.accept_gap(),
        });
        resumed
    }

    fn probe(&self) {
        self.lanes.iter().for_each(LaneHandle::probe);
    }

    async fn list_failed(&self, query: &FailedQuery) -> Result<FailedPage, String> {
        self.not_fenced()?;
        self.failed.list(query).await.map_err(|failure| failure.to_string())
    }

    async fn settle_failed(&self) -> Result<(), SettleError> {
        self.not_fenced().map_err(SettleError::Unavailable)?;
        if !self.failed.is_counted(self.lanes.iter().map(LaneHandle::id)) {
            let why = "the failed saves have not been counted since the start: the first contact is awaited";
            return Err(SettleError::Unavailable(why.to_owned()));
        }
        for lane in &self.lanes {
            let flushed = lane.flush(Some(self.failed.since(lane.id()))).await;
            flushed.map_err(|why| SettleError::Lane(flush_error(lane, why)))?;
        }
        Ok(())
    }

    async fn failed_care(&self) -> OwnedMutexGuard<()> {
        self.failed.care().await
    }

    fn failed_standings(&self, sequences: &[Sequence]) -> Vec<FailedStanding> {
        let settled = self.lanes.iter().map(|lane| *lane.position().borrow()).min().unwrap_or_default();
        self.failed.standings(sequences, settled)
    }

    async fn discard_failed(&self, filter: &FailedFilter, reason: &str) -> Result<Vec<Sequence>, String> {
        self.not_fenced()?;
        let discarded = self.failed.discard(filter, reason).await.map_err(|failure| failure.to_string())?;
        // A lane may stand in front of a save that had no room to fail.
        self.probe();
        Ok(discarded)
    }

    fn lane_of(&self, collection: &str) -> LaneId {
        self.collections.lanes().lane_of(collection)
    }

    async fn ticket(&self, ticket: Ticket) -> Result<TicketStatus, Untold> {
        self.outcomes.status(ticket).await
    }

    fn outcomes(&self, tickets: &[Ticket]) -> Vec<Outcome> {
        self.outcomes.of_all(tickets)
    }

    fn newest(&self, lane: LaneId) -> Ticket {
        let handle = self.lanes.get(usize::from(lane.0));
        Ticket { sequence: handle.map(|handle| handle.backlog().through()).unwrap_or_default(), lane }
    }

    fn wait(&self, ticket: Ticket) -> Waiting {
        self.outcomes.wait(ticket)
    }

    async fn watched(&self, watch: &mut Watch) -> Result<Vec<WatchEvent>, WatchEnd> {
        self.watches.next(watch).await
    }

    async fn status(&self) -> StatusSnapshot {
        let journal = self.journal.stats();
        let backlogs: Vec<_> = self.lanes.iter().map(|lane| lane.backlog().by_collection()).collect();
        // After the backlogs: it knows the number of every collection in them.
        let collections = self.collections.now();
        StatusSnapshot {
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.started_at,
            journal_id: self.tickets.journal().to_string(),
            run: self.run,
            accepted_through: self.lanes.iter().map(|lane| lane.backlog().through()).max().unwrap_or_default(),
            postgres_up: postgres_up(&self.lanes),
            lanes: self.lanes.iter().map(lane_status).collect(),
            collections: backlogs.into_iter().flat_map(|backlog| collection_statuses(backlog, &collections)).collect(),
            journal: JournalStatus {
                bytes: self.limits.journal_bytes.used(),
                free_bytes: journal.free_bytes,
                segments: journal.segments,
                retained: journal.retained,
            },
            limits: self.limits().map(LimitStatus::from).collect(),
            failed_saves: self.limits.failed_saves.used(),
            newest_failed_saves: self.failed.newest().await,
            refused_tables: collections.refused().len() as u64,
            endpoints: self.callbacks.statuses(),
        }
    }
}

/// Whether Postgres answered when a lane last asked.
pub(super) fn postgres_up(lanes: &[LaneHandle]) -> bool {
    lanes.iter().all(|lane| !matches!(*lane.state().borrow(), LaneState::Connecting | LaneState::Retrying { .. }))
}

fn flush_error(lane: &LaneHandle, why: NotFlushed) -> FlushError {
    let lane_id = lane.id();
    match why {
        NotFlushed::Paused(reason) => FlushError::Paused { lane: lane_id, reason: reason.to_string() },
        NotFlushed::Halted(reason) => {
            let remedy = match &*lane.state().borrow() {
                LaneState::Halted(halt) => halt.remedy.to_string(),
                _ => String::new(),
            };
            FlushError::Halted { lane: lane_id, reason, remedy }
        }
        NotFlushed::Fenced => FlushError::Fenced { lane: lane_id },
        NotFlushed::Stopped => FlushError::Stopping,
    }
}

fn lane_status(lane: &LaneHandle) -> LaneStatus {
    let seen = lane.status();
    let now = Instant::now();
    let mut shown = LaneStatus {
        name: seen.name.to_string(),
        state: state(&seen.state),
        reason: String::new(),
        remedy: String::new(),
        position: seen.position,
        backlog_objects: seen.backlog.footprint.objects,
        backlog_bytes: seen.backlog.footprint.bytes,
        backlog_saves: seen.backlog.saves,
        oldest_accepted_at: seen.backlog.oldest_accepted_at,
        pause_ends_at: None,
        rows_written: seen.counts.rows,
        transactions: seen.counts.transactions,
        statement_rows: seen.statement_rows,
    };
    match seen.state {
        LaneState::Paused { reason, until } => {
            shown.reason = reason.to_string();
            shown.pause_ends_at = Some(SystemTime::now() + until.saturating_duration_since(now));
        }
        LaneState::Halted(halt) => {
            shown.reason = halt.reason;
            shown.remedy = halt.remedy.into();
        }
        LaneState::Waiting { for_rate: true, .. } => shown.reason = "drain.rows_per_second_max lets it write no more for now".to_owned(),
        LaneState::Retrying { .. } => shown.reason = seen.last_error.map(|error| error.message).unwrap_or_default(),
        _ => {}
    }
    shown
}

pub(super) fn state(state: &LaneState) -> status::LaneState {
    match state {
        LaneState::Connecting => status::LaneState::Connecting,
        LaneState::Idle => status::LaneState::Idle,
        LaneState::Waiting { .. } => status::LaneState::Gathering,
        LaneState::Applying { .. } => status::LaneState::Applying,
        LaneState::Retrying { .. } => status::LaneState::Retrying,
        LaneState::Paused { .. } => status::LaneState::Paused,
        LaneState::Halted(_) => status::LaneState::Halted,
        LaneState::Fenced { .. } => status::LaneState::Fenced,
        LaneState::Stopped => status::LaneState::Stopped,
    }
}

fn collection_statuses(backlog: HashMap<CollectionId, Footprint>, collections: &Collections) -> Vec<CollectionStatus> {
    let mut shown: Vec<_> = backlog
        .into_iter()
        .map(|(id, footprint)| CollectionStatus {
            name: collections.get(id).name.to_string(),
            backlog_objects: footprint.objects,
            backlog_bytes: footprint.bytes,
        })
        .collect();
    shown.sort_by(|a, b| a.name.cmp(&b.name));
    shown
}
