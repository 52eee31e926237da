//! The one place that makes a `Status`: canonical code, a sentence, and google.rpc details.
//!
//! Every error carries `ErrorInfo` (domain `forebay.dev`); its reason also travels in a plain trailer for clients whose
//! library can't read details. What invites a retry carries `RetryInfo` and the trailer that gRPC libraries act on.

use std::{collections::HashMap, time::Duration};

use prost::Message;
use tonic::{
    Code, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};

use super::{append::AppendError, validate::quoted, violations::Violations};
use crate::{
    limits::LimitReached,
    proto::{ErrorReason, Failure},
};

const DOMAIN: &str = "forebay.dev";
/// For Node, PHP and shell: the reason without decoding `grpc-status-details-bin`.
const REASON_TRAILER: &str = "forebay-error-reason";
/// gRFC A6: how long the library's retry policy waits.
const PUSHBACK_TRAILER: &str = "grpc-retry-pushback-ms";

/// A limit empties at the pace of Postgres: no use in asking sooner.
const LIMIT_RETRY: Duration = Duration::from_secs(1);
/// A stop or start is over in about a second; another instance may be there already.
const RESTART_RETRY: Duration = Duration::from_millis(250);

/// The reason as clients see it.
pub(super) fn name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// Saves that can't be accepted as they are.
pub(super) fn invalid_save(violations: Violations) -> Status {
    invalid(ErrorReason::InvalidSave, violations)
}

/// A request that can't be served as it is.
pub(super) fn invalid_request(field: &str, description: impl Into<String>) -> Status {
    invalid_fields(Violations::one(field, description))
}

/// A request that can't be served as it is.
pub(super) fn invalid_fields(violations: Violations) -> Status {
    invalid(ErrorReason::InvalidRequest, violations)
}

fn invalid(reason: ErrorReason, violations: Violations) -> Status {
    let message = violations.to_string();
    let mut details = info(reason, [("violations", violations.total().to_string())]);
    for violation in violations.into_list() {
        details.add_bad_request_violation(violation.field, violation.description);
    }
    status(Code::InvalidArgument, message, details, reason)
}

/// Another call was accepted under this request id.
pub(super) fn request_id_reused() -> Status {
    let why = "was used for a call with other content: draw a new id for every call, and repeat it only with the same call";
    invalid(ErrorReason::RequestIdReused, Violations::one("request_id", why))
}

/// An rpc or a field whose time has not come.
pub(super) fn not_implemented(what: &str) -> Status {
    let reason = ErrorReason::NotImplemented;
    let details = info(reason, [("name", what.to_owned())]);
    status(Code::Unimplemented, format!("{what} is not implemented in this version"), details, reason)
}

/// A limit of P7.
pub(super) fn limit_reached(reached: LimitReached) -> Status {
    let LimitReached { name, max, used } = reached;
    let reason = ErrorReason::LimitReached;
    let mut details = info(reason, [("limit", name.to_owned()), ("max", max.to_string()), ("used", used.to_string())]);
    details.add_quota_failure_violation(name, format!("{used} of {max} are in use"));
    let message = format!("{reached}: try again later, or raise it");
    retryable(Code::ResourceExhausted, message, details, reason, LIMIT_RETRY)
}

fn disk_full(error: AppendError, free: u64, min: u64) -> Status {
    let reason = ErrorReason::DiskFull;
    let mut details = info(reason, [("free_bytes", free.to_string()), ("free_bytes_min", min.to_string())]);
    details.add_quota_failure_violation("journal.free_bytes_min", format!("{free} bytes are free, {min} have to be"));
    retryable(Code::ResourceExhausted, format!("{error}: free some space"), details, reason, LIMIT_RETRY)
}

/// The journal did not acknowledge.
pub(super) fn append(error: AppendError) -> Status {
    match error {
        AppendError::Full(reached) => limit_reached(reached),
        AppendError::FreeSpace { free, min } => disk_full(error, free, min),
        AppendError::Stopped => stopping(),
        AppendError::OutcomeUnknown => outcome_unknown(),
    }
}

/// The reason of [`append`]'s error, as a label.
pub(super) fn append_reason_name(error: AppendError) -> &'static str {
    name(match error {
        AppendError::Full(_) => ErrorReason::LimitReached,
        AppendError::FreeSpace { .. } => ErrorReason::DiskFull,
        AppendError::Stopped => ErrorReason::Stopping,
        AppendError::OutcomeUnknown => ErrorReason::OutcomeUnknown,
    })
}

/// Certainly not accepted: the journal is being recovered.
pub(super) fn starting() -> Status {
    let reason = ErrorReason::Starting;
    retryable(Code::Unavailable, "the daemon starts: the journal is being recovered", info(reason, []), reason, RESTART_RETRY)
}

/// Certainly not accepted: the daemon stops.
pub(super) fn stopping() -> Status {
    let reason = ErrorReason::Stopping;
    retryable(Code::Unavailable, "the daemon stops", info(reason, []), reason, RESTART_RETRY)
}

