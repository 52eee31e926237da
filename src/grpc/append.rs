//! The one thing that the front door asks of the journal.
//!
//! A trait although there is one real implementation: the journal's appender owns a thread and a directory, and every
//! refusal, stall and failure of it has to be met by tests of this door without breaking a disk.

use crate::{
    collections::Collections,
    limits::LimitReached,
    save::{Save, Sequence},
};

/// Makes saves durable.
pub trait Append: Send + Sync + 'static {
    /// Whether the journal would take saves now. A hint: streams hold back while it says no, and `append_with` decides.
    ///
    /// # Errors
    /// What `append_with` would answer.
    fn gate(&self) -> Result<(), AppendError>;

    /// Hands saves over as one append: numbered consecutively and never split between groups. Never waits.
    ///
    /// `done` is called once: with the first number after the sync (on the journal's thread, in the order of the
    /// numbers), or with the error (perhaps at once, on the caller's thread). If it is dropped instead, the outcome is unknown.
    fn append_with(&self, collections: &Collections, saves: Vec<Save>, done: AppendDone);
}

/// Told the sequence of the first save of an append. Must be quick: it may run on the journal's thread.
pub type AppendDone = Box<dyn FnOnce(Result<Sequence, AppendError>) + Send>;

/// Why an append is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A limit of the journal is met; nothing was accepted.
    #[error("the journal is full: {0}")]
    Full(LimitReached),
    /// The file system is nearly full; nothing was accepted.
    #[error("the journal's file system has {free} bytes free, less than journal.free_bytes_min = {min}")]
    FreeSpace {
        /// What is free.
        free: u64,
        /// What has to be.
        min: u64,
    },
    /// The journal takes no more; nothing was accepted.
    #[error("the daemon stops")]
    Stopped,
    /// The journal failed: the saves may survive or not (P8).
    #[error("the journal failed while the save was under way: it may have been accepted")]
    OutcomeUnknown,
}
