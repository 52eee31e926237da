//! Outcomes: the words for what became of accepted saves, the tickets that name them, and those who wait.
//!
//! No I/O: positions and failed saves are `daemon`'s to know, messages are `grpc`'s and `http`'s to make. Keeps P6: every ticket
//! gets one outcome, and none is called persisted that may not be.

use std::time::{Duration, SystemTime};

mod pace;
mod recent;
mod superseded;
mod ticket;
mod waiters;
mod watch;

pub use pace::Pace;
pub use recent::Recent;
pub use superseded::{Superseded, SupersededSaves};
pub use ticket::{Named, Ticket, Tickets};
pub use waiters::{Waiters, Waiting};
pub use watch::{Mark, Rewound, Span, Watch, WatchEnd, WatchEvent};

/// How a save stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Accepted and not in Postgres yet.
    Pending,
    /// In Postgres.
    Persisted,
    /// Postgres would not take it.
    Failed,
    /// A failed save that an operator gave up.
    Discarded,
    /// Of another journal, or too old to be told.
    Unknown,
}

impl State {
    /// Whether this is the save's outcome. (Of a failed save more may be told: its retry, that it was discarded.)
    pub fn is_final(self) -> bool {
        self != Self::Pending
    }

    /// As clients see it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Persisted => "PERSISTED",
            Self::Failed => "FAILED",
            Self::Discarded => "DISCARDED",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// What is kept in mind of a save: enough to tell many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it stands.
    pub state: State,
    /// Persisted without effect, as far as that is remembered.
    pub superseded: bool,
}

impl Outcome {
    /// None yet, or none that can be told.
    pub const PENDING: Self = Self { state: State::Pending, superseded: false };
}

/// Why Postgres would not take a save: without its detail, which may quote other rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// The SQLSTATE, if Postgres gave one.
    pub sqlstate: Option<String>,
    /// The constraint, if Postgres named one.
    pub constraint: Option<String>,
    /// In words.
    pub message: String,
}

/// What is known of a save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketStatus {
    /// How it stands.
    pub state: State,
    /// Why, if it failed.
    pub reason: Option<Reason>,
    /// When it was accepted, if it failed.
    pub accepted_at: Option<SystemTime>,
    /// When it got its outcome, as long as that is remembered.
    pub settled_at: Option<SystemTime>,
    /// The save that saved it again.
    pub retry: Option<Ticket>,
    /// Persisted without effect, as far as that is remembered.
    pub superseded: bool,
    /// Saves that are written before it or together with it, itself included, while it is pending.
    pub saves_ahead: u64,
    /// How long that takes at the pace of late; `None` while its lane writes nothing.
    pub estimated_wait: Option<Duration>,
}

/// Why it can't be told now how a save stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// Postgres has not been asked since the start: it may hold more than the journal knows, or less.
    #[error("postgres has not said since the start where it stands")]
    NotAsked,
    /// Postgres knows the rest, and can't be asked.
    #[error("{0}")]
    Unavailable(String),
}

impl TicketStatus {
    /// Nothing but the state.
    pub fn of(state: State) -> Self {
        Self {
            state,
            reason: None,
            accepted_at: None,
            settled_at: None,
            retry: None,
            superseded: false,
            saves_ahead: 0,
            estimated_wait: None,
        }
    }
}
