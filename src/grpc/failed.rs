//! Failed saves through the front door: listed, retried and given up.
//!
//! The rows are in Postgres, so without it there is no answer (UNAVAILABLE). A retry goes the way of every save: held against the
//! collections of today, given room, appended, acknowledged after the sync.

use tonic::Status;

use super::{door::Door, errors, show};
use crate::{
    failed::{FailedPage, FailedQuery, FailedRow, FailedState},
    proto::*,
    save::Sequence,
};

mod filter;
mod retry;

use self::filter::Chosen;

/// Without bodies a row takes a few hundred bytes.
const PAGE_SIZE_DEFAULT: u32 = 100;
const PAGE_SIZE_MAX: u32 = 1_000;
/// Keys, messages and bodies of one page.
const PAGE_BYTES_MAX: u64 = 1 << 20;
/// A reason stands in every row that it closes.
const REASON_BYTES_MAX: usize = 500;

impl Door {
    /// A page of failed saves.
    pub(super) async fn list_failed(&self, request: ListFailedSavesRequest) -> Result<ListFailedSavesResponse, Status> {
        let ListFailedSavesRequest { filter, states, page_size, page_token, with_bodies } = request;
        let Chosen { filter, .. } = self.chosen(filter.unwrap_or_default())?;
        let states = match &states[..] {
            [] => vec![FailedState::Open],
            named => named.iter().map(|&state| failed_state(state)).collect::<Result<_, _>>()?,
        };
        let query = FailedQuery {
            filter: crate::failed::FailedFilter { states, ..filter },
            after: self.page_after(&page_token)?,
            newest_first: false,
            bodies: with_bodies,
            rows_max: page_rows(page_size)?,
            bytes_max: PAGE_BYTES_MAX,
        };
        let page = self.failed_page(&query).await?;
        let next_page_token = self.next_page_token(&page);
        let failed_saves = page.rows.into_iter().map(|row| self.shown_failed(row)).collect();
        Ok(ListFailedSavesResponse { failed_saves, next_page_token })
    }

    /// Gives open ones up.
    pub(super) async fn discard_failed(&self, request: DiscardFailedSavesRequest) -> Result<DiscardFailedSavesResponse, Status> {
        let DiscardFailedSavesRequest { filter, all, reason } = request;
        if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX {
            return Err(errors::invalid_request("reason", format!("is required, up to {REASON_BYTES_MAX} bytes")));
        }
        let filter = filter.unwrap_or_default();
        check_all(&filter, all)?;
        let Chosen { filter, named, foreign } = self.chosen(filter)?;
        let discarded = self.control.discard_failed(&filter, &reason).await.map_err(errors::postgres_unavailable)?;
        let left = named.into_iter().filter(|(sequence, _)| !discarded.contains(sequence)).map(|(_, text)| text);
        Ok(DiscardFailedSavesResponse { count: discarded.len() as u64, tickets_left: left.chain(foreign).collect() })
    }

    async fn failed_page(&self, query: &FailedQuery) -> Result<FailedPage, Status> {
        self.control.list_failed(query).await.map_err(errors::postgres_unavailable)
    }

    /// A failed save as the contract has it.
    pub(super) fn shown_failed(&self, row: FailedRow) -> FailedSave {
        let ticket = self.ticket(&row.collection, row.sequence);
        let closed_by = row.closed.as_ref().and_then(|closed| closed.by);
        let close_ticket = closed_by.map(|by| self.ticket(&row.collection, by));
        show::failed_save(row, ticket, close_ticket.unwrap_or_default())
    }

    /// A page goes on behind the last save of the page before: whatever fails or is closed meanwhile moves nothing.
    fn next_page_token(&self, page: &FailedPage) -> String {
        page.rows.last().filter(|_| page.more).map_or_else(String::new, |last| self.tickets.after(last.sequence))
    }

    fn page_after(&self, token: &str) -> Result<Sequence, Status> {
        if token.is_empty() {
            return Ok(Sequence::ZERO);
        }
        let after = self.tickets.read_after(token);
        after.ok_or_else(|| errors::invalid_request("page_token", "is none: pass next_page_token as it came"))
    }
}

fn page_rows(page_size: i32) -> Result<u32, Status> {
    match u32::try_from(page_size) {
        Ok(0) => Ok(PAGE_SIZE_DEFAULT),
        Ok(rows) if rows <= PAGE_SIZE_MAX => Ok(rows),
        _ => Err(errors::invalid_request("page_size", format!("is {page_size}: at least 0, at most {PAGE_SIZE_MAX}"))),
    }
}

fn failed_state(state: i32) -> Result<FailedState, Status> {
    match FailedSaveState::try_from(state) {
        Ok(FailedSaveState::Open) => Ok(FailedState::Open),
        Ok(FailedSaveState::Retried) => Ok(FailedState::Retried),
        Ok(FailedSaveState::Discarded) => Ok(FailedState::Discarded),
        Ok(FailedSaveState::Overtaken) => Ok(FailedState::Overtaken),
        Ok(FailedSaveState::Unspecified) | Err(_) => {
            Err(errors::invalid_request("states", format!("holds {state}, which this version doesn't know")))
        }
    }
}

/// What reaches every failed save has to be meant so.
fn check_all(filter: &FailedSaveFilter, all: bool) -> Result<(), Status> {
    if all || *filter != FailedSaveFilter::default() {
        return Ok(());
    }
    Err(errors::invalid_request("filter", "chooses every failed save: name tickets, a collection or a reason, or set `all`"))
}
