//! What became of a save: GetTicket and AwaitTicket.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use super::{deadline::Deadline, door::Door, errors, validate::quoted};
use crate::{
    outcomes::{Named, Reason, State, Ticket, TicketStatus, Untold},
    proto::{self, TicketState},
    save::Sequence,
};

/// How long a call without a deadline waits.
pub(super) const AWAIT_MAX: Duration = Duration::from_secs(3_600);

impl Door {
    /// The ticket of a save.
    pub(super) fn ticket_of(&self, collection: &str, sequence: Sequence) -> Ticket {
        Ticket { sequence, lane: self.control.lane_of(collection) }
    }

    /// The same as text.
    pub(super) fn ticket(&self, collection: &str, sequence: Sequence) -> String {
        self.tickets.show(self.ticket_of(collection, sequence))
    }

    pub(super) async fn get_ticket(&self, text: &str) -> Result<proto::TicketStatus, Status> {
        let Some(ticket) = self.named_ticket(text)? else { return Ok(self.shown(TicketStatus::of(State::Unknown))) };
        let status = self.control.ticket(ticket).await.map_err(untold)?;
        Ok(self.shown(status))
    }

    /// Waits for the outcome; at the deadline says that there is none yet.
    pub(super) async fn await_ticket(&self, ticket: Option<Ticket>, deadline: Deadline) -> Result<proto::TicketStatus, Status> {
        let Some(ticket) = ticket else { return Ok(self.shown(TicketStatus::of(State::Unknown))) };
        let until = deadline.or_after(AWAIT_MAX);
        loop {
            let mut waiting = self.control.wait(ticket);
            match self.asked(ticket, until).await? {
                Ok(status) if status.state.is_final() => return Ok(self.shown(status)),
                Ok(_) | Err(Untold::NotAsked) => {}
                Err(why) => return Err(untold(why)),
            }
            tokio::select! {
                () = waiting.settled() => {}
                () = tokio::time::sleep_until(until) => {
                    // From memory: nothing is waited for any more.
                    let status = self.asked(ticket, until).await?;
                    return status.map(|status| self.shown(status)).map_err(untold);
                }
                () = self.stop.cancelled() => return Err(errors::stopping()),
            }
        }
    }

    /// What is known of a save, if that can be told in time: why one failed may be Postgres' to say.
    async fn asked(&self, ticket: Ticket, until: Instant) -> Result<Result<TicketStatus, Untold>, Status> {
        tokio::select! {
            biased;
            status = self.control.ticket(ticket) => Ok(status),
            () = tokio::time::sleep_until(until) => Err(untold(Untold::Unavailable("it did not answer before the deadline".to_owned()))),
            () = self.stop.cancelled() => Err(errors::stopping()),
        }
    }

    /// The save that a ticket names; `None` if it is another journal's.
    pub(super) fn named_ticket(&self, text: &str) -> Result<Option<Ticket>, Status> {
        match self.tickets.read(text) {
            Named::Save(ticket) => Ok(Some(ticket)),
            Named::Elsewhere => Ok(None),
            Named::Nothing => Err(errors::invalid_request("ticket", format!("is no ticket of this daemon: {}", quoted(text)))),
        }
    }

    fn shown(&self, status: TicketStatus) -> proto::TicketStatus {
        let TicketStatus { state, reason, accepted_at, settled_at, retry, superseded, saves_ahead, estimated_wait } = status;
        proto::TicketStatus {
            state: shown_state(state).into(),
            failure: reason.map(shown_reason),
            accept_time: accepted_at.map(Into::into),
            outcome_time: settled_at.map(Into::into),
            retry_ticket: retry.map(|retry| self.tickets.show(retry)).unwrap_or_default(),
            superseded,
            saves_ahead,
            estimated_wait: estimated_wait.and_then(|wait| wait.try_into().ok()),
        }
    }
}

pub(super) fn shown_state(state: State) -> TicketState {
    match state {
        State::Pending => TicketState::Pending,
        State::Persisted => TicketState::Persisted,
        State::Failed => TicketState::Failed,
        State::Discarded => TicketState::Discarded,
        State::Unknown => TicketState::Unknown,
    }
}

pub(super) fn shown_reason(Reason { sqlstate, constraint, message }: Reason) -> proto::Failure {
    proto::Failure { sqlstate: sqlstate.unwrap_or_default(), constraint: constraint.unwrap_or_default(), message }
}

pub(super) fn untold(why: Untold) -> Status {
    errors::postgres_unavailable(why.to_string())
}
