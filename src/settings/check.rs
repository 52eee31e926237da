//! What must hold between values: a limit that another one makes unreachable is a mistake, found before anything starts.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Settings, endpoints, lanes,
    problem::{Origin, Problem},
};

/// A key and its value.
type Valued = (&'static str, u128);

/// Every problem between values. What was not read (`unread`) is left out.
pub(super) fn together(settings: &Settings, unread: &BTreeSet<&str>) -> Vec<Problem> {
    let known = |(name, _): &Valued| !unread.contains(name);
    let mut problems: Vec<Problem> = at_most(settings)
        .into_iter()
        .filter(|(low, high, _)| known(low) && known(high) && low.1 > high.1)
        .map(|((low, _), (high, _), why)| problem(format!("{low} is above {high}, but {why}: lower the one or raise the other")))
        .collect();
    if settings.grpc.listen == settings.http.listen && settings.grpc.listen.port() != 0 {
        problems.push(problem(format!("grpc.listen and http.listen are both {}: give one another port", settings.grpc.listen)));
    }
    problems.extend(lanes::problems(&settings.lanes).into_iter().map(problem));
    // One that could not be read would be found missing.
    if !unread.iter().any(|key| key.starts_with("endpoints.")) {
        problems.extend(endpoints::problems(settings).into_iter().map(problem));
    }
    problems
}

/// Pairs of which the first may not be above the second, and why.
fn at_most(settings: &Settings) -> [(Valued, Valued, &'static str); 15] {
    let Settings { grpc, journal, backlog, drain, postgres, stop, .. } = settings;
    let message = number("grpc.message_bytes_max", grpc.message_bytes_max);
    let inbox = number("journal.inbox_bytes_max", journal.inbox_bytes_max);
    let group = number("journal.group_bytes_max", journal.group_bytes_max);
    let fits = "a call of this size could never be accepted";
    [
        (number("grpc.body_bytes_max", grpc.body_bytes_max), message, "the message holds the body"),
        (number("grpc.key_bytes_max", grpc.key_bytes_max), message, "the message holds the key"),
        (message, number("grpc.receiving_bytes_max", grpc.receiving_bytes_max), "a message of this size could never arrive"),
        (message, inbox, fits),
        (message, number("backlog.bytes_max", backlog.bytes_max), fits),
        (message, number("journal.bytes_max", journal.bytes_max), fits),
        (number("grpc.batch_saves_max", grpc.batch_saves_max), number("backlog.objects_max", backlog.objects_max), fits),
        (group, inbox, "a group is gathered from the inbox"),
        (group, number("journal.segment_bytes", journal.segment_bytes), "a segment holds whole groups"),
        (
            time("grpc.first_byte_timeout", grpc.first_byte_timeout),
            time("grpc.handshake_timeout", grpc.handshake_timeout),
            "the handshake begins with the first byte",
        ),
        (time("journal.sync_warn", journal.sync_warn), time("journal.sync_timeout", journal.sync_timeout), "the warning would never come"),
        (time("drain.retry_wait_min", drain.retry_wait_min), time("drain.retry_wait_max", drain.retry_wait_max), "it is the shortest wait"),
        (
            time("postgres.lock_timeout", postgres.lock_timeout),
            time("postgres.statement_timeout", postgres.statement_timeout),
            "the statement would time out first",
        ),
        (
            time("drain.statement_target", drain.statement_target),
            time("postgres.statement_timeout", postgres.statement_timeout),
            "the statement would time out first",
        ),
        (time("stop.drain_timeout", stop.drain_timeout), time("stop.timeout", stop.timeout), "draining is a part of the stop"),
    ]
}

fn number(name: &'static str, value: u64) -> Valued {
    (name, value.into())
}

fn time(name: &'static str, value: Duration) -> Valued {
    (name, value.as_nanos())
}

fn problem(text: String) -> Problem {
    Problem { origin: Origin::Together, key: String::new(), text }
}
