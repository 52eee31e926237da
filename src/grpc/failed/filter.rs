//! From a filter of the contract to one of the vocabulary.

use std::time::SystemTime;

use tonic::Status;

use crate::{
    failed::FailedFilter,
    grpc::{door::Door, errors, validate::quoted},
    outcomes::Named,
    proto::FailedSaveFilter,
    save::Sequence,
};

/// Tickets of one request.
const TICKETS_MAX: usize = 1_000;

/// What a request is about.
#[derive(Debug)]
pub(super) struct Chosen {
    /// In every state.
    pub(super) filter: FailedFilter,
    /// The tickets that were named.
    pub(super) named: Vec<(Sequence, String)>,
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
        let (mut named, mut foreign) = (Vec::new(), Vec::new());
        for (n, text) in tickets.into_iter().enumerate() {
            match self.tickets.read(&text) {
                Named::Save(ticket) => named.push((ticket.sequence, text)),
                Named::Elsewhere => foreign.push(text),
                Named::Nothing => {
                    let why = format!("is no ticket of this daemon: {}", quoted(&text));
                    return Err(errors::invalid_request(&format!("filter.tickets[{n}]"), why));
                }
            }
        }
        let sequences = named.iter().map(|(sequence, _)| *sequence).collect();
        let sequences = (!named.is_empty() || !foreign.is_empty()).then_some(sequences);
        let given = |text: String| (!text.is_empty()).then_some(text);
        let filter = FailedFilter {
            sequences,
            collection: given(collection),
            sqlstate: given(sqlstate),
            constraint: given(constraint),
            failed_from: time("filter.fail_time_from", fail_time_from)?,
            failed_until: time("filter.fail_time_until", fail_time_until)?,
            states: Vec::new(),
        };
        Ok(Chosen { filter, named, foreign })
    }
}

fn time(field: &str, time: Option<prost_types::Timestamp>) -> Result<Option<SystemTime>, Status> {
    let time = time.map(SystemTime::try_from).transpose();
    time.map_err(|_| errors::invalid_request(field, "is no time that a clock can hold"))
}
