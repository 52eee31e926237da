//! The journal: what was accepted, on local disk, before anybody is told so.
//!
//! Keeps P1 (an acknowledged save survives a killed process and a power cut) and P8 (after a write or sync error nothing
//! is acknowledged again). Never decides what a save means: it numbers records, groups them, syncs once a group and hands them on.
//!
//! In the order data flows: [`appender`] encodes saves in the caller's task ([`record`]) and puts them in the inbox ([`handoff`]);
//! the [`owner`] thread gathers a group, numbers it, cuts it into chunks ([`cutter`], [`framing`]) of the current [`segment`] and
//! syncs its [`store`]; the [`janitor`] thread opens segments ahead, closes, reads and removes old ones; [`reader`] gives entries
//! back. [`recovery`] opens what is there by way of [`witness`] and [`audit`].

use std::{fmt, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    save::{LaneId, Sequence},
    settings::JournalSettings,
};

mod appender;
mod audit;
mod cutter;
mod directory;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod group;
mod handoff;
mod janitor;
mod ledger;
mod offline;
mod owner;
mod parts;
mod reader;
mod record;
mod recovery;
mod running;
mod segment;
mod shared;
#[cfg(test)]
pub(crate) mod simulation;
mod space;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod walk;
mod watermark;
mod witness;

pub use appender::{AppendError, Appender};
pub use audit::Report;
pub use ledger::{Ledger, LedgerError};
pub use offline::{Salvaged, Scope, export, salvage, verify};
pub use reader::{ReadError, Reader};
pub use record::{Entry, Record};
pub use running::{Events, GroupStats, Monitor, Running, Stats, StopError};

use segment::{SegmentWriter, Settled, Summary};
use store::StoreError;

/// The name of a journal, drawn when it is created: in every segment, and in Postgres' position row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JournalId([u8; 16]);

impl JournalId {
    fn draw() -> Self {
        Self(uuid::Uuid::new_v4().into_bytes())
    }

    /// The 16 bytes of the UUID.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The id of these 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for JournalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

/// Why a journal could not be opened; each has an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it (75).
    #[error("the journal {path} is in use by {holder}", path = .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the holder wrote about itself.
        holder: String,
    },
    /// Something that was acknowledged may be gone (65). Nothing has been modified.
    #[error("the journal is damaged: {0}\nnothing was changed; `forebay journal salvage` saves what verifies into a new journal")]
    Damaged(Box<Report>),
    /// The directory can't be used (73).
    #[error("the journal directory {path} {reason}", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        reason: String,
    },
    /// The disk or the store failed (74).
    #[error("{act}: {source}")]
    Io {
        /// What was tried.
        act: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl OpenError {
    fn damaged(finding: impl Into<String>) -> Self {
        Self::Damaged(Box::new(Report::of(finding.into())))
    }

    fn store(act: &'static str, error: StoreError) -> Self {
        Self::Io { act, source: error.into() }
    }
}

/// What recovery found, for the start's print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Saves in the segments that are kept, drained or not.
    pub saves: u64,
    /// Bytes of those segments.
    pub bytes: u64,
    /// How many.
    pub segments: u64,
    /// Groups that nothing called synced, written again.
    pub carried_groups: u64,
    /// Chunks of a torn group at the end: never acknowledged, dropped.
    pub torn_chunks: u64,
}

/// A journal that is open and audited, and not yet accepting.
#[derive(Debug)]
pub struct Journal {
    settings: JournalSettings,
    directory: directory::Directory,
    id: JournalId,
    run: u64,
    ledger: Ledger,
    recovered: Recovered,
    settled: Settled,
    last: Sequence,
    before_run: Sequence,
    closed: Vec<Summary>,
    segment: SegmentWriter,
    watermark: watermark::Watermark,
    /// Saves up to here may have been removed.
    removed: Sequence,
}

impl Journal {
    /// Locks the directory (created if need be), audits what is there and begins a new run. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(settings: &JournalSettings) -> Result<Self, OpenError> {
        recovery::open(settings)
    }

    /// The journal's name.
    pub fn id(&self) -> JournalId {
        self.id
    }

    /// The number of this run; durable.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// The small durable state. Handles may be cloned and used until the journal is stopped.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The last save that was recovered; [`Sequence::ZERO`] if there is none.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// The newest position that the journal happens to know of the lane of this number, in whichever layout. The truth is in
    /// Postgres, at or above it.
    pub fn settled_hint(&self, lane: LaneId) -> Sequence {
        self.settled.iter().find(|(known, _)| *known == lane).map_or(Sequence::ZERO, |&(_, position)| position)
    }

    /// Below the oldest save that may still be read: what Postgres lost of it is lost.
    pub fn oldest(&self) -> Sequence {
        let first = self.closed.first().unwrap_or_else(|| self.segment.summary());
        Sequence::from_u64(first.last_before)
    }

    /// What was found.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }
}
