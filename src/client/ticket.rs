//! Tickets: what became of a save.

use std::{
    convert::Infallible,
    fmt,
    str::FromStr,
    time::{Duration, Instant, SystemTime},
};

use tonic::transport::Channel;

use super::{Client, Error, retry::Repeat, with_deadline};
use crate::proto::{self, save_service_client::SaveServiceClient};

/// One call waits so long at most; then it is made again. Shorter than proxies let a silent call live.
const AWAIT_MAX: Duration = Duration::from_secs(30);
/// What is left of a wait when it counts as over: the daemon answers a moment before the deadline.
const MARGIN: Duration = Duration::from_millis(10);
/// For the last question after a wait.
const ONCE_MORE: Duration = Duration::from_secs(1);

/// Names an accepted save. Opaque, but for its order: tickets of one journal sort as their saves were accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(String);

impl Ticket {
    /// As the daemon gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<String> for Ticket {
    fn from(ticket: String) -> Self {
        Self(ticket)
    }
}

impl FromStr for Ticket {
    type Err = Infallible;

    fn from_str(ticket: &str) -> Result<Self, Infallible> {
        Ok(Self(ticket.to_owned()))
    }
}

/// What is known of an accepted save.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TicketState {
    /// Accepted and not in Postgres yet.
    Pending,
    /// In Postgres. Final.
    Persisted,
    /// Postgres would not take it. Final (save it again, or have an operator retry it: a new save); kept with its reason.
    Failed,
    /// A failed save that an operator gave up. Final.
    Discarded,
    /// Of another journal, or too old to be told.
    Unknown,
}

impl TicketState {
    pub(super) fn of(state: i32) -> Self {
        match proto::TicketState::try_from(state) {
            Ok(proto::TicketState::Pending) => Self::Pending,
            Ok(proto::TicketState::Persisted) => Self::Persisted,
            Ok(proto::TicketState::Failed) => Self::Failed,
            Ok(proto::TicketState::Discarded) => Self::Discarded,
            Ok(proto::TicketState::Unknown | proto::TicketState::Unspecified) | Err(_) => Self::Unknown,
        }
    }
}

/// Why Postgres would not take a save.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The five characters of the error, like `23503`.
    pub sqlstate: String,
    /// The constraint, if one refused it; else empty.
    pub constraint: String,
    /// What Postgres said, without row data.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.sqlstate)
    }
}

impl From<proto::Failure> for Failure {
    fn from(proto::Failure { sqlstate, constraint, message }: proto::Failure) -> Self {
        Self { sqlstate, constraint, message }
    }
}

/// What is known of an accepted save, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketStatus {
    /// Its state.
    pub state: TicketState,
    /// Why, if the state is failed or discarded.
    pub failure: Option<Failure>,
    /// When it was accepted. Told of saves that failed.
    pub accept_time: Option<SystemTime>,
    /// When it got its outcome. Of a persisted save as long as the daemon remembers: for minutes, not over a restart.
    pub outcome_time: Option<SystemTime>,
    /// If it failed and was saved again: the ticket of that save.
    pub retry_ticket: Option<Ticket>,
    /// Persisted without effect: the row had a version as high. Told as long as the daemon remembers it, not over a restart.
    pub superseded: bool,
    /// If pending: so many saves are written before it or together with it, itself included.
    pub saves_ahead: u64,
    /// If pending: how long that takes at the pace of late. None while its lane writes nothing.
    pub estimated_wait: Option<Duration>,
}

impl From<proto::TicketStatus> for TicketStatus {
    fn from(status: proto::TicketStatus) -> Self {
        let time = |time: Option<prost_types::Timestamp>| time.and_then(|time| SystemTime::try_from(time).ok());
        Self {
            state: TicketState::of(status.state),
            failure: status.failure.map(Failure::from),
            accept_time: time(status.accept_time),
            outcome_time: time(status.outcome_time),
            retry_ticket: Some(status.retry_ticket).filter(|ticket| !ticket.is_empty()).map(Ticket),
            superseded: status.superseded,
            saves_ahead: status.saves_ahead,
            estimated_wait: status.estimated_wait.and_then(|wait| Duration::try_from(wait).ok()),
        }
    }
}

impl Client {
    /// What became of a save, at once.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while it can't be told, as Postgres is away since the daemon's start; else see [`Error`].
    pub async fn ticket(&self, ticket: &Ticket) -> Result<TicketStatus, Error> {
        let answer = self
            .call(Repeat::Always, |mut stub: SaveServiceClient<Channel>, deadline| {
                let request = with_deadline(proto::GetTicketRequest { ticket: ticket.to_string() }, deadline);
                async move { stub.get_ticket(request).await }
            })
            .await?;
        Ok(answer.status.unwrap_or_default().into())
    }

    /// Waits for the outcome of a save, over restarts of the daemon; pending if `within` has passed.
    ///
    /// # Errors
    /// What the last attempt ended with, if nothing could be told within that time; else see [`Error`].
    pub async fn await_ticket(&self, ticket: &Ticket, within: Duration) -> Result<TicketStatus, Error> {
        let start = Instant::now();
        let mut waits = self.shared.retry.waits_within(within);
        loop {
            let left = within.saturating_sub(start.elapsed());
            let error = match self.await_once(ticket, left.min(AWAIT_MAX)).await {
                Ok(status) if status.state != TicketState::Pending || start.elapsed() + MARGIN >= within => return Ok(status),
                Ok(_) => continue,
                Err(error) => error,
            };
            match waits.next(&error, Repeat::Always) {
                Some(wait) => tokio::time::sleep(wait).await,
                None if matches!(error, Error::OutcomeUnknown(_)) => return self.once_more(ticket).await.ok_or(error),
                None => return Err(error),
            }
        }
    }

    async fn await_once(&self, ticket: &Ticket, within: Duration) -> Result<TicketStatus, Error> {
        let request = with_deadline(proto::AwaitTicketRequest { ticket: ticket.to_string() }, within);
        let answer = self.stub::<SaveServiceClient<Channel>>().await_ticket(request).await.map_err(Error::from_status)?;
        Ok(answer.into_inner().status.unwrap_or_default().into())
    }

    /// The answer at the deadline may have come too late by a hair.
    async fn once_more(&self, ticket: &Ticket) -> Option<TicketStatus> {
        let request = with_deadline(proto::GetTicketRequest { ticket: ticket.to_string() }, ONCE_MORE);
        let answer = self.stub::<SaveServiceClient<Channel>>().get_ticket(request).await.ok()?;
        Some(answer.into_inner().status?.into())
    }
}
