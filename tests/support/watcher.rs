//! A watcher of outcomes, and what it was told.

use std::collections::BTreeMap;

use forebay::proto::{FailedOutcome, WatchOutcomesRequest, WatchOutcomesResponse, watch_outcomes_response::Event};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::{Daemon, HANG};

/// Somebody who watches all collections, or some.
pub(crate) struct Watcher {
    outcomes: Streaming<WatchOutcomesResponse>,
    /// The last watermark.
    pub(crate) token: String,
    /// By ticket.
    pub(crate) failed: BTreeMap<String, FailedOutcome>,
    /// Tickets of those that changed nothing.
    pub(crate) superseded: Vec<String>,
}

impl Watcher {
    /// Begins at a watermark, or now, and hears the first one.
    pub(crate) async fn start(daemon: &Daemon, token: &str) -> Self {
        Self::of(daemon, &[], token).await
    }

    /// The same for these collections.
    pub(crate) async fn of(daemon: &Daemon, collections: &[&str], token: &str) -> Self {
        let mut watcher = Self::unheard(daemon, collections, token).await;
        let first = watcher.next().await.expect("a watermark");
        assert!(matches!(first, Event::Watermark(_)), "{first:?}");
        assert!(token.is_empty() || watcher.token == token, "it begins where it is to go on");
        watcher
    }

    /// The same without hearing anything.
    pub(crate) async fn unheard(daemon: &Daemon, collections: &[&str], token: &str) -> Self {
        let collections = collections.iter().map(|name| (*name).to_owned()).collect();
        let request = WatchOutcomesRequest { collections, resume_token: token.to_owned() };
        let outcomes = daemon.client().await.watch_outcomes(request).await.expect("it begins").into_inner();
        Self { outcomes, token: String::new(), failed: BTreeMap::new(), superseded: Vec::new() }
    }

    /// One that can't go on from there: the code, and where it can.
    pub(crate) async fn refused(daemon: &Daemon, token: &str) -> (Code, String) {
        let ended = Self::unheard(daemon, &[], token).await.next().await.expect_err("it can't go on from there");
        (ended.code(), resume_token(&ended))
    }

    /// What is told next.
    pub(crate) async fn next(&mut self) -> Result<Event, Status> {
        let message = tokio::time::timeout(HANG, self.outcomes.message()).await.expect("something is told")?;
        let event = message.and_then(|message| message.event).expect("a watch has no end of its own");
        match &event {
            Event::Watermark(mark) => {
                assert!(mark.resume_token > self.token, "watermarks rise: {} after {}", mark.resume_token, self.token);
                self.token.clone_from(&mark.resume_token);
            }
            Event::Failed(failed) => {
                assert!(failed.ticket > self.token, "told before the watermark that covers it");
                self.failed.insert(failed.ticket.clone(), failed.clone());
            }
            Event::Superseded(told) => {
                assert!(told.ticket > self.token, "told before the watermark that covers it");
                self.superseded.push(told.ticket.clone());
            }
        }
        Ok(event)
    }

    /// Until the watermark has passed this ticket.
    pub(crate) async fn through(&mut self, ticket: &str) -> Result<(), Status> {
        while *self.token < *ticket {
            self.next().await?;
        }
        Ok(())
    }

    /// Tickets of those that failed.
    pub(crate) fn tickets(&self) -> Vec<&str> {
        self.failed.keys().map(String::as_str).collect()
    }
}

/// Where a watch that has ended may go on.
pub(crate) fn resume_token(ended: &Status) -> String {
    let info = ended.get_details_error_info().unwrap_or_else(|| panic!("every error has an ErrorInfo: {ended:?}"));
    info.metadata.get("resume_token").unwrap_or_else(|| panic!("no resume_token: {ended:?}")).clone()
}