/// Certainly not done: only Postgres knows, and it can't be asked.
pub(super) fn postgres_unavailable(why: String) -> Status {
    let reason = ErrorReason::PostgresUnavailable;
    retryable(Code::Unavailable, format!("postgres can't be asked: {why}"), info(reason, []), reason, LIMIT_RETRY)
}

/// A row that is larger than answers may be.
pub(super) fn row_too_large(key: &str, bytes: usize, max: usize) -> Status {
    let reason = ErrorReason::LimitReached;
    let details = info(reason, [("max", max.to_string()), ("used", bytes.to_string())]);
    let message = format!(
        "the row with the key {} has {bytes} bytes as JSON, and an answer takes {max}: read it with SQL (a Load goes on only from a later from_key)",
        quoted(key)
    );
    status(Code::OutOfRange, message, details, reason)
}

/// The journal failed: accepted or not, nobody knows before the restart (P8).
pub(super) fn outcome_unknown() -> Status {
    let reason = ErrorReason::OutcomeUnknown;
    status(Code::Internal, AppendError::OutcomeUnknown.to_string(), info(reason, []), reason)
}

/// The call's deadline.
pub(super) fn deadline(message: &str) -> Status {
    let reason = ErrorReason::Deadline;
    status(Code::DeadlineExceeded, message, info(reason, []), reason)
}

/// A newer opening of the same stream.
pub(super) fn taken_over() -> Status {
    let reason = ErrorReason::StreamTakenOver;
    status(
        Code::Aborted,
        "a newer call has opened the same stream_id; saves not acknowledged here are its to send again",
        info(reason, []),
        reason,
    )
}

/// A save of a resumed stream that is not in the journal, although later ones are: saving it now would put it after them.
pub(super) fn overtaken() -> Status {
    let reason = ErrorReason::Overtaken;
    let message =
        "this save was refused or never sent, and later saves of its stream were accepted: send it with a new offset if it still counts";
    status(Code::FailedPrecondition, message, info(reason, []), reason)
}

/// A save that was accepted, and that Postgres would not take.
pub(super) fn save_failed(ticket: String, failure: Failure) -> Status {
    /// Errors travel in headers, which clients bound; GetTicket tells all of it.
    const MESSAGE_CHARS_MAX: usize = 500;
    let reason = ErrorReason::SaveFailed;
    let Failure { sqlstate, constraint, message } = failure;
    let details = info(reason, [("ticket", ticket), ("sqlstate", sqlstate), ("constraint", constraint)]);
    status(Code::FailedPrecondition, message.chars().take(MESSAGE_CHARS_MAX).collect::<String>(), details, reason)
}

/// A watch has ended: where another may go on.
pub(super) fn watch_ended(code: Code, reason: ErrorReason, message: &str, resume_token: String) -> Status {
    status(code, message, info(reason, [("resume_token", resume_token)]), reason)
}

/// What stands in the way of a flush.
pub(super) fn lane(reason: ErrorReason, lane: &str, message: String) -> Status {
    status(Code::FailedPrecondition, message, info(reason, [("lane", lane.to_owned())]), reason)
}

/// No such lane.
pub(super) fn unknown_lane(name: &str, known: &[String]) -> Status {
    let reason = ErrorReason::UnknownLane;
    let message = format!("there is no lane {}; there are {}", quoted(name), known.join(", "));
    status(Code::NotFound, message, info(reason, []), reason)
}

/// The details that a status carries, for a refusal inside of a stream.
pub(super) fn details(status: &Status) -> Vec<prost_types::Any> {
    tonic_types::pb::Status::decode(status.details()).map(|status| status.details).unwrap_or_default()
}

fn info<const N: usize>(reason: ErrorReason, metadata: [(&str, String); N]) -> ErrorDetails {
    let metadata: HashMap<_, _> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    ErrorDetails::with_error_info(name(reason), DOMAIN, metadata)
}

fn retryable(code: Code, message: impl Into<String>, mut details: ErrorDetails, reason: ErrorReason, delay: Duration) -> Status {
    let delay = jittered(delay);
    details.set_retry_info(Some(delay));
    let mut status = status(code, message, details, reason);
    let millis = delay.as_millis().to_string().parse::<MetadataValue<Ascii>>().expect("digits are ASCII");
    status.metadata_mut().insert(PUSHBACK_TRAILER, millis);
    status
}

/// Within 20 percent: callers refused together shall not come back together.
fn jittered(delay: Duration) -> Duration {
    let millis = u64::try_from(delay.as_millis()).expect("a delay of seconds");
    Duration::from_millis(fastrand::u64(millis * 8 / 10..=millis * 12 / 10))
}

fn status(code: Code, message: impl Into<String>, details: ErrorDetails, reason: ErrorReason) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(REASON_TRAILER, MetadataValue::from_static(name(reason)));
    Status::with_error_details_and_metadata(code, message, details, metadata)
}
