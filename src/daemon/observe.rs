//! What the stages tell and show, as metrics.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::control::{Controls, postgres_up, state};
use crate::{
    backlog::Generation,
    grpc::{self, Health},
    limits::{self, Limit},
    metrics::{
        CollectionObservation, EndpointObservation, JournalObservation, LaneObservation, LaneState, LimitKind, LimitObservation, Metrics,
        Observation, Refused, RetryReason, RowOp, Rpc, TransactionResult,
    },
    postgres::{Action, ApplyError, Failure, RowsWritten, Written},
    save::{Accepted, CollectionId, LaneId},
    status,
};

/// Tells the metrics what happened. Cheap to clone.
#[derive(Clone)]
pub(super) struct Observer(pub(super) Metrics);

impl Observer {
    /// A writing transaction of a lane ended.
    pub(super) fn transaction_ended(&self, lane: LaneId, ended: &Result<Written, ApplyError>, elapsed: Duration) {
        let result = match ended {
            Ok(_) => TransactionResult::Committed,
            Err(ApplyError::InDoubt(_)) => TransactionResult::InDoubt,
            Err(ApplyError::Failed(failure)) if failure.sqlstate.is_none() => TransactionResult::Lost,
            Err(_) => TransactionResult::RolledBack,
        };
        self.0.transaction_ended(usize::from(lane.0), result, elapsed);
        match ended {
            Ok(written) => written.statement_times.iter().for_each(|&took| self.0.statement_ended(usize::from(lane.0), took)),
            Err(ApplyError::Catalog) => self.0.drain_retried(RetryReason::CatalogChanged),
            Err(ApplyError::Fence) => self.0.drain_retried(RetryReason::PositionMoved),
            Err(ApplyError::InDoubt(_)) => self.0.drain_retried(RetryReason::Connection),
            Err(ApplyError::Failed(failure)) => self.0.drain_retried(retry_reason(failure.action)),
        }
    }

    /// A transaction was committed: a generation's rows, but for the saves that failed; or failed saves alone.
    pub(super) fn settled(&self, generation: Option<&Generation>, failed: &[(Accepted, Failure)], written: &Written) {
        for (collection, rows) in &written.collections {
            self.rows(*collection, *rows);
        }
        for (collection, saves) in &written.superseded {
            self.0.saves_superseded(index(*collection), saves.len() as u64);
        }
        for (accepted, _) in failed {
            self.0.saves_failed(index(accepted.save.collection), 1);
        }
        let Some(generation) = generation else { return };
        let failed = |id: CollectionId| failed.iter().filter(|(accepted, _)| accepted.save.collection == id).count() as u64;
        for (collection, fold) in generation.parts.iter().flat_map(|part| &part.collections) {
            let saves = fold.objects.values().map(|object| u64::from(object.saves)).sum::<u64>();
            self.0.saves_persisted(index(*collection), saves + fold.appended.len() as u64 - failed(*collection));
            self.0.saves_folded(index(*collection), saves + fold.appended.len() as u64 - fold.footprint.objects);
        }
        // A clock that was set back makes no save older than it is.
        let age = generation.oldest_accepted_at.and_then(|at| SystemTime::now().duration_since(at).ok());
        age.into_iter().for_each(|age| self.0.generation_persisted(age));
    }

    fn rows(&self, collection: CollectionId, rows: RowsWritten) {
        let kinds =
            [(RowOp::Update, rows.updated), (RowOp::Insert, rows.inserted), (RowOp::Delete, rows.deleted), (RowOp::Append, rows.appended)];
        for (op, count) in kinds {
            self.0.rows_written(index(collection), op, count);
        }
    }
}

fn index(collection: CollectionId) -> usize {
    collection.0 as usize
}

fn retry_reason(action: Action) -> RetryReason {
    match action {
        Action::Reconnect | Action::ReconnectThenHalt | Action::InDoubt => RetryReason::Connection,
        Action::RetryThenShrink => RetryReason::Conflict,
        Action::Retry | Action::Shrink => RetryReason::Timeout,
        Action::RetryThenHalt => RetryReason::Resources,
        Action::Halve | Action::RowsOwn | Action::RetryThenHalve => RetryReason::Halved,
        Action::Unclear | Action::Halt => RetryReason::Other,
    }
}

impl grpc::Events for Observer {
    fn saves_accepted(&self, collection: CollectionId, count: u64) {
        self.0.saves_accepted(index(collection), count);
    }

    fn saves_refused(&self, collection: Option<CollectionId>, reason: &'static str, count: u64) {
        let reason = Refused::ALL.into_iter().find(|known| known.label().eq_ignore_ascii_case(reason));
        self.0.saves_refused(collection.map(index), reason.unwrap_or(Refused::InvalidSave), count);
    }

