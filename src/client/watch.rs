//! Watching outcomes: which saves are final, and which of them failed.
//!
//! Watermarks say up to which ticket all is final, so that nothing has to be told of the many saves that are simply persisted. A
//! watch goes on by itself after restarts, broken connections, and when it was too slow. Nothing is left out then, but what was
//! told since the last watermark may be told again, and supersessions meanwhile are not told.

use std::fmt;

use futures_util::stream::{self, Stream};

use super::{Client, Error, Failure, Ticket, resuming::Resuming};
use crate::proto::{WatchOutcomesRequest, WatchOutcomesResponse, watch_outcomes_response::Event};

const TOO_SLOW: &str = "WATCHER_TOO_SLOW";
const REWOUND: &str = "POSTGRES_REWOUND";

/// All below is final: to compare tickets with, and to resume from.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watermark(String);

impl Watermark {
    /// As the daemon gave it: keep it to go on from there after a restart of the application.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the save, of the same journal and a watched collection, is final: persisted, unless it was told to have failed.
    pub fn covers(&self, ticket: &Ticket) -> bool {
        ticket.as_str() < self.as_str()
    }
}

impl From<String> for Watermark {
    fn from(resume_token: String) -> Self {
        Self(resume_token)
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a [`Watch`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every save below is final. The first thing that is told, so that there is a point to go on from.
    Watermark(Watermark),
    /// One save failed. Told before the watermark that covers it.
    Failed {
        /// Its ticket.
        ticket: Ticket,
        /// Its collection.
        collection: String,
        /// Its key; empty for an append.
        key: Vec<String>,
        /// Why.
        failure: Failure,
    },
    /// One save is persisted without effect: the row had a version as high.
    Superseded {
        /// Its ticket.
        ticket: Ticket,
        /// Its collection.
        collection: String,
    },
    /// Postgres went back in time (a failover, a restored backup). What was told above this watermark no longer holds, and will be
    /// told again: the daemon writes once more what was lost.
    Rewound(Watermark),
}

/// A watch over outcomes. It ends when it is dropped.
#[derive(Debug)]
pub struct Watch {
    answers: Resuming<WatchOutcomesResponse>,
    request: WatchOutcomesRequest,
}

impl Client {
    /// Watches the outcomes of saves; no collections: of all. `from`: the last watermark seen; `None`: from now on.
    ///
    /// ```no_run
    /// # async fn example(client: &forebay::client::Client) -> Result<(), forebay::client::Error> {
    /// use forebay::client::Outcome;
    ///
    /// let mut watch = client.watch(&["orders"], None);
    /// loop {
    ///     match watch.next().await? {
    ///         Outcome::Watermark(watermark) => println!("final below {watermark}"),
    ///         Outcome::Failed { ticket, failure, .. } => println!("{ticket}: {failure}"),
    ///         Outcome::Superseded { ticket, .. } => println!("{ticket}: the row is newer"),
    ///         Outcome::Rewound(watermark) => println!("no longer in Postgres: what is above {watermark}"),
    ///     }
    /// }
    /// # }
    /// ```
    pub fn watch(&self, collections: &[&str], from: Option<Watermark>) -> Watch {
        let collections = collections.iter().map(|&name| name.to_owned()).collect();
        let request = WatchOutcomesRequest { collections, resume_token: from.unwrap_or_default().0 };
        Watch { answers: Resuming::new(self.clone(), None), request }
    }
}

impl Watch {
    /// Waits for what is told next. May be given up and called again without a loss.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such collection; what the last attempt ended with, if the daemon stays away for longer
    /// than the policy tries. Called again, it tries again.
    pub async fn next(&mut self) -> Result<Outcome, Error> {
        loop {
            let request = self.request.clone();
            let error = match self.answers.next(|mut stub| async move { stub.watch_outcomes(request).await }).await {
                Ok(Some(answer)) => match self.outcome(answer) {
                    Some(outcome) => return Ok(outcome),
                    None => continue,
                },
                Ok(None) => Error::unavailable("the daemon ended the watch"),
                Err(error) => error,
            };
            let reason = error.answer().reason.as_str();
            if let (TOO_SLOW | REWOUND, Some(token)) = (reason, error.answer().metadata.get("resume_token")) {
                self.request.resume_token.clone_from(token);
            }
            if reason == REWOUND {
                return Ok(Outcome::Rewound(self.watermark()));
            }
            self.answers.pause(error).await?;
        }
    }

    /// As a stream, which ends with the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Outcome, Error>> + Send {
        stream::try_unfold(self, |mut watch| async move { Ok(Some((watch.next().await?, watch))) })
    }

    /// Where a watch that begins now goes on; empty before the first watermark.
    pub fn watermark(&self) -> Watermark {
        Watermark(self.request.resume_token.clone())
    }

    /// `None`: of a later version of the contract.
    fn outcome(&mut self, answer: WatchOutcomesResponse) -> Option<Outcome> {
        Some(match answer.event? {
            Event::Watermark(watermark) => {
                self.request.resume_token = watermark.resume_token;
                Outcome::Watermark(self.watermark())
            }
            Event::Failed(failed) => Outcome::Failed {
                ticket: failed.ticket.into(),
                collection: failed.collection,
                key: failed.key,
                failure: failed.failure.unwrap_or_default().into(),
            },
            Event::Superseded(superseded) => Outcome::Superseded { ticket: superseded.ticket.into(), collection: superseded.collection },
        })
    }
}
