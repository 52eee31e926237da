//! What is told: an outcome as JSON, without the data of the row beyond its key.

use std::{sync::Arc, time::SystemTime};

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    collections::Collections,
    journal::Entry,
    outcomes::{State, Ticket, Tickets},
    postgres::FailedOutcome,
    save::{Accepted, Callback, Key, LaneId, Sequence, StreamOrigin},
    webhooks::Delivery,
};

/// What Postgres says may be as long as a row; this much of it is told.
const REASON_CHARS_MAX: usize = 2_000;

/// A save whose outcome is to be told.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) sequence: Sequence,
    /// The lane that it was accepted for, as in its ticket.
    lane: LaneId,
    pub(super) callback: Arc<Callback>,
    collection: Arc<str>,
    key: Key,
    accepted_at: SystemTime,
    origin: Option<StreamOrigin>,
}

impl Awaited {
    /// Of a save that was just accepted, with its lane.
    pub(super) fn of(Accepted { sequence, save }: &Accepted, collections: &Collections) -> Option<(LaneId, Self)> {
        let awaited = Self {
            sequence: *sequence,
            lane: save.lane,
            callback: Arc::clone(save.callback.as_ref()?),
            collection: Arc::clone(&collections.get(save.collection).name),
            key: save.key.clone(),
            accepted_at: save.accepted_at,
            origin: save.origin,
        };
        Some((save.lane, awaited))
    }

    /// Of a save found in the journal.
    pub(super) fn found(Entry { sequence, record }: &Entry) -> Option<Self> {
        Some(Self {
            sequence: *sequence,
            lane: record.lane,
            callback: Arc::clone(record.callback.as_ref()?),
            collection: record.collection.as_str().into(),
            key: record.key.clone(),
            accepted_at: record.accepted_at,
            origin: record.origin,
        })
    }
}

/// Makes messages.
#[derive(Debug)]
pub(super) struct Messages(pub(super) Tickets);

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    ticket: &'a str,
    collection: &'a str,
    key: Vec<&'a str>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    accept_time: String,
}

#[derive(Serialize)]
struct Failure<'a> {
    sqlstate: Option<&'a str>,
    constraint: Option<&'a str>,
    message: String,
}

impl Messages {
    /// The id of the message that answers a save's callback.
    pub(super) fn id_of_save(&self, awaited: &Awaited) -> String {
        format!("save_{}", self.ticket(awaited.sequence, awaited.lane))
    }

    /// The answer to a save's callback, at the time `now`; without a failure it is persisted.
    pub(super) fn of_save(&self, awaited: &Awaited, failed: Option<&FailedOutcome>, now: SystemTime) -> Delivery {
        let ticket = self.ticket(awaited.sequence, awaited.lane);
        let data = Data {
            ticket: &ticket,
            collection: &awaited.collection,
            key: awaited.key.parts().collect(),
            state: if failed.is_some() { State::Failed } else { State::Persisted }.name(),
            failure: failed.map(Failure::of),
            request_id: &awaited.callback.request_id,
            stream_id: awaited.origin.map(|origin| Uuid::from_bytes(origin.stream_id).to_string()),
            offset: awaited.origin.map(|origin| origin.offset),
            accept_time: time(awaited.accepted_at),
        };
        let (id, body, endpoint) = (self.id_of_save(awaited), data.told(now), awaited.callback.endpoint.to_string());
        Delivery { endpoint, id, ticket, accepted_at: awaited.accepted_at, known_at: now, body }
    }

    /// What a collection's `on_failed` endpoint is told of a failed save of this lane.
    pub(super) fn of_failure(&self, failed: &FailedOutcome, lane: LaneId, endpoint: &str, now: SystemTime) -> Delivery {
        let ticket = self.ticket(failed.sequence, lane);
        let data = Data {
            ticket: &ticket,
            collection: &failed.collection,
            key: failed.key.iter().map(String::as_str).collect(),
            state: State::Failed.name(),
            failure: Some(Failure::of(failed)),
            request_id: "",
            stream_id: None,
            offset: None,
            accept_time: time(failed.accepted_at),
        };
        let (id, body) = (format!("failure_{ticket}"), data.told(now));
        Delivery { endpoint: endpoint.to_owned(), id, ticket, accepted_at: failed.accepted_at, known_at: now, body }
    }

    fn ticket(&self, sequence: Sequence, lane: LaneId) -> String {
        self.0.show(Ticket { sequence, lane })
    }
}

impl Data<'_> {
    fn told(self, now: SystemTime) -> String {
        let r#type = if self.failure.is_some() { "save.failed" } else { "save.persisted" };
        let message = Message { r#type, timestamp: time(now), data: self };
        serde_json::to_string(&message).expect("a message is plain data")
    }
}

impl<'a> Failure<'a> {
    fn of(failed: &'a FailedOutcome) -> Self {
        let message = failed.message.chars().take(REASON_CHARS_MAX).collect();
        Self { sqlstate: failed.sqlstate.as_deref(), constraint: failed.constraint.as_deref(), message }
    }
}

/// RFC 3339, to the millisecond.
fn time(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "unknown".to_owned(), |time| format!("{time:.3}"))
}
