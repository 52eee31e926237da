//! Saving failed saves again.
//!
//! Not if the object has been saved since, and that is known, not guessed. First everything that had been accepted before the
//! failed saves were known gets its outcome: whatever is later than a failed save of its object closes it in Postgres. Every
//! save since then has been seen by the daemon on its way from the journal to the lanes; that is asked last, just before the
//! new saves are appended. So a save that was acknowledged before the retry is never put under older columns; of a save and a
//! retry that are under way at once either may come first, as with any two calls.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::OwnedMutexGuard;
use tonic::Status;

use super::{Chosen, PAGE_BYTES_MAX, PAGE_SIZE_MAX, check_all};
use crate::{
    collections::Collections,
    failed::{FailedFilter, FailedQuery, FailedRow, FailedState, SaveKind},
    grpc::{
        admission,
        control::{FailedStanding, SettleError},
        door::Door,
        errors,
        validate::Path,
    },
    outcomes::Ticket,
    proto::{self, RetryFailedSavesRequest, RetryFailedSavesResponse, RetryRefusal, RetryResult, save::Change as ProtoChange},
    save::{Body, Change, Save, Sequence},
};

/// Why a failed save is not retried.
type Refused = (RetryRefusal, String);

/// A failed save on its way: what will be saved, or why not.
type Attempt = Result<Save, Refused>;

/// What the caller wants.
struct Wish {
    force: bool,
    without_columns: Vec<String>,
}

impl Door {
    /// Retries a page of failed saves.
    pub(in crate::grpc) async fn retry_failed(
        self: &Arc<Self>,
        request: RetryFailedSavesRequest,
    ) -> Result<RetryFailedSavesResponse, Status> {
        let RetryFailedSavesRequest { filter, all, force, without_columns, page_token } = request;
        let (filter, wish) = (filter.unwrap_or_default(), Wish { force, without_columns });
        check_all(&filter, all)?;
        let Chosen { filter, named, foreign } = self.chosen(filter)?;
        let query = FailedQuery {
            filter: FailedFilter { states: retried_states(&filter), ..filter.clone() },
            after: self.page_after(&page_token)?,
            newest_first: false,
            bodies: true,
            rows_max: PAGE_SIZE_MAX,
            bytes_max: PAGE_BYTES_MAX,
        };
        self.settle_failed().await?;
        // The table may just have been repaired; once is enough for all pages.
        let collections = if page_token.is_empty() { self.catalog.read_again().await } else { self.catalog.now() };
        let care = self.control.failed_care().await;
        let page = self.failed_page(&query).await?;
        let attempts = page.rows.iter().map(|row| self.attempt(row, &wish, &collections)).collect();
        let outcomes = self.save_again(care, collections, &page.rows, attempts, &wish).await?;
        let next_page_token = self.next_page_token(&page);
        let mut results: Vec<_> = page.rows.iter().zip(outcomes).map(|(row, outcome)| self.result(row, outcome)).collect();
        if next_page_token.is_empty() {
            results.extend(not_found(named, foreign, &query, &page.rows));
        }
        Ok(RetryFailedSavesResponse { results, next_page_token })
    }

    async fn settle_failed(&self) -> Result<(), Status> {
        let settled = tokio::select! {
            settled = self.control.settle_failed() => settled,
            () = self.stop.cancelled() => return Err(errors::stopping()),
        };
        settled.map_err(|error| match error {
            SettleError::Lane(error) => self.flush_status(error),
            SettleError::Unavailable(message) => errors::postgres_unavailable(message),
        })
    }

    /// What a row would be saved as today.
    fn attempt(&self, row: &FailedRow, wish: &Wish, collections: &Collections) -> Attempt {
        match row.state() {
            FailedState::Open => {}
            FailedState::Overtaken if wish.force => {}
            FailedState::Overtaken => return Err(saved_since()),
            FailedState::Retried => return Err(closed("was retried before: see what became of its new save")),
            FailedState::Discarded => return Err(closed("was discarded, which is for good")),
        }
        let invalid = |why: String| (RetryRefusal::Invalid, why);
        let save = as_sent(row, &wish.without_columns).map_err(invalid)?;
        let checked = self.check(&save, Path::Save, collections, SystemTime::now());
        let checked = checked.map_err(|findings| {
            let column_is_gone = findings.unknown_name && collections.named(&row.collection).is_some();
            let remedy = if column_is_gone { ": if it is gone for good, leave it out (without_columns, --without-column)" } else { "" };
            invalid(format!("would be refused today: {}{remedy}", findings.violations))
        })?;
        if matches!(checked.change, Change::Append(_)) != (row.kind == SaveKind::Append) {
            return Err(invalid(format!("was a {}, and {} has another mode now", row.kind.name(), row.collection)));
        }
        Ok(Save { retries: Some(row.sequence), ..checked })
    }

