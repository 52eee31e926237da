//! The drain: each lane takes generations out of its backlog and has Postgres apply them, one transaction at a time.
//!
//! A lane decides, acts, records. What it decides is pure (`plan`, `judge`, `meet`: no await, no clock, time is an
//! argument); what it acts on are two narrow ends that `daemon` gives it, Postgres ([`Target`]) and the journal ([`Log`]).
//!
//! The fold is a cache of the journal. A lane is its position, a stack of bounds up to which it has work, and at most one
//! generation in hand that covers exactly what lies between the position and the nearest bound. Is that generation missing,
//! it is folded again from the journal; so a lost COMMIT answer, a halved generation, a database that went back in time and
//! a start are one case.
//!
//! Keeps P3 (the position row decides, in every doubt), P5 (bounds never lie inside a batch), P6 (what Postgres refuses
//! becomes a failed save in the transaction that passes it), P7 and P9 (one transaction and one waiting time a lane).

mod acts;
mod aside;
mod events;
mod flush;
mod handle;
mod judge;
mod lane;
mod lane_backlog;
mod meet;
mod pending;
mod plan;
mod rebuild;
mod room;
mod row_rate;
mod status;
mod target;

#[cfg(test)]
mod simulation;

pub use events::{Counts, Events};
pub use flush::NotFlushed;
pub use handle::LaneHandle;
pub use lane::{End, Lane, LaneParts, Settle};
pub use lane_backlog::{BacklogSummary, Cursor, LaneBacklog, Pin};
pub use meet::Ownership;
pub use pending::{BacklogReader, Pending, PendingError};
pub use row_rate::RowRate;
pub use status::{FailedNote, Halt, LaneState, LaneStatus, LastError};
pub use target::{Log, LogError, Target, What, Work};