    fn saves_deduplicated(&self, collection: CollectionId, count: u64) {
        self.0.saves_deduplicated(index(collection), count);
    }

    fn acknowledged(&self, rpc: grpc::Rpc, after: Duration) {
        self.0.acknowledged(label(rpc), after);
    }

    fn call_started(&self, rpc: grpc::Rpc) {
        self.0.call_started(label(rpc));
    }

    fn call_ended(&self, rpc: grpc::Rpc) {
        self.0.call_ended(label(rpc));
    }
}

fn label(rpc: grpc::Rpc) -> Rpc {
    match rpc {
        grpc::Rpc::Save => Rpc::Save,
        grpc::Rpc::SaveBatch => Rpc::SaveBatch,
        grpc::Rpc::SaveStream => Rpc::SaveStream,
        grpc::Rpc::GetTicket => Rpc::GetTicket,
        grpc::Rpc::AwaitTicket => Rpc::AwaitTicket,
        grpc::Rpc::WatchOutcomes => Rpc::WatchOutcomes,
        grpc::Rpc::Flush => Rpc::Flush,
        grpc::Rpc::Get => Rpc::Get,
        grpc::Rpc::Load => Rpc::Load,
    }
}

/// What a scrape finds.
pub(super) fn observation(controls: &Arc<Controls>, health: &Health) -> Observation {
    let journal = controls.journal.stats();
    let mut collections = Vec::new();
    for lane in &controls.lanes {
        for (id, footprint) in lane.backlog().by_collection() {
            let collection = at(&mut collections, id);
            collection.backlog_objects += footprint.objects;
            collection.backlog_bytes += footprint.bytes;
        }
    }
    for (id, count) in controls.failed.counts() {
        at(&mut collections, id).failed_saves = count;
    }
    let lanes = controls.lanes.iter().map(|lane| {
        let seen = lane.status();
        let oldest_age = seen.backlog.oldest_accepted_at.and_then(|at| SystemTime::now().duration_since(at).ok());
        LaneObservation { state: lane_state(state(&seen.state)), oldest_age, statement_rows: seen.statement_rows }
    });
    let lanes: Vec<_> = lanes.collect();
    Observation {
        ready: health.is_serving(),
        paused: lanes.iter().any(|lane| lane.state == LaneState::Paused),
        postgres_up: postgres_up(&controls.lanes),
        postgres_connections: controls.postgres.connections() as u64,
        limits: controls.limits().map(limit).collect(),
        collections,
        lanes,
        journal: JournalObservation {
            bytes: controls.limits.journal_bytes.used(),
            free_bytes: journal.free_bytes,
            retained: journal.retained,
        },
        endpoints: controls.callbacks.statuses().into_iter().map(endpoint).collect(),
    }
}

/// The arrays are in the order of the labels.
fn endpoint(seen: status::EndpointStatus) -> EndpointObservation {
    let oldest_age = seen.oldest_accepted_at.and_then(|at| SystemTime::now().duration_since(at).ok());
    EndpointObservation {
        disabled: seen.disabled,
        pending: seen.pending,
        oldest_age: oldest_age.unwrap_or_default(),
        attempts: [seen.delivered, seen.refused, seen.timed_out, seen.unreachable],
        given_up: [seen.too_old, seen.dropped],
        name: seen.name,
    }
}

fn limit(limit: &Limit) -> LimitObservation {
    let kind = match limit.kind() {
        limits::LimitKind::Amount => LimitKind::Amount,
        limits::LimitKind::Size => LimitKind::Size,
        limits::LimitKind::Reserve => LimitKind::Reserve,
        limits::LimitKind::Rate => LimitKind::Rate,
    };
    LimitObservation { kind, name: limit.name(), max: limit.max(), used: limit.used() }
}

fn at(collections: &mut Vec<CollectionObservation>, id: CollectionId) -> &mut CollectionObservation {
    if collections.len() <= index(id) {
        collections.resize(index(id) + 1, CollectionObservation::default());
    }
    &mut collections[index(id)]
}

fn lane_state(state: status::LaneState) -> LaneState {
    match state {
        status::LaneState::Connecting => LaneState::Connecting,
        status::LaneState::Idle => LaneState::Idle,
        status::LaneState::Gathering => LaneState::Gathering,
        status::LaneState::Applying => LaneState::Applying,
        status::LaneState::Retrying => LaneState::Retrying,
        status::LaneState::Paused => LaneState::Paused,
        status::LaneState::Halted => LaneState::Halted,
        status::LaneState::Fenced => LaneState::Fenced,
        status::LaneState::Stopped => LaneState::Stopped,
    }
}