    /// Appends what can be retried; gives the new ticket of each, or why it has none. What was handed to the journal is under
    /// `care` until it is known, whether or not the caller waits.
    async fn save_again(
        self: &Arc<Self>,
        care: OwnedMutexGuard<()>,
        collections: Arc<Collections>,
        rows: &[FailedRow],
        mut attempts: Vec<Attempt>,
        wish: &Wish,
    ) -> Result<Vec<Result<Ticket, Refused>>, Status> {
        let sequences: Vec<_> = rows.iter().map(|row| row.sequence).collect();
        for ((attempt, row), standing) in attempts.iter_mut().zip(rows).zip(self.control.failed_standings(&sequences)) {
            if attempt.is_ok()
                && let Some(refused) = refused_now(standing, row.state(), wish.force)
            {
                *attempt = Err(refused);
            }
        }
        let saves: Vec<_> = attempts.iter().filter_map(|attempt| attempt.as_ref().ok().cloned()).collect();
        let mut next = if saves.is_empty() { Sequence::ZERO } else { self.append_retries(care, collections, saves).await? };
        let outcomes = attempts.into_iter().map(|attempt| {
            attempt.map(|save| {
                let ticket = Ticket { sequence: next, lane: save.lane };
                next = next.plus(1);
                ticket
            })
        });
        Ok(outcomes.collect())
    }

    async fn append_retries(
        self: &Arc<Self>,
        care: OwnedMutexGuard<()>,
        collections: Arc<Collections>,
        saves: Vec<Save>,
    ) -> Result<Sequence, Status> {
        let door = Arc::clone(self);
        let appended = tokio::spawn(async move {
            let accepted = admission::accept(&door.appender, &door.limits, &door.events, &collections, saves, None).await;
            drop(care);
            accepted
        });
        appended.await.unwrap_or_else(|_| Err(errors::outcome_unknown()))
    }

    fn result(&self, row: &FailedRow, outcome: Result<Ticket, Refused>) -> RetryResult {
        let ticket = self.ticket(&row.collection, row.sequence);
        match outcome {
            Ok(retry) => RetryResult { ticket, retry_ticket: self.tickets.show(retry), ..RetryResult::default() },
            Err((refusal, message)) => RetryResult { ticket, refusal: refusal.into(), message, ..RetryResult::default() },
        }
    }
}

/// Tickets that were named and are those of no failed save.
fn not_found(named: Vec<(Sequence, String)>, foreign: Vec<String>, query: &FailedQuery, rows: &[FailedRow]) -> Vec<RetryResult> {
    let unknown = named.into_iter().filter(|(named, _)| *named > query.after && rows.iter().all(|row| row.sequence != *named));
    let message = "is no failed save that this daemon knows of";
    let result =
        |ticket| RetryResult { ticket, refusal: RetryRefusal::NotFound.into(), message: message.to_owned(), ..RetryResult::default() };
    unknown.map(|(_, text)| text).chain(foreign).map(result).collect()
}

/// Closed ones are looked at only where a caller names them: to say how they stand.
fn retried_states(filter: &FailedFilter) -> Vec<FailedState> {
    if filter.sequences.is_some() { Vec::new() } else { vec![FailedState::Open] }
}

/// The last word, asked just before the append.
fn refused_now(standing: FailedStanding, state: FailedState, force: bool) -> Option<Refused> {
    match standing {
        FailedStanding::Retrying => Some(closed("is being retried: its new save is not in Postgres yet")),
        FailedStanding::SavedSince if !force => Some(saved_since()),
        FailedStanding::Closed if state == FailedState::Open => Some(closed("was closed at this moment")),
        FailedStanding::SavedSince | FailedStanding::Closed | FailedStanding::Open => None,
    }
}

fn saved_since() -> Refused {
    (
        RetryRefusal::SavedSince,
        "its object has been saved since: force it if the older columns are to be put over the newer ones".to_owned(),
    )
}

fn closed(why: &str) -> Refused {
    (RetryRefusal::Closed, why.to_owned())
}

/// The save as its client sent it, without some columns.
fn as_sent(row: &FailedRow, without_columns: &[String]) -> Result<proto::Save, String> {
    let change = match (row.kind, &row.body) {
        (SaveKind::Delete, _) => ProtoChange::Delete(proto::Delete {}),
        (SaveKind::Set | SaveKind::Append, Some(text)) => {
            let body = Body::parse(text.as_bytes()).map_err(|error| format!("its body in forebay.failed_save {error}"))?;
            let body = if without_columns.is_empty() { body } else { body.without(without_columns) };
            ProtoChange::Json(body.as_bytes().to_vec().into())
        }
        (SaveKind::Set | SaveKind::Append, None) => return Err("its row in forebay.failed_save has no body".to_owned()),
    };
    let add = row.added.iter().filter(|name| !without_columns.contains(name)).cloned().collect();
    Ok(proto::Save { collection: row.collection.clone(), key: row.key.clone(), change: Some(change), add })
}
