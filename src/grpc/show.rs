//! Plain data as messages of the contract.

use std::time::{Duration, SystemTime};

use crate::{
    collections::{Collection, Collections, Column, Mode},
    failed::{FailedRow, FailedState, SaveKind},
    limits::LimitKind,
    proto,
    status::{EndpointStatus, LaneState, LaneStatus, LimitStatus, StatusSnapshot},
};

pub(super) fn collections(collections: &Collections, lanes: &[String]) -> proto::ListCollectionsResponse {
    let refused = collections.refused().iter();
    proto::ListCollectionsResponse {
        collections: collections.iter().map(|shown| collection(shown, lanes)).collect(),
        refused_tables: refused.map(|table| proto::RefusedTable { name: table.name.clone(), reason: table.reason.clone() }).collect(),
    }
}

fn collection(shown: &Collection, lanes: &[String]) -> proto::Collection {
    let mode = match shown.mode {
        Mode::Upsert => proto::CollectionMode::Upsert,
        Mode::Append => proto::CollectionMode::Append,
    };
    proto::Collection {
        name: shown.name.to_string(),
        table: format!("{}.{}", shown.schema, shown.table),
        key: shown.key_columns().map(|column| column.name.clone()).collect(),
        columns: shown
            .columns
            .iter()
            .enumerate()
            .filter(|(_, column)| !column.gone)
            .map(|(n, one)| column(one, is_key(shown, n)))
            .collect(),
        mode: mode.into(),
        lane: lanes.get(usize::from(shown.lane.0)).cloned().unwrap_or_default(),
        version_column: shown.version.map(|index| shown.columns[usize::from(index)].name.clone()).unwrap_or_default(),
        on_failed: shown.on_failed.clone().unwrap_or_default(),
    }
}

fn is_key(collection: &Collection, column: usize) -> bool {
    collection.key.iter().any(|&index| usize::from(index) == column)
}

/// An identity column that is always generated may be named in a key.
fn column(shown: &Column, is_key: bool) -> proto::Column {
    proto::Column {
        name: shown.name.clone(),
        r#type: shown.cast.clone(),
        not_null: shown.not_null,
        read_only_reason: shown.read_only.filter(|_| !is_key).unwrap_or_default().to_owned(),
    }
}

pub(super) fn status(snapshot: StatusSnapshot, failed_save: impl Fn(FailedRow) -> proto::FailedSave) -> proto::Status {
    let collections = snapshot.collections.into_iter();
    proto::Status {
        version: snapshot.version.to_owned(),
        start_time: Some(snapshot.started_at.into()),
        journal_id: snapshot.journal_id,
        run: snapshot.run,
        accepted_through: snapshot.accepted_through.get(),
        postgres_up: snapshot.postgres_up,
        lanes: snapshot.lanes.into_iter().map(lane).collect(),
        collections: collections
            .map(|one| proto::CollectionStatus { name: one.name, backlog_objects: one.backlog_objects, backlog_bytes: one.backlog_bytes })
            .collect(),
        journal: Some(proto::JournalStatus {
            bytes: snapshot.journal.bytes,
            free_bytes: snapshot.journal.free_bytes,
            segments: snapshot.journal.segments,
            retained: Some(duration(snapshot.journal.retained)),
        }),
        limits: snapshot.limits.into_iter().map(limit).collect(),
        failed_saves: snapshot.failed_saves,
        newest_failed_saves: snapshot.newest_failed_saves.into_iter().map(failed_save).collect(),
        refused_tables: snapshot.refused_tables,
        endpoints: snapshot.endpoints.into_iter().map(endpoint).collect(),
    }
}

fn endpoint(shown: EndpointStatus) -> proto::EndpointStatus {
    proto::EndpointStatus {
        disabled: shown.disabled,
        pending: shown.pending,
        delivered: shown.delivered,
        failed_attempts: shown.refused + shown.timed_out + shown.unreachable,
        given_up: shown.too_old + shown.dropped,
        last_error: shown.last_error,
        oldest_accept_time: shown.oldest_accepted_at.map(SystemTime::into),
        name: shown.name,
    }
}

