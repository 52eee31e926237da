//! From a filter of the contract to one of the vocabulary.

use std::time::SystemTime;

use tonic::Status;

use crate::{
    failed::FailedFilter,
    grpc::{door::Door, errors, ticket::Ticket, validate::quoted},
    proto::FailedSaveFilter,
};

/// Tickets of one request.
const TICKETS_MAX: usize = 1_000;

/// What a request is about.
#[derive(Debug)]
pub(super) struct Chosen {
    /// In every state.
    pub(super) filter: FailedFilter,
    /// Tickets of another journal: nothing here is known of them.
    pub(super) foreign: Vec<String>,
}

impl Door {
    pub(super) fn chosen(&self, filter: FailedSaveFilter) -> Result<Chosen, Status> {
        let FailedSaveFilter { tickets, collection, sqlstate, constraint, fail_time_from, fail_time_until } = filter;
        if tickets.len() > TICKETS_MAX {
            let why = format!("holds {}, more than {TICKETS_MAX}: name fewer at a time", tickets.len());
            return Err(errors::invalid_request("filter.tickets", why));
        }
        let (mut sequences, mut foreign) = (Vec::new(), Vec::new());
        for (n, text) in tickets.iter().enumerate() {
            let Some(ticket) = Ticket::parse(text) else {
                return Err(errors::invalid_request(&format!("filter.tickets[{n}]"), format!("is no ticket: {}", quoted(text))));
            };
            match ticket == Ticket::new(self.journal_id, ticket.sequence) {
                true => sequences.push(ticket.sequence),
                false => foreign.push(text.clone()),
            }
        }
        let named = |text: String| (!text.is_empty()).then_some(text);
        let filter = FailedFilter {
            sequences: (!tickets.is_empty()).then_some(sequences),
            collection: named(collection),
            sqlstate: named(sqlstate),
            constraint: named(constraint),
            failed_from: time("filter.fail_time_from", fail_time_from)?,
            failed_until: time("filter.fail_time_until", fail_time_until)?,
            states: Vec::new(),
        };
        Ok(Chosen { filter, foreign })
    }
}

fn time(field: &str, time: Option<prost_types::Timestamp>) -> Result<Option<SystemTime>, Status> {
    let time = time.map(SystemTime::try_from).transpose();
    time.map_err(|_| errors::invalid_request(field, "is no time that a clock can hold"))
}
