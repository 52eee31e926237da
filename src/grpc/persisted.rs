//! Durability PERSISTED: callers that wait for the outcome of what they save.
//!
//! A save is accepted first, as any other; the wait changes nothing about it. So whoever has waited long enough, or until the
//! daemon stops, is told PENDING with the ticket, never an error that would hide that the save is accepted (P6).

use std::collections::BTreeMap;

use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::{
    deadline::Deadline,
    door::Door,
    errors,
    tickets::{AWAIT_MAX, shown_reason, shown_state},
};
use crate::{
    outcomes::{Outcome, State, Ticket, TicketStatus},
    proto::{Failure, SaveResponse, SaveResult},
    save::{Change, Save},
};

/// What a caller is told of a save.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) state: State,
    /// Why, if it failed.
    pub(super) failure: Option<Failure>,
    pub(super) superseded: bool,
}

/// Whether a save counts twice if its call is repeated because the answer was lost: sets and deletes may be repeated.
pub(super) fn counts_twice(save: &Save) -> bool {
    matches!(save.change, Change::Append(_)) || !save.adds.is_empty()
}

/// Why a call with such a save needs an id.
pub(super) fn needs_id(save: impl std::fmt::Display, what: &str) -> String {
    format!(
        "is required for PERSISTED, because {save} adds: sent again after a lost answer it would count twice. Draw {what} (a UUID), and \
         send it again with the same one"
    )
}

impl Told {
    /// There is no outcome yet, or the caller doesn't wait for it.
    pub(super) const PENDING: Self = Self { state: State::Pending, failure: None, superseded: false };

    /// The answer to the caller of one save.
    pub(super) fn response(self, ticket: String, deduplicated: bool) -> Result<SaveResponse, Status> {
        match self.failure {
            Some(failure) => Err(errors::save_failed(ticket, failure)),
            None => Ok(SaveResponse { ticket, state: shown_state(self.state).into(), deduplicated, superseded: self.superseded }),
        }
    }

    /// The answer about one save of many.
    pub(super) fn result(self, ticket: String) -> SaveResult {
        SaveResult { ticket, state: shown_state(self.state).into(), failure: self.failure, superseded: self.superseded }
    }
}

impl Door {
    /// Waits for the outcomes of saves; what has none at the deadline, or when the daemon stops, is pending.
    pub(super) async fn told_by(&self, tickets: &[Ticket], deadline: Deadline) -> Vec<Told> {
        let until = deadline.or_after(AWAIT_MAX);
        let (outcomes, until) = tokio::select! {
            biased;
            outcomes = self.settled(tickets) => (outcomes, until),
            () = tokio::time::sleep_until(until) => (self.control.outcomes(tickets), until),
            () = self.stop.cancelled() => (self.control.outcomes(tickets), Instant::now()),
        };
        self.told(tickets, &outcomes, until).await
    }

    /// Waits until all of these saves have their outcome.
    pub(super) async fn settled(&self, tickets: &[Ticket]) -> Vec<Outcome> {
        let mut waits = Vec::new();
        loop {
            let outcomes = self.control.outcomes(tickets);
            if outcomes.iter().all(|outcome| outcome.state.is_final()) {
                return outcomes;
            }
            // Only now, and asked again before it is waited for: one commit covers many runs of a stream.
            if waits.is_empty() {
                waits.extend(last_of_each_lane(tickets).map(|last| self.control.wait(last)));
                continue;
            }
            for mut waiting in waits.drain(..) {
                waiting.settled().await;
            }
        }
    }

    /// The outcomes of saves with their reasons, as far as those can be told in time.
    pub(super) async fn told(&self, tickets: &[Ticket], outcomes: &[Outcome], mut until: Instant) -> Vec<Told> {
        let mut all = Vec::with_capacity(tickets.len());
        for (&ticket, &Outcome { state, superseded }) in tickets.iter().zip(outcomes) {
            let failure = match state {
                State::Failed | State::Discarded => Some(self.why_failed(ticket, &mut until).await),
                State::Pending | State::Persisted | State::Unknown => None,
            };
            all.push(Told { state, failure, superseded });
        }
        all
    }

    /// Why a save failed. After one that can't be told, only what is kept in mind is asked for.
    async fn why_failed(&self, ticket: Ticket, until: &mut Instant) -> Failure {
        match timeout_at(*until, self.control.ticket(ticket)).await {
            Ok(Ok(TicketStatus { reason: Some(reason), .. })) => shown_reason(reason),
            _ => {
                *until = Instant::now();
                let message = "postgres would not take it; GetTicket tells why once postgres can be asked".to_owned();
                Failure { message, ..Failure::default() }
            }
        }
    }
}

/// Once these have their outcome, all have.
fn last_of_each_lane(tickets: &[Ticket]) -> impl Iterator<Item = Ticket> {
    let lasts: BTreeMap<u16, Ticket> = tickets.iter().map(|ticket| (ticket.lane.0, *ticket)).collect();
    lasts.into_values()
}
