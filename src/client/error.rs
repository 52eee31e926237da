//! What went wrong, as what the caller does about it.

use std::{collections::HashMap, error::Error as _, fmt, time::Duration};

use tonic::{Code, ConnectError, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, RpcStatusExt, StatusExt, pb};

use super::{Failure, Ticket};
use crate::proto::{StreamFailed, StreamRefused};

const DOMAIN: &str = "forebay.dev";
/// Of a resumed stream: refused before, and the answer was lost.
const OVERTAKEN: &str = "OVERTAKEN";
const SAVE_FAILED: &str = "SAVE_FAILED";
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A call failed. The variants are what the caller does differently.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Not accepted, and never will be as it is: change the call. The answer lists what is wrong with it.
    #[error("refused: {0}")]
    Refused(Box<Answer>),
    /// Accepted, and Postgres would not take it: final. Told where a save was to be persisted.
    #[error("accepted, but Postgres would not take it: {}", .0.failure)]
    Failed(Box<FailedSave>),
    /// Not possible until an operator acts: a lane is paused, halted or fenced.
    #[error("blocked: {0}")]
    Blocked(Box<Answer>),
    /// Not accepted: a limit is met. The client has tried again as long as its policy says.
    #[error("a limit is met: {0}")]
    Busy(Box<Answer>),
    /// Certainly not accepted: nobody listens, or the daemon starts or stops. The client has tried again as long as its policy says.
    #[error("not available: {0}")]
    Unavailable(Box<Answer>),
    /// It may have been accepted: the answer was lost, came too late, or the daemon's journal failed. Save again what must not be
    /// lost, unless saving twice is worse.
    #[error("it may have been accepted or not: {0}")]
    OutcomeUnknown(Box<Answer>),
}

/// A save that was accepted, and that Postgres would not take. It is kept, for an operator to retry.
#[derive(Clone, Debug)]
pub struct FailedSave {
    /// Its ticket.
    pub ticket: Ticket,
    /// Why.
    pub failure: Failure,
    answer: Answer,
}

/// What the daemon, or the way to it, had to say.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The gRPC status code, as a number.
    pub code: i32,
    /// The reason of `ErrorReason` without its prefix, like `LIMIT_REACHED`; empty if the error is not of the daemon's making.
    pub reason: String,
    /// What happened, for people.
    pub message: String,
    /// What is wrong with the request.
    pub violations: Vec<Violation>,
    /// What the reason says about itself, like `limit` and `max`.
    pub metadata: HashMap<String, String>,
    /// When to try again, if the daemon said so.
    pub pushback: Option<Pushback>,
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where: `save.key`, `saves[3].json.age`.
    pub field: String,
    /// What, and what would help.
    pub description: String,
}

/// When the daemon wants to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Not before this time has passed.
    After(Duration),
    /// Never.
    Never,
}

