//! A failed save as a line of JSON.

use std::io::{self, Write};

use forebay::proto::{FailedSave, FailedSaveState, RetryResult, SaveKind};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

#[derive(Serialize)]
struct Line<'a> {
    ticket: &'a str,
    sequence: u64,
    collection: &'a str,
    key: &'a [String],
    kind: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sqlstate: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    constraint: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: &'a str,
    accepted_at: String,
    failed_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    close_ticket: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    discard_reason: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    add: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Retried<'a> {
    ticket: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    retry_ticket: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    refusal: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

pub(super) fn write(save: &FailedSave, out: &mut dyn Write) -> io::Result<()> {
    let failure = save.failure.clone().unwrap_or_default();
    let line = Line {
        ticket: &save.ticket,
        sequence: save.sequence,
        collection: &save.collection,
        key: &save.key,
        kind: kind(save.kind()),
        state: state(save.state()),
        sqlstate: &failure.sqlstate,
        constraint: &failure.constraint,
        message: &failure.message,
        detail: &save.detail,
        accepted_at: time(save.accept_time.as_ref()).unwrap_or_default(),
        failed_at: time(save.fail_time.as_ref()).unwrap_or_default(),
        closed_at: time(save.close_time.as_ref()),
        close_ticket: &save.close_ticket,
        discard_reason: &save.discard_reason,
        add: &save.add,
        body: if save.json.is_empty() { None } else { Some(serde_json::from_slice(&save.json)?) },
    };
    // A body may span lines; a line of the export may not.
    let text = serde_json::to_string(&line)?.replace(['\n', '\r'], " ");
    writeln!(out, "{text}")
}

pub(super) fn retried(result: &RetryResult) -> String {
    let refusal = if result.retry_ticket.is_empty() { result.refusal().as_str_name() } else { "" };
    let refusal = refusal.strip_prefix("RETRY_REFUSAL_").unwrap_or(refusal);
    let line = Retried { ticket: &result.ticket, retry_ticket: &result.retry_ticket, refusal, message: &result.message };
    serde_json::to_string(&line).expect("texts are JSON")
}

pub(super) fn kind(kind: SaveKind) -> &'static str {
    match kind {
        SaveKind::Unspecified => "unknown",
        SaveKind::Set => "set",
        SaveKind::Delete => "delete",
        SaveKind::Append => "append",
    }
}

pub(super) fn state(state: FailedSaveState) -> &'static str {
    match state {
        FailedSaveState::Unspecified => "unknown",
        FailedSaveState::Open => "open",
        FailedSaveState::Retried => "retried",
        FailedSaveState::Discarded => "discarded",
        FailedSaveState::Overtaken => "overtaken",
    }
}

/// To the millisecond, in UTC.
pub(super) fn time(time: Option<&prost_types::Timestamp>) -> Option<String> {
    let time = time?;
    let moment = Timestamp::new(time.seconds, time.nanos);
    Some(moment.map_or_else(|_| "unknown".to_owned(), |moment| format!("{moment:.3}")))
}
