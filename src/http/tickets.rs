//! `GET /v1/tickets/{ticket}`: how a save stands, for whoever was handed its ticket. The state and nothing else: no reason, no row
//! data. A page that polls sends the ETag along and is told when to come again.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};

use super::Pages;
use crate::outcomes;

/// What a text that should be a ticket is answered with.
pub enum TicketPage {
    /// How the save stands; while it is pending, how long it may take.
    State(outcomes::State, Option<Duration>),
    /// It can't be told now.
    Untold(String),
    /// This daemon has given no such ticket.
    NotFound,
}

/// A poller comes again after so many seconds, at the least and at the most.
const RETRY_SECONDS: std::ops::RangeInclusive<u64> = 1..=60;

pub(super) async fn ticket(State(pages): State<Arc<Pages>>, Path(ticket): Path<String>, headers: HeaderMap) -> Response {
    match (pages.ticket)(&ticket) {
        TicketPage::State(state, wait) => shown(state, wait, &headers),
        TicketPage::Untold(why) => (StatusCode::SERVICE_UNAVAILABLE, [retry_after(None)], format!("{why}\n")).into_response(),
        TicketPage::NotFound => (StatusCode::NOT_FOUND, "no such ticket\n").into_response(),
    }
}

fn shown(state: outcomes::State, wait: Option<Duration>, headers: &HeaderMap) -> Response {
    let etag = format!("\"{}\"", state.name());
    // Always asked again: what is persisted may be pending again when Postgres went back in time.
    let mut response = ([(header::ETAG, etag.clone()), (header::CACHE_CONTROL, "no-cache".to_owned())], "").into_response();
    if !state.is_final() {
        let (name, value) = retry_after(wait);
        response.headers_mut().insert(name, value.parse().expect("digits"));
    }
    if is_known(headers, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    let (parts, _) = response.into_parts();
    (parts, format!("{{\"state\":\"{}\"}}\n", state.name())).into_response()
}

/// RFC 9110, 13.1.2: a list of tags, weak or not, or any.
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let listed = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    listed.flat_map(|list| list.split(',')).map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

fn retry_after(wait: Option<Duration>) -> (header::HeaderName, String) {
    let seconds = wait.map_or(0, |wait| wait.as_secs_f64().ceil() as u64).clamp(*RETRY_SECONDS.start(), *RETRY_SECONDS.end());
    (header::RETRY_AFTER, seconds.to_string())
}