impl Error {
    /// Whether the same call may succeed later and was certainly not accepted yet.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Unavailable(_)) && self.answer().pushback != Some(Pushback::Never)
    }

    /// The details.
    pub fn answer(&self) -> &Answer {
        match self {
            Self::Failed(failed) => &failed.answer,
            Self::Refused(answer)
            | Self::Blocked(answer)
            | Self::Busy(answer)
            | Self::Unavailable(answer)
            | Self::OutcomeUnknown(answer) => answer,
        }
    }

    pub(super) fn from_status(status: Status) -> Self {
        let answer = Box::new(Answer::from_status(&status));
        match status.source() {
            Some(source) if never_processed(source) => Self::Unavailable(answer),
            Some(_) => Self::OutcomeUnknown(answer),
            None => Self::of(status.code(), answer),
        }
    }

    pub(super) fn from_refused(refused: StreamRefused) -> Self {
        let code = Code::from_i32(refused.code);
        let status = pb::Status { code: refused.code, message: refused.message, details: refused.details };
        let details = status.get_error_details();
        Self::of(code, Box::new(Answer::new(refused.code, status.message, &details, None)))
    }

    pub(super) fn from_failed(failed: StreamFailed) -> Self {
        let failure = Failure::from(failed.failure.unwrap_or_default());
        let answer = Answer {
            code: Code::FailedPrecondition.into(),
            reason: SAVE_FAILED.to_owned(),
            message: failure.message.clone(),
            ..Answer::default()
        };
        Self::Failed(Box::new(FailedSave { ticket: failed.ticket.into(), failure, answer }))
    }

    /// What an answer of the daemon, or of something between, asks of the caller.
    fn of(code: Code, answer: Box<Answer>) -> Self {
        match code {
            Code::ResourceExhausted => Self::Busy(answer),
            // Without a reason it is of a proxy's making, which may have passed the call on.
            Code::Unavailable if !answer.reason.is_empty() => Self::Unavailable(answer),
            Code::FailedPrecondition if answer.reason == SAVE_FAILED => Self::Failed(Box::new(FailedSave::told(*answer))),
            Code::FailedPrecondition if answer.reason != OVERTAKEN => Self::Blocked(answer),
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::OutOfRange
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::Unimplemented => Self::Refused(answer),
            _ => Self::OutcomeUnknown(answer),
        }
    }

    pub(super) fn too_large(bytes: usize, max: usize) -> Self {
        let message = format!(
            "the message takes {bytes} bytes and {max} are allowed: send less at once, or raise message_bytes_max here and in the daemon"
        );
        Self::Refused(Box::new(Answer { code: Code::InvalidArgument.into(), message, ..Answer::default() }))
    }

    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::Refused(Box::new(Answer { code: Code::InvalidArgument.into(), message: message.into(), ..Answer::default() }))
    }

    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self::Busy(Box::new(Answer { code: Code::ResourceExhausted.into(), message: message.into(), ..Answer::default() }))
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable(Box::new(Answer { code: Code::Unavailable.into(), message: message.into(), ..Answer::default() }))
    }

    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Self::OutcomeUnknown(Box::new(Answer { code: Code::Unknown.into(), message: message.into(), ..Answer::default() }))
    }

    /// The same trouble, said of saves that had been sent before it.
    pub(super) fn for_sent(&self) -> Self {
        Self::OutcomeUnknown(Box::new(self.answer().clone()))
    }
}

impl FailedSave {
    fn told(answer: Answer) -> Self {
        let of = |name: &str| answer.metadata.get(name).cloned().unwrap_or_default();
        let failure = Failure { sqlstate: of("sqlstate"), constraint: of("constraint"), message: answer.message.clone() };
        Self { ticket: of("ticket").into(), failure, answer }
    }
}

impl Answer {
    fn from_status(status: &Status) -> Self {
        let message = match status.source() {
            Some(source) => chain(source),
            None => status.message().to_owned(),
        };
        let trailer = pushback(status.metadata());
        Self::new(status.code().into(), message, &status.get_error_details(), trailer)
    }