fn lane(shown: LaneStatus) -> proto::LaneStatus {
    proto::LaneStatus {
        name: shown.name,
        state: lane_state(shown.state).into(),
        reason: shown.reason,
        remedy: shown.remedy,
        position: shown.position.get(),
        backlog_objects: shown.backlog_objects,
        backlog_bytes: shown.backlog_bytes,
        backlog_saves: shown.backlog_saves,
        oldest_accept_time: shown.oldest_accepted_at.map(SystemTime::into),
        pause_end_time: shown.pause_ends_at.map(SystemTime::into),
        rows_written: shown.rows_written,
        transactions: shown.transactions,
        statement_rows: shown.statement_rows,
    }
}

fn lane_state(state: LaneState) -> proto::LaneState {
    match state {
        LaneState::Connecting => proto::LaneState::Connecting,
        LaneState::Idle => proto::LaneState::Idle,
        LaneState::Gathering => proto::LaneState::Gathering,
        LaneState::Applying => proto::LaneState::Applying,
        LaneState::Retrying => proto::LaneState::Retrying,
        LaneState::Paused => proto::LaneState::Paused,
        LaneState::Halted => proto::LaneState::Halted,
        LaneState::Fenced => proto::LaneState::Fenced,
        LaneState::Stopped => proto::LaneState::Stopped,
    }
}

pub(super) fn limit(shown: LimitStatus) -> proto::LimitStatus {
    let kind = match shown.kind {
        LimitKind::Amount => proto::LimitKind::Amount,
        LimitKind::Size => proto::LimitKind::Size,
        LimitKind::Reserve => proto::LimitKind::Reserve,
        LimitKind::Rate => proto::LimitKind::Rate,
    };
    proto::LimitStatus { name: shown.name.to_owned(), max: shown.max, used: shown.used, kind: kind.into() }
}

pub(super) fn failed_save(shown: FailedRow, ticket: String, close_ticket: String) -> proto::FailedSave {
    let state = failed_state(shown.state()).into();
    let FailedRow { sequence, collection, key, kind, body, added, sqlstate, constraint, message, detail, accepted_at, failed_at, closed } =
        shown;
    let (sqlstate, constraint) = (sqlstate.unwrap_or_default(), constraint.unwrap_or_default());
    proto::FailedSave {
        ticket,
        sequence: sequence.get(),
        collection,
        key,
        failure: Some(proto::Failure { sqlstate, constraint, message }),
        accept_time: Some(accepted_at.into()),
        fail_time: Some(failed_at.into()),
        kind: save_kind(kind).into(),
        state,
        close_time: closed.as_ref().map(|closed| closed.at.into()),
        close_ticket,
        discard_reason: closed.and_then(|closed| closed.note).unwrap_or_default(),
        json: body.unwrap_or_default().into_bytes(),
        detail: detail.unwrap_or_default(),
        add: added,
    }
}

fn failed_state(state: FailedState) -> proto::FailedSaveState {
    match state {
        FailedState::Open => proto::FailedSaveState::Open,
        FailedState::Retried => proto::FailedSaveState::Retried,
        FailedState::Discarded => proto::FailedSaveState::Discarded,
        FailedState::Overtaken => proto::FailedSaveState::Overtaken,
    }
}

fn save_kind(kind: SaveKind) -> proto::SaveKind {
    match kind {
        SaveKind::Set => proto::SaveKind::Set,
        SaveKind::Delete => proto::SaveKind::Delete,
        SaveKind::Append => proto::SaveKind::Append,
    }
}

/// What doesn't fit (three hundred thousand million years) is shown as nothing.
fn duration(shown: Duration) -> prost_types::Duration {
    shown.try_into().unwrap_or_default()
}
