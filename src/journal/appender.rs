//! The way in: encodes saves in the caller's task, takes room, and puts them in the inbox.

use std::{future::Future, sync::Arc};

use tokio::sync::oneshot;

use super::{
    record,
    shared::{Append, Request, Shared},
};
use crate::{
    collections::Collections,
    limits::{LimitReached, Taker},
    save::{Save, Sequence},
};

/// What an append is charged beside its records: its share of the framing.
const APPEND_OVERHEAD_BYTES: u64 = 96;

/// A handle that puts saves into the journal.
#[derive(Clone, Debug)]
pub struct Appender {
    shared: Arc<Shared>,
}

/// Why saves were not, or not certainly, accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A limit of the journal is met. Certainly not accepted.
    #[error("{0}: wait until more is drained")]
    Full(#[from] LimitReached),
    /// The file system is short of space. Certainly not accepted.
    #[error("the journal's file system has {free} bytes free, journal.free_bytes_min is {min}")]
    FreeSpace {
        /// Bytes free.
        free: u64,
        /// Bytes that must be.
        min: u64,
    },
    /// The journal is stopping. Certainly not accepted.
    #[error("the journal is stopped")]
    Stopped,
    /// The journal failed (P8): the saves may or may not be found again after a restart.
    #[error("the journal failed: whether the save was kept is unknown")]
    OutcomeUnknown,
}

/// What an append with a callback calls.
type Callback = Box<dyn FnOnce(Result<Sequence, AppendError>) + Send>;

/// Whom to tell. Dropped untold, it tells that the outcome is unknown: no caller is ever forgotten.
pub(super) enum Done {
    Task(oneshot::Sender<Result<Sequence, AppendError>>),
    Call(Option<Callback>),
}

impl Done {
    /// Tells. A caller that has gone away is no matter: what was written stays written.
    pub(super) fn tell(mut self, outcome: Result<Sequence, AppendError>) {
        match &mut self {
            Self::Call(call) => call.take().into_iter().for_each(|call| call(outcome)),
            Self::Task(task) => {
                let (unused, _) = oneshot::channel();
                let _ = std::mem::replace(task, unused).send(outcome);
            }
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Self::Call(call) = self
            && let Some(call) = call.take()
        {
            call(Err(AppendError::OutcomeUnknown));
        }
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Done")
    }
}

impl Appender {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Puts saves into the journal: written together, numbered consecutively, never split between groups. They are on their way
    /// when this returns, whether or not the future is awaited; it gives the sequence of the first once all are synced and offered.
    pub fn append(
        &self,
        collections: &Collections,
        saves: Vec<Save>,
    ) -> impl Future<Output = Result<Sequence, AppendError>> + Send + use<> {
        let (done, told) = oneshot::channel();
        let refused = self.put(collections, saves, Done::Task(done)).err();
        async move {
            match refused {
                Some((error, _)) => Err(error),
                None => told.await.unwrap_or(Err(AppendError::OutcomeUnknown)),
            }
        }
    }

    /// As [`Appender::append`], and calls `done` with the outcome: on the journal's thread, so it must be quick and must not
    /// block; or right here if the saves are refused.
    pub fn append_with(
        &self,
        collections: &Collections,
        saves: Vec<Save>,
        done: impl FnOnce(Result<Sequence, AppendError>) + Send + 'static,
    ) {
        if let Err((error, done)) = self.put(collections, saves, Done::Call(Some(Box::new(done)))) {
            done.tell(Err(error));
        }
    }

    /// Whether appends are refused now, and why: for a front door that wants to know before it reads a message.
    ///
    /// # Errors
    /// What an append would be told.
    pub fn gate(&self) -> Result<(), AppendError> {
        if let Some(refusal) = self.shared.refusal() {
            return Err(refusal);
        }
        let space = &self.shared.space;
        if space.refusing() {
            return Err(AppendError::FreeSpace { free: space.free(), min: space.min() });
        }
        Ok(())
    }

    fn put(&self, collections: &Collections, saves: Vec<Save>, done: Done) -> Result<(), (AppendError, Done)> {
        assert!(!saves.is_empty(), "an append has saves");
        if let Err(error) = self.gate() {
            return Err((error, done));
        }
        let mut records = Vec::with_capacity(saves.iter().map(|save| save.bytes() as usize).sum());
        for save in &saves {
            record::encode(save, &collections.get(save.collection).name, &mut records);
        }
        let (bytes, charge) = (records.len() as u64, records.len() as u64 + APPEND_OVERHEAD_BYTES);
        let taker = if Save::are_retries(&saves) { Taker::Operator } else { Taker::Caller };
        if let Err(reached) = self.take_room(taker, bytes, charge) {
            return Err((reached.into(), done));
        }
        let sent = self.shared.send(Request::Append(Append { records, saves, charge, done }));
        sent.map_err(|refused| {
            self.shared.limits.journal_bytes.give_back(charge);
            self.shared.limits.journal_inbox_bytes.give_back(bytes);
            let Request::Append(append) = refused else { unreachable!("what was sent comes back") };
            // The inbox closes when the journal stops or fails, and says so before it closes.
            (self.shared.refusal().unwrap_or(AppendError::OutcomeUnknown), append.done)
        })
    }

    fn take_room(&self, taker: Taker, bytes: u64, charge: u64) -> Result<(), LimitReached> {
        let limits = &self.shared.limits;
        limits.journal_bytes.take_for(taker, charge)?;
        limits.journal_inbox_bytes.take_for(taker, bytes).inspect_err(|_| limits.journal_bytes.give_back(charge))
    }
}