    fn new(code: i32, message: String, details: &ErrorDetails, pushback: Option<Pushback>) -> Self {
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let delay = details.retry_info().and_then(|info| info.retry_delay);
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        Self {
            code,
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message,
            violations: violations.iter().map(|v| Violation { field: v.field.clone(), description: v.description.clone() }).collect(),
            metadata: info.map(|info| info.metadata.clone()).unwrap_or_default(),
            pushback: pushback.or(delay.map(Pushback::After)),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for Violation { field, description } in &self.violations {
            write!(f, "; {field}: {description}")?;
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}

/// gRFC A6: milliseconds; a negative or unreadable value means not to try again.
fn pushback(trailers: &MetadataMap) -> Option<Pushback> {
    let value = trailers.get(PUSHBACK)?;
    let ms = value.to_str().ok().and_then(|text| text.parse::<u32>().ok());
    Some(ms.map_or(Pushback::Never, |ms| Pushback::After(Duration::from_millis(ms.into()))))
}

/// Whether an error of the way to the daemon tells that the call was not taken.
///
/// So it is if there was no connection, if hyper gave the request back before sending it, and if the daemon refused the
/// stream or said with GOAWAY that it would not process it (RFC 9113, sections 6.8 and 8.7).
fn never_processed(error: &(dyn std::error::Error + 'static)) -> bool {
    sources(error).any(|error| {
        error.is::<ConnectError>()
            || error.downcast_ref().is_some_and(hyper::Error::is_canceled)
            || error.downcast_ref().is_some_and(|error: &h2::Error| {
                error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
            })
    })
}

pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<_> = sources(error).map(ToString::to_string).collect();
    // Some repeat what they stand on.
    texts.dedup();
    texts.join(": ")
}

fn sources<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    fn status(code: Code, reason: &str) -> Status {
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
        details.set_bad_request(vec![FieldViolation::new("save.key", "is empty")]);
        details.set_retry_info(Some(Duration::from_millis(250)));
        Status::with_error_details(code, "no", details)
    }

    #[test]
    fn an_answer_of_the_daemon_becomes_what_the_caller_does() {
        let error = Error::from_status(status(Code::InvalidArgument, "INVALID_SAVE"));
        assert!(matches!(error, Error::Refused(_)) && !error.retryable());
        assert_eq!(error.to_string(), "refused: no; save.key: is empty (INVALID_SAVE)");
        let error = Error::from_status(status(Code::ResourceExhausted, "LIMIT_REACHED"));
        assert!(matches!(error, Error::Busy(_)) && error.retryable());
        assert_eq!(error.answer().pushback, Some(Pushback::After(Duration::from_millis(250))));
        assert!(matches!(Error::from_status(status(Code::Unavailable, "STOPPING")), Error::Unavailable(_)));
        assert!(matches!(Error::from_status(status(Code::FailedPrecondition, "LANE_PAUSED")), Error::Blocked(_)));
        assert!(matches!(Error::from_status(status(Code::Internal, "OUTCOME_UNKNOWN")), Error::OutcomeUnknown(_)));
        assert!(matches!(Error::from_status(status(Code::DeadlineExceeded, "DEADLINE")), Error::OutcomeUnknown(_)));
    }

    #[test]
    fn a_failed_save_tells_its_ticket_and_why() {
        let metadata = [("ticket", "t-1"), ("sqlstate", "23503"), ("constraint", "guild")];
        let metadata: HashMap<_, _> = metadata.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let details = ErrorDetails::with_error_info("SAVE_FAILED", DOMAIN, metadata);
        let error = Error::from_status(Status::with_error_details(Code::FailedPrecondition, "no such guild", details));
        let Error::Failed(failed) = &error else { panic!("{error}") };
        let failure = Failure { sqlstate: "23503".to_owned(), constraint: "guild".to_owned(), message: "no such guild".to_owned() };
        assert_eq!((failed.ticket.as_str(), &failed.failure), ("t-1", &failure));
        assert!(!error.retryable());
        assert_eq!(error.to_string(), "accepted, but Postgres would not take it: no such guild (23503)");
        let streamed = StreamFailed { offset: 1, ticket: "t-1".to_owned(), failure: None };
        assert_eq!(Error::from_failed(streamed).answer().reason, "SAVE_FAILED");
    }

    #[test]
    fn an_unavailable_without_a_reason_may_have_been_passed_on() {
        assert!(matches!(Error::from_status(Status::unavailable("upstream reset")), Error::OutcomeUnknown(_)));
    }

    #[test]
    fn the_pushback_trailer_outranks_the_details() {
        let mut never = status(Code::ResourceExhausted, "LIMIT_REACHED");
        never.metadata_mut().insert(PUSHBACK, "-1".parse().expect("ascii"));
        assert!(!Error::from_status(never).retryable());
        let mut later = status(Code::ResourceExhausted, "LIMIT_REACHED");
        later.metadata_mut().insert(PUSHBACK, "40".parse().expect("ascii"));
        assert_eq!(Error::from_status(later).answer().pushback, Some(Pushback::After(Duration::from_millis(40))));
    }
}
