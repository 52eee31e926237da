//! The vocabulary that every stage speaks: sequences, keys, saves.
//!
//! No I/O, no async, no clock, no Postgres. Whatever stands here has been validated at the border (the front door
//! or the journal's reader), so the stages trust it.

use std::{fmt, sync::Arc, time::SystemTime};

mod body;
mod columns;
mod key;
mod number;

pub use body::{Body, BodyError, Member};
pub use columns::{ColumnIndex, ColumnSet};
pub use key::{Key, KeyParts};
pub use number::{AmountError, NumberForm, sum_of_amounts};

/// The number that the journal gives a save: run number · 2^40 + counter. No sequence is ever used twice.
///
/// Sequences of one journal are totally ordered; those of one run are consecutive, between runs they jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(u64);

impl Sequence {
    /// Before every save: the position of a lane that has settled nothing.
    pub const ZERO: Self = Self(0);

    const COUNTER_BITS: u32 = 40;

    /// The last number before the first save of a run.
    ///
    /// `None` when the run number doesn't fit its 24 bits (sixteen million starts).
    pub const fn before_run(run: u64) -> Option<Self> {
        if run >> (64 - Self::COUNTER_BITS) == 0 { Some(Self(run << Self::COUNTER_BITS)) } else { None }
    }

    /// The number as it travels: in the journal, in Postgres (as `int8`: the top bit stays free below run 2^23).
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number read back from the journal or from Postgres.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The start of the daemon in which this number was given.
    pub const fn run(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The number before this one; before the first of a run, where the run begins.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The number `count` after this one, in the same run.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lane, by its place in the layout: 0 is `default`, which has every collection that no other lane names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u16);

/// A collection, by its place in [`Collections`](crate::collections::Collections): stable as long as the process lives,
/// meaningless after it (the journal holds names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CollectionId(pub u32);

/// What a save does to its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Update the row by its key; if there is none, insert it. Columns that the body doesn't name keep their values,
    /// on a new row their defaults.
    Set(Body),
    /// Delete the row by its key, if there is one.
    Delete,
    /// Insert a row (append collections).
    Append(Body),
}

impl Change {
    /// The body, if there is one.
    pub fn body(&self) -> Option<&Body> {
        match self {
            Self::Set(body) | Self::Append(body) => Some(body),
            Self::Delete => None,
        }
    }
}

/// A column that a save adds to instead of setting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// The column.
    pub column: ColumnIndex,
    /// What numbers it holds; `None` if it is gone, or holds none any more.
    pub form: Option<NumberForm>,
}

/// Where a save on a stream came from: makes a retried one known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOrigin {
    /// The UUID that the client gave the stream.
    pub stream_id: [u8; 16],
    /// The client's offset of this save in the stream; rises by any amount.
    pub offset: u64,
}

/// Makes a repeated unary call known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// The client's id, at most [`RequestId::BYTES_MAX`] long.
    pub id: Box<str>,
    /// What the whole call saves, as a hash: the same id with another one is a mistake.
    pub fingerprint: [u8; 16],
}

impl RequestId {
    /// The longest id.
    pub const BYTES_MAX: usize = 256;
}

/// Who is to be told the outcome of a save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// The name of an endpoint of the settings.
    pub endpoint: Box<str>,
    /// The request id of the call, to be told with the outcome; empty if it had none.
    pub request_id: Box<str>,
}

/// One validated request to change one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Save {
    /// The lane that writes it.
    pub lane: LaneId,
    /// The collection it names.
    pub collection: CollectionId,
    /// The canonical key; empty for an append.
    pub key: Key,
    /// What to do.
    pub change: Change,
    /// The columns that the body names, key columns left out.
    pub columns: ColumnSet,
    /// Those of them that are added to. They are the first members of the body, in this order, each a plain finite number.
    pub adds: Box<[Added]>,
    /// Of a collection with a version column: the version. The row is only overwritten if its own is lower or null.
    pub version: Option<i64>,
    /// Saves of the same atomic batch that follow this one: a cut is allowed only after a save where it is 0.
    pub batch_left: u32,
    /// Set for saves of a stream that was opened with an id.
    pub origin: Option<StreamOrigin>,
    /// Set for the first save of a unary call that carried a request id.
    pub request_id: Option<Box<RequestId>>,
    /// When the front door took it, to the millisecond.
    pub accepted_at: SystemTime,
    /// The failed save that this one saves again.
    pub retries: Option<Sequence>,
    /// Who is told its outcome. Shared by the saves of a call.
    pub callback: Option<Arc<Callback>>,
}

impl Save {
    /// What a save takes of the backlog beside its key and body: the object, its place in the map, the allocations.
    pub const OVERHEAD_BYTES: u64 = 160;
    /// What a version takes beside that.
    pub const VERSION_BYTES: u64 = 40;

    /// Whether these saves repeat failed ones: an operator's, not a client's.
    pub fn are_retries(saves: &[Self]) -> bool {
        saves.iter().all(|save| save.retries.is_some())
    }

    /// How many of these ask for a callback.
    pub fn callbacks(saves: &[Self]) -> u64 {
        saves.iter().filter(|save| save.callback.is_some()).count() as u64
    }

    /// Bytes that this save may take of the backlog (`backlog.bytes_max` counts these).
    pub fn bytes(&self) -> u64 {
        let body = self.change.body().map_or(0, |body| body.as_bytes().len());
        let version = if self.version.is_some() { Self::VERSION_BYTES } else { 0 };
        (self.key.as_bytes().len() + body) as u64 + Self::OVERHEAD_BYTES + version
    }
}

/// A save that the journal holds and has numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its number.
    pub sequence: Sequence,
    /// The save.
    pub save: Save,
}
